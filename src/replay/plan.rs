//! What a request has done, and what comes next. Pure.
//!
//! ```text
//!   TakeId ─▶ ReadRecord ─▶ Rows ─▶ Publish ─▶ Rows ─▶ … ─▶ Publish (finished) ─▶ Done
//!     ▲           └─▶ Done            │
//!     └─────────── failed ────────────┘
//! ```
//!
//! - The id is taken before the record is read. Whoever had the id before is fenced then, and cannot
//!   commit what the record does not yet show.
//! - A record is published in the Kafka transaction of the rows that it counts, behind them.
//! - After a failure nothing of what was in memory is sent again. The record tells what was
//!   committed.

use serde::{Deserialize, Serialize};

use crate::{Code, Error, Result};

/// The format of the record. A reader refuses a greater version.
const VERSION: u32 = 1;

/// Where a row stands in the order of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Text of the column that comes first in the order. `None`: NULL, or no such column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Index of its table in configuration order.
    pub table: u16,
    /// Text of its id.
    pub id: String,
}

/// What was asked for, when, and of which server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// A hash of everything that says which rows go where.
    pub selection: String,
    /// The cluster's system identifier.
    pub system_id: String,
    /// When the request was first made, by the server's clock, in microseconds since the Unix epoch.
    /// Rows that were published later are not in it.
    pub began: i64,
}

/// How far a request has come. This is the value of its record in the position topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// What makes the request this one.
    #[serde(flatten)]
    pub identity: Identity,
    /// How many rows are published again.
    pub rows: u64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Place>,
    /// No row is left.
    pub finished: bool,
}

impl Record {
    fn new(identity: Identity) -> Self {
        Self { version: VERSION, identity, rows: 0, last: None, finished: false }
    }

    /// The record's value.
    #[must_use]
    #[expect(clippy::expect_used, reason = "writing plain structs with string keys to memory cannot fail")]
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`Code::PositionInvalid`]: it is no record of a request, or one of a later version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let what = "the record of the request in the position topic";
        let record: Self =
            serde_json::from_slice(bytes).map_err(|error| Error::new(Code::PositionInvalid, what).because(error))?;
        if record.version > VERSION {
            let text = format!("{what} is of version {}; this outboxd reads up to {VERSION}", record.version);
            return Err(Error::new(Code::PositionInvalid, text));
        }
        Ok(record)
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take the request's transactional.id.
    TakeId,
    /// Read the request's record.
    ReadRecord,
    /// Read the next rows, those behind the last one of this record.
    Rows(Record),
    /// Publish the rows that were read, and this record behind them.
    Publish(Record),
    /// Nothing. All rows of the record are published again.
    Done(Record),
}

/// A request, as one process carries it out.
#[derive(Debug)]
pub struct Request {
    asked: Identity,
    step: Step,
}

impl Request {
    /// A request, of which nothing is known yet.
    #[must_use]
    pub fn new(asked: Identity) -> Self {
        Self { asked, step: Step::TakeId }
    }

