//! What a column's type means to us, and the value of one column. Ids, names and headers take a
//! value as text; the envelope takes the payload by its type. Values come in text form, or in
//! binary form where the stream was asked for it.

use std::{io::Write as _, ops::Deref};

use super::{
    json,
    poison::{Poison, PoisonReason},
    timestamp,
};
use crate::pgoutput::{Column, Type};

/// A column's type, as far as it matters here. The oids are from PostgreSQL's `pg_type.dat` and
/// never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Bytea,
    Int8,
    Int2,
    Int4,
    Json,
    Jsonb,
    /// text, varchar, char(n), name
    Text,
    Timestamp,
    TimestampTz,
    Uuid,
    /// Any other type. Its text is taken as Postgres prints it.
    Other,
}

impl Kind {
    pub(super) fn of(type_oid: u32) -> Self {
        match type_oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            114 => Self::Json,
            3802 => Self::Jsonb,
            19 | 25 | 1042 | 1043 => Self::Text,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            2950 => Self::Uuid,
            _ => Self::Other,
        }
    }

    /// The kind of a type that is not built in: the server names the type under a domain.
    pub(super) fn named(r#type: &Type<'_>) -> Self {
        match (r#type.schema, r#type.name) {
            (_, "citext") => Self::Text,
            ("", name) => match name {
                "bool" => Self::Bool,
                "bytea" => Self::Bytea,
                "int8" => Self::Int8,
                "int2" => Self::Int2,
                "int4" => Self::Int4,
                "json" => Self::Json,
                "jsonb" => Self::Jsonb,
                "text" | "varchar" | "bpchar" | "name" => Self::Text,
                "timestamp" => Self::Timestamp,
                "timestamptz" => Self::TimestampTz,
                "uuid" => Self::Uuid,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }

    pub(super) fn is_document(self) -> bool {
        matches!(self, Self::Json | Self::Jsonb | Self::Bytea)
    }

    pub(super) fn is_payload(self) -> bool {
        matches!(self, Self::Json | Self::Jsonb | Self::Bytea | Self::Text)
    }

    pub(super) fn is_timestamp(self) -> bool {
        matches!(self, Self::Timestamp | Self::TimestampTz)
    }
}

/// The value of one column, with the column's name and type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<'b, 'a> {
    pub(super) name: &'b str,
    pub(super) kind: Kind,
    pub(super) column: Column<'a>,
}

/// A column's text: as the server sent it, or as this code printed it from the binary form.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    /// ASCII; the longest is a uuid.
    Printed([u8; 36], u8),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            // Only ASCII is printed.
            Self::Printed(bytes, length) => {
                bytes.get(..usize::from(*length)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
            }
        }
    }
}

