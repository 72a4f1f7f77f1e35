//! Foreign producers in the cluster.

use std::time::Duration;

use anyhow::Result;
use rdkafka::{
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::fault::Fault;
use crate::sources::SOURCES;

const SOON: Duration = Duration::from_secs(10);

/// Takes one of the source's transactional ids, as a second daemon of the same name would.
pub(crate) async fn fence(brokers: String, fault: Fault) -> bool {
    // Mostly it takes the id that publishes. The other two only fence.
    let id = format!("outboxd-{}-{}", SOURCES[fault.target].name, fault.choice.saturating_sub(3));
    in_a_thread(move || stranger(&brokers, &id).map(|_| ())).await
}

/// Holds a transaction open on the source's topic, and aborts it.
pub(crate) async fn hold_transaction(brokers: String, fault: Fault) -> bool {
    let topic = SOURCES[fault.target].topic;
    in_a_thread(move || {
        let stranger = stranger(&brokers, &format!("stranger-{topic}"))?;
        stranger.begin_transaction()?;
        let record = BaseRecord::to(topic).key("stranger").payload("never to be seen");
        stranger.send(record).map_err(|(error, _)| error)?;
        // This is not a flush, which would begin the wait for the answers of a commit.
        let until = std::time::Instant::now() + fault.lasts;
        while std::time::Instant::now() < until {
            stranger.poll(Duration::from_millis(50));
        }
        Ok(stranger.abort_transaction(SOON)?)
    })
    .await
}

fn stranger(brokers: &str, id: &str) -> Result<BaseProducer> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", id)
        // If this abort fails, the broker aborts the transaction.
        .set("transaction.timeout.ms", "10000")
        .set("message.timeout.ms", "10000")
        .set("log_level", "0")
        .create()?;
    producer.init_transactions(SOON)?;
    Ok(producer)
}

async fn in_a_thread(work: impl FnOnce() -> Result<()> + Send + 'static) -> bool {
    matches!(tokio::task::spawn_blocking(work).await, Ok(Ok(())))
}
