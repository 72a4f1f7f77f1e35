//! What every session of a source needs and none changes.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::neighbours::Neighbours;
use crate::{
    Code, Error, Result,
    config::{Kafka, Source},
    postgres::{ConnectOptions, SqlSession},
    source::{position::Position, producers::PositionBytes, server::require_same_server, standing::SourceState},
    telemetry::{Metrics, SourceMetrics},
};

/// A source, how to reach its two servers, and who asks it to stop.
pub(super) struct Context {
    pub(crate) source: Source,
    pub(crate) kafka: Arc<Kafka>,
    /// The topic of its position.
    pub(crate) position_topic: Arc<str>,
    /// The key of its position.
    pub(crate) position_key: Arc<str>,
    /// How to reach its Postgres.
    pub(crate) connect: ConnectOptions,
    /// Its metrics, and its state as others see it.
    pub(crate) metrics: SourceMetrics,
    /// Turns true once, when the daemon is told to stop.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// Whether to wait while another instance streams, as a daemon does.
    pub(super) patient: bool,
    /// The other sources of the daemon. A command has none.
    pub(super) neighbours: Option<Neighbours>,
}

impl Context {
    pub(super) fn new(source: &Source, kafka: &Arc<Kafka>, metrics: &Metrics, shutdown: watch::Receiver<bool>) -> Self {
        Self {
            metrics: metrics.source(&source.name),
            position_topic: Arc::from(kafka.position_topic.as_str()),
            position_key: Arc::from(source.name.as_str()),
            source: source.clone(),
            kafka: Arc::clone(kafka),
            connect: ConnectOptions::of(source),
            shutdown,
            patient: true,
            neighbours: None,
        }
    }

    /// Opens an ordinary session on the server that was started at this time.
    ///
    /// # Errors
    /// The server cannot be reached, or another one answers.
    pub(super) async fn sql_on(&self, started: SystemTime, name: &'static str) -> Result<SqlSession> {
        let session = self.connect.sql(name).await?;
        require_same_server(&session, name, started).await?;
        Ok(session)
    }

    /// Shows that another instance leads, and says so once.
    pub(super) fn stand_by(&self) {
        if self.metrics.state() != SourceState::Standby {
            tracing::info!(slot = self.source.slot, "standing by: another instance has the slot");
            self.metrics.set_state(SourceState::Standby);
        }
        self.metrics.beat();
    }

    /// Resolves when the daemon is told to stop.
    pub(super) async fn stopping(&self) {
        let mut shutdown = self.shutdown.clone();
        // An error means that the sender is gone. That is a stop as well.
        let _ = shutdown.wait_for(|stop| *stop).await;
    }

    /// The error when another instance has the slot or the lock, and we do not wait for it to end.
    pub(super) fn in_use(&self) -> Error {
        Error::new(Code::SlotInUse, format!("an instance of source {} is running", self.source.name))
    }

    /// A position as a record of this source.
    pub(super) fn record_of(&self, position: &Position) -> PositionBytes {
        PositionBytes {
            topic: Arc::clone(&self.position_topic),
            key: Arc::clone(&self.position_key),
            value: position.encode(),
        }
    }
}
