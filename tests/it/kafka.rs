//! The Kafka side against a real broker: what a transaction shows and hides, and what is said when it fails.

use outboxd::Code;
use outboxd::config::{Delivery, Kafka as Config, Secret};
use outboxd::kafka::{
    Batch, Batching, Header, Outgoing, PositionRecord, Producer, PublishFailure, position_topic, topics,
};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
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
            brokers: brokers.to_owned(),
            delivery: Delivery::ExactlyOnce,
            position_topic: unique("positions"),
            topic_partitions: 1,
            topic_replication: 1,
            transaction_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(10),
            options: Vec::new(),
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

    /// The position as text; positions regress when their texts do.
    async fn read(&self) -> outboxd::Result<Option<String>> {
        self.read_within(SOON).await
    }

    async fn read_within(&self, timeout: Duration) -> outboxd::Result<Option<String>> {
        let found = position_topic::read(&self.config, &self.name, |older, newer| newer < older, timeout).await?;
        Ok(found.map(|position| String::from_utf8(position).unwrap()))
    }

    async fn values(&self) -> Vec<String> {
        let records = reader::read_committed(&self.config.brokers, &[&self.topic]).await.unwrap();
        records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect()
    }
}

/// A transactional producer that is none of ours, with an open transaction.
fn foreign(brokers: &str, topic: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", unique("foreign"))
        .create()
        .unwrap();
    producer.init_transactions(SOON).unwrap();
    begin(&producer, topic);
    producer
}

