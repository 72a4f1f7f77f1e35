//! What every session of a source needs and none changes.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    Code, Error,
    config::{Kafka, Source},
    postgres::ConnectOptions,
    source::{position::Position, producers::PositionBytes},
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
        }
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
