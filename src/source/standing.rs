//! Where a source stands. `outboxd status` and a daemon's `/status` and page give the same answer.
//!
//! A command asks both servers and knows nothing of a daemon. A daemon says what it does itself,
//! and what it has seen of the servers. `None` means that something is not there or could not be
//! learned; `problems` says which.

use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::{
    facts::{PostgresSide, Sides},
    newest::Published,
    position::{Phase, Position, Recovered},
    verdict::{Evidence, verdict},
};
use crate::{Error, Lsn, config::Source, postgres::catalog::SlotInfo};

/// What a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceState {
    /// Connecting and comparing the position with the server.
    Starting,
    /// Another instance holds the slot.
    Standby,
    /// Publishing the rows that existed before the slot.
    Backfill,
    /// Publishing what is committed.
    Streaming,
    /// Waiting to try again after an error that can heal by itself.
    Retrying,
    /// Stopped until a person has acted.
    Halted,
}

impl SourceState {
    /// Every state there is.
    pub(crate) const ALL: [Self; 6] =
        [Self::Starting, Self::Standby, Self::Backfill, Self::Streaming, Self::Retrying, Self::Halted];

    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Backfill => "backfill",
            Self::Streaming => "streaming",
            Self::Retrying => "retrying",
            Self::Halted => "halted",
        }
    }

    /// Rule 33: a source is ready while it publishes committed rows.
    #[must_use]
    pub(crate) fn is_ready(self) -> bool {
        self == Self::Streaming
    }
}

/// Where one source stands.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Standing {
    pub(crate) source: String,
    /// What the daemon that answers does, and since when.
    #[serde(flatten)]
    pub(crate) daemon: Option<DaemonState>,
    /// How far its set-up has come, from the position.
    pub(crate) phase: Option<Phase>,
    /// How far it is published.
    pub(crate) position: Option<Lsn>,
    /// The end of the server's log.
    pub(crate) server: Option<Lsn>,
    /// Bytes of log between the two. Without a position they count from what the slot has
    /// confirmed.
    pub(crate) lag_bytes: Option<u64>,
    /// Age in seconds of the oldest unpublished row. 0 when there is none. A command cannot tell
    /// with `mark = "none"`.
    pub(crate) lag_seconds: Option<f64>,
    /// Unpublished rows, counted up to a million for each table. `None` with `mark = "none"`.
    pub(crate) unpublished_rows: Option<u64>,
    /// The replication slot, where there is one.
    pub(crate) slot: Option<SlotStanding>,
    /// The last `outboxd recover`, if no position was written since.
    pub(crate) recovered: Option<Recovered>,
    /// What could not be learned, and what would halt the daemon.
    pub(crate) problems: Vec<Problem>,
}

/// A daemon's word on a source.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DaemonState {
    /// What it does.
    pub(crate) state: SourceState,
    /// Since when.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) since: SystemTime,
    /// The last error. It is kept after it has healed, with the time of that.
    pub(crate) last_error: Option<LastError>,
}

/// An error of a daemon, and when it came.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LastError {
    #[serde(flatten)]
    pub(crate) problem: Problem,
    #[serde(serialize_with = "rfc3339")]
    pub(crate) at: SystemTime,
    /// When rows flowed again.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub(crate) healed_at: Option<SystemTime>,
}

/// The replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SlotStanding {
    pub(crate) name: String,
    /// Somebody streams from it, so a daemon leads.
    pub(crate) active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(crate) wal_status: Option<String>,
    /// What the daemon has confirmed.
    pub(crate) confirmed_flush: Lsn,
    /// Bytes of log that the server keeps for it.
    pub(crate) retained_bytes: Option<u64>,
}

/// An error as a person and a script read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The stable code.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The next step.
    pub(crate) hint: &'static str,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Self { code: error.code().as_str(), message: error.detail(), hint: error.code().advice() }
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*time))
}

fn rfc3339_or_null<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

impl SlotStanding {
    fn new(name: &str, slot: &SlotInfo, end: Lsn) -> Self {
        Self {
            name: name.to_owned(),
            active: slot.active,
            wal_status: slot.wal_status.clone(),
            confirmed_flush: slot.confirmed_flush,
            retained_bytes: slot.restart_lsn.map(|restart| end.bytes_since(restart)),
        }
    }
}

impl Standing {
    /// What the daemon that answers does. `None` where a command asked.
    #[must_use]
    pub(crate) fn state(&self) -> Option<SourceState> {
        self.daemon.as_ref().map(|daemon| daemon.state)
    }

