//! Publishes chosen rows again, each exactly once for each request: `outboxd replay`.
//!
//! ```text
//!   tables ─ rows of one snapshot, in the request's order ─▶ Encoder ─▶ one Kafka transaction for each chunk:
//!     ▲                                                          the records ─────────▶ order.events …
//!     └──────── behind the last row of the record ◀────────────── the record, last ───▶ outboxd.positions
//! ```
//!
//! **In**: a source, and what a person asked for. **Out**: the rows' records, as the daemon made them,
//! with a header that names the request.
//!
//! What must hold:
//! - a request publishes each of its rows once, whoever dies wherever. Its record is the truth of what
//!   it published, as the position is the daemon's, and [`plan`] has the order of both;
//! - it is a stranger to the daemon beside it: it has a transactional.id and a record of its own, makes
//!   no mark, and touches neither slot nor position;
//! - it publishes no row that the daemon has yet to publish, where the tables or the position tell;
//! - memory is bounded by one chunk.

mod letters;
pub mod plan;
mod preview;
mod rows;
mod selection;

use std::{
    num::NonZeroU64,
    pin::Pin,
    time::{Duration, Instant},
};

use self::{
    letters::Letters,
    plan::{Identity, Record, Request, Step},
    rows::{Bounds, Chunk, Reading},
};
pub(crate) use self::{
    preview::preview,
    selection::{Name, Selection},
};
use crate::{
    Code, Error, Lsn, Result,
    clock::now_millis,
    config::{Kafka, Mark, Source, Template},
    kafka::{
        Batching, PublishFailure,
        position_topic::{self, Order, Succession},
    },
    outbox::{Records, Times},
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{
            TableInfo,
            replay::{Asked, Chosen, ReplayCursor},
            server, tables,
        },
    },
    source::{
        compare::require_same_system,
        newest::{self, Belief},
        position::Phase,
        producers::{PositionBytes, Producers, Unpublished},
    },
};

/// How long a request without marks waits for the daemon to publish what is committed.
const UNTIL_PUBLISHED: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// With a rate, so many transactions a second at most.
const CHUNKS_PER_SECOND: u64 = 10;

/// What a person asked for.
pub(crate) struct Options {
    pub(crate) selection: Selection,
    pub(crate) name: Name,
    /// Rows a second, at most.
    pub(crate) rate: Option<NonZeroU64>,
}

/// What happens on the way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// So many letters were meant for topics that are none of the source's.
    OtherLetters(u64),
    /// So many rows are left, behind so many that earlier runs published.
    Begins { left: u64, before: u64 },
    /// So many more are published.
    Published(u64),
}

/// How it ended, with the number of rows that the request has published so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every row is published.
    Finished(u64),
    /// Every row was published before this run.
    WasFinished(u64),
    /// A signal came first.
    Interrupted(u64),
}

/// Resolves when the command is to stop.
pub(crate) type Stop<'a> = Pin<&'a mut (dyn Future<Output = &'static str> + Send)>;

/// The source, as the request reads it.
///
/// # Errors
/// [`Code::ReplayRefused`]: published rows are not in the tables. [`Code::ConfigInvalid`]: no record may go
/// to the topic.
fn prepared(source: &Source, position_topic: &str, selection: &Selection) -> Result<Source> {
    let mut source = source.clone();
    if source.mark == Mark::Delete {
        let text = format!(
            "source {} has mark = \"delete\": a row that is published is gone, and what is in its tables is still to \
             be published by the daemon",
            source.name
        );
        return Err(Error::new(Code::ReplayRefused, text));
    }
    if let Some(topic) = &selection.to {
        let template = Template::topic(topic, position_topic);
        source.mapping.topic =
            template.map_err(|problem| Error::new(Code::ConfigInvalid, format!("--to: {problem}")))?;
    }
    Ok(source)
}

/// Publishes the rows of a request that are not yet published again.
///
/// # Errors
/// [`Code::ReplayRefused`], [`Code::SystemChanged`]: the name is that of another request;
/// [`Code::RowInvalid`], [`Code::RowTooLarge`]: a row cannot be published, and those before it are;
/// [`Code::KafkaFenced`]: another process carries the request on; whatever keeps a server from
/// being used. The same request goes on where it stopped.
pub(crate) async fn replay(
    source: &Source,
    kafka: &Kafka,
    options: &Options,
    stop: Stop<'_>,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Result<Ended> {
    let configured = source;
    let source = prepared(source, &kafka.position_topic, &options.selection)?;
    let mut run =
        Run { configured, source, kafka, options, times: Times::default(), batching: Batching::Normal, stop, tell };
    loop {
        if let Some(ended) = run.session().await? {
            return Ok(ended);
        }
    }
}

/// One process at a request.
struct Run<'a> {
    /// The source as it is configured.
    configured: &'a Source,
    /// The source as the request reads it.
    source: Source,
    kafka: &'a Kafka,
    options: &'a Options,
    /// Times that the brokers refused.
    times: Times,
    /// How many records go together. A topic has refused more.
    batching: Batching,
    stop: Stop<'a>,
    tell: &'a mut (dyn FnMut(Event) + Send),
}

