//! Turns a row into a record or a dead letter, or ends the source: the poison policy around the
//! encoder.

use std::collections::HashMap;

use super::marks::{MarkRow, Marks};
use crate::{
    Code, Error, Result,
    config::OnPoison,
    outbox::{Encoded, Encoder, Failure, Poison, PoisonReason, RecordRef, Records},
    pgoutput::Tuple,
};

/// Records that Kafka has refused, each by itself, and topics that it refuses for their names. They
/// are kept only while the process lives. A verdict does not change what was published before it,
/// and after a restart it is found again.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdicts {
    records: HashMap<RecordKey, Poison>,
    topics: HashMap<String, Poison>,
}

/// What a record is known by. An event id may occur twice, but hardly with the same size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RecordKey {
    table: u16,
    event_id: String,
    bytes: usize,
}

/// Verdicts of each sort that are kept, at most. When there are more, all are dropped and found
/// anew.
const MAX_VERDICTS: usize = 10_000;

impl Verdicts {
    /// Kafka refused this record, whatever came with it. Returns whether that is new.
    pub(super) fn add(&mut self, record: RecordRef<'_>, error: &Error) -> bool {
        make_room(&mut self.records);
        let reason = if error.code() == Code::RowTooLarge { PoisonReason::TooLarge } else { PoisonReason::Refused };
        self.records.insert(key(record), Poison::new(reason, error.detail())).is_none()
    }

    /// Kafka refuses this topic for its name. Returns whether that is new.
    pub(super) fn add_topic(&mut self, topic: String, why: String) -> bool {
        make_room(&mut self.topics);
        self.topics.insert(topic, Poison::new(PoisonReason::TopicInvalid, why)).is_none()
    }

    /// Removes the last record again if Kafka is known to refuse it.
    fn on_last(&self, records: &mut Records) -> Option<Poison> {
        if self.records.is_empty() && self.topics.is_empty() {
            return None;
        }
        let record = records.last()?;
        let poison = self.topics.get(record.topic).or_else(|| self.records.get(&key(record)))?.clone();
        records.truncate(records.len() - 1);
        Some(poison)
    }
}

fn make_room<K>(verdicts: &mut HashMap<K, Poison>) {
    if verdicts.len() >= MAX_VERDICTS {
        verdicts.clear();
    }
}

fn key(record: RecordRef<'_>) -> RecordKey {
    let event_id = record.event_id.unwrap_or_default().to_owned();
    RecordKey { table: record.table, event_id, bytes: record.size() }
}

/// Encodes the rows of one source.
pub(super) struct Rows {
    /// Knows the tables' columns.
    pub(crate) encoder: Encoder,
    on_poison: OnPoison,
    verdicts: Verdicts,
    dead_letters: u64,
    /// Memory in which the id of a redelivered row is read.
    scratch: Records,
}

impl Rows {
    /// Begins with the verdicts of earlier sessions.
    #[must_use]
    pub(super) fn new(encoder: Encoder, on_poison: OnPoison, verdicts: Verdicts) -> Self {
        Self { encoder, on_poison, verdicts, dead_letters: 0, scratch: Records::default() }
    }

    /// Appends the row's record or its dead letter to `records`, and its id to `marks`. A row whose
    /// mark is set already is left out.
    ///
    /// # Errors
    /// The row is poison and `on_poison = "stop"`, or it is not a row of the table that was
    /// described.
    pub(super) fn append(&mut self, row: Row<'_>, records: &mut Records, marks: &mut Marks) -> Result<Encoded> {
        let poison = match self.encoder.encode(row.relation, row.tuple, records) {
            Ok(Encoded::AlreadyMarked) => return Ok(Encoded::AlreadyMarked),
            Ok(Encoded::Published) => self.verdicts.on_last(records),
            Err(Failure::Poison(poison)) => Some(poison),
            Err(Failure::Protocol(error)) => return Err(error),
        };
        if let Some(poison) = poison {
            self.append_poison(row, &poison, records)?;
        }
        push_mark(last(records)?, row.xid, marks);
        Ok(Encoded::Published)
    }

