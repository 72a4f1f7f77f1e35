//! The Prometheus metrics as handles that the relay holds.
//!
//! Every series of a source exists as soon as the source is known, with 0, or with NaN where only a
//! look at Postgres can tell. Only the topics of
//! `outboxd_events_published_total` appear later, when rows go to them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector, process_collector::ProcessCollector,
};

use super::{
    build::{COMMIT, VERSION},
    families::{Families, register},
    shown::{Lag, Shown, Sight},
};
use crate::{
    Class, Code, Error, Lsn,
    source::standing::{SourceState, Standing},
};

/// How many topics of a source have a counter of their own.
pub(super) const TOPICS: usize = 1000;
/// How many topics of a source have a histogram of their own. It has as many series as buckets.
const TIMED_TOPICS: usize = 20;
/// The label under which the records of all other topics are counted. No topic has this name.
pub(super) const OTHER_TOPICS: &str = "(others)";

/// `pg_replication_slots.wal_status`.
/// Source: PostgreSQL documentation, "pg_replication_slots".
const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

/// How a Kafka transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its records are visible.
    Committed,
    /// Its records will never be visible.
    Aborted,
    /// Only the position tells how it ended.
    Unknown,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Committed, Self::Aborted, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        }
    }
}

/// All metrics of the process. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    registry: Registry,
    families: Families,
    pub(super) sources: Mutex<BTreeMap<String, SourceMetrics>>,
}

/// The metrics and the shown state of one source, as handles that need no lookup. Cloning shares
/// them.
#[derive(Debug, Clone)]
pub(crate) struct SourceMetrics {
    /// Rows whose mark is durable.
    pub(crate) rows_marked: IntCounter,
    /// Rows that the server sent again and that were not published again.
    pub(crate) rows_redelivered: IntCounter,
    /// Rows that came with their mark, or of a table that is none of the source's.
    pub(crate) rows_passed_over: IntCounter,
    /// Rows sent to the dead-letter topic.
    pub(crate) dead_letters: IntCounter,
    /// Published rows that retention deleted.
    pub(crate) rows_purged: IntCounter,
    /// Partitions that retention dropped.
    pub(crate) partitions_dropped: IntCounter,
    /// Spans that the collector did not get.
    pub(crate) trace_spans_dropped: IntCounter,
    /// Time from the commit in Postgres to the commit in Kafka, in seconds.
    pub(crate) publish_latency: Histogram,
    /// Time from the commit in Kafka to the durable mark, in seconds.
    pub(crate) mark_latency: Histogram,
    /// Time from the begin of a Kafka transaction to its commit, in seconds.
    pub(crate) kafka_transaction_seconds: Histogram,
    /// Encoded records held in memory.
    pub(crate) in_flight_bytes: IntGauge,
    pub(super) name: Arc<str>,
    pub(super) events_published: IntCounterVec,
    /// The topics that have a counter of their own.
    pub(super) topics: Arc<Mutex<HashSet<Box<str>>>>,
    topic_latency: HistogramVec,
    /// The topics that have a histogram of their own.
    timed_topics: Arc<Mutex<HashSet<Box<str>>>>,
    kafka_transactions: [IntCounter; Outcome::ALL.len()],
    lag_bytes: Gauge,
    lag_seconds: Gauge,
    unpublished_rows: Gauge,
    oldest_unmarked: Gauge,
    slot_retained_bytes: Gauge,
    slot_spilled_bytes: Gauge,
    monitor_up: IntGauge,
    monitor_age: Gauge,
    slot_wal_status: [IntGauge; WAL_STATUSES.len()],
    states: [IntGauge; SourceState::ALL.len()],
    errors: IntCounterVec,
    pub(super) shown: Arc<Mutex<Shown>>,
}

