//! TupleData: the values of one row.

use super::read::{DecodeError, Reader};
use crate::{Code, Error, Result};

/// The values of one row in table order, borrowed from the message. Decoding has validated them, so
/// walking them cannot fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    pub(super) values: &'a [u8],
    pub(super) count: u16,
}

/// One value of a [`Tuple`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// SQL NULL.
    Null,
    /// A value stored out of line that the statement did not touch. The server does not send it. An
    /// Insert never has one.
    Unchanged,
    /// The type's text form in the client's encoding.
    Text(&'a [u8]),
    /// The type's binary form. The server sends it when START_REPLICATION asked for `binary`.
    Binary(&'a [u8]),
}

/// Walks the values of a [`Tuple`].
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    rest: &'a [u8],
    count: u16,
}

fn value<'a>(reader: &mut Reader<'a>) -> Result<Column<'a>, DecodeError> {
    match reader.u8()? {
        b't' => {
            let length = reader.count32("length of a value")?;
            Ok(Column::Text(reader.bytes(length)?))
        }
        b'n' => Ok(Column::Null),
        b'b' => {
            let length = reader.count32("length of a value")?;
            Ok(Column::Binary(reader.bytes(length)?))
        }
        b'u' => Ok(Column::Unchanged),
        _ => Err(reader.invalid("kind of a value", 1)),
    }
}

impl<'a> Tuple<'a> {
    /// Takes bytes that are one TupleData and nothing else, as [`TupleWriter`] writes them.
    ///
    /// # Errors
    /// When they are not.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let tuple = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(tuple)
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.count16("number of values")?;
        let rest = reader.rest();
        for _ in 0..count {
            value(reader)?;
        }
        let length = rest.len() - reader.rest().len();
        Ok(Self { values: &rest[..length], count })
    }

    #[must_use]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// The values in table order.
    #[must_use]
    pub fn iter(&self) -> Columns<'a> {
        Columns { rest: self.values, count: self.count }
    }

    /// Value number `index`. It walks there from the first.
    #[must_use]
    pub(crate) fn get(&self, index: usize) -> Option<Column<'a>> {
        self.iter().nth(index)
    }
}

impl<'a> IntoIterator for &Tuple<'a> {
    type Item = Column<'a>;
    type IntoIter = Columns<'a>;

    fn into_iter(self) -> Columns<'a> {
        self.iter()
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    fn next(&mut self) -> Option<Column<'a>> {
        self.count = self.count.checked_sub(1)?;
        let mut reader = Reader::new(self.rest);
        // `Tuple::decode` has validated the bytes, so this is always a value.
        let value = value(&mut reader).ok()?;
        self.rest = reader.rest();
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.count), Some(usize::from(self.count)))
    }
}

impl ExactSizeIterator for Columns<'_> {}

/// Writes a row that SQL has read as TupleData. So the backfill's rows go through the same code as
/// the stream's.
///
/// The buffer is the caller's, so many rows can share one. The caller calls `begin`, then one
/// method for each column in table order, then `finish`. [`Tuple::parse`] takes the bytes that
/// `finish` names.
#[derive(Debug, Default)]
pub struct TupleWriter {
    start: usize,
    count: u16,
}

impl TupleWriter {
    /// A writer between rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a row at the end of `out`.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.start = out.len();
        self.count = 0;
        out.extend_from_slice(&[0, 0]);
    }

    /// The next column is NULL.
    pub fn null(&mut self, out: &mut Vec<u8>) {
        self.count = self.count.saturating_add(1);
        out.push(b'n');
    }

    /// The next column has this text form. Postgres's own limit for a value (1 GiB) keeps the
    /// length in range.
    pub fn text(&mut self, out: &mut Vec<u8>, value: &[u8]) {
        self.put(out, b't', value);
    }

    /// Ends the row and gives its bytes in `out`.
    pub fn finish(&mut self, out: &mut [u8]) -> std::ops::Range<usize> {
        if let Some(count) = out.get_mut(self.start..self.start + 2) {
            count.copy_from_slice(&self.count.to_be_bytes());
        }
        self.start..out.len()
    }

    /// Writes a row of text forms into `buffer`, in the place of what it held, and reads it as the
    /// stream would have brought it.
    ///
    /// # Errors
    /// [`Code::Internal`]: more columns than a tuple can count.
    pub(crate) fn alone<'b, 'v>(
        &mut self,
        buffer: &'b mut Vec<u8>,
        values: impl IntoIterator<Item = Option<&'v [u8]>>,
    ) -> Result<Tuple<'b>> {
        buffer.clear();
        let range = self.row(buffer, values);
        Tuple::parse(&buffer[range]).map_err(|error| Error::new(Code::Internal, "a row as a tuple").because(error))
    }

    /// Writes a row of text forms at the end of `out`, and gives its bytes there.
    pub(crate) fn row<'v>(
        &mut self,
        out: &mut Vec<u8>,
        values: impl IntoIterator<Item = Option<&'v [u8]>>,
    ) -> std::ops::Range<usize> {
        self.begin(out);
        for value in values {
            match value {
                Some(text) => self.text(out, text),
                None => self.null(out),
            }
        }
        self.finish(out)
    }

    pub(super) fn put(&mut self, out: &mut Vec<u8>, kind: u8, value: &[u8]) {
        self.count = self.count.saturating_add(1);
        out.push(kind);
        let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_written_reads_back_value_by_value() {
        let mut out = b"before".to_vec();
        let mut writer = TupleWriter::new();
        writer.begin(&mut out);
        writer.text(&mut out, b"abc");
        writer.null(&mut out);
        writer.binary(&mut out, &[1, 2]);
        let range = writer.finish(&mut out);
        assert_eq!(&out[range.clone()], b"\x00\x03t\x00\x00\x00\x03abcnb\x00\x00\x00\x02\x01\x02");

        let tuple = Tuple::parse(&out[range]).unwrap();
        let values: Vec<_> = tuple.iter().collect();
        assert_eq!(values, [Column::Text(b"abc"), Column::Null, Column::Binary(&[1, 2])]);
        assert_eq!(tuple.get(2), Some(Column::Binary(&[1, 2])));
        assert_eq!(tuple.get(3), None);
    }

    #[test]
    fn an_unchanged_value_is_told_apart_from_null() {
        let tuple = Tuple::parse(b"\x00\x02un").unwrap();
        assert_eq!(tuple.iter().collect::<Vec<_>>(), [Column::Unchanged, Column::Null]);
    }

    #[test]
    fn a_negative_length_or_count_or_an_unknown_kind_is_refused() {
        let refused: [(&[u8], &str); 3] = [
            (b"\x00\x01t\xff\xff\xff\xff", "length of a value"),
            (b"\x80\x00", "number of values"),
            (b"\x00\x01x", "kind of a value"),
        ];
        for (bytes, what) in refused {
            assert!(
                matches!(Tuple::parse(bytes), Err(DecodeError::InvalidField { field, .. }) if field == what),
                "{bytes:?}"
            );
        }
    }
}
