//! Takes a source's right to publish away from every daemon, so that `recover` can set its position
//! by hand.

use std::sync::Arc;

use super::{
    position::Position,
    producers::{PositionBytes, Producers},
};
use crate::{
    Result,
    config::{Delivery, Kafka, Source},
    kafka::Batching,
    outbox::Records,
};

/// The fenced-off right to write the position of a source.
pub(crate) struct Takeover {
    producers: Producers,
    topic: Arc<str>,
    key: Arc<str>,
}

impl Takeover {
    /// Fences every daemon of the source. A daemon that starts after this fences us in turn, before
    /// it reads the position.
    ///
    /// # Errors
    /// Kafka cannot be reached, or refuses the credentials or the transactional ids.
    pub(crate) async fn fence(source: &Source, kafka: &Kafka) -> Result<Self> {
        // This holds also where records are delivered at least once: only a transactional producer
        // can be fenced.
        let kafka = Kafka { delivery: Delivery::ExactlyOnce, ..kafka.clone() };
        let producers = Producers::fence(&kafka, &source.name, Batching::default()).await?;
        Ok(Self { producers, topic: Arc::from(kafka.position_topic.as_str()), key: Arc::from(source.name.as_str()) })
    }

    /// Writes the position, in a transaction of its own.
    ///
    /// # Errors
    /// It was not written, nobody knows whether it was, or a daemon fenced us.
    pub(crate) async fn write(self, position: &Position) -> Result<Self> {
        let Self { producers, topic, key } = self;
        let bytes = PositionBytes { topic: Arc::clone(&topic), key: Arc::clone(&key), value: position.encode() };
        let written = producers.publish(Records::default(), bytes).await;
        let (producers, _) = written.map_err(|unpublished| unpublished.failure.into_error())?;
        Ok(Self { producers, topic, key })
    }
}
