//! What every session of a source needs. A session finds it as it was when the session began.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::{
    neighbours::Neighbours,
    settings::{Settings, changed},
};
use crate::{
    Code, Error, Result,
    config::{Kafka, Source},
    postgres::{ConnectOptions, SqlSession},
    source::{position::Position, producers::PositionBytes, server::require_same_server, standing::SourceState},
    telemetry::{Metrics, SourceMetrics, traces::Traces},
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
    /// Where its traced rows go.
    pub(super) traces: Option<Traces>,
    /// Turns true once, when the daemon is told to stop.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// The newest settings, of which `source`, `kafka` and `connect` are a copy.
    pub(super) settings: watch::Receiver<Settings>,
    /// Whether to wait while another instance streams, as a daemon does.
    pub(super) patient: bool,
    /// The other sources of the daemon. A command has none.
    pub(super) neighbours: Option<Neighbours>,
}

impl Context {
    /// For a source whose configuration stays as it is.
    pub(super) fn new(source: &Source, kafka: &Arc<Kafka>, metrics: &Metrics, shutdown: watch::Receiver<bool>) -> Self {
        let (_, settings) = watch::channel(Settings::new(source, kafka));
        Self::with_settings(settings, metrics, shutdown)
    }

    /// For a source whose configuration may change.
    pub(super) fn with_settings(
        mut settings: watch::Receiver<Settings>,
        metrics: &Metrics,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let Settings { source, kafka, connect } = settings.borrow_and_update().clone();
        Self {
            metrics: metrics.source(&source.name),
            position_topic: Arc::from(kafka.position_topic.as_str()),
            position_key: Arc::from(source.name.as_str()),
            source,
            kafka,
            connect,
            shutdown,
            settings,
            traces: None,
            patient: true,
            neighbours: None,
        }
    }

    /// Takes over the newest settings, between two sessions. Returns whether they had changed.
    pub(super) fn renew(&mut self) -> bool {
        // An error means that nobody can change them any more.
        if !self.settings.has_changed().unwrap_or(false) {
            return false;
        }
        let Settings { source, kafka, connect } = self.settings.borrow_and_update().clone();
        (self.source, self.kafka, self.connect) = (source, kafka, connect);
        true
    }

    /// Resolves when the settings have changed since the session began.
    pub(super) async fn reloaded(&self) {
        changed(&mut self.settings.clone()).await;
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
