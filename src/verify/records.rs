//! Reads records: which topics, from where to where, and what is kept of a record.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    entry::{NO_TOPIC, Place, RecordEntry, content_hash, key_hash},
    id,
    progress::Progress,
    routes::TopicNumbers,
};
use crate::{
    Code, Error, Result,
    config::Kafka,
    kafka::topic_reader::{Seen, Span, TopicReader},
    outbox::{EVENT_TIME, REPLAY, parse_rfc3339},
};

/// Between two looks at the ends of a topic.
const PAUSE: Duration = Duration::from_millis(100);

/// A record whose row's clock was ahead has the time of its commit, which lies before the row's. The
/// reading begins this much earlier, in milliseconds, which is more than time zones differ.
const AHEAD: i64 = 26 * 3_600_000;

/// A topic that is read.
#[derive(Debug, Clone)]
pub(super) struct TopicToRead {
    pub(super) number: u32,
    pub(super) name: String,
    /// It holds dead letters.
    pub(super) dead: bool,
    /// The header `id` may be the event id, as in the records of Debezium's Event Router.
    pub(super) router: bool,
    /// What is still to be read. Each reading moves `first` on.
    pub(super) spans: Vec<Span>,
}

/// What travels to the reading thread and back.
pub(super) struct Reading<S> {
    pub(super) topic: TopicToRead,
    pub(super) numbers: TopicNumbers,
    /// What the records go to.
    pub(super) sink: S,
}

/// A partition with a transaction that stayed open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) partition: i32,
    /// Where the transaction begins.
    pub(super) offset: i64,
}

/// The cluster, seen with one pair of clients.
#[derive(Clone)]
pub(super) struct Cluster {
    reader: Arc<TopicReader>,
    /// Milliseconds since the Unix epoch.
    since: Option<i64>,
    /// Whether what the records hold matters.
    content: bool,
}

/// A record and what it is matched by.
#[derive(Clone, Copy)]
pub(super) struct Match<'k> {
    /// Id and topic. `None` when the record has no id.
    pub(super) key: Option<&'k [u8]>,
    pub(super) record: RecordEntry,
}

impl Cluster {
    pub(super) fn open(kafka: &Kafka, since: Option<i64>, content: bool) -> Result<Self> {
        Ok(Self { reader: Arc::new(TopicReader::open(kafka, "verify")?), since, content })
    }

    /// Every topic with its partitions.
    pub(super) async fn topics(&self) -> Result<BTreeMap<String, Vec<i32>>> {
        let reader = self.reader.clone();
        blocking(move || reader.topics()).await
    }

    /// What these topics hold now.
    pub(super) async fn spans(&self, topics: Vec<(String, Vec<i32>)>) -> Result<HashMap<String, Vec<Span>>> {
        let reader = self.reader.clone();
        let spans = move || {
            let span = |(name, partitions): (String, Vec<i32>)| {
                let spans = reader.spans(&name, &partitions)?;
                Ok((name, spans))
            };
            topics.into_iter().map(span).collect()
        };
        blocking(spans).await
    }

    /// Moves the spans to where the records of the wanted time begin.
    pub(super) async fn skip_old(&self, mut topic: TopicToRead) -> Result<TopicToRead> {
        let Some(since) = self.since.filter(|_| !topic.spans.is_empty()) else { return Ok(topic) };
        let reader = self.reader.clone();
        let skip = move || {
            reader.skip_before(&topic.name, &mut topic.spans, since.saturating_sub(AHEAD))?;
            Ok(topic)
        };
        blocking(skip).await
    }

