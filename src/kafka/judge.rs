//! Which librdkafka options a person may set under `[kafka.options]`, and whether librdkafka takes
//! the value. The door asks before anything is touched. Nothing here connects to a broker.

use rdkafka::{ClientConfig, error::KafkaError};

/// The options on which the guarantees stand, or that follow from a key of ours. Each has a text
/// that says what to do instead.
const OWNED: &[(&str, &str)] = &[
    ("acks", "outboxd always waits for all in-sync replicas; remove it"),
    ("allow.auto.create.topics", "topics are created by `outboxd setup` or by the brokers; remove it"),
    ("auto.commit.enable", "outboxd keeps its position in the position topic; remove it"),
    ("auto.offset.reset", "outboxd reads the position topic from its beginning; remove it"),
    ("bootstrap.servers", "use brokers in [kafka]"),
    ("delivery.report.only.error", "outboxd counts the delivery reports; remove it"),
    ("delivery.timeout.ms", "use delivery_timeout in [kafka]"),
    ("enable.auto.commit", "outboxd keeps its position in the position topic; remove it"),
    ("enable.auto.offset.store", "outboxd keeps its position in the position topic; remove it"),
    ("enable.gapless.guarantee", "outboxd aborts a failed batch as a whole, which needs it off; remove it"),
    ("enable.idempotence", "every producer of outboxd is idempotent; remove it"),
    ("enable.partition.eof", "outboxd reads the position topic to its high watermark; remove it"),
    ("enabled_events", "outboxd handles the events of librdkafka itself; remove it"),
    ("group.id", "outboxd joins no consumer group; remove it"),
    ("group.instance.id", "outboxd joins no consumer group; remove it"),
    ("group.protocol", "outboxd joins no consumer group; remove it"),
    ("isolation.level", "outboxd chooses it for each reader; remove it"),
    ("log.queue", "the lines of librdkafka go through [log]; remove it"),
    ("log_level", "use level in [log], where the target `librdkafka` can have its own"),
    ("max.in.flight", "the idempotent producer bounds it; remove it"),
    ("max.in.flight.requests.per.connection", "the idempotent producer bounds it; remove it"),
    ("message.send.max.retries", "the idempotent producer retries until delivery_timeout in [kafka]; use that"),
    ("message.timeout.ms", "use delivery_timeout in [kafka]"),
    ("metadata.broker.list", "use brokers in [kafka]"),
    ("partitioner", "outboxd partitions as Java's producers do (murmur2_random); remove it"),
    ("partitioner_cb", "outboxd partitions as Java's producers do (murmur2_random); remove it"),
    ("produce.offset.report", "outboxd counts the delivery reports; remove it"),
    ("queuing.strategy", "the order of a key needs first in, first out; remove it"),
    ("request.required.acks", "outboxd always waits for all in-sync replicas; remove it"),
    ("retries", "the idempotent producer retries until delivery_timeout in [kafka]; use that"),
    ("statistics.interval.ms", "the figures of the daemon are at /metrics; remove it"),
    ("test.mock.num.brokers", "it would put brokers that do not exist in the place of yours; remove it"),
    ("transaction.timeout.ms", "use transaction_timeout in [kafka]"),
    ("transactional.id", "it follows from name in [[source]]; remove it"),
];

/// Judges one option.
///
/// # Errors
/// Why the option cannot be set. The text never shows a value that may be a secret.
pub fn judge(key: &str, value: &str) -> Result<(), String> {
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == key) {
        return Err(format!("outboxd sets this option itself; {instead}"));
    }
    let taken = ClientConfig::new().set(key, value).create_native_config().map(|_| ());
    taken.map_err(|error| explain(&error, key, value))
}

/// librdkafka's own words.
fn explain(error: &KafkaError, key: &str, value: &str) -> String {
    let KafkaError::ClientConfig(_, text, ..) = error else { return error.to_string() };
    let secret = ["password", "secret", "key", "pem", "config", "certificate"].iter().any(|word| key.contains(word));
    let text = text.trim_end_matches('\0');
    if secret && !value.is_empty() { text.replace(value, "***") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owned_option_is_one_of_librdkafka_s_and_is_refused_with_what_to_do_instead() {
        assert!(OWNED.is_sorted_by_key(|(key, _)| key), "the list is sorted");
        for (key, instead) in OWNED {
            assert_eq!(judge(key, "1").unwrap_err(), format!("outboxd sets this option itself; {instead}"));
            let known = ClientConfig::new().set(*key, "").create_native_config().err().map(|error| error.to_string());
            assert!(!known.unwrap_or_default().contains("No such configuration property"), "{key}");
        }
    }

    #[test]
    fn what_outboxd_sets_for_its_guarantees_cannot_be_set_by_anybody_else() {
        for key in ["enable.gapless.guarantee", "group.instance.id", "allow.auto.create.topics"] {
            assert!(judge(key, "true").is_err(), "{key}");
        }
    }

    #[test]
    fn the_documentation_lists_every_owned_option() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let page = std::fs::read_to_string(page).unwrap();
        let lists = |key: &str| page.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{key}`")));
        let missing: Vec<_> = OWNED.iter().map(|(key, _)| key).filter(|key| !lists(key)).collect();
        assert_eq!(missing, Vec::<&&str>::new(), "docs/configuration.md does not list these");
    }

    #[test]
    fn librdkafka_judges_the_rest_and_no_secret_is_shown() {
        assert_eq!(judge("compression.type", "zstd"), Ok(()));
        assert!(judge("compresion.type", "lz4").unwrap_err().contains("No such configuration property"));
        let refused = judge("linger.ms", "soon").unwrap_err();
        assert!(refused.contains("nvalid value"), "{refused}");
        let refused = judge("ssl.key.pem.location", "s3cret").unwrap_err();
        assert!(!refused.contains("s3cret"), "{refused}");
    }
}
