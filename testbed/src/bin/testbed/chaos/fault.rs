//! What can go wrong, and what it hits.

use std::{fmt, time::Duration};

use testbed::proxy::Direction;

use super::stage::{BROKERS, DAEMONS};
use crate::sources::SOURCES;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    KillDaemon,
    StopDaemon,
    RestartDaemon,
    KillBroker,
    PauseBroker,
    RestartBroker,
    PauseTwoBrokers,
    FastRestart,
    ImmediateRestart,
    KillPostgres,
    PausePostgres,
    FailOver,
    TerminateWalsender,
    TerminateMarkers,
    TerminateSessions,
    LockRows,
    CutPostgres,
    DelayPostgres,
    SlicePostgres,
    HoldPostgres,
    SwallowPostgres,
    ThrottlePostgres,
    CutKafka,
    DelayKafka,
    SliceKafka,
    HoldKafka,
    SwallowKafka,
    ThrottleKafka,
    Fence,
    ForeignTransaction,
    RaisePartitions,
}

/// What a fault needs for itself while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Daemon(usize),
    /// Only one broker at a time: when two of three are down nothing can be written, and that is a
    /// fault of its own.
    Brokers,
    Postgres,
    Rows(usize),
    PostgresNetwork(usize),
    KafkaNetwork(usize),
    Topic(usize),
}

impl Kind {
    /// Every kind, with the number of its cards in the deck, its name, and its longest duration in
    /// milliseconds.
    pub(crate) const ALL: [(Self, usize, &'static str, u64); 31] = [
        (Self::KillDaemon, 8, "daemon: kill -9", 2_000),
        (Self::StopDaemon, 5, "daemon: SIGSTOP, SIGCONT", 6_000),
        (Self::RestartDaemon, 3, "daemon: SIGTERM, restart", 1_000),
        (Self::KillBroker, 2, "broker: kill -9, restart", 3_000),
        (Self::PauseBroker, 2, "broker: SIGSTOP, SIGCONT", 6_000),
        (Self::RestartBroker, 1, "broker: SIGTERM, restart", 2_000),
        (Self::PauseTwoBrokers, 1, "broker: SIGSTOP, SIGCONT for two of three", 4_000),
        (Self::FastRestart, 1, "postgres: fast restart", 1_000),
        (Self::ImmediateRestart, 2, "postgres: immediate restart", 1_000),
        (Self::KillPostgres, 1, "postgres: kill -9 of all its processes, restart", 1_000),
        (Self::PausePostgres, 1, "postgres: SIGSTOP, SIGCONT", 4_000),
        (Self::FailOver, 2, "postgres: the primary dies, its standby is promoted", 3_000),
        (Self::TerminateWalsender, 3, "postgres: walsender terminated", 0),
        (Self::TerminateMarkers, 3, "postgres: markers terminated", 0),
        (Self::TerminateSessions, 2, "postgres: every session of outboxd terminated", 0),
        (Self::LockRows, 2, "postgres: outbox rows locked", 5_000),
        (Self::CutPostgres, 2, "network to postgres: cut or reset", 0),
        (Self::DelayPostgres, 1, "network to postgres: delayed", 4_000),
        (Self::SlicePostgres, 1, "network to postgres: sliced", 3_000),
        (Self::HoldPostgres, 2, "network to postgres: held, then let go", 6_000),
        (Self::SwallowPostgres, 1, "network to postgres: swallowed, then cut", 3_000),
        (Self::ThrottlePostgres, 1, "network to postgres: throttled", 4_000),
        (Self::CutKafka, 2, "network to a broker: cut or reset", 0),
        (Self::DelayKafka, 1, "network to a broker: delayed", 4_000),
        (Self::SliceKafka, 1, "network to a broker: sliced", 3_000),
        (Self::HoldKafka, 3, "network to a broker: held, then let go", 6_000),
        (Self::SwallowKafka, 2, "network to a broker: swallowed, then cut", 3_000),
        (Self::ThrottleKafka, 1, "network to a broker: throttled", 4_000),
        (Self::Fence, 3, "kafka: a stranger takes the transactional.id", 0),
        (Self::ForeignTransaction, 1, "kafka: a stranger's transaction is open", 4_000),
        (Self::RaisePartitions, 1, "kafka: one partition more", 0),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, _, name, _)| name)
    }

    /// The number of things that the kind can hit.
    fn targets(self) -> usize {
        match self.resource(0) {
            Resource::Daemon(_) | Resource::PostgresNetwork(_) => DAEMONS,
            Resource::Brokers | Resource::KafkaNetwork(_) => BROKERS,
            Resource::Postgres | Resource::Rows(_) | Resource::Topic(_) => SOURCES.len(),
        }
    }

    fn resource(self, target: usize) -> Resource {
        match self {
            Self::KillDaemon | Self::StopDaemon | Self::RestartDaemon => Resource::Daemon(target),
            Self::KillBroker | Self::PauseBroker | Self::RestartBroker | Self::PauseTwoBrokers => Resource::Brokers,
            Self::FastRestart
            | Self::ImmediateRestart
            | Self::KillPostgres
            | Self::PausePostgres
            | Self::FailOver
            | Self::TerminateWalsender
            | Self::TerminateMarkers
            | Self::TerminateSessions => Resource::Postgres,
            Self::LockRows => Resource::Rows(target),
            Self::CutPostgres
            | Self::DelayPostgres
            | Self::SlicePostgres
            | Self::HoldPostgres
            | Self::SwallowPostgres
            | Self::ThrottlePostgres => Resource::PostgresNetwork(target),
            Self::CutKafka
            | Self::DelayKafka
            | Self::SliceKafka
            | Self::HoldKafka
            | Self::SwallowKafka
            | Self::ThrottleKafka => Resource::KafkaNetwork(target),
            Self::Fence | Self::ForeignTransaction | Self::RaisePartitions => Resource::Topic(target),
        }
    }
}

/// A fault that the deck has dealt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The number of the daemon, broker or source.
    pub(crate) target: usize,
    pub(crate) lasts: Duration,
    /// The direction of a network.
    pub(crate) direction: Direction,
    /// A random number for all other choices.
    pub(crate) choice: usize,
}

impl Fault {
    /// A fault of this kind. All the rest is random.
    pub(crate) fn of(kind: Kind, random: &mut fastrand::Rng) -> Self {
        let longest = Kind::ALL.iter().find(|(known, ..)| *known == kind).map_or(0, |(.., longest)| *longest);
        // Short faults are wanted, too: many races take milliseconds.
        let lasts = if random.u8(..3) == 0 { longest } else { longest / 10 };
        let directions = [Direction::ToServer, Direction::ToClient, Direction::Both];
        Self {
            kind,
            target: random.usize(..kind.targets()),
            lasts: Duration::from_millis(random.u64(..=lasts)),
            direction: directions[random.usize(..directions.len())],
            choice: random.usize(..6),
        }
    }

    pub(crate) fn resource(&self) -> Resource {
        self.kind.resource(self.target)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = match self.resource() {
            Resource::Daemon(n) | Resource::PostgresNetwork(n) => format!("daemon {n}"),
            Resource::Brokers | Resource::KafkaNetwork(_) => format!("broker {}", self.target),
            Resource::Postgres if self.kind != Kind::TerminateWalsender => "server".to_owned(),
            Resource::Postgres | Resource::Rows(_) | Resource::Topic(_) => {
                format!("source {}", SOURCES[self.target].name)
            }
        };
        write!(f, "{:<46} {on:<17} {:.1} s", self.kind.name(), self.lasts.as_secs_f64())
    }
}
