//! A position in the write-ahead log.

use std::{fmt, num::ParseIntError, str::FromStr};

/// A log sequence number: a byte offset into the write-ahead log of one timeline.
///
/// Written as Postgres writes it, two hexadecimal halves with a slash (`16/B374D848`).
/// Source: PostgreSQL documentation, "pg_lsn Type".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `InvalidXLogRecPtr`, which the server takes for "nothing".
    pub const ZERO: Self = Self(0);

    /// Bytes of log between `earlier` and `self`. 0 when `earlier` is not earlier.
    #[must_use]
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not two hexadecimal halves of at most eight digits with a slash between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN (expected the form 16/B374D848)")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| -> Result<u64, InvalidLsn> {
            if digits.is_empty() || digits.len() > 8 || digits.starts_with('+') {
                return Err(InvalidLsn(text.to_owned()));
            }
            u64::from_str_radix(digits, 16).map_err(|_: ParseIntError| InvalidLsn(text.to_owned()))
        };
        let (high, low) = text.split_once('/').ok_or_else(|| InvalidLsn(text.to_owned()))?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for value in [0, 1, 0xFFFF_FFFF, 0x16_B374_D848, u64::MAX] {
            assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "x/1", "1/+2", "123456789/0", "1/123456789"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was taken for an LSN");
        }
    }
}