impl Metrics {
    /// A registry that holds every family, the build and the process, and no source yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let families = Families::new(&registry);
        let build = IntGaugeVec::new(
            Opts::new("outboxd_build_info", "Version and commit of the running outboxd; always 1."),
            &["version", "commit"],
        );
        register(&registry, build).with_label_values(&[VERSION, COMMIT]).set(1);
        register(&registry, Ok(ProcessCollectorHandle::new()));
        Self(Arc::new(Inner { registry, families, sources: Mutex::default() }))
    }

    /// The handles of a source. The first call with its name makes them.
    #[must_use]
    pub(crate) fn source(&self, name: &str) -> SourceMetrics {
        lock(&self.0.sources)
            .entry(name.to_owned())
            .or_insert_with(|| SourceMetrics::new(name, &self.0.families))
            .clone()
    }

    /// Every source, by name.
    #[must_use]
    pub(crate) fn standings(&self) -> Vec<Standing> {
        lock(&self.0.sources).values().map(SourceMetrics::standing).collect()
    }

    /// Whether no source goes on.
    #[must_use]
    pub(crate) fn all_halted(&self) -> bool {
        lock(&self.0.sources).values().all(|source| source.state() == SourceState::Halted)
    }

    /// The names of the sources that did beat and have not done so for `limit`.
    #[must_use]
    pub(crate) fn stuck(&self, limit: Duration) -> Vec<String> {
        let now = Instant::now();
        let sources = lock(&self.0.sources);
        sources
            .iter()
            .filter(|(_, source)| lock(&source.shown).is_stuck(now, limit))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The text exposition format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// When a family is inconsistent. The tests show that none is.
    pub(crate) fn render(&self) -> prometheus::Result<String> {
        lock(&self.0.sources).values().for_each(SourceMetrics::refresh);
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl SourceMetrics {
    fn new(name: &str, families: &Families) -> Self {
        let (source, watched) = (&[name], &families.watched);
        let metrics = Self {
            rows_marked: families.rows_marked.with_label_values(source),
            rows_redelivered: families.rows_redelivered.with_label_values(source),
            rows_passed_over: families.rows_passed_over.with_label_values(source),
            dead_letters: families.dead_letters.with_label_values(source),
            rows_purged: families.rows_purged.with_label_values(source),
            partitions_dropped: families.partitions_dropped.with_label_values(source),
            trace_spans_dropped: families.trace_spans_dropped.with_label_values(source),
            lag_bytes: watched.lag_bytes.with_label_values(source),
            lag_seconds: families.lag_seconds.with_label_values(source),
            unpublished_rows: watched.unpublished_rows.with_label_values(source),
            oldest_unmarked: watched.oldest_unmarked.with_label_values(source),
            slot_retained_bytes: watched.slot_retained_bytes.with_label_values(source),
            slot_spilled_bytes: watched.slot_spilled_bytes.with_label_values(source),
            monitor_up: watched.monitor_up.with_label_values(source),
            monitor_age: watched.monitor_age.with_label_values(source),
            publish_latency: families.publish_latency.with_label_values(source),
            mark_latency: families.mark_latency.with_label_values(source),
            kafka_transaction_seconds: families.kafka_transaction_seconds.with_label_values(source),
            in_flight_bytes: families.in_flight_bytes.with_label_values(source),
            name: name.into(),
            events_published: families.events_published.clone(),
            topics: Arc::default(),
            topic_latency: families.topic_latency.clone(),
            timed_topics: Arc::default(),
            kafka_transactions: Outcome::ALL
                .map(|outcome| families.kafka_transactions.with_label_values(&[name, outcome.as_str()])),
            slot_wal_status: WAL_STATUSES.map(|status| watched.slot_wal_status.with_label_values(&[name, status])),
            states: SourceState::ALL.map(|state| families.source_state.with_label_values(&[name, state.as_str()])),
            errors: families.errors.clone(),
            shown: Arc::new(Mutex::new(Shown::new())),
        };
        // An error in the configuration ends the process before there is a source.
        for code in Code::ALL.iter().filter(|code| code.class() != Class::Config) {
            let _ = metrics.errors.with_label_values(&[name, code.as_str()]);
        }
        metrics.set_state(SourceState::Starting);
        metrics.saw_nothing();
        metrics
    }

    /// The counter of records committed to `topic`. This is a lookup: keep the handle as long as
    /// the topic stays the same. A template over an id has no end of topics, so those beyond
    /// [`TOPICS`] share one counter.
    #[must_use]
    pub(crate) fn events_published(&self, topic: &str) -> IntCounter {
        let label = label(&self.topics, topic, TOPICS);
        self.events_published.with_label_values(&[&*self.name, label])
    }

    /// The time from the commit in Postgres to the commit in Kafka of what goes to `topic`, in
    /// seconds. A lookup as [`Self::events_published`], with the bound [`TIMED_TOPICS`].
    #[must_use]
    pub(crate) fn topic_latency(&self, topic: &str) -> Histogram {
        let label = label(&self.timed_topics, topic, TIMED_TOPICS);
        self.topic_latency.with_label_values(&[&*self.name, label])
    }

    /// Counts a Kafka transaction.
    pub(crate) fn kafka_transaction(&self, outcome: Outcome) {
        self.kafka_transactions[outcome as usize].inc();
    }

    /// Shows the slot's `wal_status`, as `pg_replication_slots` has it. With anything else (no
    /// slot, NULL) all series are 0.
    fn set_slot_wal_status(&self, status: &str) {
        for (name, gauge) in WAL_STATUSES.iter().zip(&self.slot_wal_status) {
            gauge.set(i64::from(*name == status));
        }
    }

    /// Shows what the source does from now on.
    pub(crate) fn set_state(&self, state: SourceState) {
        let mut shown = lock(&self.shown);
        shown.enter(state);
        for (other, gauge) in SourceState::ALL.iter().zip(&self.states) {
            gauge.set(i64::from(*other == state));
        }
    }

    /// Shows that a start is under way. After an error the source goes on showing that it tries
    /// again, until it has succeeded.
    pub(crate) fn set_starting(&self) {
        if !self.has_to_prove_itself() {
            self.set_state(SourceState::Starting);
        }
    }

    /// Whether the source failed, and has published nothing since then.
    #[must_use]
    pub(crate) fn has_to_prove_itself(&self) -> bool {
        matches!(self.state(), SourceState::Retrying | SourceState::Halted)
    }

    /// What the source does.
    #[must_use]
    pub(crate) fn state(&self) -> SourceState {
        lock(&self.shown).state
    }

    /// The published position, if it is known.
    #[must_use]
    pub(crate) fn position(&self) -> Option<Lsn> {
        lock(&self.shown).position
    }

    /// Shows the lag as the stream knows it.
    pub(crate) fn set_lag(&self, lag: Lag) {
        lock(&self.shown).streamed = lag;
    }

    /// Counts an error and keeps it for `/status`.
    pub(crate) fn error(&self, error: &Error) {
        self.count(error.code());
        lock(&self.shown).fail(error);
    }

    /// Counts an error that says nothing of the source's own state.
    pub(crate) fn count(&self, code: Code) {
        self.errors.with_label_values(&[&*self.name, code.as_str()]).inc();
    }

    /// The last error has healed.
    pub(crate) fn healed(&self) {
        lock(&self.shown).heal();
    }

    /// Shows the published position.
    pub(crate) fn set_position(&self, position: Lsn) {
        lock(&self.shown).position = Some(position);
    }

    /// Notes that the supervisor of the source is alive. After the first beat `/livez` fails when
    /// no beat comes for a minute, unless the source has halted.
    pub(crate) fn beat(&self) {
        lock(&self.shown).beat = Some(Instant::now());
    }

    /// Shows what the monitor has just seen.
    pub(crate) fn saw(&self, sight: Sight) {
        self.monitor_up.set(1);
        self.show(Some(&sight));
        lock(&self.shown).saw(sight);
    }

    /// Shows that the monitor could not look.
    pub(crate) fn saw_nothing(&self) {
        self.monitor_up.set(0);
        self.show(None);
        lock(&self.shown).saw_nothing();
    }

    fn show(&self, sight: Option<&Sight>) {
        let slot = sight.and_then(|sight| sight.slot.as_ref()).map(|seen| &seen.slot);
        let bytes = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64);
        self.lag_bytes.set(bytes(sight.and_then(|sight| sight.lag_bytes)));
        self.unpublished_rows.set(bytes(sight.and_then(|sight| sight.unpublished_rows)));
        let oldest = sight.and_then(|sight| sight.oldest_unmarked);
        self.oldest_unmarked.set(oldest.map_or(f64::NAN, |age| age.as_secs_f64()));
        self.slot_retained_bytes.set(bytes(slot.and_then(|slot| slot.retained_bytes)));
        self.slot_spilled_bytes.set(bytes(sight.and_then(|sight| sight.spilled_bytes)));
        self.set_slot_wal_status(slot.and_then(|slot| slot.wal_status.as_deref()).unwrap_or_default());
    }

    /// Brings the ages up to this moment.
    fn refresh(&self) {
        let shown = lock(&self.shown);
        self.lag_seconds.set(shown.lag().seconds(SystemTime::now()).unwrap_or(f64::NAN));
        self.monitor_age.set(shown.seen_at.map_or(f64::NAN, |seen| seen.elapsed().as_secs_f64()));
    }

    /// Where the source stands at this moment.
    #[must_use]
    pub(crate) fn standing(&self) -> Standing {
        lock(&self.shown).standing(&self.name)
    }
}

/// A panic in another thread does not spoil what these locks protect, since every statement leaves
/// it whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `ProcessCollector` cannot be cloned.
#[derive(Clone)]
struct ProcessCollectorHandle(Arc<ProcessCollector>);

impl ProcessCollectorHandle {
    fn new() -> Self {
        Self(Arc::new(ProcessCollector::for_self()))
    }
}

impl Collector for ProcessCollectorHandle {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.0.collect()
    }
}

