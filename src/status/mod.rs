//! Where each source stands, as `outboxd status` shows it, whether a daemon runs or not.
//!
//! ```text
//!   Postgres: the slot, the end of the log, unpublished rows ─┐
//!                                                             ├──▶ Standing: numbers, and what could not be learned
//!   Kafka: the position topic, read_committed ────────────────┘
//! ```
//!
//! What must hold: nothing is changed, fenced or taken, so that it may be asked at any time beside a running daemon; and
//! a side that cannot be reached takes only its own numbers away. The slot is read before the position: a daemon that
//! goes on in between can then only seem to be ahead, never behind.

mod table;

use std::time::Duration;

use serde::Serialize;

use crate::{
    Code, Error, Lsn, Result,
    config::{Kafka, Source},
    kafka::position_topic,
    postgres::{
        ConnectOptions,
        catalog::{monitor::Monitor, server, slots, tables},
    },
    relay,
    source::position::{Phase, Position, Recovered},
};

pub use table::print;

/// Bound of each side: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where one source stands. What is `None` could not be learned, or there is none: `problems` says which.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Standing {
    /// The source's name.
    pub source: String,
    /// How far its set-up has come, from the position.
    pub phase: Option<Phase>,
    /// How far it is published.
    pub position: Option<Lsn>,
    /// The end of the server's log.
    pub server: Option<Lsn>,
    /// Bytes of log between the two; without a position, after what the slot was confirmed up to.
    pub lag_bytes: Option<u64>,
    /// Age in seconds of the oldest unpublished row; 0 without one. `None` with `mark = "none"`.
    pub lag_seconds: Option<f64>,
    /// Unpublished rows, counted up to a million for each table. `None` with `mark = "none"`.
    pub unpublished_rows: Option<u64>,
    /// The replication slot, where there is one.
    pub slot: Option<SlotStanding>,
    /// The last `outboxd recover`, where no position was written since.
    pub recovered: Option<Recovered>,
    /// What could not be learned, and what would halt the daemon.
    pub problems: Vec<Problem>,
}

/// The replication slot.
#[derive(Debug, Clone, Serialize)]
pub struct SlotStanding {
    /// Its name.
    pub name: String,
    /// Somebody streams from it: a daemon leads.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// What the daemon has confirmed.
    pub confirmed_flush: Lsn,
    /// Bytes of log that it keeps on the server.
    pub retained_bytes: Option<u64>,
}

/// An error as a person and a script read it.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// The stable code.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// The next step.
    pub hint: &'static str,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Self { code: error.code().as_str(), message: error.detail(), hint: error.hint() }
    }
}

/// Asks Postgres and Kafka where the source stands.
pub async fn of(source: &Source, kafka: &Kafka) -> Standing {
    let mut standing = Standing { source: source.name.clone(), ..Standing::default() };
    let postgres = within(Code::PostgresUnreachable, ask_postgres(source, &mut standing)).await;
    let slot_known = postgres.is_ok();
    standing.note(postgres);
    match within(Code::KafkaUnreachable, ask_kafka(source, kafka)).await {
        Ok(position) => standing.judge(position.as_ref(), slot_known),
        Err(error) => standing.problems.push(Problem::from(&error)),
    }
    standing.measure();
    standing
}

async fn within<T>(silent: Code, answer: impl Future<Output = Result<T>>) -> Result<T> {
    // Each library has shorter bounds of its own, whose errors say more.
    let bound = PATIENCE + Duration::from_secs(5);
    tokio::time::timeout(bound, answer).await.unwrap_or_else(|_| Err(Error::new(silent, "no answer in time")))
}

async fn ask_postgres(source: &Source, standing: &mut Standing) -> Result<()> {
    let connect = ConnectOptions::parse(&source.url, source.password.as_ref())?
        .connect_timeout(source.timeouts.connect.min(PATIENCE))
        .statement_timeout(source.timeouts.statement.min(PATIENCE));
    let sql = connect.sql("status").await?;
    let server = server::current_lsn(&sql).await?;
    standing.server = Some(server);
    if let Some(slot) = slots::slot(&sql, &source.slot).await? {
        if let Some(reason) = slot.lost() {
            let error = Error::new(Code::SlotLost, format!("slot {}: {reason}", source.slot));
            standing.problems.push(Problem::from(&error));
        }
        standing.slot = Some(SlotStanding {
            name: source.slot.clone(),
            active: slot.active,
            wal_status: slot.wal_status,
            confirmed_flush: slot.confirmed_flush,
            retained_bytes: slot.restart_lsn.map(|restart| server.bytes_since(restart)),
        });
    }
    let tables = match tables::resolve_all(&sql, source).await {
        Ok(tables) => tables,
        Err(error) => {
            standing.problems.push(Problem::from(&error));
            return Ok(());
        }
    };
    let monitor = Monitor::new(&source.slot, &tables, &source.mapping.columns, source.mark);
    match monitor.read(&sql).await {
        Ok(reading) => {
            standing.unpublished_rows = reading.backlog.map(|backlog| backlog.rows);
            standing.lag_seconds =
                reading.backlog.map(|backlog| backlog.oldest.map_or(0.0, |oldest| oldest.as_secs_f64()));
        }
        Err(error) => standing.problems.push(Problem::from(&error)),
    }
    Ok(())
}

