//! Reads now and then what only Postgres knows. It does so on a session of its own, since a slow
//! count must hold up nothing.

use std::time::{Duration, SystemTime};

use super::context::Context;
use crate::{
    Lsn, Result,
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{TableInfo, monitor},
        farewell::Task,
    },
    source::{server::require_same_server, standing::SlotStanding},
    telemetry::{SeenSlot, SourceMetrics},
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);

/// The monitoring task. It ends when this is dropped.
pub(super) struct Monitor {
    _task: Task,
}

impl Monitor {
    /// Starts the task. An error that keeps it from looking holds nothing up.
    pub(super) fn start(context: &Context, tables: &[TableInfo], started: SystemTime) -> Self {
        let source = &context.source;
        let queries = monitor::Monitor::new(&source.slot, tables, &source.mapping.columns, source.mark);
        let (connect, metrics) = (context.connect.clone(), context.metrics.clone());
        Self { _task: Task::spawn(async move { watch(&connect, started, &queries, &metrics).await }) }
    }
}

async fn watch(connect: &ConnectOptions, started: SystemTime, queries: &monitor::Monitor, metrics: &SourceMetrics) {
    let mut tick = tokio::time::interval(EVERY);
    let mut session = None;
    loop {
        tick.tick().await;
        // The relay itself meets the same server and its errors. Here an error only means that the
        // numbers are old.
        match look(connect, started, queries, &mut session).await {
            Ok(reading) => show(queries.slot(), &reading, metrics),
            Err(error) => tracing::debug!("monitoring: {error}"),
        }
    }
}

/// Looks once, on the session of the last time if that is still alive.
async fn look(
    connect: &ConnectOptions,
    started: SystemTime,
    queries: &monitor::Monitor,
    session: &mut Option<SqlSession>,
) -> Result<monitor::Reading> {
    let open = match session.take().filter(|session| !session.is_closed()) {
        Some(open) => open,
        None => {
            let opened = connect.sql("monitor").await?;
            require_same_server(&opened, "monitor", started).await?;
            opened
        }
    };
    queries.read(session.insert(open)).await
}

fn standing(name: &str, slot: &monitor::SlotReading) -> SlotStanding {
    SlotStanding {
        name: name.to_owned(),
        active: slot.active,
        wal_status: slot.wal_status.clone(),
        confirmed_flush: slot.confirmed_flush.unwrap_or(Lsn::ZERO),
        retained_bytes: Some(slot.retained_bytes),
    }
}

fn show(name: &str, reading: &monitor::Reading, metrics: &SourceMetrics) {
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if let Some(slot) = &reading.slot {
        metrics.lag_bytes.set(gauge(slot.lag_bytes));
        metrics.slot_retained_bytes.set(gauge(slot.retained_bytes));
        metrics.set_slot_wal_status(slot.wal_status.as_deref().unwrap_or_default());
    }
    metrics.set_slot(reading.slot.as_ref().map(|slot| SeenSlot { end: slot.current, slot: standing(name, slot) }));
    if let Some(backlog) = &reading.backlog {
        metrics.unpublished_rows.set(gauge(backlog.rows));
    }
}
