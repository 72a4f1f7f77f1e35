//! A cursor over the bytes of one message. Every read is checked.

use crate::Lsn;

/// Bytes that are not a message of protocol version 1. Each variant says what was expected. Places
/// count in bytes from the start of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("the message ends at byte {at} inside a field")]
    Short {
        /// Where the field starts.
        at: usize,
    },
    /// The message goes on after its last field.
    #[error("the message goes on for {extra} bytes after its last field")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// A message of a kind that protocol version 1 does not have.
    #[error("no message of protocol version 1 starts with byte {tag:#04x}")]
    UnknownTag {
        /// The first byte.
        tag: u8,
    },
    /// A field has a value that its format does not allow.
    #[error("{field} at byte {at} has a value that the protocol does not allow")]
    InvalidField {
        /// The field, in the protocol's words.
        field: &'static str,
        /// Where the field starts.
        at: usize,
    },
}

/// Microseconds between the Unix epoch and Postgres's, 2000-01-01.
pub(super) const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A cursor over the bytes of one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: bytes.len() }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    /// All that is left, without reading it.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The error for a field that started `back` bytes ago.
    pub(super) fn invalid(&self, field: &'static str, back: usize) -> DecodeError {
        DecodeError::InvalidField { field, at: self.at().saturating_sub(back) }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Short { at: self.at() })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Short { at: self.at() })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    /// An Int16 that counts something, so it is never negative.
    pub(super) fn count16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let count = i16::from_be_bytes(self.array()?);
        u16::try_from(count).map_err(|_| self.invalid(field, 2))
    }

    /// An Int32 that counts something, so it is never negative.
    pub(super) fn count32(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let count = self.i32()?;
        usize::try_from(count).map_err(|_| self.invalid(field, 4))
    }

    /// Reads microseconds since 2000-01-01 and gives microseconds since the Unix epoch.
    pub(super) fn timestamp(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        let since_2000 = i64::from_be_bytes(self.array()?);
        since_2000.checked_add(POSTGRES_EPOCH_MICROS).ok_or_else(|| self.invalid(field, 8))
    }

    /// A String: UTF-8 (client_encoding is always UTF8) and a zero byte at its end.
    pub(super) fn name(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let at = self.at();
        let length = self.rest.iter().position(|&byte| byte == 0).ok_or(DecodeError::Short { at })?;
        let name = self.bytes(length)?;
        self.bytes(1)?;
        std::str::from_utf8(name).map_err(|_| DecodeError::InvalidField { field, at })
    }

    /// The message must end here.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes { extra: self.rest.len() }) }
    }
}
