//! From `config::Kafka` to librdkafka's own options. Our defaults come first, then the user's
//! `[kafka.options]`, then the options on which the guarantees stand. No user option may touch
//! those.

use std::time::Duration;

use rdkafka::{
    config::{ClientConfig, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use super::{context::ReaderContext, login, producer::Batching};
use crate::{
    config::{Delivery, Kafka},
    error::{Code, Error, Result},
};

/// Largest request that we hand to a broker. The broker judges the size of a record
/// (`max.message.bytes`). Our bound only stays below the broker's `socket.request.max.bytes` (100
/// MiB), beyond which the broker hangs up without a reason.
const MESSAGE_MAX_BYTES: u32 = 104_000_000;

/// What librdkafka holds at most. One transaction is far smaller; one row may be almost as large as
/// the request.
const QUEUE_KBYTES: u32 = 192 * 1024;

/// The error of a client that could not be made. Nothing but the options decides that.
pub(super) fn refused(error: &KafkaError) -> Error {
    let message = match error {
        // The value may be a password.
        KafkaError::ClientConfig(_, why, key, _) => format!("`{key}`: {why}"),
        KafkaError::ClientCreation(why) => why.clone(),
        other => other.to_string(),
    };
    Error::new(Code::KafkaOptionInvalid, message)
}

/// Makes a consumer that can log in. It blocks while a program prints a token.
///
/// # Errors
/// [`Code::KafkaOptionInvalid`]; [`Code::KafkaAuthFailed`] when there is no token to log in with.
pub(super) fn consumer(kafka: &Kafka, config: &ClientConfig) -> Result<BaseConsumer<ReaderContext>> {
    let consumer: BaseConsumer<ReaderContext> =
        config.create_with_context(ReaderContext::of(kafka)).map_err(|error| refused(&error))?;
    login::log_in(kafka, consumer.client())?;
    Ok(consumer)
}

/// A producer's options. `transactional_id` is also the name of the client. Only exactly-once uses
/// it as an id.
pub(super) fn producer(kafka: &Kafka, transactional_id: &str, batching: Batching) -> ClientConfig {
    let mut config = base(kafka, &format!("outboxd-{}", source_of(transactional_id)));
    defaults(
        &mut config,
        &[
            // Waiting for fuller batches gains nothing, as measured: a transaction is handed over
            // at once. A lone row would pay for the wait.
            ("linger.ms", "0"),
            // librdkafka reports a missing topic after this instead of 30 s. Until then the open
            // transaction holds its readers back.
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
    // Rule 25: librdkafka gives a message up before the broker aborts its transaction.
    config.set("message.timeout.ms", millis(kafka.delivery_timeout));
    // A success needs no report of its own. When nothing is in flight and nothing failed, the
    // brokers have acknowledged everything.
    config.set("delivery.report.only.error", "true");
    if kafka.delivery == Delivery::ExactlyOnce {
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", millis(kafka.transaction_timeout));
    }
    if let Batching::AtMost(bytes) = batching {
        config.set("batch.size", bytes.clamp(1, MESSAGE_MAX_BYTES as usize).to_string());
    }
    // Rule 22: only these lines show that a commit's connection was lost. They are few, and `[log]`
    // still decides which a person sees.
    let debug = config.get("debug").map_or_else(|| "broker".to_owned(), |debug| format!("{debug},broker"));
    config.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
    config
}

/// The source's name in `outboxd-<source>-<number>`. The producer that delivers at least once has no
/// number, and no source's name has a hyphen.
pub(super) fn source_of(transactional_id: &str) -> &str {
    let name = transactional_id.strip_prefix("outboxd-").unwrap_or(transactional_id);
    name.rsplit_once('-').map_or(name, |(source, _)| source)
}

/// What a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Up to the last stable offset, without what was aborted.
    Committed,
    /// Up to the high watermark.
    Uncommitted,
}

/// Options of a consumer that reads from given offsets, belongs to no group and creates no topic.
pub(super) fn reader(kafka: &Kafka, client: &str, isolation: Isolation) -> ClientConfig {
    let mut config = base(kafka, &format!("outboxd-{client}"));
    defaults(
        &mut config,
        &[
            // The broker answers at once, so the consumer sees the end as soon as it gets there.
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
        // `assign()` needs the name of a group. The consumer joins no group and commits nothing.
        Isolation::Committed => {
            config.set("isolation.level", "read_committed").set("group.id", format!("outboxd-{client}"))
        }
        // This one is only asked for the ends. Without a group it opens and closes faster.
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
    if kafka.token.is_some() {
        config.set("sasl.mechanism", "OAUTHBEARER").set("security.protocol", "sasl_ssl");
    }
    // There is no compression by default: payloads are small, the network is rarely the limit, and
    // compressing costs the user's CPU. A user can choose any codec in `[kafka.options]`.
    defaults(
        &mut config,
        &[
            ("client.id", client),
            ("socket.keepalive.enable", "true"),
            ("socket.nagle.disable", "true"),
            // This is also the pause before a new client's second connection, so every start waits
            // for it. It doubles each time.
            ("reconnect.backoff.ms", "10"),
            ("reconnect.backoff.max.ms", "2000"),
            // Brokers close idle connections after ten minutes. That is not worth an error each
            // time.
            ("log.connection.close", "false"),
            // KIP-714 would send metrics of ours to the brokers' operators. That costs each start a
            // connection and a request for nothing.
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
    use rdkafka::producer::BaseProducer;

    use super::*;
    use crate::{
        config::Secret,
        kafka::context::{ProducerContext, QuietContext},
    };

    fn kafka(options: &[(&str, &str)]) -> Kafka {
        Kafka {
            brokers: "127.0.0.1:9".to_owned(),
            delivery: Delivery::ExactlyOnce,
            position_topic: "outboxd.positions".to_owned(),
            topic_partitions: 0,
            topic_replication: 0,
            transaction_timeout: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(30),
            token: None,
            options: options.iter().map(|&(key, value)| (key.to_owned(), Secret::new(value.to_owned()))).collect(),
            files: Vec::new(),
        }
    }

    /// Makes both clients that a source has, since librdkafka looks at some options only then.
    fn make(kafka: &Kafka) -> Result<(), Error> {
        let producer: Result<BaseProducer<ProducerContext>, _> =
            producer(kafka, "outboxd-check-0", Batching::Normal).create_with_context(ProducerContext::default());
        let reader: Result<BaseConsumer<QuietContext>, _> =
            reader(kafka, "check", Isolation::Committed).create_with_context(QuietContext);
        producer.map_err(|error| refused(&error))?;
        reader.map(drop).map_err(|error| refused(&error))
    }

    #[test]
    fn our_own_options_are_accepted_in_both_modes() {
        for delivery in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
            make(&Kafka { delivery, ..kafka(&[]) }).unwrap();
        }
        make(&kafka(&[("compression.type", "zstd"), ("linger.ms", "2"), ("security.protocol", "ssl")])).unwrap();
    }

    #[test]
    fn what_librdkafka_refuses_only_with_a_client_shows_no_value() {
        let cases = [
            ("compresion.type", "lz4", "No such configuration property"),
            ("linger.ms", "s3cret", "linger.ms"),
            ("ssl.ca.location", "/no/such/s3cret.pem", "ssl.ca.location"),
            ("max.in.flight", "50", "max.in.flight"),
        ];
        for (key, value, says) in cases {
            let options = [(key, value), ("security.protocol", "ssl")];
            let error = make(&kafka(&options)).unwrap_err();
            assert_eq!(error.code(), Code::KafkaOptionInvalid, "{key}");
            assert!(error.detail().contains(says), "{error}");
        }
        let error = make(&kafka(&[("linger.ms", "s3cret")])).unwrap_err();
        assert!(!error.detail().contains("s3cret"), "{error}");
    }

    #[test]
    fn the_user_s_option_wins_over_a_default_and_never_over_a_guarantee() {
        let config = producer(&kafka(&[("linger.ms", "7"), ("acks", "0")]), "outboxd-order-0", Batching::AtMost(500));
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("client.id"), Some("outboxd-order"));
        assert_eq!(config.get("batch.size"), Some("500"));
        assert_eq!(config.get("message.timeout.ms"), Some("30000"));
    }

    #[test]
    fn a_producer_names_its_source_whether_it_has_a_number_or_not() {
        assert_eq!(source_of("outboxd-order_2-1"), "order_2");
        assert_eq!(source_of("outboxd-order_2"), "order_2");
    }
}
