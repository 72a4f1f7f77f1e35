//! The position. It is the last record of every Kafka transaction, and so the single truth of what
//! was published.
//!
//! It lives in a compacted topic of one partition, keyed by the source's name, as a JSON object:
//!
//! ```json
//! {"version":1,"phase":"streaming","lsn":"0/1957AB8",
//!  "commit":{"end_lsn":"0/1957AB8","xid":761,"time":1763929800123456},
//!  "split":{"final_lsn":"0/1957C00","xid":762,"rows":10000,"event_id":"0190…"},
//!  "history":{"system_id":"7444…","timeline":1,"slot":"outboxd_order",
//!             "consistent_point":"0/1956000"},
//!  "publication":{…},"chunk":[]}
//! ```
//!
//! LSNs are in Postgres's notation, times in microseconds since the Unix epoch.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// The format of the record. A reader refuses a greater version.
const VERSION: u32 = 1;

/// What was published of one source, and from which history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    version: u32,
    /// How far the set-up of the source has come.
    pub phase: Phase,
    /// How far the stream was published.
    #[serde(flatten)]
    pub progress: Progress,
    /// Where the stream came from.
    pub history: History,
    /// The fingerprint of the publication.
    pub publication: serde_json::Value,
    /// It was written with `delivery = "at-least-once"`. Nothing fences such a producer, so the
    /// position may be late.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfenced: bool,
    /// In phase `backfill`: the rows of the last chunk, whose marks may still be owed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunk: Vec<RowId>,
    /// Before `streaming`: the last row that was marked of an earlier chunk. A server that does not
    /// show its mark has lost the marks. Then nothing tells the published rows from the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked: Option<RowId>,
    /// A person wrote this position with `outboxd recover`. The daemon's own positions after it do
    /// not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
}

/// Who set a position by hand, and what it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    pub(crate) strategy: String,
    /// When, RFC 3339.
    pub(crate) time: String,
    /// `user@host`, as far as the environment tells.
    pub(crate) by: String,
    /// The code of the halt. None where a person insisted without a halt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    /// Phase of the position before. None where there was no readable one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) phase: Option<Phase>,
    /// Its LSN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lsn: Option<Lsn>,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recovered by {} at {} with {}", self.by, self.time, self.strategy)?;
        if let Some(code) = &self.code {
            write!(f, " after {code}")?;
        }
        match self.lsn {
            Some(lsn) => write!(f, "; published up to {lsn} before"),
            None => Ok(()),
        }
    }
}

/// How far the set-up of a source has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The slot is about to be made. Nothing was published through it.
    Creating,
    /// Rows from before the slot are being published from its snapshot.
    Backfill,
    /// The stream is being published.
    Streaming,
}

/// How far the stream was published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// End of the last published transaction, or a later LSN up to which there was nothing to
    /// publish.
    pub lsn: Lsn,
    /// The last transaction that was published, apart from any idle LSN.
    pub commit: Option<CommitId>,
    /// The transaction after `lsn` of which a first part is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// What tells one Postgres transaction from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitId {
    /// `Commit.end_lsn`.
    pub(crate) end_lsn: Lsn,
    pub(crate) xid: u32,
    /// Its commit time, microseconds since the Unix epoch.
    pub(crate) time: i64,
}

/// A transaction of which only the first rows are published. All of it must match on resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// `Begin.final_lsn`. The end is not known before the transaction's Commit.
    pub(crate) final_lsn: Lsn,
    pub(crate) xid: u32,
    /// Number of Insert messages up to the last published one and including it, counted before any
    /// filtering.
    pub(crate) rows: u64,
    /// Event id of that last row.
    pub(crate) event_id: String,
}

/// Where a stream comes from: the cluster, its branch, and the slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The cluster's system identifier.
    pub system_id: String,
    /// The timeline on which the position was written.
    pub timeline: u32,
    /// The slot's name.
    pub slot: String,
    /// Where the slot's stream begins.
    pub consistent_point: Lsn,
}

/// A row of one of the source's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowId {
    /// Oid of its table. The order of `tables` may have changed when somebody reads the position.
    pub table: u32,
    /// Text of the id column.
    pub id: String,
}

/// The record is not a position that this version can read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidPosition {
    /// It is not the JSON that the module's documentation shows.
    #[error("not a position record")]
    Malformed(#[from] serde_json::Error),
    /// A later outboxd has written it.
    #[error("position record of version {0}; this outboxd reads up to {VERSION}")]
    Version(u32),
}

impl Position {
    /// A position of the current version.
    #[must_use]
    pub fn new(phase: Phase, progress: Progress, history: History, publication: serde_json::Value) -> Self {
        Self {
            version: VERSION,
            phase,
            progress,
            history,
            publication,
            unfenced: false,
            chunk: Vec::new(),
            marked: None,
            recovered: None,
        }
    }

    /// A position of phase `creating`. Nothing was published through the slot that is to come, so
    /// there is no history to compare.
    #[must_use]
    pub fn creating(slot: &str, publication: serde_json::Value) -> Self {
        let history =
            History { system_id: String::new(), timeline: 0, slot: slot.to_owned(), consistent_point: Lsn::ZERO };
        Self::new(Phase::Creating, Progress::default(), history, publication)
    }