/// The payload as envelopes take it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Payload<'a> {
    Null,
    /// A JSON document's text, never empty.
    Json(&'a str),
    Text(&'a str),
    Bytes(Bytes<'a>),
}

/// Bytes of a bytea.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bytes<'a> {
    Raw(&'a [u8]),
    /// Two hexadecimal digits each, an even number of them, all valid.
    Hex(&'a [u8]),
}

impl<'a> Cell<'_, 'a> {
    pub(super) fn is_null(&self) -> bool {
        self.column == Column::Null
    }

    /// The column's text; `None` is NULL.
    pub(super) fn text(&self) -> Result<Option<Text<'a>>, Poison> {
        match self.column {
            Column::Null => Ok(None),
            Column::Text(text) => Ok(Some(Text::Borrowed(self.utf8(text)?))),
            Column::Binary(bytes) => self.print(bytes).map(Some),
            Column::Unchanged => Err(self.unreadable("was not sent by the server")),
        }
    }

    /// Microseconds since the Unix epoch; `None` is NULL.
    pub(super) fn timestamp(&self) -> Result<Option<i64>, Poison> {
        let moment = match self.column {
            Column::Null => return Ok(None),
            Column::Text(text) => timestamp::parse(self.utf8(text)?),
            Column::Binary(bytes) => timestamp::from_binary(bytes),
            Column::Unchanged => return Err(self.unreadable("was not sent by the server")),
        };
        moment.map(Some).map_err(|what| self.poison(PoisonReason::TimestampInvalid, what))
    }

    /// The column as a payload, by its type.
    pub(super) fn payload(&self) -> Result<Payload<'a>, Poison> {
        let invalid = |what| self.poison(PoisonReason::PayloadInvalid, what);
        let (bytes, binary) = match self.column {
            Column::Null => return Ok(Payload::Null),
            Column::Text(bytes) => (bytes, false),
            Column::Binary(bytes) => (bytes, true),
            Column::Unchanged => return Err(self.unreadable("was not sent by the server")),
        };
        match self.kind {
            Kind::Json | Kind::Jsonb => {
                let text = if self.kind == Kind::Jsonb && binary {
                    // jsonb_send: a version byte, 1, before the text.
                    bytes.strip_prefix(&[1]).ok_or_else(|| invalid("is not jsonb of version 1"))?
                } else {
                    bytes
                };
                let text = self.utf8(text)?;
                if text.is_empty() { Err(invalid("is empty, which is not JSON")) } else { Ok(Payload::Json(text)) }
            }
            Kind::Bytea if binary => Ok(Payload::Bytes(Bytes::Raw(bytes))),
            Kind::Bytea => {
                let digits = bytes
                    .strip_prefix(b"\\x")
                    .filter(|digits| digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit));
                let what = "is not bytea in hexadecimal form (bytea_output must be hex)";
                digits.map(|digits| Payload::Bytes(Bytes::Hex(digits))).ok_or_else(|| invalid(what))
            }
            _ => Ok(Payload::Text(self.utf8(bytes)?)),
        }
    }

    /// A verdict on this column.
    pub(super) fn poison(&self, reason: PoisonReason, what: &str) -> Poison {
        Poison::new(reason, format!("column {} {what}", self.name))
    }

    fn unreadable(&self, what: &str) -> Poison {
        self.poison(PoisonReason::ColumnUnreadable, what)
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, Poison> {
        std::str::from_utf8(bytes).map_err(|_| self.unreadable("is not UTF-8"))
    }

    /// The text of a binary form, as Postgres prints it.
    fn print(&self, bytes: &'a [u8]) -> Result<Text<'a>, Poison> {
        let size = || self.unreadable("has a binary form of the wrong size");
        let number = |number: i64| {
            let mut text = [0; 36];
            let mut rest = &mut text[..];
            // The longest, -9223372036854775808, has 20 characters.
            let _ = write!(rest, "{number}");
            let length = 36 - rest.len();
            Text::Printed(text, u8::try_from(length).unwrap_or_default())
        };
        match self.kind {
            Kind::Uuid => {
                let mut text = [0; 36];
                uuid::Uuid::from_slice(bytes).map_err(|_| size())?.hyphenated().encode_lower(&mut text);
                Ok(Text::Printed(text, 36))
            }
            Kind::Int2 => Ok(number(i16::from_be_bytes(bytes.try_into().map_err(|_| size())?).into())),
            Kind::Int4 => Ok(number(i32::from_be_bytes(bytes.try_into().map_err(|_| size())?).into())),
            Kind::Int8 => Ok(number(i64::from_be_bytes(bytes.try_into().map_err(|_| size())?))),
            Kind::Bool => Ok(Text::Borrowed(if bytes == [0] { "f" } else { "t" })),
            Kind::Jsonb => Ok(Text::Borrowed(self.utf8(bytes.strip_prefix(&[1]).ok_or_else(size)?)?)),
            Kind::Json | Kind::Text => Ok(Text::Borrowed(self.utf8(bytes)?)),
            Kind::Timestamp | Kind::TimestampTz => self.print_timestamp(bytes),
            Kind::Bytea | Kind::Other => Err(self.unreadable("came in a binary form whose text is not known here")),
        }
    }

    /// The session's TimeZone is UTC, so a timestamptz is printed with `+00`.
    fn print_timestamp(&self, bytes: &[u8]) -> Result<Text<'a>, Poison> {
        let printed = timestamp::from_binary(bytes).and_then(timestamp::print);
        let (moment, length) = printed.map_err(|what| self.poison(PoisonReason::TimestampInvalid, what))?;
        let mut text = [0; 36];
        text[..26].copy_from_slice(&moment);
        let zone: &[u8] = if self.kind == Kind::TimestampTz { b"+00" } else { b"" };
        text[length..length + zone.len()].copy_from_slice(zone);
        Ok(Text::Printed(text, u8::try_from(length + zone.len()).unwrap_or_default()))
    }
}

