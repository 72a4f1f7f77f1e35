//! Turns a row into a record or a dead letter, or ends the source: the poison policy around the
//! encoder.

use std::collections::HashMap;

use super::marks::{MarkRow, Marks};
use crate::{
    Code, Error, Result,
    clock::now_millis,
    config::{Mark, OnPoison, Source},
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
    policy: Policy,
    verdicts: Verdicts,
    dead_letters: u64,
    /// Memory in which the id of a redelivered row is read.
    scratch: Records,
}

impl Rows {
    /// Begins with the verdicts of earlier sessions.
    #[must_use]
    pub(super) fn new(encoder: Encoder, policy: Policy, verdicts: Verdicts) -> Self {
        Self { encoder, policy, verdicts, dead_letters: 0, scratch: Records::default() }
    }

    /// A transaction starts. `commit_time` is in microseconds since the Unix epoch.
    pub(super) fn begin(&mut self, commit_time: i64) {
        self.encoder.begin(commit_time);
        if !self.encoder.times.is_empty() {
            self.encoder.times.set_now(now_millis());
        }
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
        if self.policy.on_poison == OnPoison::Stop {
            let code = if poison.reason == PoisonReason::TooLarge { Code::RowTooLarge } else { Code::RowInvalid };
            return Err(Error::new(code, format!("event {id:?} of {}: {poison}", self.table(row))));
        }
        tracing::warn!(event_id = %id, reason = %poison, "dead letter");
        self.dead_letters += 1;
        let Some(refused) = self.append_letter(row, poison, Letter::Whole, records)? else { return Ok(()) };
        let topic = refused.topic;
        let about = format!("event {id:?} of {}: topic {topic} refuses its dead letter", self.table(row));
        if self.policy.mark == Mark::Delete {
            let text = format!("{about}, and mark = \"delete\" would leave its content nowhere: {}", refused.poison);
            return Err(Error::new(Code::DeadLetterRefused, text));
        }
        match self.append_letter(row, poison, Letter::WithoutPayload, records)? {
            Some(refused) => {
                let text = format!("{about}, even without the payload: {}", refused.poison);
                Err(Error::new(Code::DeadLetterRefused, text))
            }
            None => Ok(()),
        }
    }

    /// Appends a dead letter, unless Kafka is known to refuse it.
    fn append_letter(
        &mut self,
        row: Row<'_>,
        poison: &Poison,
        letter: Letter,
        records: &mut Records,
    ) -> Result<Option<RefusedLetter>> {
        let (encoder, Row { relation, tuple, .. }) = (&self.encoder, row);
        let encoded = match letter {
            Letter::Whole => encoder.encode_dead_letter(relation, tuple, poison, records),
            Letter::WithoutPayload => encoder.encode_dead_letter_without_payload(relation, tuple, poison, records),
        };
        match encoded {
            Ok(()) => {
                let topic = last(records)?.topic.to_owned();
                Ok(self.verdicts.on_last(records).map(|poison| RefusedLetter { topic, poison }))
            }
            // It is larger than any topic can take.
            Err(Failure::Poison(poison)) => Ok(Some(RefusedLetter { topic: String::new(), poison })),
            Err(Failure::Protocol(error)) => Err(error),
        }
    }
}

/// How much of its row a dead letter holds.
#[derive(Debug, Clone, Copy)]
enum Letter {
    Whole,
    /// Headers and the error alone, for a topic that takes no more.
    WithoutPayload,
}

/// A dead letter that Kafka refuses.
struct RefusedLetter {
    topic: String,
    poison: Poison,
}

/// What becomes of a row that cannot be a record, and of one that was published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) on_poison: OnPoison,
    pub(super) mark: Mark,
}

impl Policy {
    #[must_use]
    pub(super) fn of(source: &Source) -> Self {
        Self { on_poison: source.on_poison, mark: source.mark }
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
        Code::RowInvalid
        | Code::RowTooLarge
        | Code::MessageTooLarge
        | Code::DeadLetterRefused
        | Code::ColumnInvalid => Ok(error),
        _ => Err(error),
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
