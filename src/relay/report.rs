//! Reports to the metrics, the status page and the log where a source stands.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{Histogram, IntCounter};

use tokio::time::Instant;

use super::{
    intake::Counts,
    state::Machine,
    tally::{Done, Tally},
};
use crate::{
    Error, Lsn,
    kafka::PublishFailure,
    outbox::Records,
    postgres::catalog::marks::is_passing,
    source::standing::SourceState,
    telemetry::{Lag, Outcome, SourceMetrics},
};

/// How many topics have their counter at hand. A source with more topics looks the others up each
/// time.
const TOPICS_AT_HAND: usize = 1000;

/// Writes the metrics of one session.
pub(super) struct Report {
    metrics: SourceMetrics,
    topics: HashMap<String, TopicHandles>,
    tally: Tally,
    /// Rows whose table takes no marks.
    unmarkable: usize,
    /// The published position, once it is known.
    lsn: Option<Lsn>,
}

/// What is counted of a topic.
struct TopicHandles {
    events: IntCounter,
    latency: Histogram,
}

impl TopicHandles {
    fn committed(&self, rows: usize, age: Option<f64>) {
        self.events.inc_by(rows as u64);
        if let Some(age) = age {
            self.latency.observe(age);
        }
    }
}

impl Report {
    #[must_use]
    pub(super) fn new(metrics: SourceMetrics) -> Self {
        Self { metrics, topics: HashMap::new(), tally: Tally::new(Instant::now()), unmarkable: 0, lsn: None }
    }

    /// A Kafka transaction was committed. `oldest` is the commit time of its first row in
    /// microseconds since the Unix epoch, if it is known.
    pub(super) fn committed(&mut self, records: &Records, took: Duration, oldest: Option<i64>) {
        self.metrics.kafka_transaction(Outcome::Committed);
        self.metrics.kafka_transaction_seconds.observe(took.as_secs_f64());
        let age = oldest.filter(|_| !records.is_empty()).map(age);
        if let Some(age) = age {
            self.metrics.publish_latency.observe(age);
        }
        for (topic, rows) in records.topics() {
            self.tally.published(rows);
            if let Some(handles) = self.topics.get(topic) {
                handles.committed(rows, age);
                continue;
            }
            let (events, latency) = (self.metrics.events_published(topic), self.metrics.topic_latency(topic));
            let handles = TopicHandles { events, latency };
            handles.committed(rows, age);
            if self.topics.len() < TOPICS_AT_HAND {
                self.topics.insert(topic.to_owned(), handles);
            }
        }
    }

    /// A Kafka transaction was not committed, or nobody knows whether it was.
    pub(super) fn failed(&self, failure: &PublishFailure) {
        self.metrics.kafka_transaction(match failure {
            PublishFailure::Unknown(_) => Outcome::Unknown,
            PublishFailure::Fenced(_)
            | PublishFailure::Aborted(_)
            | PublishFailure::Suspected { .. }
            | PublishFailure::Rejected { .. }
            | PublishFailure::Crowded { .. } => Outcome::Aborted,
        });
    }

    /// The marks of `rows` rows are durable. `took` is the time since the first of them could be
    /// made, if that is known.
    pub(super) fn marked(&mut self, rows: usize, took: Option<Duration>) {
        self.tally.marked(rows);
        self.metrics.rows_marked.inc_by(rows as u64);
        if let Some(took) = took {
            self.metrics.mark_latency.observe(took.as_secs_f64());
        }
    }

    /// Tables took no marks, so that this many rows wait until they do.
    pub(super) fn unmarkable(&mut self, failures: &[Error], rows: usize) {
        for error in failures {
            let (code, detail, hint) = (error.code(), error.detail(), error.code().hint());
            tracing::warn!(code = code.as_str(), rows, hint, "{detail}: trying again");
            if !is_passing(error) {
                self.metrics.error(error);
            }
        }
        if self.unmarkable > 0 && rows == 0 {
            tracing::info!("the rows that waited for their marks have them");
            self.metrics.healed();
        }
        self.unmarkable = rows;
    }

    /// Reports where the machine stands now, and what was counted since the last time.
    pub(super) fn progress(&mut self, machine: &Machine, counts: &Counts) {
        self.metrics.rows_redelivered.inc_by(counts.redelivered);
        self.metrics.rows_passed_over.inc_by(counts.passed_over);
        self.metrics.dead_letters.inc_by(counts.dead_letters);
        self.metrics.set_position(machine.position().lsn);
        self.metrics.in_flight_bytes.set(i64::try_from(machine.in_flight_bytes()).unwrap_or(i64::MAX));
        self.metrics
            .set_lag(machine.oldest_unpublished().map_or(Lag::Nothing, |oldest| Lag::Since(commit_time(oldest))));
        if self.unmarkable > 0 && machine.waits_for_marks() {
            self.metrics.set_state(SourceState::Retrying);
        }
        self.metrics.beat();
        self.lsn = Some(machine.position().lsn);
        self.tally.came_marked(counts.came_marked);
        if let Some(rows) = self.tally.came_marked_due(Instant::now()) {
            tracing::warn!(
                rows,
                "rows came with their mark set, and were passed over: a default or a trigger sets it at the INSERT, or an \
                 UPDATE moved them to another partition"
            );
        }
        if let Some(done) = self.tally.due(Instant::now()) {
            say(done, machine.position().lsn);
        }
    }
}

impl Drop for Report {
    /// The session ends. The log says what it has not said yet. A backfill, which has no machine,
    /// counts its rows in lines of its own.
    fn drop(&mut self) {
        if let Some(lsn) = self.lsn
            && let Some(done) = self.tally.rest()
        {
            say(done, lsn);
        }
    }
}

fn say(done: Done, lsn: Lsn) {
    tracing::info!(published = done.published, marked = done.marked, %lsn, "rows published and marked");
}

/// Seconds since a commit time, by this machine's clock. It is never negative, although the two
/// clocks may differ.
fn age(commit_time: i64) -> f64 {
    Lag::Since(self::commit_time(commit_time)).seconds(SystemTime::now()).unwrap_or_default()
}

/// A commit time in microseconds since the Unix epoch.
fn commit_time(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}