async fn ask_kafka(source: &Source, kafka: &Kafka) -> Result<Option<Position>> {
    if !position_topic::exists(kafka).await? {
        return Ok(None);
    }
    let newest = position_topic::read(kafka, &source.name, relay::succession, PATIENCE).await?;
    let decode = |bytes: Vec<u8>| {
        let what = "the newest position of this source";
        Position::decode(&bytes).map_err(|error| Error::new(Code::PositionInvalid, what).because(error))
    };
    newest.map(decode).transpose()
}

impl Standing {
    fn note(&mut self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.problems.push(Problem::from(&error));
        }
    }

    /// Takes the position, and says what a start would halt for (rule 4), as far as it shows without taking the slot.
    fn judge(&mut self, position: Option<&Position>, slot_known: bool) {
        self.phase = position.map(|position| position.phase);
        self.position =
            position.filter(|position| position.phase != Phase::Creating).map(|position| position.progress.lsn);
        self.recovered = position.and_then(|position| position.recovered.clone());
        if !slot_known {
            return;
        }
        let halt = match (position, &self.slot) {
            (None, Some(slot)) => {
                Some((Code::PositionLost, format!("slot {} exists, and Kafka holds no position", slot.name)))
            }
            (Some(position), None) if position.phase == Phase::Streaming => Some((
                Code::SlotMissing,
                format!("published up to {} through a slot that is gone", position.progress.lsn),
            )),
            (Some(position), Some(slot))
                if position.phase == Phase::Streaming && slot.confirmed_flush > position.progress.lsn =>
            {
                let (lsn, slot) = (position.progress.lsn, slot.confirmed_flush);
                Some((Code::SlotAhead, format!("published up to {lsn}, but the slot was confirmed up to {slot}")))
            }
            _ => None,
        };
        if let Some((code, text)) = halt {
            self.problems.push(Problem::from(&Error::new(code, text)));
        }
    }

    fn measure(&mut self) {
        let from = self.position.or(self.slot.as_ref().map(|slot| slot.confirmed_flush));
        self.lag_bytes = self.server.zip(from).map(|(server, from)| server.bytes_since(from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::position::{History, Progress};

    fn position(phase: Phase, lsn: u64) -> Position {
        let history = History { system_id: "7".into(), timeline: 1, slot: "s".into(), consistent_point: Lsn(1) };
        Position::new(phase, Progress { lsn: Lsn(lsn), ..Progress::default() }, history, serde_json::Value::Null)
    }

    fn standing(confirmed: Option<u64>) -> Standing {
        let slot = confirmed.map(|lsn| SlotStanding {
            name: "s".into(),
            active: false,
            wal_status: None,
            confirmed_flush: Lsn(lsn),
            retained_bytes: None,
        });
        Standing { server: Some(Lsn(150)), slot, ..Standing::default() }
    }

    fn codes(confirmed: Option<u64>, position: Option<&Position>) -> Vec<&'static str> {
        let mut standing = standing(confirmed);
        standing.judge(position, true);
        standing.problems.iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn what_would_halt_the_daemon_is_said_beforehand() {
        let streaming = position(Phase::Streaming, 100);
        assert!(codes(Some(100), Some(&streaming)).is_empty());
        assert_eq!(codes(Some(101), Some(&streaming)), ["slot-ahead"]);
        assert_eq!(codes(None, Some(&streaming)), ["slot-missing"]);
        assert_eq!(codes(Some(100), None), ["position-lost"]);
        assert!(codes(None, None).is_empty());
        assert!(codes(None, Some(&position(Phase::Creating, 0))).is_empty());
    }

    #[test]
    fn a_postgres_that_did_not_answer_says_nothing_about_the_slot() {
        let mut standing = standing(None);
        standing.judge(Some(&position(Phase::Streaming, 100)), false);
        assert!(standing.problems.is_empty());
    }

    #[test]
    fn the_lag_is_measured_from_the_position_or_else_from_the_slot() {
        let mut known = standing(Some(90));
        known.judge(Some(&position(Phase::Streaming, 100)), true);
        known.measure();
        assert_eq!(known.lag_bytes, Some(50));
        let mut without = standing(Some(90));
        without.measure();
        assert_eq!(without.lag_bytes, Some(60));
    }
}