/// The label of a topic: its name, as long as no more than `most` have one.
fn label<'a>(known: &Mutex<HashSet<Box<str>>>, topic: &'a str, most: usize) -> &'a str {
    let mut known = lock(known);
    if known.contains(topic) {
        return topic;
    }
    if known.len() >= most {
        return OTHER_TOPICS;
    }
    known.insert(topic.into());
    topic
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are a contract: dashboards and alerts use them.
    const NAMES: &[&str] = &[
        "outboxd_build_info",
        "outboxd_dead_letters_total",
        "outboxd_errors_total",
        "outboxd_in_flight_bytes",
        "outboxd_kafka_transaction_seconds",
        "outboxd_kafka_transactions_total",
        "outboxd_mark_latency_seconds",
        "outboxd_monitor_age_seconds",
        "outboxd_monitor_up",
        "outboxd_oldest_unmarked_seconds",
        "outboxd_partitions_dropped_total",
        "outboxd_publish_latency_seconds",
        "outboxd_replication_lag_bytes",
        "outboxd_replication_lag_seconds",
        "outboxd_rows_marked_total",
        "outboxd_rows_passed_over_total",
        "outboxd_rows_purged_total",
        "outboxd_rows_redelivered_total",
        "outboxd_slot_retained_bytes",
        "outboxd_slot_spilled_bytes",
        "outboxd_slot_wal_status",
        "outboxd_source_state",
        "outboxd_trace_spans_dropped_total",
        "outboxd_unpublished_rows",
    ];

    fn families(text: &str) -> Vec<&str> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.filter_map(|line| line.split(' ').next()).collect()
    }

    #[test]
    fn the_families_are_those_of_the_contract_from_the_start() {
        let metrics = Metrics::new();
        let _ = metrics.source("order");
        let text = metrics.render().unwrap();
        let ours: Vec<_> = families(&text).into_iter().filter(|name| name.starts_with("outboxd_")).collect();
        assert_eq!(ours, NAMES);
        assert!(families(&text).contains(&"process_resident_memory_bytes"), "{text}");
        for line in text.lines().filter(|line| line.starts_with("outboxd_") && !line.starts_with("outboxd_build_info"))
        {
            assert!(line.contains("source=\"order\""), "{line}");
        }
    }

    #[test]
    fn a_published_row_is_counted_under_its_topic() {
        let metrics = Metrics::new();
        metrics.source("order").events_published("order.events").inc_by(3);
        let text = metrics.render().unwrap();
        assert!(text.contains(r#"outboxd_events_published_total{source="order",topic="order.events"} 3"#), "{text}");
    }

    #[test]
    fn topics_beyond_the_bound_share_one_counter() {
        let metrics = Metrics::new();
        let source = metrics.source("order");
        for topic in 0..TOPICS + 5 {
            source.events_published(&format!("t{topic}")).inc();
            source.topic_latency(&format!("t{topic}")).observe(0.1);
        }
        let text = metrics.render().unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("outboxd_events_published_total{")).count(), TOPICS + 1);
        assert!(text.contains(r#"outboxd_events_published_total{source="order",topic="(others)"} 5"#), "{text}");
        let timed = text.lines().filter(|line| line.starts_with("outboxd_topic_latency_seconds_count{"));
        assert_eq!(timed.count(), TIMED_TOPICS + 1);
    }

    #[test]
    fn exactly_one_state_and_one_wal_status_is_1() {
        let metrics = Metrics::new();
        let source = metrics.source("order");
        source.set_state(SourceState::Streaming);
        source.set_slot_wal_status("extended");
        let text = metrics.render().unwrap();
        let ones: Vec<_> = text.lines().filter(|line| line.ends_with("} 1") && !line.contains("build_info")).collect();
        assert_eq!(
            ones,
            [
                r#"outboxd_slot_wal_status{source="order",status="extended"} 1"#,
                r#"outboxd_source_state{source="order",state="streaming"} 1"#
            ]
        );
    }

    #[test]
    fn a_start_after_an_error_is_retrying_until_it_has_succeeded() {
        let metrics = Metrics::new();
        let source = metrics.source("order");
        let state = || metrics.standings()[0].state();
        source.set_state(SourceState::Standby);
        source.set_starting();
        assert_eq!(state(), Some(SourceState::Starting));
        source.set_state(SourceState::Retrying);
        source.set_starting();
        assert_eq!(state(), Some(SourceState::Retrying));
        source.set_state(SourceState::Streaming);
        source.set_starting();
        assert_eq!(state(), Some(SourceState::Starting));
    }

    #[test]
    fn an_error_is_counted_and_shown() {
        let metrics = Metrics::new();
        let source = metrics.source("order");
        source.error(&Error::new(Code::SlotMissing, "slot outboxd_order"));
        source.kafka_transaction(Outcome::Unknown);
        let text = metrics.render().unwrap();
        assert!(text.contains(r#"outboxd_errors_total{code="slot-missing",source="order"} 1"#), "{text}");
        assert!(text.contains(r#"outboxd_kafka_transactions_total{outcome="unknown",source="order"} 1"#), "{text}");
        let error = metrics.standings()[0].daemon.clone().unwrap().last_error.unwrap().problem;
        assert_eq!((error.code, error.message.as_str()), ("slot-missing", "slot outboxd_order"));
    }

    #[test]
    fn the_same_name_gives_the_same_handles() {
        let metrics = Metrics::new();
        metrics.source("order").rows_marked.inc();
        assert_eq!(metrics.source("order").rows_marked.get(), 1);
        assert_eq!(metrics.standings().len(), 1);
    }
}
