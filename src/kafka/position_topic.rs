//! The position topic. It has one partition and is compacted. The newest record of a source's key
//! is the source's position.

use std::time::{Duration, Instant};

use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::Message,
    topic_partition_list::{Offset, TopicPartitionList},
};

use super::{
    blocking, broker,
    context::ReaderContext,
    failure::explain,
    options::{self, Isolation},
    topics::{self, NewTopic, TopicInfo},
};
use crate::{
    config::Kafka,
    error::{Code, Error, Result},
};

/// How many offsets before the end the reading begins. Each transaction writes a position and takes
/// two offsets (the record and the marker of its commit), so the newest position of a source in use
/// is hardly ever further away.
const TAIL: i64 = 500;

/// The only one.
const PARTITION: i32 = 0;

/// Kafka never cleans the active segment. Small segments and an early cleaning keep the reading at
/// a start short.
const CONFIGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
    ("max.compaction.lag.ms", "3600000"),
    ("delete.retention.ms", "86400000"),
    // The brokers put their own time on a position. So they do not refuse one from a clock that is
    // an hour ahead of theirs. Nothing reads that time.
    ("message.timestamp.type", "LogAppendTime"),
];

/// Replicas of a position topic that outlasts the loss of a broker.
const REPLICAS: u32 = 3;

/// Creates the position topic when it is missing, and checks the one that is there.
///
/// # Errors
/// [`Code::PositionInvalid`] for a topic with more than one partition or without compaction; else
/// as [`topics::create`].
pub async fn ensure(kafka: &Kafka) -> Result<()> {
    if !exists(kafka).await? {
        let mut configs: Vec<_> = CONFIGS.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let name = kafka.position_topic.clone();
        let replication = replication(kafka).await?;
        if replication >= REPLICAS {
            configs.push(("min.insync.replicas".to_owned(), "2".to_owned()));
        }
        let topic = NewTopic { name, partitions: 1, replication, configs };
        topics::create(kafka, vec![topic]).await?;
        wait_until_there(kafka).await?;
    }
    validate(kafka).await
}

/// On how many brokers a new position topic is. Exactly once stands on it, and the brokers' own
/// default is often 1. So it is 3 where there are as many brokers, unless the configuration says
/// otherwise or the default is more.
async fn replication(kafka: &Kafka) -> Result<u32> {
    if kafka.topic_replication > 0 {
        return Ok(kafka.topic_replication);
    }
    let brokers = topics::ping(kafka, topics::TIMEOUT).await?.brokers;
    // Without the right to ask, the default counts as less.
    let default = broker::setting(kafka, "default.replication.factor", topics::TIMEOUT).await.unwrap_or_default();
    let default = default.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(u32::try_from(brokers).unwrap_or(REPLICAS).min(REPLICAS).max(default))
}

/// Whether there is a position topic.
///
/// # Errors
/// As [`topics::describe`].
pub async fn exists(kafka: &Kafka) -> Result<bool> {
    exists_within(kafka, topics::TIMEOUT).await
}

/// The same for a caller whose patience is shorter. An error then names what librdkafka said.
///
/// # Errors
/// As [`topics::describe`].
pub(crate) async fn exists_within(kafka: &Kafka, timeout: Duration) -> Result<bool> {
    Ok(info(kafka, timeout).await?.is_some())
}

/// Whether the topic that is there can hold positions. A missing one is no error here.
///
/// # Errors
/// [`Code::PositionInvalid`]; else as [`topics::describe`]. Without the right to read the topic's
/// configuration, only the partitions are checked, and there is no error.
pub(crate) async fn validate(kafka: &Kafka) -> Result<()> {
    let Some(info) = info(kafka, topics::TIMEOUT).await? else { return Ok(()) };
    one_partition(&kafka.position_topic, &info)?;
    let Some(mut entries) = topics::told_configuration(kafka, &kafka.position_topic).await? else { return Ok(()) };
    let policy = entries.remove("cleanup.policy").unwrap_or_default();
    if policy != "compact" {
        let message =
            format!("topic {} has cleanup.policy = {policy}, which may delete positions", kafka.position_topic);
        return Err(Error::new(Code::PositionInvalid, message));
    }
    Ok(())
}

/// The largest record that the topic takes, in bytes. `None` where the brokers do not tell us.
///
/// # Errors
/// As [`topics::configuration`].
pub(crate) async fn largest_record(kafka: &Kafka) -> Result<Option<usize>> {
    let entries = topics::told_configuration(kafka, &kafka.position_topic).await?;
    Ok(entries.and_then(|entries| entries.get("max.message.bytes")?.parse().ok()))
}

async fn info(kafka: &Kafka, timeout: Duration) -> Result<Option<TopicInfo>> {
    let mut found = topics::describe(kafka, &[&kafka.position_topic], timeout).await?;
    Ok(found.remove(&kafka.position_topic).flatten())
}