    /// Appends the id of a row that was published before. A row whose mark is set already is left
    /// out.
    ///
    /// # Errors
    /// It is not a row of the table that was described.
    pub(super) fn append_mark(&mut self, row: Row<'_>, marks: &mut Marks) -> Result<Encoded> {
        self.scratch.clear();
        match self.encoder.marks_only(row.relation, row.tuple, &mut self.scratch) {
            Ok(Encoded::AlreadyMarked) => return Ok(Encoded::AlreadyMarked),
            Ok(Encoded::Published) => push_mark(last(&self.scratch)?, row.xid, marks),
            Err(Failure::Poison(_)) => marks.push_none(), // It went out as a dead letter, and has no id to mark.
            Err(Failure::Protocol(error)) => return Err(error),
        }
        Ok(Encoded::Published)
    }

    /// Whether the row is the event `id`. A row without an id counts as the event with the empty
    /// id.
    #[must_use]
    pub(super) fn is_event(&self, row: Row<'_>, id: &str) -> bool {
        self.encoder.event_id(row.relation, row.tuple).as_deref().unwrap_or_default() == id
    }

    /// Dead letters since the last call.
    pub(super) fn take_dead_letters(&mut self) -> u64 {
        std::mem::take(&mut self.dead_letters)
    }

    /// The row's table, for a message.
    fn table(&self, row: Row<'_>) -> &str {
        self.encoder.table(row.relation).unwrap_or_default()
    }

    fn append_poison(&mut self, row: Row<'_>, poison: &Poison, records: &mut Records) -> Result<()> {
        let id = self.encoder.event_id(row.relation, row.tuple).unwrap_or_default();
        if self.on_poison == OnPoison::Stop {
            let code = if poison.reason == PoisonReason::TooLarge { Code::RowTooLarge } else { Code::RowInvalid };
            return Err(Error::new(code, format!("event {id:?} of {}: {poison}", self.table(row))));
        }
        tracing::warn!(event_id = %id, reason = %poison, "dead letter");
        self.dead_letters += 1;
        if poison.reason != PoisonReason::TooLarge {
            self.encoder.encode_dead_letter(row.relation, row.tuple, poison, records).map_err(into_error)?;
            if self.verdicts.on_last(records).is_none() {
                return Ok(());
            }
        }
        // A dead letter with the payload does not fit either. This one has headers and error alone.
        let encoder = &self.encoder;
        encoder.encode_dead_letter_without_payload(row.relation, row.tuple, poison, records).map_err(into_error)?;
        if let Some(refused) = self.verdicts.on_last(records) {
            let text = format!("event {id:?} of {}: Kafka refuses even its dead letter: {refused}", self.table(row));
            return Err(Error::new(Code::RowInvalid, text));
        }
        Ok(())
    }
}

/// A row, and the table that it belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The transaction that inserted it. 0 in a backfill.
    pub(super) xid: u32,
    /// Oid of the relation, as the stream names it.
    pub(crate) relation: u32,
    /// Its columns.
    pub(crate) tuple: &'a Tuple<'a>,
}

/// Gives an error back that may wait until what came before it is finished: what a row holds, or
/// which columns its table has, says nothing against the rows before it.
///
/// # Errors
/// Any other error. Nothing that was read can be trusted then.
pub(super) fn waiting(error: Error) -> Result<Error> {
    match error.code() {
        Code::RowInvalid | Code::RowTooLarge | Code::ColumnInvalid => Ok(error),
        _ => Err(error),
    }
}

fn into_error(failure: Failure) -> Error {
    match failure {
        Failure::Poison(poison) => Error::new(Code::RowInvalid, format!("no dead letter can be made: {poison}")),
        Failure::Protocol(error) => error,
    }
}

pub(super) fn last(records: &Records) -> Result<RecordRef<'_>> {
    records.last().ok_or_else(|| Error::new(Code::Internal, "a row was encoded and left no record"))
}

fn push_mark(record: RecordRef<'_>, xid: u32, marks: &mut Marks) {
    match record.event_id {
        Some(id) => marks.push(MarkRow { table: record.table, xid, id }),
        None => marks.push_none(),
    }
}
