//! From `config::Kafka` to librdkafka's own options: our defaults, then the user's `[kafka.options]`, then what the
//! guarantees stand on, which no user option may touch.

use std::time::Duration;

use rdkafka::{
    config::{ClientConfig, RDKafkaLogLevel},
    consumer::BaseConsumer,
    error::KafkaError,
    producer::BaseProducer,
};

use super::{
    context::{ProducerContext, QuietContext},
    producer::Batching,
};
use crate::{
    config::{Delivery, Kafka},
    error::{Code, Error, Result},
};

/// Largest request that we hand to a broker. The broker judges the size of a record (`max.message.bytes`), so ours is
/// only below its `socket.request.max.bytes` (100 MiB), past which it hangs up without saying why.
const MESSAGE_MAX_BYTES: u32 = 104_000_000;

/// What librdkafka holds at most. One transaction is far smaller; one row may be almost as large as the request.
const QUEUE_KBYTES: u32 = 192 * 1024;

/// librdkafka's name, and where outboxd sets it.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is `kafka.brokers`"),
    ("metadata.broker.list", "it is `kafka.brokers`"),
    ("transactional.id", "it follows from the source's `name`"),
    ("enable.idempotence", "it follows from `kafka.delivery`"),
    ("acks", "it follows from `kafka.delivery`"),
    ("request.required.acks", "it follows from `kafka.delivery`"),
    ("transaction.timeout.ms", "it is `kafka.transaction_timeout`"),
    ("message.timeout.ms", "it is `kafka.delivery_timeout`"),
    ("delivery.timeout.ms", "it is `kafka.delivery_timeout`"),
    ("partitioner", "it is always Java's, murmur2_random, so that other producers agree with it"),
    ("partitioner_cb", "it is always Java's, murmur2_random, so that other producers agree with it"),
    ("enable.gapless.guarantee", "a failed batch is aborted as a whole, which needs it off"),
    ("delivery.report.only.error", "outboxd counts the delivery reports"),
    ("produce.offset.report", "outboxd counts the delivery reports"),
    ("isolation.level", "the position is read with read_committed"),
    ("group.id", "the position is read without a group"),
    ("group.instance.id", "the position is read without a group"),
    ("group.protocol", "the position is read without a group"),
    ("enable.auto.commit", "the position is read without a group"),
    ("auto.commit.enable", "the position is read without a group"),
    ("enable.auto.offset.store", "the position is read without a group"),
    ("auto.offset.reset", "the position is read from offsets that outboxd chooses"),
    ("enable.partition.eof", "the position is read to the high watermark"),
    ("allow.auto.create.topics", "topics are created by `outboxd setup`, or by the brokers"),
    ("statistics.interval.ms", "see /metrics"),
    ("log.queue", "logs go through `[log]`"),
    ("log_level", "it is `log.level`; target `librdkafka` can have its own"),
    ("enabled_events", "outboxd handles the events"),
];

/// Where a librdkafka option is set instead, when it is not for `[kafka.options]`.
#[must_use]
pub fn owned_by_outboxd(key: &str) -> Option<&'static str> {
    OWNED.iter().find(|(owned, _)| *owned == key).map(|(_, instead)| *instead)
}

/// Lets librdkafka judge the options, alone and together. Connects to nothing.
///
/// # Errors
/// [`Code::KafkaOptionInvalid`], naming the option, or what librdkafka says about the whole.
pub fn validate(kafka: &Kafka) -> Result<()> {
    for (key, _) in &kafka.options {
        if let Some(instead) = owned_by_outboxd(key) {
            return Err(Error::new(Code::KafkaOptionInvalid, format!("`{key}` cannot be set here: {instead}")));
        }
    }
    if kafka.delivery_timeout >= kafka.transaction_timeout {
        let message = format!(
            "kafka.delivery_timeout ({:?}) must be shorter than kafka.transaction_timeout ({:?})",
            kafka.delivery_timeout, kafka.transaction_timeout
        );
        return Err(Error::new(Code::ConfigInvalid, message));
    }
    // librdkafka checks some options when they are set and others (TLS files, combinations) when a client is made.
    let _producer: BaseProducer<ProducerContext> = producer(kafka, "outboxd-check-0", Batching::Normal)
        .create_with_context(ProducerContext::default())
        .map_err(|error| refused(&error))?;
    let _reader: BaseConsumer<QuietContext> = reader(kafka, "check", Isolation::Committed)
        .create_with_context(QuietContext)
        .map_err(|error| refused(&error))?;
    Ok(())
}

