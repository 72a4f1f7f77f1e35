//! Reads what only Postgres knows, now and then, on a session of its own: a slow count must hold up nothing.

use std::time::Duration;

use super::supervisor::Context;
use crate::{
    Result,
    postgres::{
        SqlSession,
        catalog::{TableInfo, monitor},
    },
    telemetry::SourceMetrics,
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);

/// The monitoring task; it ends when this is dropped.
pub(super) struct Monitor(tokio::task::JoinHandle<()>);

impl Monitor {
    /// Starts it.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub(super) async fn start(context: &Context, tables: &[TableInfo]) -> Result<Self> {
        let source = &context.source;
        let session = context.connect.sql("monitor").await?;
        let queries = monitor::Monitor::new(&source.slot, tables, &source.mapping.columns, source.mark);
        let metrics = context.metrics.clone();
        Ok(Self(tokio::spawn(async move { watch(&session, &queries, &metrics).await })))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(session: &SqlSession, queries: &monitor::Monitor, metrics: &SourceMetrics) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        match queries.read(session).await {
            Ok(reading) => show(&reading, metrics),
            // The relay itself meets the same server; here it only means old numbers.
            Err(error) => tracing::debug!("monitoring: {error}"),
        }
    }
}

fn show(reading: &monitor::Reading, metrics: &SourceMetrics) {
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if let Some(slot) = &reading.slot {
        metrics.lag_bytes.set(gauge(slot.lag_bytes));
        metrics.slot_retained_bytes.set(gauge(slot.retained_bytes));
        metrics.set_slot_wal_status(slot.wal_status.as_deref().unwrap_or_default());
    }
    if let Some(backlog) = &reading.backlog {
        metrics.unpublished_rows.set(gauge(backlog.rows));
    }
}
