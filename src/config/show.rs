//! The configuration as a log or a message may show it.

use std::fmt;

use super::{Config, Delivery, Kafka, Mark, Source, TableName};

impl Config {
    /// One line for each source, fit for a log: no password and no value of a librdkafka option.
    #[must_use]
    pub(crate) fn redacted(&self) -> Vec<String> {
        self.sources.iter().map(|source| line(source, &self.kafka)).collect()
    }
}

fn line(source: &Source, kafka: &Kafka) -> String {
    let tables: Vec<_> = source.tables.iter().map(ToString::to_string).collect();
    let options: Vec<_> = kafka.options.iter().map(|(key, _)| key.as_str()).collect();
    let mark = match source.mark {
        Mark::Update => "update",
        Mark::Delete => "delete",
        Mark::None => "none",
    };
    let delivery = match kafka.delivery {
        Delivery::ExactlyOnce => "exactly-once",
        Delivery::AtLeastOnce => "at-least-once",
    };
    format!(
        "{}: {} at {} through slot {} to {} at {}, {delivery}, mark {mark}, options [{}]",
        source.name,
        tables.join(", "),
        source.url,
        source.slot,
        source.mapping.topic,
        kafka.brokers,
        options.join(", "),
    )
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