/// Waits until the topic shows. A broker may answer that it created the topic before it shows it to
/// others.
async fn wait_until_there(kafka: &Kafka) -> Result<()> {
    let deadline = Instant::now() + topics::TIMEOUT;
    while !exists(kafka).await? {
        if Instant::now() >= deadline {
            let message = format!("topic {} was created and does not appear", kafka.position_topic);
            return Err(Error::new(Code::TopicMissing, message));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn one_partition(topic: &str, info: &TopicInfo) -> Result<()> {
    if info.partitions == 1 {
        return Ok(());
    }
    // Rule 2: Kafka keeps no order between partitions.
    let message = format!("topic {topic} has {} partitions; positions need exactly one", info.partitions);
    Err(Error::new(Code::PositionInvalid, message))
}

/// What a record is to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// It takes the place of the one before.
    Newer,
    /// It came late, from a producer that nothing fences. The one before it holds.
    Late,
    /// Neither can be believed.
    Regression,
}

/// How positions follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// What the second of two positions is to the first.
    pub succession: fn(&[u8], &[u8]) -> Succession,
    /// Whether a position may have come late, as its producer is not fenced.
    pub may_be_late: fn(&[u8]) -> bool,
}

/// The newest committed position of `key` (a source's name); `None` when there is none, or a
/// tombstone. The caller has called `init_transactions` on all producers of the source (rule 1).
/// Otherwise one of them may still commit.
///
/// `order` says what a position is to the one before it. The reading begins near the end, and at
/// the beginning where the position that it finds may be late: the one that holds may lie before.
///
/// # Errors
/// [`Code::PositionRegressed`]; [`Code::PositionInvalid`] for a topic with several partitions;
/// [`Code::TopicMissing`]; [`Code::KafkaUnreachable`] and [`Code::PositionUnstable`] when `timeout`
/// has passed first.
pub async fn read(kafka: &Kafka, key: &str, order: Order, timeout: Duration) -> Result<Option<Vec<u8>>> {
    let (kafka, key) = (kafka.clone(), key.to_owned());
    blocking(move || {
        let reading = Reading::start(&kafka, &key, timeout)?;
        let newest = reading.newest(order);
        reading.close();
        newest
    })
    .await
}

/// One reading.
struct Reading {
    kafka: Kafka,
    topic: String,
    key: String,
    committed: BaseConsumer<ReaderContext>,
    /// First and next offset, as a `read_uncommitted` consumer sees them.
    low: i64,
    high: i64,
    deadline: Instant,
    timeout: Duration,
}

impl Reading {
    fn start(kafka: &Kafka, key: &str, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let topic = kafka.position_topic.clone();
        let all = reader(kafka, key, Isolation::Uncommitted)?;
        let Some(info) = topics::describe_one(&all, &topic, deadline)? else {
            return Err(Error::new(Code::TopicMissing, format!("topic {topic}")));
        };
        one_partition(&topic, &info)?;
        let (low, high) = topics::ends(&all, &topic, PARTITION, deadline)?;
        let committed = reader(kafka, key, Isolation::Committed)?;
        let kafka = kafka.clone();
        Ok(Self { kafka, topic, key: key.to_owned(), committed, low, high, deadline, timeout })
    }

    /// rdkafka's own closing waits in steps of 100 ms.
    fn close(&self) {
        let deadline = Instant::now() + GRACE;
        if self.committed.close_queue().is_ok() {
            while !self.committed.closed() && Instant::now() < deadline {
                let _ = self.committed.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn newest(&self, order: Order) -> Result<Option<Vec<u8>>> {
        if self.low >= self.high {
            return Ok(None);
        }
        self.wait_stable()?;
        let tail = (self.high - TAIL).max(self.low);
        let found = self.scan(tail, order.succession)?;
        let may_be_late = found.iter().flatten().any(|found| (order.may_be_late)(found));
        if tail == self.low || found.is_some() && !may_be_late {
            return Ok(found.flatten());
        }
        Ok(self.scan(self.low, order.succession)?.flatten())
    }

    /// Rule 2: waits until every transaction below the high watermark has ended. Then a
    /// `read_committed` consumer sees everything below it.
    fn wait_stable(&self) -> Result<()> {
        let mut pause = Duration::from_millis(1);
        let (began, mut told) = (Instant::now(), false);
        loop {
            // The reading waits for the answer to a question that it asked in time, so that the
            // error names the true cause.
            let (_, stable) = topics::ends(&self.committed, &self.topic, PARTITION, self.deadline + GRACE)?;
            if stable >= self.high {
                if told {
                    tracing::info!("the transaction on topic {} has ended", self.topic);
                }
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                let text = format!("{} for {:?}", self.open_at(stable), self.timeout);
                return Err(Error::new(Code::PositionUnstable, text));
            }
            if !told && began.elapsed() >= TELL_AFTER {
                told = true;
                tracing::warn!("waiting: {} for {:?}", self.open_at(stable), began.elapsed());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// In words: the transaction that is open at this offset, and whose record is there.
    fn open_at(&self, offset: i64) -> String {
        let whose = self.key_at(offset).map_or_else(String::new, |key| format!(", with a record of source {key},"));
        format!(
            "topic {}: a transaction{whose} has been open at offset {offset}, below the end at {},",
            self.topic, self.high
        )
    }

    /// The key of the record at this offset, committed or not; `None` when nobody can say.
    fn key_at(&self, offset: i64) -> Option<String> {
        let mut config = options::reader(&self.kafka, &self.key, Isolation::Uncommitted);
        // `assign()` needs the name of a group.
        config.set("group.id", format!("outboxd-{}", self.key));
        let all = options::consumer(&self.kafka, &config).ok()?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.topic, PARTITION, Offset::Offset(offset)).ok()?;
        all.assign(&assignment).ok()?;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(Ok(message)) = all.poll(POLL) {
                let key = String::from_utf8_lossy(message.key()?).into_owned();
                return (message.offset() == offset).then_some(key);
            }
        }
        None
    }

    /// Reads from `start` to the high watermark. The outer `None` means that no record has our key.
    #[expect(clippy::option_option, reason = "no record, and a tombstone, lead to different next steps")]
    fn scan(&self, start: i64, succession: fn(&[u8], &[u8]) -> Succession) -> Result<Option<Option<Vec<u8>>>> {
        let failed = |error: &KafkaError| {
            explain(
                format!("reading topic {}", self.topic),
                error,
                &self.committed.context().trouble,
                Code::KafkaUnreachable,
            )
        };
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&self.topic, PARTITION, Offset::Offset(start))
            .map_err(|error| failed(&error))?;
        self.committed.assign(&assignment).map_err(|error| failed(&error))?;
        let mut newest: Option<Option<Vec<u8>>> = None;
        let mut last_error = None;
        loop {
            match self.committed.poll(POLL) {
                Some(Ok(message)) if message.offset() >= self.high => return Ok(newest),
                Some(Ok(message)) => {
                    if message.key() != Some(self.key.as_bytes()) {
                        continue;
                    }
                    let value = message.payload();
                    let follows = match (&newest, value) {
                        (Some(Some(older)), Some(newer)) => succession(older, newer),
                        _ => Succession::Newer,
                    };
                    match follows {
                        Succession::Newer => newest = Some(value.map(<[u8]>::to_vec)),
                        Succession::Late => {}
                        Succession::Regression => return Err(self.regression(message.offset())),
                    }
                }
                // The stable end was at the high watermark before the reading began, so the end
                // lies there or behind it. A leader that has just taken over may know less. So an
                // end counts only when the reading has passed its own.
                Some(Err(KafkaError::PartitionEOF(_))) if self.passed_end() => return Ok(newest),
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) if denied(&error) => return Err(failed(&error)),
                Some(Err(error)) => last_error = Some(error),
            }
            if Instant::now() >= self.deadline {
                // Rule 2: there is no answer only because time has passed.
                let error = last_error.unwrap_or(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut));
                return Err(failed(&error));
            }
        }
    }

    /// Control records move the reader's place, too. The last record below the high watermark is
    /// one of those or a position: the end of the log lies in the active segment, which Kafka never
    /// cleans.
    fn passed_end(&self) -> bool {
        self.committed
            .position()
            .ok()
            .and_then(|list| list.find_partition(&self.topic, PARTITION)?.offset().to_raw())
            .is_some_and(|next| next >= self.high)
    }

    fn regression(&self, offset: i64) -> Error {
        let message = format!(
            "topic {}, source {}: the record at offset {offset} lies before an earlier one",
            self.topic, self.key
        );
        Error::new(Code::PositionRegressed, message)
    }
}

/// How long the wait for a transaction goes on before the log tells of it. A predecessor's ends at
/// once, as its transactional ids have been taken.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// How long after the deadline the last answer may come.
const GRACE: Duration = Duration::from_secs(1);
/// Longest wait for one record, short enough to keep the deadline.
const POLL: Duration = Duration::from_millis(50);

fn reader(kafka: &Kafka, key: &str, isolation: Isolation) -> Result<BaseConsumer<ReaderContext>> {
    options::consumer(kafka, &options::reader(kafka, key, isolation))
}

/// Whether a right is missing. It will not come while we wait, and whoever can grant it should read
/// of it at once. A right on the group does not count: librdkafka asks for it though we join none.
fn denied(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}
