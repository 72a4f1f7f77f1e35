//! Rows and records as byte strings. Their order puts together what belongs together.
//!
//! ```text
//!   match:  id ─ topic ─ 0 = row ───── source, table, flags, order value, content's hash
//!                      └ 1 = record ── place (topic, partition, offset), flags, time, hashes of key, content
//!   order:  topic ─ partition ─ hash of the key ─ scope ─ offset ─ order value, source, table, id
//! ```
//!
//! The topic of a match is the one that a row is meant for. A dead letter says it in a header, so
//! it meets its row. Ids of two sources that both count from 1 do not meet, as their topics differ.

use sha2::{Digest, Sha256};

use super::id;

/// The topic of a dead letter that does not say where it was meant for, and of a row whose topic is
/// NULL.
pub(super) const NO_TOPIC: u32 = u32::MAX;

/// What rows are ordered by. A value of any type becomes a number that keeps its order.
pub(super) type OrderValue = u128;

/// An [`OrderValue`] of a signed number.
pub(super) fn order_value(number: i64) -> OrderValue {
    OrderValue::from(number.cast_unsigned() ^ (1 << 63))
}

/// What rows and records are matched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventKey<'k> {
    /// The event id, as [`id`] writes it.
    pub(super) id: &'k [u8],
    /// The topic that the row is meant for.
    pub(super) meant_for: u32,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) topic: u32,
    pub(super) partition: u32,
    pub(super) offset: u64,
}

/// A row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowEntry {
    pub(super) source: u16,
    /// Index among the source's tables.
    pub(super) table: u16,
    pub(super) marked: bool,
    /// The row may have a record or not: it has no creation time, and `--since` is asked for.
    pub(super) optional: bool,
    pub(super) order: Option<OrderValue>,
    /// What its record should hold, where that is asked for and the row tells it.
    pub(super) content: Option<ContentHash>,
}

/// A record of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordEntry {
    pub(super) place: Place,
    /// It is a dead letter.
    pub(super) dead: bool,
    /// Its time is the row's creation time, in milliseconds since the Unix epoch.
    pub(super) created: Option<i64>,
    /// The hash of its key. `None` is Kafka's null, which has no order.
    pub(super) key: Option<KeyHash>,
    /// What it holds, where that is asked for.
    pub(super) content: Option<ContentHash>,
}

/// Stands for a key. Keys can be long, and the audit only compares them.
pub(super) type KeyHash = [u8; 16];

pub(super) fn key_hash(key: &[u8]) -> KeyHash {
    let mut hash = [0; 16];
    hash.copy_from_slice(&Sha256::digest(key)[..16]);
    hash
}

/// Stands for the key and the value of a record.
pub(super) type ContentHash = [u8; 16];

pub(super) fn content_hash(key: Option<&[u8]>, value: Option<&[u8]>) -> ContentHash {
    let mut digest = Sha256::new();
    for part in [key, value] {
        // A length tells where the part ends. No part has this one, which stands for Kafka's null.
        digest.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        digest.update(part.unwrap_or_default());
    }
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest.finalize()[..16]);
    hash
}

/// A row or a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Row(RowEntry),
    Record(RecordEntry),
}

impl EventKey<'_> {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id);
        out.extend_from_slice(&self.meant_for.to_be_bytes());
    }
}

impl RowEntry {
    /// Appends the entry of the row of this event.
    pub(super) fn write(&self, event: EventKey<'_>, out: &mut Vec<u8>) {
        event.write(out);
        out.push(0);
        out.extend_from_slice(&self.source.to_be_bytes());
        out.extend_from_slice(&self.table.to_be_bytes());
        let flags = [self.marked, self.optional, self.order.is_some(), self.content.is_some()];
        out.push(packed(flags));
        if let Some(order) = self.order {
            out.extend_from_slice(&order.to_be_bytes());
        }
        out.extend_from_slice(self.content.as_ref().map_or(&[], <[u8; 16]>::as_slice));
    }
}

impl RecordEntry {
    /// Appends the entry of the record of this event.
    pub(super) fn write(&self, event: EventKey<'_>, out: &mut Vec<u8>) {
        event.write(out);
        out.push(1);
        out.extend_from_slice(&self.place.topic.to_be_bytes());
        out.extend_from_slice(&self.place.partition.to_be_bytes());
        out.extend_from_slice(&self.place.offset.to_be_bytes());
        out.push(packed([self.dead, self.created.is_some(), self.key.is_some(), self.content.is_some()]));
        if let Some(created) = self.created {
            out.extend_from_slice(&created.to_be_bytes());
        }
        for hash in [self.key, self.content].iter().flatten() {
            out.extend_from_slice(hash);
        }
    }
}

/// The flags as the bits of a byte, the first one as the lowest.
fn packed(flags: [bool; 4]) -> u8 {
    flags.iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(*flag))
}

/// How many bytes of a match entry hold its id and its topic.
pub(super) fn match_length(entry: &[u8]) -> Option<usize> {
    let length = id::length(entry)? + 4;
    (entry.len() > length).then_some(length)
}

/// The id and the topic of the first bytes of a match entry.
pub(super) fn split_match(key: &[u8]) -> EventKey<'_> {
    let (id, topic) = key.split_at(key.len().saturating_sub(4));
    EventKey { id, meant_for: topic.first_chunk().map_or(NO_TOPIC, |bytes| u32::from_be_bytes(*bytes)) }
}

