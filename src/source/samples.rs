//! A source in good order, for tests. It is published up to 100 on system 7, in a log that ends at
//! 500.

use super::{
    compare::Server,
    position::{History, Phase, Position, Progress},
};
use crate::{
    Lsn,
    config::{Config, Flags, Source},
    postgres::catalog::SlotInfo,
};

pub(crate) fn source() -> Source {
    let mut flags = Flags { brokers: Some("k:9092".to_owned()), ..Flags::default() };
    flags.source.source_url = Some("postgres://u@db/shop".to_owned());
    flags.source.tables = vec!["outbox".to_owned()];
    Config::load_with(&flags, &|_| None).unwrap().sources.remove(0)
}

/// Nobody streams from it.
pub(crate) fn slot(confirmed: u64) -> SlotInfo {
    SlotInfo {
        plugin: Some("pgoutput".into()),
        database: Some("shop".into()),
        temporary: false,
        active: false,
        active_pid: None,
        restart_lsn: Some(Lsn(50)),
        confirmed_flush: Lsn(confirmed),
        wal_status: Some("reserved".into()),
        invalidation_reason: None,
        failover: false,
        synced: false,
        two_phase: false,
    }
}

pub(crate) fn publication() -> serde_json::Value {
    serde_json::json!({"now": 1})
}

pub(crate) fn server() -> Server {
    Server {
        system_id: "7".into(),
        timeline: 1,
        flushed: Lsn(500),
        switches: Vec::new(),
        confirmed_flush: Lsn(100),
        publication: publication(),
    }
}

pub(crate) fn position(phase: Phase) -> Position {
    let history =
        History { system_id: "7".into(), timeline: 1, slot: "outboxd_shop".into(), consistent_point: Lsn(40) };
    Position::new(phase, Progress { lsn: Lsn(100), ..Progress::default() }, history, publication())
}
