//! The arena of encoded records. The encoder writes it, the publisher sends it, and the marker
//! reads its ids from it.
//!
//! ```text
//!   rows     [ start │ key │ value │ id │ topic │ … ][ start │ … ]…  one descriptor for each row
//!   headers  [ name │ value ][ name │ value ]…                       of row 0, of row 1, …
//!   bytes    ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓  one buffer
//! ```
//!
//! A span counts from the start of its row.
//!
//! A batch is one arena. [`Records::clear`] keeps its memory for the next batch, so in the steady
//! state nothing is allocated for a row. Spans may overlap: the id, the header `event_id` and often
//! the key are the same bytes.

use std::{collections::HashMap, sync::Arc};

/// The names that the headers of one encoder have, by index.
pub(super) type HeaderNames = Arc<[Box<str>]>;

/// An arena that has seen more topics than this forgets them all when it is cleared. So a template
/// over an id does not fill the memory.
const TOPICS_KEPT: usize = 4096;

/// The largest record that can be sent: librdkafka's upper bound of `message.max.bytes`. It also
/// keeps spans in `u32`.
pub(super) const RECORD_MAX_BYTES: usize = 1_000_000_000;

/// Encoded records in stream order.
#[derive(Debug, Default)]
pub struct Records {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: Vec<Row>,
    pub(super) headers: Vec<Header>,
    pub(super) topics: Topics,
    header_names: Vec<HeaderNames>,
}

/// A piece of a row's bytes, or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    length: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Index into the row's header names.
    pub(super) name: u16,
    pub(super) value: Span,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// First byte of the row in `bytes`; its spans count from here.
    pub(super) start: usize,
    /// First header of the row in `headers`.
    pub(super) first_header: usize,
    pub(super) timestamp: Option<i64>,
    pub(super) partition: Option<i32>,
    pub(super) key: Span,
    pub(super) value: Span,
    pub(super) id: Span,
    /// `None`: the row is to be marked, not published.
    pub(super) topic: Option<u32>,
    pub(super) names: u16,
    pub(super) table: u16,
}

/// Topic names by number. Each is stored once.
#[derive(Debug, Default)]
pub(super) struct Topics {
    names: Vec<Arc<str>>,
    rows: Vec<usize>,
    numbers: HashMap<Arc<str>, u32>,
    last: u32,
    /// Where a name is put together before it is looked up.
    pub(super) draft: String,
}

/// One record, borrowed from the arena.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Where it goes; empty when `mark_only`.
    pub(crate) topic: &'a str,
    /// Key; `None` is Kafka's null, which is spread over the partitions.
    pub(crate) key: Option<&'a [u8]>,
    /// Value; `None` is Kafka's null, a tombstone on a compacted topic.
    pub(crate) value: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; `None`: the time of sending.
    pub(crate) timestamp: Option<i64>,
    /// `None`: the key decides.
    pub(crate) partition: Option<i32>,
    /// The id column's text, by which the row is marked. `None` for a dead letter whose id is NULL:
    /// it cannot be marked.
    pub(crate) event_id: Option<&'a str>,
    /// Index of the table in the source's `tables`.
    pub(crate) table: u16,
    /// The row was published before and is only to be marked (rule 10).
    pub(crate) mark_only: bool,
    bytes: &'a [u8],
    headers: &'a [Header],
    names: &'a [Box<str>],
}

impl Span {
    pub(super) const NULL: Self = Self { start: 0, length: u32::MAX };

    /// From `start` to `end` in a row. Finishing refuses a row beyond [`RECORD_MAX_BYTES`], so
    /// nothing reads a span that is cut short here.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX - 1);
        Self { start: narrow(start), length: narrow(end.saturating_sub(start)) }
    }

    fn of(self, row: &[u8]) -> Option<&[u8]> {
        if self == Self::NULL {
            return None;
        }
        let start = self.start as usize;
        row.get(start..start + self.length as usize)
    }
}

impl Topics {
    pub(super) fn find(&mut self) -> Option<u32> {
        if self.names.get(self.last as usize).is_some_and(|last| **last == *self.draft) {
            return Some(self.last);
        }
        let number = *self.numbers.get(&*self.draft)?;
        self.last = number;
        Some(number)
    }

    /// The number of the topic in `draft`, which the caller has validated.
    pub(super) fn intern(&mut self) -> u32 {
        if let Some(number) = self.find() {
            return number;
        }
        let name: Arc<str> = Arc::from(self.draft.as_str());
        // Four thousand million names would not fit in memory.
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(Arc::clone(&name));
        self.rows.push(0);
        self.numbers.insert(name, number);
        self.last = number;
        number
    }

    fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", |name| name)
    }

    pub(super) fn count(&mut self, number: u32) {
        if let Some(rows) = self.rows.get_mut(number as usize) {
            *rows += 1;
        }
    }

    fn uncount(&mut self, number: u32) {
        if let Some(rows) = self.rows.get_mut(number as usize) {
            *rows = rows.saturating_sub(1);
        }
    }

    fn clear(&mut self) {
        if self.names.len() > TOPICS_KEPT {
            *self = Self::default();
        } else {
            self.rows.fill(0);
        }
    }
}

impl Records {
    /// An empty arena without memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows, those that are only to be marked among them.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of keys, values, header values and ids. They count against `batch_bytes` and
    /// `in_flight_bytes`.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub(crate) fn get(&self, index: usize) -> Option<RecordRef<'_>> {
        let row = self.rows.get(index)?;
        let (bytes_end, headers_end) = self.ends(index);
        let bytes = self.bytes.get(row.start..bytes_end)?;
        Some(RecordRef {
            topic: row.topic.map_or("", |topic| self.topics.name(topic)),
            key: row.key.of(bytes),
            value: row.value.of(bytes),
            timestamp: row.timestamp,
            partition: row.partition,
            // The id was written from a `str`, so it is always UTF-8.
            event_id: row.id.of(bytes).and_then(|id| std::str::from_utf8(id).ok()),
            table: row.table,
            mark_only: row.topic.is_none(),
            bytes,
            headers: self.headers.get(row.first_header..headers_end)?,
            names: self.header_names.get(usize::from(row.names)).map_or(&[], |names| names),
        })
    }

    /// The topics of the records, each with its number of records.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (&str, usize)> {
        let used = |(name, rows): (_, &usize)| (*rows > 0).then_some((name, *rows));
        self.topics.names.iter().map(|name| &**name).zip(&self.topics.rows).filter_map(used)
    }

    /// The last row.
    #[must_use]
    pub(crate) fn last(&self) -> Option<RecordRef<'_>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// Drops all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.headers.clear();
        self.header_names.clear();
        self.topics.clear();
    }

    /// Gives back what was allocated beyond `bytes`. After one huge row this keeps the memory
    /// bounded (G6).
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
    }

    /// Keeps the first `rows` rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        let Some(&first) = self.rows.get(rows) else { return };
        for row in &self.rows[rows..] {
            if let Some(topic) = row.topic {
                self.topics.uncount(topic);
            }
        }
        self.rows.truncate(rows);
        self.bytes.truncate(first.start);
        self.headers.truncate(first.first_header);
    }

    /// Moves row number `rows` and those after it to the end of `tail`.
    pub(crate) fn split_off_into(&mut self, rows: usize, tail: &mut Self) {
        let Some(&first) = self.rows.get(rows) else { return };
        let (bytes_at, headers_at) = (tail.bytes.len(), tail.headers.len());
        tail.bytes.extend_from_slice(&self.bytes[first.start..]);
        tail.headers.extend_from_slice(&self.headers[first.first_header..]);
        for row in &self.rows[rows..] {
            let mut moved = *row;
            moved.start = row.start - first.start + bytes_at;
            moved.first_header = row.first_header - first.first_header + headers_at;
            if let Some(names) = self.header_names.get(usize::from(row.names)) {
                moved.names = tail.header_names(names);
            }
            if let Some(topic) = row.topic {
                tail.topics.draft.clear();
                tail.topics.draft.push_str(self.topics.name(topic));
                let topic = tail.topics.intern();
                tail.topics.count(topic);
                moved.topic = Some(topic);
            }
            tail.rows.push(moved);
        }
        self.truncate(rows);
    }

    /// The number under which rows refer to these names.
    pub(super) fn header_names(&mut self, names: &HeaderNames) -> u16 {
        let known = self.header_names.iter().position(|known| Arc::ptr_eq(known, names));
        let number = known.unwrap_or_else(|| {
            self.header_names.push(Arc::clone(names));
            self.header_names.len() - 1
        });
        // Each encoder that wrote into this arena since it was cleared has one: a handful.
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// Where the bytes and the headers of row number `index` end.
    fn ends(&self, index: usize) -> (usize, usize) {
        self.rows.get(index + 1).map_or((self.bytes.len(), self.headers.len()), |next| (next.start, next.first_header))
    }
}

impl<'a> RecordRef<'a> {
    /// Headers in order; a `None` value is Kafka's null.
    pub(crate) fn headers(&self) -> impl ExactSizeIterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let (bytes, names) = (self.bytes, self.names);
        self.headers.iter().map(move |header| {
            let name = names.get(usize::from(header.name)).map_or("", |name| &**name);
            (name, header.value.of(bytes))
        })
    }

    /// Bytes of key, value and headers, without Kafka's framing and before compression.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self.headers().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers
    }
}