/// The error of a client that could not be made: nothing but the options decides that.
pub(super) fn refused(error: &KafkaError) -> Error {
    let message = match error {
        // The value may be a password.
        KafkaError::ClientConfig(_, why, key, _) => format!("`{key}`: {why}"),
        KafkaError::ClientCreation(why) => why.clone(),
        other => other.to_string(),
    };
    Error::new(Code::KafkaOptionInvalid, message)
}

/// A producer's options. `transactional_id` names the client too, and is used as such with exactly-once alone.
pub(super) fn producer(kafka: &Kafka, transactional_id: &str, batching: Batching) -> ClientConfig {
    let mut config = base(kafka, transactional_id.rsplit_once('-').map_or(transactional_id, |(client, _)| client));
    defaults(
        &mut config,
        &[
            // Measured: waiting for fuller batches gains nothing, as a transaction is handed over at once, and costs a
            // lone row its wait.
            ("linger.ms", "0"),
            // A missing topic is reported after this instead of 30 s, while the transaction holds its readers back.
            ("topic.metadata.propagation.max.ms", "5000"),
            ("retry.backoff.ms", "20"),
            ("retry.backoff.max.ms", "500"),
        ],
    );
    defaults(
        &mut config,
        &[
            ("message.max.bytes", &MESSAGE_MAX_BYTES.to_string()),
            ("queue.buffering.max.kbytes", &QUEUE_KBYTES.to_string()),
            ("queue.buffering.max.messages", "1000000"),
        ],
    );
    user(&mut config, kafka);
    config.set("enable.idempotence", "true").set("acks", "all").set("partitioner", "murmur2_random");
    // Rule 25: a message that is given up is given up before the broker aborts its transaction.
    config.set("message.timeout.ms", millis(kafka.delivery_timeout));
    // A success needs no report of its own: nothing in flight and no failure means that all were acknowledged.
    config.set("delivery.report.only.error", "true");
    if kafka.delivery == Delivery::ExactlyOnce {
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", millis(kafka.transaction_timeout));
    }
    if batching == Batching::OneByOne {
        config.set("batch.num.messages", "1");
    }
    // Rule 22: it is in these lines that a commit's lost connection shows. They are few; `[log]` still decides which
    // are seen.
    let debug = config.get("debug").map_or_else(|| "broker".to_owned(), |debug| format!("{debug},broker"));
    config.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// What a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Up to the last stable offset, without what was aborted.
    Committed,
    /// Up to the high watermark.
    Uncommitted,
}

/// Options of a consumer that reads from offsets it is given, belongs to no group and creates no topic.
pub(super) fn reader(kafka: &Kafka, client: &str, isolation: Isolation) -> ClientConfig {
    let mut config = base(kafka, &format!("outboxd-{client}"));
    defaults(
        &mut config,
        &[
            // Answers at once, so that the end is seen as soon as it is reached.
            ("fetch.wait.max.ms", "10"),
            ("fetch.min.bytes", "1"),
            ("fetch.error.backoff.ms", "20"),
            ("retry.backoff.ms", "20"),
            ("retry.backoff.max.ms", "500"),
        ],
    );
    user(&mut config, kafka);
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false");
    match isolation {
        // assign() needs a name; nothing is committed, and no group is joined.
        Isolation::Committed => {
            config.set("isolation.level", "read_committed").set("group.id", format!("outboxd-{client}"))
        }
        // Only asked for the ends; without a group it opens and closes faster.
        Isolation::Uncommitted => config.set("isolation.level", "read_uncommitted"),
    };
    config
}

/// Options of a client that asks for metadata or creates topics.
pub(super) fn admin(kafka: &Kafka) -> ClientConfig {
    let mut config = base(kafka, "outboxd-admin");
    user(&mut config, kafka);
    config.set("allow.auto.create.topics", "false");
    config
}

