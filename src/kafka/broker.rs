//! What a broker is set to.

use std::time::Duration;

use rdkafka::admin::ResourceSpecifier;

use super::{blocking, topics};
use crate::{
    config::Kafka,
    error::{Code, Error, Result},
};

/// A setting of one of the brokers, defaults included; `None` when the broker has none of that name
/// or shows no value.
///
/// # Errors
/// As [`topics::ping`]; [`Code::KafkaDenied`] without DESCRIBE_CONFIGS on the cluster.
pub(crate) async fn setting(kafka: &Kafka, name: &str, timeout: Duration) -> Result<Option<String>> {
    let asked = kafka.clone();
    let broker = blocking(move || {
        let client = topics::client(&asked)?;
        let metadata = topics::metadata(&client, Some("outboxd.ping"), timeout)?;
        metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id).ok_or_else(|| failed("no broker is up"))
    })
    .await?;
    let admin = topics::admin_client(kafka).await?;
    let results = admin.describe_configs(&[ResourceSpecifier::Broker(broker)], &topics::admin_options(timeout)).await;
    let results = results.map_err(|error| failed("a broker does not tell its settings").because(error))?;
    for result in results {
        let resource = result.map_err(|code| {
            let error = Error::new(super::failure::code_of(code, Code::KafkaUnreachable), "a broker's settings");
            error.because(code)
        })?;
        if let Some(entry) = resource.entries.into_iter().find(|entry| entry.name == name) {
            return Ok(entry.value);
        }
    }
    Ok(None)
}

/// Whether the brokers make a topic when a record for it comes; `None` if they do not tell.
pub(crate) async fn creates_topics(kafka: &Kafka) -> Option<bool> {
    let setting = setting(kafka, "auto.create.topics.enable", topics::TIMEOUT).await.ok().flatten()?;
    setting.parse().ok()
}

fn failed(text: &str) -> Error {
    Error::new(Code::KafkaUnreachable, text)
}
