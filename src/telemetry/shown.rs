//! What a daemon shows of a source besides the metrics.

use std::time::{Duration, Instant, SystemTime};

use crate::{
    Error, Lsn,
    source::{
        position::Phase,
        standing::{DaemonState, LastError, Problem, SlotStanding, SourceState, Standing},
    },
};

/// The slot, and the end of the server's log at the time of that look.
#[derive(Debug)]
pub(crate) struct SeenSlot {
    /// The end of the log.
    pub(crate) end: Lsn,
    /// The slot.
    pub(crate) slot: SlotStanding,
}

/// The state of a source in this process.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) state: SourceState,
    pub(super) since: SystemTime,
    pub(super) position: Option<Lsn>,
    pub(super) last_error: Option<LastError>,
    /// The slot as the monitor last saw it.
    pub(super) slot: Option<SeenSlot>,
    /// `None` until the first beat. A source that never beats is not watched.
    pub(super) beat: Option<Instant>,
}

impl Shown {
    pub(super) fn new() -> Self {
        Self {
            state: SourceState::Starting,
            since: SystemTime::now(),
            position: None,
            last_error: None,
            slot: None,
            beat: None,
        }
    }

    pub(super) fn enter(&mut self, state: SourceState) {
        if self.state != state {
            self.state = state;
            self.since = SystemTime::now();
        }
    }

    pub(super) fn fail(&mut self, error: &Error) {
        self.last_error = Some(LastError { problem: Problem::from(error), at: SystemTime::now() });
    }

    /// The standing, without the numbers that the metrics hold.
    pub(super) fn standing(&self, source: &str) -> Standing {
        let daemon = DaemonState { state: self.state, since: self.since, last_error: self.last_error.clone() };
        let halt = self.last_error.as_ref().filter(|_| self.state == SourceState::Halted);
        Standing {
            source: source.to_owned(),
            daemon: Some(daemon),
            phase: match self.state {
                SourceState::Backfill => Some(Phase::Backfill),
                _ => self.position.map(|_| Phase::Streaming),
            },
            position: self.position,
            server: self.slot.as_ref().map(|seen| seen.end),
            slot: self.slot.as_ref().map(|seen| seen.slot.clone()),
            problems: halt.iter().map(|error| error.problem.clone()).collect(),
            ..Standing::default()
        }
    }

    /// Whether the source has not beaten for `limit`. A halted source does not have to beat.
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