/// What `work` gives, or `None` once the command is to stop.
macro_rules! unless_stopped {
    ($stop:expr, $work:expr) => {
        tokio::select! {
            biased;
            _ = $stop.as_mut() => None,
            done = $work => Some(done),
        }
    };
}

impl Run<'_> {
    /// From the taking of the id to the end. `None`: a publication failed for a reason that another
    /// try heals, and nothing of it was committed.
    async fn session(&mut self) -> Result<Option<Ended>> {
        let session = ConnectOptions::of(&self.source).sql("replay").await?;
        let tables = tables::resolve_all(&session, &self.source).await?;
        let system_id = server::system_id(&session).await?;
        let began = server::clock(&session).await?;
        let identity = Identity { selection: self.options.selection.hash(&self.source), system_id, began };
        let mut request = Request::new(identity);
        let interrupted = Ok(Some(Ended::Interrupted(0)));

        let id = self.options.name.transactional_id(&self.source.name);
        let taking = Producers::take(self.kafka, vec![id], self.batching);
        let Some(producers) = unless_stopped!(self.stop, taking) else { return interrupted };
        let producers = producers?;
        request.id_taken();
        let key = self.options.name.key(&self.source.name);
        let reading = read_record(self.kafka, &key);
        let Some(record) = unless_stopped!(self.stop, reading) else { return interrupted };
        request.record_read(record?)?;
        match request.step() {
            Step::Rows(record) => self.publish_rows(&session, &tables, (request, record), producers).await,
            Step::Done(record) => Ok(Some(Ended::WasFinished(record.rows))),
            step => Err(Error::new(Code::Internal, format!("a record of a request was read, and then {step:?} came"))),
        }
    }

    /// Publishes chunk after chunk.
    async fn publish_rows(
        &mut self,
        session: &SqlSession,
        tables: &[TableInfo],
        (mut request, record): (Request, Record),
        mut producers: Producers,
    ) -> Result<Option<Ended>> {
        let after = record.last.as_ref().map(rows::row_place);
        let began = record.identity.began;
        let choosing = chosen(self.configured, self.kafka, &self.options.selection);
        let Some(chosen) = unless_stopped!(self.stop, choosing) else {
            return Ok(Some(Ended::Interrupted(record.rows)));
        };
        let (chosen, other_letters) = chosen?;
        if other_letters > 0 {
            (self.tell)(Event::OtherLetters(other_letters));
        }
        let asked = Asked { source: &self.source, tables, chosen: &chosen, by: began, after: after.as_ref() };
        let position_topic = &self.kafka.position_topic;
        let mut encoder = rows::encoder(&self.source, tables, position_topic, began, &self.times)?;
        encoder.times.set_now(now_millis());

        let opening = async {
            let cursor = ReplayCursor::begin(session).await?;
            if self.source.mark == Mark::None {
                wait_published(&self.source, self.kafka, session).await?;
            }
            let left = cursor.count(asked).await?;
            cursor.open(asked).await?;
            Ok::<_, Error>((cursor, left))
        };
        let Some(opened) = unless_stopped!(self.stop, opening) else {
            return Ok(Some(Ended::Interrupted(record.rows)));
        };
        let (cursor, left) = opened?;
        (self.tell)(Event::Begins { left, before: record.rows });
        let mut reading = Reading::new(cursor, tables, encoder);
        let mut pace = Pace::new(self.options.rate);
        let (bounds, mut published) = (self.bounds(), record.rows);
        let mut chunk = Chunk::default();
        chunk.replayed.request = self.options.name.as_str().into();
        loop {
            let read = async {
                reading.read(bounds, &mut chunk).await?;
                pace.wait().await;
                Ok::<_, Error>(())
            };
            let Some(read) = unless_stopped!(self.stop, read) else {
                return Ok(Some(Ended::Interrupted(published)));
            };
            read?;
            let count = chunk.replayed.records.len() as u64;
            if count == 0
                && let Some(refusal) = chunk.refusal.take()
            {
                return Err(refusal);
            }
            request.rows_read(count, chunk.last.take(), chunk.is_end)?;
            let Step::Publish(record) = request.step() else {
                return Err(Error::new(Code::Internal, "rows were read, and are not to be published"));
            };
            match producers.publish(std::mem::take(&mut chunk.replayed), self.position(&record)).await {
                Ok((back, replayed)) => (producers, chunk.replayed) = (back, replayed),
                Err(Unpublished { records, failure }) => {
                    request.failed();
                    return self.learn(&records.records, failure, tables).map(|()| None);
                }
            }
            request.committed()?;
            published = record.rows;
            pace.sent(count);
            (self.tell)(Event::Published(count));
            if let Some(refusal) = chunk.refusal.take() {
                return Err(refusal);
            }
            if let Step::Done(_) = request.step() {
                return Ok(Some(Ended::Finished(published)));
            }
        }
    }

    /// The request's record, as it goes into the position topic.
    fn position(&self, record: &Record) -> PositionBytes {
        PositionBytes {
            topic: self.kafka.position_topic.as_str().into(),
            key: self.options.name.key(&self.source.name).into(),
            value: record.encode(),
        }
    }

    fn bounds(&self) -> Bounds {
        let limits = &self.source.limits;
        let by_rate = self.options.rate.map_or(u64::MAX, |rate| rate.get().div_ceil(CHUNKS_PER_SECOND));
        let rows = usize::try_from(by_rate).unwrap_or(usize::MAX).min(limits.batch_rows);
        Bounds { rows, bytes: limits.batch_bytes }
    }

    /// Learns from a failed publication what another try does better.
    ///
    /// # Errors
    /// The failure, where there is nothing to learn.
    fn learn(&mut self, records: &Records, failure: PublishFailure, tables: &[TableInfo]) -> Result<()> {
        let name = &self.options.name;
        match failure {
            PublishFailure::Crowded { bytes, .. } if is_smaller(self.batching, bytes) => {
                self.batching = Batching::AtMost(bytes);
                Ok(())
            }
            PublishFailure::Rejected { rows, error } => {
                let refused = || rows.iter().filter_map(|&row| records.get(row));
                let times = refused().map(|record| (record.topic, record.timestamp));
                if error.code() == Code::KafkaClock && self.times.refuse(times, now_millis()) {
                    return Ok(());
                }
                let row = refused().next().and_then(|record| {
                    Some(rows::about(record.event_id.unwrap_or_default(), tables.get(usize::from(record.table))?))
                });
                Err(error.about(row.unwrap_or_else(|| "some row".to_owned())))
            }
            PublishFailure::Fenced(error) => {
                Err(error.about(format_args!("another process carries request {name} on")))
            }
            other => Err(other.into_error()),
        }
    }
}