    /// What comes next.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step.clone()
    }

    /// The id is taken.
    pub fn id_taken(&mut self) {
        self.step = Step::ReadRecord;
    }

    /// What the position topic holds of the request.
    ///
    /// # Errors
    /// [`Code::ReplayRefused`]: the request is another one of the same name. [`Code::SystemChanged`]:
    /// it was made of another server.
    pub fn record_read(&mut self, found: Option<Record>) -> Result<()> {
        let record = found.unwrap_or_else(|| Record::new(self.asked.clone()));
        let (known, asked) = (&record.identity, &self.asked);
        if known.system_id != asked.system_id {
            let text =
                format!("the request was made of system {}, and system {} answers", known.system_id, asked.system_id);
            return Err(Error::new(Code::SystemChanged, text));
        }
        if known.selection != asked.selection {
            let text = "a request of this name was made for other rows, another topic, other tables or another order; \
                        repeat its own arguments, or take another name";
            return Err(Error::new(Code::ReplayRefused, text));
        }
        self.step = if record.finished { Step::Done(record) } else { Step::Rows(record) };
        Ok(())
    }

    /// The next rows are read: how many, and the place of the last one. `is_end`: no row is behind
    /// them.
    ///
    /// # Errors
    /// [`Code::Internal`]: nobody asked for rows.
    pub fn rows_read(&mut self, count: u64, last: Option<Place>, is_end: bool) -> Result<()> {
        let Step::Rows(mut record) = self.step.clone() else {
            return Err(Error::new(Code::Internal, "rows came that no step of the request had asked for"));
        };
        record.rows += count;
        record.last = last.or(record.last);
        record.finished = is_end;
        self.step = Step::Publish(record);
        Ok(())
    }

    /// Kafka has committed the rows and the record.
    ///
    /// # Errors
    /// [`Code::Internal`]: nothing was to be published.
    pub fn committed(&mut self) -> Result<()> {
        let Step::Publish(record) = self.step.clone() else {
            return Err(Error::new(Code::Internal, "a commit came that no step of the request had asked for"));
        };
        self.step = if record.finished { Step::Done(record) } else { Step::Rows(record) };
        Ok(())
    }

    /// Something failed, or nobody knows whether it did. All begins anew.
    pub fn failed(&mut self) {
        self.step = Step::TakeId;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { selection: "a1".into(), system_id: "7444".into(), began: 5 }
    }

    fn place(id: &str) -> Option<Place> {
        Some(Place { order: Some("2024-01-15 10:30:00+00".into()), table: 1, id: id.into() })
    }

    fn running() -> Request {
        let mut request = Request::new(identity());
        request.id_taken();
        request.record_read(None).unwrap();
        request
    }

    #[test]
    fn a_request_goes_from_batch_to_batch_to_its_end() {
        let mut request = running();
        request.rows_read(3, place("c"), false).unwrap();
        let Step::Publish(record) = request.step() else { panic!() };
        assert_eq!((record.rows, &record.last, record.finished), (3, &place("c"), false));
        request.committed().unwrap();
        assert_eq!(request.step(), Step::Rows(record));
        request.rows_read(0, None, true).unwrap();
        request.committed().unwrap();
        let Step::Done(record) = request.step() else { panic!() };
        assert_eq!((record.rows, record.last, record.finished), (3, place("c"), true));
    }

    #[test]
    fn a_request_goes_on_where_its_record_says_and_keeps_its_beginning() {
        let mut request = running();
        request.rows_read(3, place("c"), false).unwrap();
        let Step::Publish(record) = request.step() else { panic!() };
        let mut next = Request::new(Identity { began: 99, ..identity() });
        assert_eq!(next.step(), Step::TakeId);
        next.id_taken();
        next.record_read(Some(record.clone())).unwrap();
        assert_eq!(next.step(), Step::Rows(record));
    }

    #[test]
    fn after_a_failure_the_record_is_read_again() {
        let mut request = running();
        request.rows_read(3, place("c"), false).unwrap();
        request.failed();
        assert_eq!(request.step(), Step::TakeId);
        assert!(request.committed().is_err() && request.rows_read(1, None, true).is_err());
    }

    #[test]
    fn a_finished_request_publishes_nothing() {
        let record = Record { finished: true, ..Record::new(identity()) };
        let mut request = Request::new(identity());
        request.id_taken();
        request.record_read(Some(record.clone())).unwrap();
        assert_eq!(request.step(), Step::Done(record));
    }

    #[test]
    fn the_name_of_another_request_is_refused() {
        let mut request = Request::new(Identity { selection: "b2".into(), ..identity() });
        let other = request.record_read(Some(Record::new(identity()))).unwrap_err();
        assert_eq!(other.code(), Code::ReplayRefused);
        let mut request = Request::new(Identity { system_id: "7445".into(), ..identity() });
        let other = request.record_read(Some(Record::new(identity()))).unwrap_err();
        assert_eq!(other.code(), Code::SystemChanged);
    }

    #[test]
    fn the_record_is_what_the_documentation_shows_and_a_later_one_is_refused() {
        let mut record = Record::new(identity());
        record.last = place("c");
        let text = String::from_utf8(record.encode()).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"selection":"a1","system_id":"7444","began":5,"rows":0,"last":{"order":"2024-01-15 10:30:00+00","table":1,"id":"c"},"finished":false}"#
        );
        assert_eq!(Record::decode(text.as_bytes()).unwrap(), record);
        let later = text.replace("\"version\":1", "\"version\":2");
        assert_eq!(Record::decode(later.as_bytes()).unwrap_err().code(), Code::PositionInvalid);
        // Neither is the other: a position is no record, and a record no position.
        assert!(crate::source::position::Position::decode(text.as_bytes()).is_err());
    }
}
