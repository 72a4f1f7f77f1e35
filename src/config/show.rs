//! The configuration as a log or a message may show it.

use std::fmt;

use super::{Config, Delivery, Kafka, Mark, Source, TableName};

/// What a source is configured to do, fit for a log: no password and no value of a librdkafka
/// option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShownSource {
    pub(crate) source: String,
    pub(crate) tables: String,
    pub(crate) url: String,
    pub(crate) slot: String,
    pub(crate) publication: String,
    pub(crate) topic: String,
    pub(crate) brokers: String,
    pub(crate) delivery: &'static str,
    pub(crate) mark: &'static str,
    /// The names of the options.
    pub(crate) kafka_options: String,
}

impl Config {
    /// Every source.
    #[must_use]
    pub(crate) fn shown(&self) -> Vec<ShownSource> {
        self.sources.iter().map(|source| shown(source, &self.kafka)).collect()
    }
}

fn shown(source: &Source, kafka: &Kafka) -> ShownSource {
    let tables: Vec<_> = source.tables.iter().map(ToString::to_string).collect();
    let options: Vec<_> = kafka.options.iter().map(|(key, _)| key.as_str()).collect();
    ShownSource {
        source: source.name.clone(),
        tables: tables.join(", "),
        url: source.url.to_string(),
        slot: source.slot.clone(),
        publication: source.publication.clone(),
        topic: source.mapping.topic.to_string(),
        brokers: kafka.brokers.clone(),
        delivery: match kafka.delivery {
            Delivery::ExactlyOnce => "exactly-once",
            Delivery::AtLeastOnce => "at-least-once",
        },
        mark: match source.mark {
            Mark::Update => "update",
            Mark::Delete => "delete",
            Mark::None => "none",
        },
        kafka_options: options.join(", "),
    }
}

/// Shows the table as the configuration has it. This is for messages and not for SQL, where a
/// keyword would need quotes.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quoted(schema))?;
        }
        f.write_str(&quoted(&self.name))
    }
}

/// Adds quotes only where the configuration would need them.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