    /// The record's value.
    #[must_use]
    #[expect(clippy::expect_used, reason = "writing plain structs with string keys to memory cannot fail")]
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a position is plain data")
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// The bytes are not a position of a version up to this one's.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, InvalidPosition> {
        let position: Self = serde_json::from_slice(bytes)?;
        if position.version > VERSION { Err(InvalidPosition::Version(position.version)) } else { Ok(position) }
    }

    /// Whether `newer`, found behind `self` in the topic, goes back on it (rule 2).
    ///
    /// This holds only within one slot's life. A new slot begins anew, and so does a position that
    /// a person has set.
    #[must_use]
    pub fn regresses_to(&self, newer: &Self) -> bool {
        self.precedes_in_the_topic_only(newer) && !self.unfenced && !newer.unfenced
    }

    /// Whether a reader passes over `newer`, found behind `self` in the topic. With at-least-once a
    /// predecessor whose session has ended may write its last position after its successor's first
    /// ones. Each of them is true, so the greatest one holds.
    #[must_use]
    pub(crate) fn outlives(&self, newer: &Self) -> bool {
        self.precedes_in_the_topic_only(newer) && (self.unfenced || newer.unfenced)
    }

    fn precedes_in_the_topic_only(&self, newer: &Self) -> bool {
        newer.recovered.is_none()
            && self.phase == Phase::Streaming
            && newer.phase == Phase::Streaming
            && self.history.consistent_point == newer.history.consistent_point
            && self.history.system_id == newer.history.system_id
            && newer.progress.is_behind(&self.progress)
    }
}

impl Progress {
    /// Whether `self` lies before `other` in the stream.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        let key = |progress: &Self| (progress.lsn, progress.split.as_ref().map_or(0, |split| split.rows));
        key(self) < key(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(lsn: u64, rows: Option<u64>) -> Position {
        let split = rows.map(|rows| Split { final_lsn: Lsn(lsn + 8), xid: 762, rows, event_id: "e".into() });
        let commit = Some(CommitId { end_lsn: Lsn(lsn), xid: 761, time: 1_763_929_800_123_456 });
        let history =
            History { system_id: "7444".into(), timeline: 1, slot: "outboxd_order".into(), consistent_point: Lsn(1) };
        Position::new(Phase::Streaming, Progress { lsn: Lsn(lsn), commit, split }, history, serde_json::json!({"a": 1}))
    }

    fn recovered() -> Recovered {
        Recovered {
            strategy: "from-slot".into(),
            time: "2026-11-23T12:00:00Z".into(),
            by: "vera@db1".into(),
            code: Some("slot-ahead".into()),
            phase: Some(Phase::Streaming),
            lsn: Some(Lsn(100)),
        }
    }

    #[test]
    fn what_a_person_set_begins_anew() {
        let mut set = position(99, None);
        set.recovered = Some(recovered());
        assert!(!position(100, None).regresses_to(&set));
        assert!(set.regresses_to(&position(98, None)));
    }

    #[test]
    fn what_is_written_reads_back() {
        for mut written in [position(100, None), position(100, Some(7))] {
            written.chunk = vec![RowId { table: 2, id: "x\"y".into() }];
            written.marked = Some(RowId { table: 2, id: "w".into() });
            written.recovered = Some(recovered());
            assert_eq!(Position::decode(&written.encode()).unwrap(), written);
        }
    }

    #[test]
    fn the_record_is_what_the_documentation_shows() {
        let text = String::from_utf8(position(0x0195_7AB8, None).encode()).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"phase":"streaming","lsn":"0/1957AB8","commit":{"end_lsn":"0/1957AB8","xid":761,"time":1763929800123456},"history":{"system_id":"7444","timeline":1,"slot":"outboxd_order","consistent_point":"0/1"},"publication":{"a":1}}"#
        );
    }

    #[test]
    fn garbage_and_later_versions_are_refused() {
        assert!(Position::decode(b"").is_err());
        assert!(Position::decode(b"{}").is_err());
        let later = String::from_utf8(position(1, None).encode()).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(matches!(Position::decode(later.as_bytes()), Err(InvalidPosition::Version(2))));
    }

    #[test]
    fn going_back_is_a_regression_and_going_on_is_not() {
        assert!(position(100, None).regresses_to(&position(99, None)));
        assert!(position(100, Some(2)).regresses_to(&position(100, Some(1))));
        assert!(!position(100, Some(2)).regresses_to(&position(108, None)));
        assert!(!position(100, None).regresses_to(&position(100, None)));
    }

    #[test]
    fn a_late_position_of_an_unfenced_producer_is_passed_over_and_no_regression() {
        let unfenced = |lsn| Position { unfenced: true, ..position(lsn, None) };
        for (older, newer) in
            [(position(100, None), unfenced(99)), (unfenced(100), position(99, None)), (unfenced(100), unfenced(99))]
        {
            assert!(older.outlives(&newer) && !older.regresses_to(&newer));
            assert!(!newer.outlives(&older) && !newer.regresses_to(&older));
        }
        assert!(!position(100, None).outlives(&position(99, None)));
        assert_eq!(Position::decode(&unfenced(7).encode()).unwrap(), unfenced(7));
    }
}
