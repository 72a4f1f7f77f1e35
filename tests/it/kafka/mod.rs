//! The Kafka side against a real broker: what a transaction shows and hides, and what is said when it fails.

mod cluster;
mod position;
mod publishing;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use outboxd::{
    Code,
    config::{Delivery, Kafka as Config},
    kafka::{
        Batch, Batching, Header, Outgoing, PositionRecord, Producer, PublishFailure,
        position_topic::{self, Order, Succession},
        topics,
    },
};
use rdkafka::{
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use testbed::{Kafka, reader, unique};

const SOON: Duration = Duration::from_secs(20);

/// Rows of one topic, keyed by their number unless given a key.
#[derive(Default)]
struct Rows(Vec<Row>);

struct Row {
    topic: String,
    key: String,
    value: Vec<u8>,
    timestamp: Option<i64>,
    partition: Option<i32>,
}

impl Rows {
    fn of(topic: &str, values: &[&str]) -> Self {
        Self::sized(topic, &values.iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    fn sized(topic: &str, values: &[Vec<u8>]) -> Self {
        let row = |(n, value): (usize, &Vec<u8>)| Row {
            topic: topic.to_owned(),
            key: format!("k{n}"),
            value: value.clone(),
            timestamp: None,
            partition: None,
        };
        Self(values.iter().enumerate().map(row).collect())
    }
}

impl Batch for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn record(&self, index: usize) -> Option<Outgoing<'_, impl ExactSizeIterator<Item = Header<'_>>>> {
        let row = self.0.get(index)?;
        let headers: [Header<'_>; 3] =
            [("event_id", Some(row.key.as_bytes())), ("event_type", Some(b"Tested")), ("trace", None)];
        Some(Outgoing {
            topic: &row.topic,
            key: Some(row.key.as_bytes()),
            value: Some(&row.value),
            timestamp: row.timestamp,
            partition: row.partition,
            headers: headers.into_iter(),
        })
    }
}

/// A source with topics of its own on the shared broker.
struct Source {
    config: Config,
    name: String,
    topic: String,
}

impl Source {
    async fn new() -> Self {
        let kafka = Kafka::shared().await.unwrap();
        let source = Self::on(&kafka.brokers());
        position_topic::ensure(&source.config).await.unwrap();
        kafka.create_topic(&source.topic, 1, &[]).await.unwrap();
        source
    }

    fn on(brokers: &str) -> Self {
        let name = unique("source");
        let config = Config {
            token: None,
            brokers: brokers.to_owned(),
            delivery: Delivery::ExactlyOnce,
            position_topic: unique("positions"),
            topic_partitions: 1,
            topic_replication: 1,
            transaction_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(10),
            options: Vec::new(),
            files: Vec::new(),
        };
        Self { topic: unique("events"), config, name }
    }

    fn producer(&self) -> Producer {
        self.producer_with(Batching::Normal)
    }

    fn producer_with(&self, batching: Batching) -> Producer {
        let producer = self.idle_producer(batching);
        producer.init_transactions(SOON).unwrap();
        producer
    }

    fn idle_producer(&self, batching: Batching) -> Producer {
        Producer::create(&self.config, &format!("outboxd-{}-0", self.name), batching, Arc::default()).unwrap()
    }

    fn position<'a>(&'a self, value: &'a str) -> PositionRecord<'a> {
        PositionRecord { topic: &self.config.position_topic, key: self.name.as_bytes(), value: value.as_bytes() }
    }

    /// The position as text; positions regress when their texts do, and one that ends in "late" is late.
    async fn read(&self) -> outboxd::Result<Option<String>> {
        self.read_within(SOON).await
    }

    async fn read_within(&self, timeout: Duration) -> outboxd::Result<Option<String>> {
        let order = Order {
            succession: |older, newer| match newer < older {
                true if newer.ends_with(b"late") => Succession::Late,
                true => Succession::Regression,
                false => Succession::Newer,
            },
            may_be_late: |position| position.ends_with(b"late"),
        };
        let found = position_topic::read(&self.config, &self.name, order, timeout).await?;
        Ok(found.map(|position| String::from_utf8(position).unwrap()))
    }

    async fn values(&self) -> Vec<String> {
        let records = reader::read_committed(&self.config.brokers, &[&self.topic]).await.unwrap();
        records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect()
    }
}

/// A transactional producer that belongs to no daemon, with an open transaction.
pub(crate) fn foreign(brokers: &str, topic: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", unique("foreign"))
        .create()
        .unwrap();
    producer.init_transactions(SOON).unwrap();
    begin(&producer, topic);
    producer
}

pub(crate) fn begin(producer: &BaseProducer, topic: &str) {
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(topic).key("foreign").payload("x")).unwrap();
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(2));
    }
}
