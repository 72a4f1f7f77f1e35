//! The position topic, read and written by the test instead of a daemon.

use anyhow::Result;
use rdkafka::{
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use testbed::reader;

use super::{SOON, Scene};

impl Scene {
    /// Every position that was written, the oldest first.
    pub(crate) async fn positions(&self) -> Result<Vec<Vec<u8>>> {
        let records = reader::read_committed(&self.kafka.brokers(), &[&self.position_topic]).await?;
        Ok(records.into_iter().filter_map(|record| record.value).collect())
    }

    /// Puts a record of the source into the position topic.
    pub(crate) async fn write_position(&self, value: Vec<u8>) -> Result<()> {
        let (brokers, topic, key) = (self.kafka.brokers(), self.position_topic.clone(), self.source.clone());
        tokio::task::spawn_blocking(move || {
            let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
            producer.send(BaseRecord::to(&topic).key(&key).payload(&value)).map_err(|(error, _)| error)?;
            producer.flush(SOON)?;
            Ok(())
        })
        .await?
    }
}
