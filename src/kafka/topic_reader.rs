//! Reads topics as a `read_committed` consumer, from offsets to offsets, in bounded memory. The
//! reader joins no group and commits nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers, Message, Timestamp},
    topic_partition_list::{Offset, TopicPartitionList},
};

use super::{
    context::ReaderContext,
    failure::explain,
    options::{self, Isolation},
    topics,
};
use crate::{
    config::Kafka,
    error::{Code, Error, Result},
};

/// Longest wait for one answer, and for the next record.
const PATIENCE: Duration = Duration::from_secs(30);
/// Partitions that the reader fetches from at once. Each has buffers of its own.
const AT_ONCE: usize = 64;
/// How long nothing may come after a partition reported its end. Then what lies before our end was
/// aborted or compacted.
const SETTLED: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// Bounds of what librdkafka fetches ahead, and in one answer. Its own defaults would hold hundreds
/// of MiB.
const FETCH: [(&str, &str); 2] = [("queued.max.messages.kbytes", "8192"), ("fetch.max.bytes", "8388608")];

/// Records of one partition: from `first` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) partition: i32,
    /// Offset of the first.
    pub(crate) first: i64,
    /// Offset after the last.
    pub(crate) end: i64,
}

/// A partition that is being read.
struct OpenPartition {
    /// Offset after the last record that is wanted.
    end: i64,
    /// When librdkafka reported the partition's end.
    reported: Option<Instant>,
}

/// A record as it lies in its topic.
#[derive(Debug)]
pub(crate) struct Seen<'a>(&'a BorrowedMessage<'a>);

impl Seen<'_> {
    #[must_use]
    pub(crate) fn partition(&self) -> i32 {
        self.0.partition()
    }

    #[must_use]
    pub(crate) fn offset(&self) -> i64 {
        self.0.offset()
    }

    #[must_use]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    #[must_use]
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    /// The time that its producer gave it, in milliseconds since the Unix epoch; `None` when the
    /// broker set its own.
    #[must_use]
    pub(crate) fn created(&self) -> Option<i64> {
        match self.0.timestamp() {
            Timestamp::CreateTime(ms) => Some(ms),
            Timestamp::NotAvailable | Timestamp::LogAppendTime(_) => None,
        }
    }

    /// The first header of this name. `None` also when its value is null.
    #[must_use]
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.headers()?.iter().find(|header| header.key == name)?.value
    }
}

/// Reads topics. It blocks, so it belongs on a thread of its own.
pub(crate) struct TopicReader {
    committed: BaseConsumer<ReaderContext>,
    all: BaseConsumer<ReaderContext>,
}