fn base(kafka: &Kafka, client: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    config.set("bootstrap.servers", &kafka.brokers);
    // No compression: payloads are small, the neighbour's network rarely the limit, and it is the user's CPU. Any
    // codec can be chosen in [kafka.options].
    defaults(
        &mut config,
        &[
            ("client.id", client),
            ("socket.keepalive.enable", "true"),
            ("socket.nagle.disable", "true"),
            // Also the pause before a new client's second connection, so it is part of every start. It doubles each time.
            ("reconnect.backoff.ms", "10"),
            ("reconnect.backoff.max.ms", "2000"),
            // Kept connections are closed by the brokers after ten idle minutes: not worth an error each time.
            ("log.connection.close", "false"),
            // KIP-714: metrics of ours for the brokers' operators; a connection and a request each start for nothing.
            ("enable.metrics.push", "false"),
        ],
    );
    config
}

fn defaults(config: &mut ClientConfig, entries: &[(&str, &str)]) {
    for (key, value) in entries {
        config.set(*key, *value);
    }
}

fn user(config: &mut ClientConfig, kafka: &Kafka) {
    for (key, value) in &kafka.options {
        config.set(key, value.expose());
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().clamp(1, i32::MAX as u128).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn kafka(options: &[(&str, &str)]) -> Kafka {
        Kafka {
            brokers: "127.0.0.1:9".to_owned(),
            delivery: Delivery::ExactlyOnce,
            position_topic: "outboxd.positions".to_owned(),
            topic_partitions: 0,
            topic_replication: 0,
            transaction_timeout: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(30),
            options: options.iter().map(|&(key, value)| (key.to_owned(), Secret::new(value.to_owned()))).collect(),
        }
    }

    #[test]
    fn our_own_options_are_accepted_in_both_modes() {
        for delivery in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
            validate(&Kafka { delivery, ..kafka(&[]) }).unwrap();
        }
        validate(&kafka(&[("compression.type", "zstd"), ("linger.ms", "2"), ("security.protocol", "ssl")])).unwrap();
    }

    #[test]
    fn every_owned_option_is_one_of_librdkafka_s_and_is_refused_with_what_to_do_instead() {
        for (key, instead) in OWNED {
            let error = validate(&kafka(&[(key, "1")])).unwrap_err();
            assert_eq!(error.code(), Code::KafkaOptionInvalid);
            assert!(error.detail().contains(instead), "{error}");
            let judged = ClientConfig::new().set(*key, "").create_native_config().err().map(|error| error.to_string());
            assert!(!judged.unwrap_or_default().contains("No such configuration property"), "{key}");
        }
    }

    #[test]
    fn librdkafka_judges_the_rest_and_no_value_is_shown() {
        let cases = [
            ("compresion.type", "lz4", "No such configuration property"),
            ("linger.ms", "s3cret", "linger.ms"),
            ("ssl.ca.location", "/no/such/s3cret.pem", "ssl.ca.location"),
            ("max.in.flight", "50", "max.in.flight"),
        ];
        for (key, value, says) in cases {
            let options = [(key, value), ("security.protocol", "ssl")];
            let error = validate(&kafka(&options)).unwrap_err();
            assert_eq!(error.code(), Code::KafkaOptionInvalid, "{key}");
            assert!(error.detail().contains(says), "{error}");
        }
        let error = validate(&kafka(&[("linger.ms", "s3cret")])).unwrap_err();
        assert!(!error.detail().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_delivery_may_not_outlast_its_transaction() {
        let slow = Kafka { delivery_timeout: Duration::from_secs(60), ..kafka(&[]) };
        assert_eq!(validate(&slow).unwrap_err().code(), Code::ConfigInvalid);
    }

    #[test]
    fn the_user_s_option_wins_over_a_default_and_never_over_a_guarantee() {
        let config = producer(&kafka(&[("linger.ms", "7"), ("acks", "0")]), "outboxd-order-0", Batching::OneByOne);
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("client.id"), Some("outboxd-order"));
        assert_eq!(config.get("batch.num.messages"), Some("1"));
        assert_eq!(config.get("message.timeout.ms"), Some("30000"));
    }
}