fn begin(producer: &BaseProducer, topic: &str) {
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(topic).key("foreign").payload("x")).unwrap();
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_batch_is_visible_with_its_headers_and_its_position() {
    let source = Source::new().await;
    let mut producer = source.producer();
    producer.publish(&Rows::of(&source.topic, &["a", "b"]), source.position("1")).unwrap();
    producer.publish(&Rows::default(), source.position("2")).unwrap();

    let records = reader::read_committed(&source.config.brokers, &[&source.topic]).await.unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].key.as_deref(), Some(&b"k1"[..]));
    assert_eq!(records[1].headers.len(), 3);
    assert_eq!(records[1].header_str("event_type"), Some("Tested"));
    assert_eq!(records[1].header("trace"), None);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_half_way_shows_nothing_and_spends_its_producer() {
    let source = Source::new().await;
    let mut producer = source.producer();
    producer.publish(&Rows::of(&source.topic, &["before"]), source.position("1")).unwrap();
    let mut rows = Rows::of(&source.topic, &["half", "other half"]);
    rows.0[1].partition = Some(7);

    let failure = producer.publish(&rows, source.position("2")).unwrap_err();

    let PublishFailure::Rejected { rows, error, certain } = failure else { panic!("{failure:?}") };
    assert_eq!((rows, error.code(), certain), (vec![1], Code::RowInvalid, true));
    let again = producer.publish(&Rows::default(), source.position("3")).unwrap_err();
    assert_eq!(again.error().code(), Code::Internal);
    assert_eq!(source.values().await, ["before"]);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_producer_fences_the_first() {
    let source = Source::new().await;
    let mut first = source.producer();
    first.publish(&Rows::of(&source.topic, &["first"]), source.position("1")).unwrap();
    let mut second = source.producer();

    let failure = first.publish(&Rows::of(&source.topic, &["zombie"]), source.position("2")).unwrap_err();

    assert!(matches!(failure, PublishFailure::Fenced(_)), "{failure:?}");
    assert_eq!(failure.error().code(), Code::KafkaFenced);
    second.publish(&Rows::of(&source.topic, &["second"]), source.position("2")).unwrap();
    assert_eq!(source.values().await, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_position_topic_has_no_position() {
    let source = Source::new().await;
    assert_eq!(source.read().await.unwrap(), None);
    source.producer();
    assert_eq!(source.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_far_behind_the_tail_is_found_and_another_source_s_is_not() {
    let source = Source::new().await;
    let mut other = Source::on(&source.config.brokers);
    other.config.position_topic.clone_from(&source.config.position_topic);
    source.producer().publish(&Rows::default(), source.position("mine")).unwrap();
    let mut busy = other.producer();
    for n in 0..400 {
        busy.publish(&Rows::default(), other.position(&format!("{n:04}"))).unwrap();
    }
    assert_eq!(source.read().await.unwrap().as_deref(), Some("mine"));
    assert_eq!(other.read().await.unwrap().as_deref(), Some("0399"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_goes_back_is_refused() {
    let source = Source::new().await;
    let mut producer = source.producer();
    producer.publish(&Rows::default(), source.position("5")).unwrap();
    producer.publish(&Rows::default(), source.position("4")).unwrap();
    assert_eq!(source.read().await.unwrap_err().code(), Code::PositionRegressed);
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_at_the_end_do_not_hide_the_position() {
    let source = Source::new().await;
    source.producer().publish(&Rows::default(), source.position("1")).unwrap();
    let stranger = foreign(&source.config.brokers, &source.config.position_topic);
    stranger.abort_transaction(SOON).unwrap();
    for _ in 0..20 {
        begin(&stranger, &source.config.position_topic);
        stranger.abort_transaction(SOON).unwrap();
    }
    assert_eq!(source.read().await.unwrap().as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_open_transaction_is_waited_for_and_never_guessed_around() {
    let source = Source::new().await;
    source.producer().publish(&Rows::default(), source.position("1")).unwrap();
    let stranger = foreign(&source.config.brokers, &source.config.position_topic);
    source.producer().publish(&Rows::default(), source.position("2")).unwrap();

    let started = Instant::now();
    let error = source.read_within(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::PositionUnstable, "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));

    stranger.abort_transaction(SOON).unwrap();
    assert_eq!(source.read().await.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_s_open_transaction_ends_with_init() {
    let source = Source::new().await;
    let id = format!("outboxd-{}-0", source.name);
    let predecessor: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &source.config.brokers)
        .set("transactional.id", id)
        .create()
        .unwrap();
    predecessor.init_transactions(SOON).unwrap();
    begin(&predecessor, &source.config.position_topic);
    source.producer();
    assert_eq!(source.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_position_topic_is_read_across_its_gaps() {
    let kafka = Kafka::builder(1)
        .setting("log.cleaner.backoff.ms", "100")
        .setting("log.retention.check.interval.ms", "100")
        .start()
        .await
        .unwrap();
    let source = Source::on(&kafka.brokers());
    let compacting = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
        ("delete.retention.ms", "100"),
    ];
    kafka.create_topic(&source.config.position_topic, 1, &compacting).await.unwrap();
    let mut producer = source.producer();
    for n in 0..200 {
        producer.publish(&Rows::default(), source.position(&format!("{n:04}"))).unwrap();
    }
    let compacted = async || {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let mut producer = source.producer();
        producer.publish(&Rows::default(), source.position("9999")).unwrap();
        let left = reader::count_committed(&kafka.brokers(), &[&source.config.position_topic]).await?;
        anyhow::ensure!(left < 150, "{left} records are left");
        Ok(())
    };
    testbed::eventually(Duration::from_secs(60), compacted).await;
    assert_eq!(source.read().await.unwrap().as_deref(), Some("9999"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_is_no_position() {
    let source = Source::new().await;
    source.producer().publish(&Rows::default(), source.position("1")).unwrap();
    let eraser: BaseProducer = ClientConfig::new().set("bootstrap.servers", &source.config.brokers).create().unwrap();
    eraser.send(BaseRecord::<_, [u8]>::to(&source.config.position_topic).key(&source.name)).unwrap();
    eraser.flush(SOON).unwrap();
    assert_eq!(source.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_topic_is_created_compacted_and_checked() {
    let kafka = Kafka::shared().await.unwrap();
    let mut source = Source::on(&kafka.brokers());
    assert!(!position_topic::exists(&source.config).await.unwrap());
    assert_eq!(source.read().await.unwrap_err().code(), Code::TopicMissing);
    position_topic::ensure(&source.config).await.unwrap();
    position_topic::ensure(&source.config).await.unwrap();
    assert!(position_topic::exists(&source.config).await.unwrap());
    let settings = topics::configuration(&source.config, &source.config.position_topic).await.unwrap();
    assert_eq!(settings["cleanup.policy"], "compact");

    source.config.position_topic = kafka.fresh_topic("two", 2).await.unwrap();
    let error = position_topic::ensure(&source.config).await.unwrap_err();
    assert_eq!(error.code(), Code::PositionInvalid, "{error}");
    assert_eq!(source.read().await.unwrap_err().code(), Code::PositionInvalid);

    source.config.position_topic = kafka.fresh_topic("deleting", 1).await.unwrap();
    let error = position_topic::ensure(&source.config).await.unwrap_err();
    assert!(error.detail().contains("cleanup.policy = delete"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_described_and_created_once() {
    let kafka = Kafka::shared().await.unwrap();
    let source = Source::on(&kafka.brokers());
    let wanted = topics::NewTopic {
        name: source.topic.clone(),
        partitions: 3,
        replication: 0,
        configs: vec![("max.message.bytes".to_owned(), "20000".to_owned())],
    };
    topics::create(&source.config, vec![wanted.clone()]).await.unwrap();
    topics::create(&source.config, vec![wanted]).await.unwrap();
    let found = topics::describe(&source.config, &[&source.topic, "no-such-topic"], SOON).await.unwrap();
    assert_eq!(found[&source.topic], Some(topics::TopicInfo { partitions: 3, replication: 1 }));
    assert_eq!(found["no-such-topic"], None);
    let refused = topics::NewTopic {
        name: unique("refused"),
        partitions: 1,
        replication: 1,
        configs: vec![("no.such.setting".to_owned(), "1".to_owned())],
    };
    assert_eq!(topics::create(&source.config, vec![refused]).await.unwrap_err().code(), Code::ConfigInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_is_told_within_the_bound() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = Source::on(&format!("127.0.0.1:{}", unused.local_addr().unwrap().port()));
    drop(unused);
    let started = Instant::now();
    let error = topics::ping(&nobody.config, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::KafkaUnreachable);
    assert!(error.detail().contains("refused"), "{error}");
    let error = nobody.idle_producer(Batching::Normal).init_transactions(Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.code(), Code::KafkaUnreachable, "{error}");
    assert_eq!(nobody.read_within(Duration::from_secs(1)).await.unwrap_err().code(), Code::KafkaUnreachable);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());

    let kafka = Kafka::shared().await.unwrap();
    let info = topics::ping(&Source::on(&kafka.brokers()).config, SOON).await.unwrap();
    assert!(info.cluster_id.is_some() && info.brokers >= 1, "{info:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_not_the_row_s_fault() {
    let source = Source::new().await;
    let mut producer = source.producer();
    let failure = producer.publish(&Rows::of("no-such-topic", &["a"]), source.position("1")).unwrap_err();
    assert!(matches!(failure, PublishFailure::Aborted(_)), "{failure:?}");
    assert_eq!(failure.error().code(), Code::TopicMissing, "{failure:?}");
    assert!(failure.error().detail().contains("no-such-topic"));
}

/// Rows 1 and 3 are too large for the broker, the others are not.
async fn with_too_large_rows() -> (Source, Rows) {
    let mut source = Source::new().await;
    source.topic = unique("small");
    let kafka = Kafka::shared().await.unwrap();
    kafka.create_topic(&source.topic, 1, &[("max.message.bytes", "5000")]).await.unwrap();
    let large: Vec<u8> = (0..20_000_u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    let small = b"small".to_vec();
    let rows = Rows::sized(&source.topic, &[small.clone(), large.clone(), small.clone(), large, small]);
    (source, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_broker_finds_too_large_are_suspected_together() {
    let (source, rows) = with_too_large_rows().await;
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Rejected { rows, error, certain } = failure else { panic!("{failure:?}") };
    assert_eq!((error.code(), certain), (Code::RowTooLarge, false));
    assert!(rows.contains(&1) || rows.contains(&3), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_broker_finds_too_large_are_known_one_by_one() {
    let (source, mut rows) = with_too_large_rows().await;
    // However many verdicts come at once, each is right, and leaving those rows out ends in success.
    for _ in 0..2 {
        match source.producer_with(Batching::OneByOne).publish(&rows, source.position("1")) {
            Ok(_) => break,
            Err(PublishFailure::Rejected { rows: refused, error, certain }) => {
                assert_eq!((error.code(), certain), (Code::RowTooLarge, true));
                assert!(refused.iter().all(|&row| rows.0[row].value.len() > 5_000), "{refused:?}");
                for row in refused.into_iter().rev() {
                    rows.0.remove(row);
                }
            }
            Err(failure) => panic!("{failure:?}"),
        }
    }
    source.producer().publish(&rows, source.position("2")).unwrap();
    assert!(source.values().await.iter().all(|value| value == "small"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_beyond_what_a_request_can_hold_is_refused_before_sending() {
    let source = Source::new().await;
    let rows = Rows::sized(&source.topic, &[b"small".to_vec(), vec![b'x'; 105_000_000]]);
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Rejected { rows, error, certain } = failure else { panic!("{failure:?}") };
    assert_eq!((rows, error.code(), certain), (vec![1], Code::RowTooLarge, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_that_the_broker_refuses_is_the_row_s_fault() {
    let source = Source::new().await;
    let mut rows = Rows::of(&source.topic, &["a", "b", "c"]);
    rows.0[1].timestamp = Some(4_102_444_800_000);
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Rejected { rows: suspected, error, certain } = failure else { panic!("{failure:?}") };
    assert!(suspected.contains(&1) && !certain && error.code() == Code::RowInvalid, "{suspected:?} {error}");

    let failure = source.producer_with(Batching::OneByOne).publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Rejected { rows, error, certain } = failure else { panic!("{failure:?}") };
    assert_eq!((rows, error.code(), certain), (vec![1], Code::RowInvalid, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_row_passes_where_the_broker_takes_it() {
    let mut source = Source::new().await;
    source.topic = unique("large");
    let kafka = Kafka::shared().await.unwrap();
    kafka.create_topic(&source.topic, 1, &[("max.message.bytes", "60000000")]).await.unwrap();
    let rows = Rows::sized(&source.topic, &[vec![b'x'; 50_000_000]]);
    source.producer().publish(&rows, source.position("1")).unwrap();
    assert_eq!(reader::count_committed(&source.config.brokers, &[&source.topic]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_publication_ends_soon_after_it_is_cancelled() {
    let kafka = Kafka::start().await.unwrap();
    let source = Source::on(&kafka.brokers());
    position_topic::ensure(&source.config).await.unwrap();
    kafka.create_topic(&source.topic, 1, &[]).await.unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let id = format!("outboxd-{}-0", source.name);
    let mut producer = Producer::create(&source.config, &id, Batching::Normal, Arc::clone(&cancel)).unwrap();
    producer.init_transactions(SOON).unwrap();
    kafka.pause(0).unwrap();
    let cancelling = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let failure = producer.publish(&Rows::of(&source.topic, &["a"]), source.position("1")).unwrap_err();
    let cancelled = cancelling.join().unwrap();
    let after = cancelled.elapsed();
    drop(producer);
    let dropped = cancelled.elapsed();
    kafka.resume(0).unwrap();
    assert!(matches!(failure, PublishFailure::Aborted(_) | PublishFailure::Unknown(_)), "{failure:?}");
    assert!(after < Duration::from_millis(400), "returned after {after:?}");
    assert!(dropped < Duration::from_secs(2), "dropped after {dropped:?}");
    source.producer();
    assert_eq!(source.values().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_publishes_without_a_transaction_in_the_same_format() {
    let mut source = Source::new().await;
    source.config.delivery = Delivery::AtLeastOnce;
    let mut producer = source.producer();
    producer.publish(&Rows::of(&source.topic, &["a", "b"]), source.position("1")).unwrap();
    assert_eq!(source.values().await, ["a", "b"]);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("1"));
    source.config.delivery = Delivery::ExactlyOnce;
    source.producer().publish(&Rows::of(&source.topic, &["c"]), source.position("2")).unwrap();
    assert_eq!(source.values().await, ["a", "b", "c"]);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told_apart_from_silence() {
    let mut config = Source::on(&Kafka::shared().await.unwrap().brokers()).config;
    let login = |key: &str, value: &str| (key.to_owned(), Secret::new(value.to_owned()));
    // A plain listener refuses every login.
    config.options = vec![
        login("security.protocol", "sasl_plaintext"),
        login("sasl.mechanisms", "PLAIN"),
        login("sasl.username", "outboxd"),
        login("sasl.password", "wrong"),
    ];
    let started = Instant::now();
    let error = topics::ping(&config, SOON).await.unwrap_err();
    assert_eq!(error.code(), Code::KafkaAuthFailed, "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "a refused login is told at once");
    let producer = Producer::create(&config, "outboxd-x-0", Batching::Normal, Arc::default()).unwrap();
    let error = producer.init_transactions(Duration::from_secs(2)).unwrap_err();
    assert_eq!(error.code(), Code::KafkaAuthFailed, "{error}");
}