impl TopicReader {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Code::KafkaOptionInvalid`].
    pub(crate) fn open(kafka: &Kafka, purpose: &str) -> Result<Self> {
        let make = |isolation| {
            let mut config = options::reader(kafka, purpose, isolation);
            for (key, value) in FETCH {
                config.set(key, value);
            }
            options::consumer(kafka, &config)
        };
        Ok(Self { committed: make(Isolation::Committed)?, all: make(Isolation::Uncommitted)? })
    }

    /// Every topic of the cluster that we may see, with its partitions.
    ///
    /// # Errors
    /// As [`topics::ping`].
    pub(crate) fn topics(&self) -> Result<BTreeMap<String, Vec<i32>>> {
        let metadata = topics::metadata(&self.all, None, PATIENCE)?;
        let partitions = |topic: &rdkafka::metadata::MetadataTopic| {
            topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect()
        };
        Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), partitions(topic))).collect())
    }

    /// All that the partitions hold now, including what is not yet committed.
    ///
    /// # Errors
    /// As [`topics::ping`]; [`Code::KafkaDenied`]; [`Code::TopicMissing`].
    pub(crate) fn spans(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Span>> {
        let span = |&partition: &i32| {
            let (first, end) = self.ends(&self.all, topic, partition)?;
            Ok(Span { partition, first, end })
        };
        partitions.iter().map(span).collect()
    }

    /// The ends up to which a `read_committed` consumer can read now.
    ///
    /// # Errors
    /// As [`Self::spans`].
    pub(crate) fn stable_ends(&self, topic: &str, spans: &[Span]) -> Result<Vec<i64>> {
        spans.iter().map(|span| Ok(self.ends(&self.committed, topic, span.partition)?.1)).collect()
    }

    /// Moves the beginning of each span to the first record of this time or later. `time` is in
    /// milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Self::spans`].
    pub(crate) fn skip_before(&self, topic: &str, spans: &mut [Span], time: i64) -> Result<()> {
        let failed = |error: KafkaError| self.failed(&self.all, format!("looking for a time in topic {topic}"), &error);
        let mut wanted = TopicPartitionList::new();
        for span in &*spans {
            wanted.add_partition_offset(topic, span.partition, Offset::Offset(time)).map_err(failed)?;
        }
        let found = self.all.offsets_for_times(wanted, PATIENCE).map_err(failed)?;
        for span in spans {
            span.first = match found.find_partition(topic, span.partition).map(|partition| partition.offset()) {
                Some(Offset::Offset(offset)) => offset.clamp(span.first, span.end),
                // No record is that young.
                Some(Offset::End) => span.end,
                _ => span.first,
            };
        }
        Ok(())
    }

    /// Gives every committed record of the spans to `each`, in order within a partition. A span
    /// must not end behind what [`Self::stable_ends`] has said: what lies behind an open
    /// transaction never comes.
    ///
    /// # Errors
    /// As [`Self::spans`], and what `each` says; [`Code::KafkaUnreachable`] when nothing comes for
    /// half a minute.
    pub(crate) fn read(
        &self,
        topic: &str,
        spans: &[Span],
        each: &mut dyn FnMut(&Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        let wanted: Vec<Span> = spans.iter().filter(|span| span.first < span.end).copied().collect();
        wanted.chunks(AT_ONCE).try_for_each(|spans| self.read_at_once(topic, spans, each))
    }

    fn read_at_once(&self, topic: &str, spans: &[Span], each: &mut dyn FnMut(&Seen<'_>) -> Result<()>) -> Result<()> {
        let what = || format!("reading topic {topic}");
        let failed = |error: KafkaError| self.failed(&self.committed, what(), &error);
        let mut assignment = TopicPartitionList::new();
        let mut open: BTreeMap<i32, OpenPartition> = BTreeMap::new();
        for span in spans {
            assignment.add_partition_offset(topic, span.partition, Offset::Offset(span.first)).map_err(failed)?;
            open.insert(span.partition, OpenPartition { end: span.end, reported: None });
        }
        self.committed.assign(&assignment).map_err(failed)?;
        let mut heard = Instant::now();
        let mut last_error = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
        while !open.is_empty() {
            match self.committed.poll(POLL) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let Some(partition) = open.get_mut(&message.partition()) else { continue };
                    // It was not the end for good.
                    partition.reported = None;
                    let end = partition.end;
                    if message.offset() < end {
                        each(&Seen(&message))?;
                    }
                    if message.offset() + 1 >= end {
                        open.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(partition) = open.get_mut(&partition) {
                        partition.reported = Some(Instant::now());
                    }
                    self.close_passed(topic, &mut open);
                }
                Some(Err(error)) => last_error = error,
                None => self.close_passed(topic, &mut open),
            }
            if heard.elapsed() > PATIENCE {
                return Err(failed(last_error));
            }
        }
        self.committed.unassign().map_err(failed)
    }

    /// Closes the partitions whose place is past their end; control records move the place, too. A
    /// partition that has reported its end and stays where it is holds nothing more before our end.
    fn close_passed(&self, topic: &str, open: &mut BTreeMap<i32, OpenPartition>) {
        let Ok(positions) = self.committed.position() else { return };
        open.retain(|&number, partition| {
            let next = positions.find_partition(topic, number).and_then(|place| place.offset().to_raw());
            let passed = next.is_some_and(|next| next >= partition.end);
            !passed && partition.reported.is_none_or(|at| at.elapsed() < SETTLED)
        });
    }

    fn ends(&self, client: &BaseConsumer<ReaderContext>, topic: &str, partition: i32) -> Result<(i64, i64)> {
        topics::ends(client, topic, partition, Instant::now() + PATIENCE)
    }

    fn failed(&self, client: &BaseConsumer<ReaderContext>, what: String, error: &KafkaError) -> Error {
        explain(what, error, &client.context().trouble, Code::KafkaUnreachable)
    }
}