fn is_smaller(batching: Batching, bytes: usize) -> bool {
    !matches!(batching, Batching::AtMost(before) if before <= bytes)
}

/// What the tables are asked for, and how many letters were passed over.
async fn chosen(source: &Source, kafka: &Kafka, selection: &Selection) -> Result<(Chosen, u64)> {
    if !selection.dead_letter {
        return Ok((selection.chosen(None), 0));
    }
    let Letters { ids, others } = letters::read(source, kafka).await?;
    Ok((selection.chosen(Some(ids.into_iter().collect())), others))
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(call).await;
    done.unwrap_or_else(|panic| Err(Error::new(Code::Internal, "a reading thread did not return").because(panic)))
}

/// Reads the record of a request.
async fn read_record(kafka: &Kafka, key: &str) -> Result<Option<Record>> {
    let order = Order { succession: |_, _| Succession::Newer, may_be_late: |_| false };
    let newest = position_topic::read(kafka, key, order, newest::PATIENCE).await?;
    newest.map(|bytes| Record::decode(&bytes)).transpose()
}

/// Waits until everything is published that the session's snapshot shows. Nothing in the tables tells,
/// so the position has to: each of those rows is in the log before its end of this moment.
async fn wait_published(source: &Source, kafka: &Kafka, session: &SqlSession) -> Result<()> {
    let end = server::inserted_lsn(session).await?;
    let system_id = server::system_id(session).await?;
    let deadline = Instant::now() + UNTIL_PUBLISHED;
    loop {
        let newest = newest::read(kafka, &source.name, Belief::Strict, newest::PATIENCE_OF_A_PERSON).await?;
        let position = newest.readable()?.filter(|position| position.phase == Phase::Streaming);
        if let Some(position) = &position {
            require_same_system(position, &system_id)?;
        }
        let published = position.map_or(Lsn::ZERO, |position| position.progress.lsn);
        if published >= end {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let text = format!(
                "source {} has mark = \"none\", so a row counts as published when the position is past it; the log \
                 ends at {end}, and the position is at {published}: the daemon has to catch up first",
                source.name
            );
            return Err(Error::new(Code::ReplayRefused, text));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Rows a second.
struct Pace {
    rate: Option<NonZeroU64>,
    began: Instant,
    sent: u64,
}

impl Pace {
    fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, began: Instant::now(), sent: 0 }
    }

    /// Waits until the next rows may be sent.
    async fn wait(&self) {
        let Some(rate) = self.rate else { return };
        // A rate of 1 and as many rows as a year has seconds are no trouble.
        #[expect(clippy::cast_precision_loss, reason = "a pause")]
        let due = Duration::try_from_secs_f64(self.sent as f64 / rate.get() as f64).unwrap_or(Duration::MAX);
        tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
    }

    fn sent(&mut self, rows: u64) {
        self.sent += rows;
    }
}
