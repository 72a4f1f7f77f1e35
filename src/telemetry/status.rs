//! The state of a source, as `/readyz` and `/status` tell it.

use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use crate::{Error, Lsn};

/// What a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Connecting and comparing the position with the server.
    Starting,
    /// Another instance holds the slot.
    Standby,
    /// Publishing the rows that existed before the slot.
    Backfill,
    /// Publishing what is committed.
    Streaming,
    /// Waiting to try again after an error that heals.
    Retrying,
    /// Stopped until a person has acted.
    Halted,
}

impl SourceState {
    /// Every state there is.
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Standby, Self::Backfill, Self::Streaming, Self::Retrying, Self::Halted];

    /// The state as it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Backfill => "backfill",
            Self::Streaming => "streaming",
            Self::Retrying => "retrying",
            Self::Halted => "halted",
        }
    }

    /// Rule 33: ready means that committed rows are being published.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self == Self::Streaming
    }
}

/// The last error of a source, kept after it has healed.
#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    /// The stable code.
    pub code: &'static str,
    /// What happened, and why.
    pub message: String,
    /// The operator's next step.
    pub hint: &'static str,
    /// When.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
}

/// A source at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    /// Its configured name.
    pub source: String,
    /// What it is doing.
    pub state: SourceState,
    /// Since when.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// The published position; `None` until it has been read.
    pub position: Option<Lsn>,
    /// Bytes of WAL between the server's end and the position.
    pub lag_bytes: i64,
    /// Age of the oldest committed, unpublished row; 0 when caught up.
    pub lag_seconds: f64,
    /// Rows committed and not published.
    pub unpublished_rows: i64,
    /// The last error.
    pub last_error: Option<LastError>,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*time))
}

/// The part of [`SourceStatus`] that no metric carries.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) state: SourceState,
    pub(super) since: SystemTime,
    pub(super) position: Option<Lsn>,
    pub(super) last_error: Option<LastError>,
    /// `None` until the first beat: what never beats is not watched.
    pub(super) beat: Option<Instant>,
}

impl Shown {
    pub(super) fn new() -> Self {
        Self { state: SourceState::Starting, since: SystemTime::now(), position: None, last_error: None, beat: None }
    }

    pub(super) fn enter(&mut self, state: SourceState) {
        if self.state != state {
            self.state = state;
            self.since = SystemTime::now();
        }
    }

    pub(super) fn fail(&mut self, error: &Error) {
        self.last_error = Some(LastError {
            code: error.code().as_str(),
            message: error.detail(),
            hint: error.hint(),
            at: SystemTime::now(),
        });
    }

    /// A halted source rests; any other has to beat.
    pub(super) fn is_stuck(&self, now: Instant, limit: Duration) -> bool {
        self.state != SourceState::Halted && self.beat.is_some_and(|beat| now.saturating_duration_since(beat) > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_stuck_only_after_it_has_beaten_once_and_then_stopped() {
        let start = Instant::now();
        let limit = Duration::from_secs(60);
        let mut shown = Shown::new();
        assert!(!shown.is_stuck(start + Duration::from_secs(3600), limit));
        shown.beat = Some(start);
        assert!(!shown.is_stuck(start + limit, limit));
        assert!(shown.is_stuck(start + limit + Duration::from_secs(1), limit));
        shown.enter(SourceState::Halted);
        assert!(!shown.is_stuck(start + Duration::from_secs(3600), limit));
    }

    #[test]
    fn entering_the_same_state_again_keeps_its_beginning() {
        let mut shown = Shown::new();
        shown.since = SystemTime::UNIX_EPOCH;
        shown.enter(SourceState::Starting);
        assert_eq!(shown.since, SystemTime::UNIX_EPOCH);
        shown.enter(SourceState::Streaming);
        assert!(shown.since > SystemTime::UNIX_EPOCH);
    }
}
