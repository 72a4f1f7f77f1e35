//! What a `read_committed` consumer sees.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rdkafka::{
    config::ClientConfig,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers, Message},
    topic_partition_list::{Offset, TopicPartitionList},
};
use tokio::sync::mpsc;

use crate::postgres::blocking;

const REQUEST: Duration = Duration::from_secs(10);
/// How long an open transaction may hide the end of a partition.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The first header of this name, when it has a value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.as_deref())
    }

    /// The same as text; `None` also when it is not UTF-8.
    #[must_use]
    pub fn header_str(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
        });
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }
}

/// Every committed record of the topics, from the beginning to the high watermarks at the time of
/// the call. The records of a partition are in order. It fails when a transaction stays open below
/// the watermarks for a minute.
pub async fn read_committed(brokers: &str, topics: &[&str]) -> Result<Vec<Record>> {
    read_committed_after(brokers, topics, &mut Ends::new()).await
}

/// The offset up to which each partition of a topic was read.
pub type Ends = BTreeMap<(String, i32), i64>;

/// Reads what is beyond `ends`, and moves `ends` on. So a long run does not read again what it has
/// judged.
pub async fn read_committed_after(brokers: &str, topics: &[&str], ends: &mut Ends) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let reading = scan(brokers, topics, ends.clone(), move |message| {
        let _ = sender.send(Record::of(message));
    });
    let (done, ()) = tokio::join!(reading, async {
        while let Some(record) = receiver.recv().await {
            records.push(record);
        }
    });
    *ends = done?;
    Ok(records)
}

/// How many records [`read_committed`] would return, without keeping them.
pub async fn count_committed(brokers: &str, topics: &[&str]) -> Result<u64> {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = count.clone();
    scan(brokers, topics, Ends::new(), move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    })
    .await?;
    Ok(count.load(std::sync::atomic::Ordering::Relaxed))
}

async fn scan(
    brokers: &str,
    topics: &[&str],
    mut ends: Ends,
    mut each: impl FnMut(&BorrowedMessage<'_>) + Send + 'static,
) -> Result<Ends> {
    let brokers = brokers.to_owned();
    let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
    blocking(move || {
        let reader = consumer(&brokers, "read_committed")?;
        let writer_view = consumer(&brokers, "read_uncommitted")?;
        for topic in &topics {
            scan_topic((&reader, &writer_view), topic, &mut ends, &mut each)?;
        }
        Ok(ends)
    })
    .await
}

/// Reads one topic at a time, because librdkafka reports the end of a partition only by its number.
fn scan_topic(
    (reader, writer_view): (&BaseConsumer, &BaseConsumer),
    topic: &str,
    ends: &mut Ends,
    each: &mut impl FnMut(&BorrowedMessage<'_>),
) -> Result<()> {
    let started = Instant::now();
    let mut assignment = TopicPartitionList::new();
    let mut open = BTreeSet::new();
    let mut highs = BTreeMap::new();
    for partition in partitions(reader, topic)? {
        let (low, high) = writer_view.fetch_watermarks(topic, partition, REQUEST)?;
        // In read_committed the high watermark is the last stable offset. The first open
        // transaction holds it back.
        while reader.fetch_watermarks(topic, partition, REQUEST)?.1 < high {
            if started.elapsed() > SETTLE_WITHIN {
                bail!("{topic}-{partition}: a transaction has been open below offset {high} for {SETTLE_WITHIN:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let start = ends.insert((topic.to_owned(), partition), high).unwrap_or(low).max(low);
        if start < high {
            assignment.add_partition_offset(topic, partition, Offset::Offset(start))?;
            open.insert(partition);
            highs.insert(partition, high);
        }
    }
    reader.assign(&assignment)?;
    let mut last = Instant::now();
    // The stable end was past our target before we began. So the first "end of partition" comes at
    // the target or past it.
    while !open.is_empty() {
        match reader.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                last = Instant::now();
                if highs.get(&message.partition()).is_some_and(|high| message.offset() < *high) {
                    each(&message);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                last = Instant::now();
                open.remove(&partition);
            }
            Some(Err(error)) if last.elapsed() > SETTLE_WITHIN => return Err(error.into()),
            None if last.elapsed() > SETTLE_WITHIN => bail!("{topic}: nothing more to read, ends missing of {open:?}"),
            Some(Err(_)) | None => {}
        }
    }
    reader.unassign()?;
    Ok(())
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
    let found = metadata.topics().first().context("no metadata")?;
    if let Some(error) = found.error() {
        bail!("topic {topic}: {}", KafkaError::MetadataFetch(error.into()));
    }
    Ok(found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect())
}

fn consumer(brokers: &str, isolation: &str) -> Result<BaseConsumer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "testbed-reader")
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        .set("auto.offset.reset", "earliest")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "500")
        .create()?)
}

/// Where a [`Follower`] begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the first record.
    Beginning,
    /// At what is committed from now on.
    End,
}

/// Reads committed records as they come. It has a thread of its own, which ends when the follower
/// is dropped.
#[derive(Debug)]
pub struct Follower {
    records: mpsc::UnboundedReceiver<(Record, Instant)>,
}

impl Follower {
    /// Starts to read. It returns when the first offsets are known, so it misses nothing that is
    /// written afterwards.
    pub async fn start(brokers: &str, topics: &[&str], from: From) -> Result<Self> {
        let brokers = brokers.to_owned();
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        blocking(move || {
            let consumer = consumer(&brokers, "read_committed")?;
            let mut assignment = TopicPartitionList::new();
            for topic in &topics {
                for partition in partitions(&consumer, topic)? {
                    let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST)?;
                    let offset = if from == From::Beginning { low } else { high };
                    assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
                }
            }
            consumer.assign(&assignment)?;
            let (sender, records) = mpsc::unbounded_channel();
            std::thread::spawn(move || {
                while !sender.is_closed() {
                    if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                        let _ = sender.send((Record::of(&message), Instant::now()));
                    }
                }
            });
            Ok(Self { records })
        })
        .await
    }

    /// The next record and when it arrived.
    pub async fn next(&mut self, within: Duration) -> Result<(Record, Instant)> {
        tokio::time::timeout(within, self.records.recv())
            .await
            .with_context(|| format!("no record within {within:?}"))?
            .context("the reading thread has ended")
    }

    /// The next record, if it has arrived already.
    pub fn try_next(&mut self) -> Option<(Record, Instant)> {
        self.records.try_recv().ok()
    }
}
