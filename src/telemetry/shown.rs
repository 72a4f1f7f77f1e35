//! What a daemon shows of a source besides the metrics.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use super::history::History;
use crate::{
    Error, Lsn,
    source::{
        position::Phase,
        standing::{DaemonState, LastError, Problem, SlotStanding, SourceState, Standing},
    },
};

/// How many of the last errors are kept.
const ERRORS: usize = 5;

/// Since when a source owes rows to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Lag {
    /// Nobody can tell.
    #[default]
    Unknown,
    /// No row waits.
    Nothing,
    /// The oldest row that waits was committed about then.
    Since(SystemTime),
}

impl Lag {
    /// The lag in seconds, unless it is unknown. It is never negative, although clocks may differ.
    pub(crate) fn seconds(self, now: SystemTime) -> Option<f64> {
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(0.0),
            Self::Since(time) => Some(now.duration_since(time).unwrap_or_default().as_secs_f64()),
        }
    }
}

/// What the monitor has seen. `None` is what it could not learn.
#[derive(Debug)]
pub(crate) struct Sight {
    pub(crate) lag: Lag,
    pub(crate) slot: Option<SeenSlot>,
    /// Bytes of log after what the slot has confirmed.
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) spilled_bytes: Option<u64>,
    pub(crate) unpublished_rows: Option<u64>,
    /// Age of the oldest unmarked row. Zero when there is none.
    pub(crate) oldest_unmarked: Option<Duration>,
}

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
    /// The last errors, the newest first, each code and message once in a row.
    pub(super) errors: VecDeque<LastError>,
    pub(super) history: History,
    /// The lag as the stream knows it.
    pub(super) streamed: Lag,
    /// The lag as the monitor sees it.
    watched: Lag,
    /// What the monitor saw. `None` before its first look, and after one that failed.
    pub(super) sight: Option<Sight>,
    /// When the monitor last saw anything.
    pub(super) seen_at: Option<Instant>,
    /// `None` until the first beat. A source that never beats is not watched.
    pub(super) beat: Option<Instant>,
}

impl Shown {
    pub(super) fn new() -> Self {
        Self {
            state: SourceState::Starting,
            since: SystemTime::now(),
            position: None,
            errors: VecDeque::new(),
            history: History::default(),
            streamed: Lag::Unknown,
            watched: Lag::Unknown,
            sight: None,
            seen_at: None,
            beat: None,
        }
    }

    pub(super) fn enter(&mut self, state: SourceState) {
        if self.state != state {
            self.state = state;
            self.since = SystemTime::now();
        }
        if state == SourceState::Streaming {
            self.heal();
        }
    }

    /// Notes when the last errors healed.
    pub(super) fn heal(&mut self) {
        for error in &mut self.errors {
            error.healed_at.get_or_insert_with(SystemTime::now);
        }
    }

    fn last_error(&self) -> Option<&LastError> {
        self.errors.front()
    }

    pub(super) fn saw(&mut self, sight: Sight) {
        self.watched = sight.lag;
        self.sight = Some(sight);
        self.seen_at = Some(Instant::now());
    }

    /// The monitor could not look. Rows that waited wait still, since nothing is published without
    /// Postgres. Whether others came, nobody knows.
    pub(super) fn saw_nothing(&mut self) {
        self.sight = None;
        if self.watched == Lag::Nothing {
            self.watched = Lag::Unknown;
        }
    }

    /// The lag: the stream's own while there is one, otherwise the monitor's. A stream that failed
    /// knew since when rows wait, and the monitor knows a time before that. The later of the two is
    /// nearer to the truth, so the lag does not jump when Kafka goes away.
    pub(super) fn lag(&self) -> Lag {
        match (self.state, self.watched, self.streamed) {
            (SourceState::Streaming, _, streamed) => streamed,
            (SourceState::Retrying, Lag::Since(watched), Lag::Since(streamed)) => Lag::Since(watched.max(streamed)),
            (_, Lag::Unknown, Lag::Since(time)) => Lag::Since(time),
            (_, watched, _) => watched,
        }
    }

    pub(super) fn fail(&mut self, error: &Error) {
        let error = LastError { problem: Problem::from(error), at: SystemTime::now(), healed_at: None };
        self.errors.pop_front_if(|last| last.problem == error.problem);
        self.errors.push_front(error);
        self.errors.truncate(ERRORS);
    }

    /// The standing at this moment.
    pub(super) fn standing(&self, source: &str) -> Standing {
        let daemon = DaemonState { state: self.state, since: self.since, last_error: self.last_error().cloned() };
        let slot = self.sight.as_ref().and_then(|sight| sight.slot.as_ref());
        let halt = self.last_error().filter(|_| self.state == SourceState::Halted);
        Standing {
            source: source.to_owned(),
            daemon: Some(daemon),
            phase: match self.state {
                SourceState::Backfill => Some(Phase::Backfill),
                _ => self.position.map(|_| Phase::Streaming),
            },
            position: self.position,
            server: slot.map(|seen| seen.end),
            slot: slot.map(|seen| seen.slot.clone()),
            lag_bytes: self.sight.as_ref().and_then(|sight| sight.lag_bytes),
            lag_seconds: self.lag().seconds(SystemTime::now()),
            unpublished_rows: self.sight.as_ref().and_then(|sight| sight.unpublished_rows),
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
    fn the_lag_is_true_in_every_state() {
        let now = SystemTime::now();
        let sight = |lag| Sight {
            lag,
            slot: None,
            lag_bytes: None,
            spilled_bytes: None,
            unpublished_rows: None,
            oldest_unmarked: None,
        };
        let before = |seconds| Lag::Since(now - Duration::from_secs(seconds));
        let mut shown = Shown::new();
        assert_eq!(shown.lag(), Lag::Unknown);
        shown.enter(SourceState::Streaming);
        shown.streamed = before(2);
        shown.saw(sight(before(5)));
        assert_eq!(shown.lag(), before(2));
        // Kafka is away, then Postgres as well.
        shown.enter(SourceState::Retrying);
        assert_eq!(shown.lag(), before(2));
        shown.saw_nothing();
        assert_eq!(shown.lag(), before(2));
        assert_eq!(shown.lag().seconds(now + Duration::from_secs(60)), Some(62.0));
        // Another instance has published some of the rows.
        shown.saw(sight(before(1)));
        assert_eq!(shown.lag(), before(1));
        // What a stream knew does not count once rows from before it may wait.
        shown.enter(SourceState::Backfill);
        shown.saw(sight(before(5)));
        assert_eq!(shown.lag(), before(5));
        // Another instance has published the rows.
        shown.enter(SourceState::Standby);
        shown.saw(sight(Lag::Nothing));
        assert_eq!(shown.lag().seconds(now), Some(0.0));
        shown.streamed = Lag::Nothing;
        shown.saw_nothing();
        assert_eq!(shown.lag().seconds(now), None);
    }

    #[test]
    fn an_error_has_healed_once_rows_flow_again() {
        let mut shown = Shown::new();
        shown.fail(&Error::new(crate::Code::KafkaUnreachable, "nobody answers"));
        shown.enter(SourceState::Retrying);
        assert_eq!(shown.last_error().unwrap().healed_at, None);
        shown.enter(SourceState::Streaming);
        let healed = shown.last_error().unwrap().healed_at;
        assert!(healed.is_some());
        shown.enter(SourceState::Retrying);
        shown.enter(SourceState::Streaming);
        assert_eq!(shown.last_error().unwrap().healed_at, healed);
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