    /// Reads the topic's spans to their ends and moves them on. It waits for open transactions
    /// until the deadline.
    pub(super) async fn read<S: Send + 'static>(
        &self,
        mut reading: Reading<S>,
        deadline: Instant,
        progress: &Progress,
        mut each: impl FnMut(&mut S, Match<'_>) -> Result<()> + Send + 'static,
    ) -> Result<(Reading<S>, Vec<Held>)> {
        let (cluster, progress) = (self.clone(), progress.clone());
        let read = move || {
            let Reading { topic, numbers, sink } = &mut reading;
            let held = cluster.wait_stable(topic, deadline)?;
            let (mut key, mut unsaid) = (Vec::new(), 0);
            let mut take = |seen: &Seen<'_>| {
                unsaid += 1;
                if unsaid >= 1_000 {
                    progress.add(std::mem::take(&mut unsaid));
                }
                // It was published before, and a person asked for it again. The first one is judged.
                if seen.header(REPLAY).is_some() {
                    return Ok(());
                }
                let mut record = entry_of(seen, topic);
                if cluster.content && !topic.dead {
                    record.content = Some(content_hash(seen.key(), seen.value()));
                }
                if let (Some(created), Some(since)) = (record.created, cluster.since)
                    && created < since
                {
                    return Ok(());
                }
                let has_id = write_key(seen, topic, numbers, &mut key);
                each(sink, Match { key: has_id.then_some(&key[..]), record })
            };
            cluster.reader.read(&topic.name, &topic.spans, &mut take)?;
            progress.add(unsaid);
            for span in &mut topic.spans {
                span.first = span.end.max(span.first);
            }
            Ok((reading, held))
        };
        blocking(read).await
    }

    /// Moves the ends to where a reader can read now. The spans then hold what came since the last
    /// reading.
    pub(super) async fn move_ends(&self, mut topic: TopicToRead) -> Result<TopicToRead> {
        let reader = self.reader.clone();
        let ends = move || {
            let ends = reader.stable_ends(&topic.name, &topic.spans)?;
            for (span, end) in topic.spans.iter_mut().zip(ends) {
                span.end = end.max(span.first);
            }
            Ok(topic)
        };
        blocking(ends).await
    }

    /// Waits until everything below the ends is committed or aborted. Where that takes too long, it
    /// moves the end back.
    fn wait_stable(&self, topic: &mut TopicToRead, deadline: Instant) -> Result<Vec<Held>> {
        loop {
            let stable = self.reader.stable_ends(&topic.name, &topic.spans)?;
            let held = |(span, &offset): (&Span, &i64)| {
                (offset < span.end).then_some(Held { partition: span.partition, offset })
            };
            let held: Vec<_> = topic.spans.iter().zip(&stable).filter_map(held).collect();
            if held.is_empty() {
                return Ok(held);
            }
            if Instant::now() >= deadline {
                for (span, stable) in topic.spans.iter_mut().zip(stable) {
                    span.end = span.end.min(stable).max(span.first);
                }
                return Ok(held);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn entry_of(seen: &Seen<'_>, topic: &TopicToRead) -> RecordEntry {
    RecordEntry {
        // Neither partition nor offset is ever negative.
        place: Place {
            topic: topic.number,
            partition: seen.partition().unsigned_abs(),
            offset: seen.offset().unsigned_abs(),
        },
        dead: topic.dead,
        // A dead letter carries the time of sending.
        created: if topic.dead { None } else { event_time(seen) },
        key: seen.key().map(key_hash),
        content: None,
    }
}

/// The time of the record's row, in milliseconds since the Unix epoch.
fn event_time(seen: &Seen<'_>) -> Option<i64> {
    // A record whose timestamp is not its row's time says so in a header.
    let header = seen.header(EVENT_TIME).and_then(|text| parse_rfc3339(std::str::from_utf8(text).ok()?));
    header.map(|micros| micros.div_euclid(1000)).or_else(|| seen.created())
}

/// Writes what a record is matched by. False when the record has no id.
fn write_key(seen: &Seen<'_>, topic: &TopicToRead, numbers: &mut TopicNumbers, key: &mut Vec<u8>) -> bool {
    let id = seen.header("event_id").or_else(|| if topic.router { seen.header("id") } else { None });
    let Some(event_id) = id else { return false };
    let meant_for = match seen.header("outboxd_topic") {
        Some(name) if topic.dead => numbers.number(&String::from_utf8_lossy(name)),
        _ if topic.dead => NO_TOPIC,
        _ => topic.number,
    };
    key.clear();
    id::put_text(event_id, key);
    key.extend_from_slice(&meant_for.to_be_bytes());
    true
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(panic) => Err(Error::new(Code::Internal, "a reading thread did not return").because(panic)),
    }
}