impl Bytes<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Hex(digits) => out.extend(digits.as_chunks::<2>().0.iter().map(byte_of)),
        }
    }

    /// Appends the bytes as base64, without quotes.
    pub(super) fn write_base64(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(bytes) => bytes.chunks(json::BASE64_PIECE).for_each(|piece| json::base64(piece, out)),
            Self::Hex(digits) => {
                let mut piece = [0; json::BASE64_PIECE];
                for digits in digits.chunks(2 * json::BASE64_PIECE) {
                    let pairs = digits.as_chunks::<2>().0;
                    piece.iter_mut().zip(pairs).for_each(|(byte, pair)| *byte = byte_of(pair));
                    json::base64(&piece[..pairs.len()], out);
                }
            }
        }
    }
}

/// The byte of two hexadecimal digits, which `Cell::payload` has checked.
fn byte_of(pair: &[u8; 2]) -> u8 {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    };
    value(pair[0]) << 4 | (value(pair[1]) & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(kind: Kind, column: Column<'_>) -> Cell<'static, '_> {
        Cell { name: "c", kind, column }
    }

    fn text(kind: Kind, bytes: &[u8]) -> String {
        cell(kind, Column::Binary(bytes)).text().unwrap().unwrap().to_string()
    }

    #[test]
    fn a_binary_value_has_the_text_that_postgres_prints() {
        let uuid = [0x4d, 0x47, 0xe1, 0x90, 0x04, 0x02, 0x40, 0x48, 0xbc, 0x2c, 0x89, 0xdd, 0x54, 0x34, 0x3c, 0xdc];
        assert_eq!(text(Kind::Uuid, &uuid), "4d47e190-0402-4048-bc2c-89dd54343cdc");
        assert_eq!(text(Kind::Int2, &(-2_i16).to_be_bytes()), "-2");
        assert_eq!(text(Kind::Int4, &7_i32.to_be_bytes()), "7");
        assert_eq!(text(Kind::Int8, &i64::MIN.to_be_bytes()), "-9223372036854775808");
        assert_eq!(text(Kind::Bool, &[1]), "t");
        assert_eq!(text(Kind::Jsonb, b"\x01{}"), "{}");
        assert_eq!(text(Kind::Text, "é".as_bytes()), "é");
        assert_eq!(text(Kind::Timestamp, &500_000_i64.to_be_bytes()), "2000-01-01 00:00:00.5");
        assert_eq!(text(Kind::TimestampTz, &0_i64.to_be_bytes()), "2000-01-01 00:00:00+00");
    }

    #[test]
    fn a_value_that_cannot_be_read_is_poison() {
        for (kind, column) in [
            (Kind::Text, Column::Text(b"\xff")),
            (Kind::Uuid, Column::Binary(b"short")),
            (Kind::Int4, Column::Binary(b"x")),
            (Kind::Other, Column::Binary(b"x")),
            (Kind::Text, Column::Unchanged),
        ] {
            let poison = cell(kind, column).text().unwrap_err();
            assert_eq!(poison.reason, PoisonReason::ColumnUnreadable, "{kind:?} {column:?}");
        }
        for (kind, column) in [
            (Kind::Jsonb, Column::Binary(b"\x02{}")),
            (Kind::Json, Column::Text(b"")),
            (Kind::Bytea, Column::Text(b"\\x0")),
            (Kind::Bytea, Column::Text(b"\\xzz")),
            (Kind::Bytea, Column::Text(b"\\001abc")),
        ] {
            let poison = cell(kind, column).payload().unwrap_err();
            assert_eq!(poison.reason, PoisonReason::PayloadInvalid, "{kind:?} {column:?}");
        }
    }

    #[test]
    fn bytes_are_the_same_from_hexadecimal_and_from_binary() {
        let raw: Vec<u8> = (0..=255).chain(0..=100).collect();
        let digits: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        let (mut hex_form, mut binary_form) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        Bytes::Hex(digits.as_bytes()).write(&mut hex_form.0);
        Bytes::Hex(digits.as_bytes()).write_base64(&mut hex_form.1);
        Bytes::Raw(&raw).write(&mut binary_form.0);
        Bytes::Raw(&raw).write_base64(&mut binary_form.1);
        assert_eq!(hex_form.0, raw);
        assert_eq!(hex_form, binary_form);
        let mut small = Vec::new();
        Bytes::Hex(b"00ff7b7D").write_base64(&mut small);
        assert_eq!(small, b"AP97fQ==");
    }

    #[test]
    fn a_domain_is_known_by_the_type_under_it() {
        let named = |schema, name| Kind::named(&Type { oid: 99_999, schema, name });
        assert_eq!(named("", "jsonb"), Kind::Jsonb);
        assert_eq!(named("public", "jsonb"), Kind::Other);
        assert_eq!(named("extensions", "citext"), Kind::Text);
    }
}