    /// What both sides say, each as far as it answered.
    #[must_use]
    pub(crate) fn of(source: &Source, sides: &Sides) -> Self {
        let mut standing = Self { source: source.name.clone(), ..Self::default() };
        match &sides.postgres {
            Ok(postgres) => standing.take_postgres(source, postgres),
            Err(error) => standing.problems.push(Problem::from(error)),
        }
        match &sides.kafka {
            Ok(published) => standing.take_published(published),
            Err(error) => standing.problems.push(Problem::from(error)),
        }
        if let (Ok(postgres), Ok(published)) = (&sides.postgres, &sides.kafka) {
            let server = postgres.history.as_ref().ok().map(|history| &history.server);
            let (name, database) = (&source.slot, &postgres.database);
            let evidence = Evidence { name, database, slot: postgres.slot.as_ref(), published, server };
            standing.problems.extend(verdict(evidence).as_ref().map(Problem::from));
        }
        let from = standing.position.or(standing.slot.as_ref().map(|slot| slot.confirmed_flush));
        standing.lag_bytes = standing.server.zip(from).map(|(server, from)| server.bytes_since(from));
        standing
    }

    fn take_postgres(&mut self, source: &Source, postgres: &PostgresSide) {
        self.server = Some(postgres.end);
        self.slot = postgres.slot.as_ref().map(|slot| SlotStanding::new(&source.slot, slot, postgres.end));
        if let Err(error) = &postgres.history {
            self.problems.push(Problem::from(error));
        }
        match &postgres.backlog {
            Ok(backlog) => {
                self.unpublished_rows = backlog.map(|backlog| backlog.rows);
                self.lag_seconds = backlog.map(|backlog| backlog.oldest.map_or(0.0, |oldest| oldest.as_secs_f64()));
            }
            Err(error) => self.problems.push(Problem::from(error)),
        }
    }

    fn take_published(&mut self, published: &Published) {
        let position: Option<&Position> = published.position();
        self.phase = position.map(|position| position.phase);
        self.position =
            position.filter(|position| position.phase != Phase::Creating).map(|position| position.progress.lsn);
        self.recovered = position.and_then(|position| position.recovered.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Code,
        postgres::catalog::monitor::Backlog,
        source::{
            facts::ServerSide,
            samples::{position, server, slot, source},
        },
    };

    fn published() -> Published {
        Published::Known(Box::new(position(Phase::Streaming)))
    }

    fn postgres() -> PostgresSide {
        PostgresSide {
            database: "shop".into(),
            in_recovery: false,
            slot: Some(slot(90)),
            end: Lsn(150),
            history: Ok(ServerSide { server: server(), tables: vec![1] }),
            backlog: Ok(Some(Backlog { rows: 3, oldest: Some(Duration::from_secs(2)) })),
        }
    }

    fn codes(standing: &Standing) -> Vec<&'static str> {
        standing.problems.iter().map(|problem| problem.code).collect()
    }

    fn down<T>(code: Code) -> crate::Result<T> {
        Err(Error::new(code, "it does not answer"))
    }

    #[test]
    fn the_lag_is_measured_from_the_position_or_else_from_the_slot() {
        let known = Standing::of(&source(), &Sides { postgres: Ok(postgres()), kafka: Ok(published()) });
        assert_eq!((known.lag_bytes, known.position, codes(&known)), (Some(50), Some(Lsn(100)), vec![]));
        assert_eq!((known.lag_seconds, known.unpublished_rows), (Some(2.0), Some(3)));
        assert_eq!(known.slot.and_then(|slot| slot.retained_bytes), Some(100));
        let kafka = down(Code::KafkaUnreachable);
        let without = Standing::of(&source(), &Sides { postgres: Ok(postgres()), kafka });
        assert_eq!((without.lag_bytes, without.position), (Some(60), None));
    }

    #[test]
    fn a_side_that_did_not_answer_says_nothing_of_the_other() {
        let sides = Sides { postgres: down(Code::PostgresUnreachable), kafka: Ok(published()) };
        let standing = Standing::of(&source(), &sides);
        assert_eq!((codes(&standing), standing.phase), (vec!["postgres-unreachable"], Some(Phase::Streaming)));
        let kafka = down(Code::KafkaUnreachable);
        let standing = Standing::of(&source(), &Sides { postgres: Ok(postgres()), kafka });
        assert_eq!((codes(&standing), standing.server), (vec!["kafka-unreachable"], Some(Lsn(150))));
    }

    #[test]
    fn what_would_halt_the_daemon_is_said_beforehand() {
        let mut moved = postgres();
        if let Ok(history) = &mut moved.history {
            history.server.system_id = "8".into();
        }
        let standing = Standing::of(&source(), &Sides { postgres: Ok(moved), kafka: Ok(published()) });
        assert_eq!(codes(&standing), ["system-changed"]);
    }

    #[test]
    fn only_a_daemon_says_what_it_does() {
        let said = serde_json::to_value(Standing { source: "order".into(), ..Standing::default() }).unwrap();
        assert!(said.get("state").is_none() && said.get("last_error").is_none(), "{said}");
        let daemon = DaemonState { state: SourceState::Standby, since: SystemTime::UNIX_EPOCH, last_error: None };
        let said = serde_json::to_value(Standing { daemon: Some(daemon), ..Standing::default() }).unwrap();
        assert_eq!(
            (said["state"].as_str(), said["since"].as_str()),
            (Some("standby"), Some("1970-01-01T00:00:00.000000Z"))
        );
    }
}