/// Reads what follows the id and the topic. `None` when the bytes are not ours.
pub(super) fn read(rest: &[u8]) -> Option<Entry> {
    let mut bytes = Bytes(rest);
    Some(match bytes.take::<1>()? {
        [0] => {
            let (source, table) = (u16::from_be_bytes(bytes.take()?), u16::from_be_bytes(bytes.take()?));
            let [flags] = bytes.take()?;
            let order = if flags & 4 != 0 { Some(u128::from_be_bytes(bytes.take()?)) } else { None };
            let content = if flags & 8 != 0 { Some(bytes.take()?) } else { None };
            Entry::Row(RowEntry { source, table, marked: flags & 1 != 0, optional: flags & 2 != 0, order, content })
        }
        _ => {
            let (topic, partition) = (u32::from_be_bytes(bytes.take()?), u32::from_be_bytes(bytes.take()?));
            let place = Place { topic, partition, offset: u64::from_be_bytes(bytes.take()?) };
            let [flags] = bytes.take()?;
            let created = if flags & 2 != 0 { Some(i64::from_be_bytes(bytes.take()?)) } else { None };
            let key = if flags & 4 != 0 { Some(bytes.take()?) } else { None };
            let content = if flags & 8 != 0 { Some(bytes.take()?) } else { None };
            Entry::Record(RecordEntry { place, dead: flags & 1 != 0, created, key, content })
        }
    })
}

/// A record whose place among the records of its key is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OrderEntry<'a> {
    pub(super) place: Place,
    pub(super) key: KeyHash,
    /// Only values of one scope can be compared.
    pub(super) scope: u32,
    pub(super) value: OrderValue,
    pub(super) source: u16,
    /// `None`: the row is gone.
    pub(super) table: Option<u16>,
    pub(super) id: &'a [u8],
}

/// Bytes at the front of an order entry. Values of entries that share them are compared.
pub(super) const ORDER_GROUP: usize = 4 + 4 + 16 + 4;

impl<'a> OrderEntry<'a> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.place.topic.to_be_bytes());
        out.extend_from_slice(&self.place.partition.to_be_bytes());
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.scope.to_be_bytes());
        out.extend_from_slice(&self.place.offset.to_be_bytes());
        out.extend_from_slice(&self.value.to_be_bytes());
        out.extend_from_slice(&self.source.to_be_bytes());
        // A source has fewer than `u16::MAX` tables.
        out.extend_from_slice(&self.table.unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(self.id);
    }

    /// Reads an entry. `None` when the bytes are not ours.
    pub(super) fn read(entry: &'a [u8]) -> Option<Self> {
        let mut bytes = Bytes(entry);
        let (topic, partition) = (u32::from_be_bytes(bytes.take()?), u32::from_be_bytes(bytes.take()?));
        let (key, scope) = (bytes.take()?, u32::from_be_bytes(bytes.take()?));
        Some(Self {
            place: Place { topic, partition, offset: u64::from_be_bytes(bytes.take()?) },
            key,
            scope,
            value: u128::from_be_bytes(bytes.take()?),
            source: u16::from_be_bytes(bytes.take()?),
            table: Some(u16::from_be_bytes(bytes.take()?)).filter(|table| *table != u16::MAX),
            id: bytes.0,
        })
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(text: &str) -> Vec<u8> {
        let mut id = Vec::new();
        id::put_text(text.as_bytes(), &mut id);
        id
    }

    #[test]
    fn a_row_comes_before_its_records_and_both_read_back() {
        let (order, content) = (Some(order_value(-5)), Some(content_hash(None, Some(b"v"))));
        let row = RowEntry { source: 3, table: 2, marked: true, optional: false, order, content };
        let record = RecordEntry {
            place: Place { topic: 9, partition: 1, offset: 77 },
            dead: true,
            created: Some(-1),
            key: Some(key_hash(b"k")),
            content: Some(content_hash(Some(b"k"), None)),
        };
        let id = id_of("event-1");
        let event = EventKey { id: &id, meant_for: 7 };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        row.write(event, &mut first);
        record.write(event, &mut second);
        assert!(first < second);
        let length = match_length(&first).unwrap();
        assert_eq!(first[..length], second[..length]);
        assert_eq!(split_match(&first[..length]), event);
        assert_eq!(read(&first[length..]), Some(Entry::Row(row)));
        assert_eq!(read(&second[length..]), Some(Entry::Record(record)));
        let bare = RecordEntry { created: None, key: None, content: None, dead: false, ..record };
        second.clear();
        bare.write(event, &mut second);
        assert_eq!(read(&second[length..]), Some(Entry::Record(bare)));
    }

    #[test]
    fn contents_that_differ_in_any_way_have_another_hash() {
        let contents = [
            (None, None),
            (Some(""), None),
            (None, Some("")),
            (Some("ab"), Some("c")),
            (Some("a"), Some("bc")),
            (Some("abc"), Some("")),
        ];
        let hash = |(key, value): &(Option<&str>, Option<&str>)| {
            content_hash(key.map(str::as_bytes), value.map(str::as_bytes))
        };
        let hashes: std::collections::BTreeSet<_> = contents.iter().map(hash).collect();
        assert_eq!(hashes.len(), contents.len());
    }

    #[test]
    fn values_keep_their_order() {
        let numbers = [i64::MIN, -2, -1, 0, 1, i64::MAX];
        assert!(numbers.map(order_value).is_sorted());
        let id = id_of("x");
        let place = Place { topic: 1, partition: 2, offset: 255 };
        let entry =
            OrderEntry { place, key: [3; 16], scope: 4, value: order_value(-9), source: 5, table: None, id: &id };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        entry.write(&mut first);
        OrderEntry { place: Place { offset: 256, ..place }, value: 0, ..entry }.write(&mut second);
        assert!(first < second, "the offset goes before the value");
        assert_eq!(first[..ORDER_GROUP], second[..ORDER_GROUP]);
        assert_eq!(OrderEntry::read(&first), Some(entry));
    }
}
