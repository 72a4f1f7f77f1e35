//! The names of the metrics, what they mean, and their labels. The names are a contract: dashboards
//! and alerts use them.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector};

/// The buckets reach from 1 ms to 60 s: a lone transaction takes a few milliseconds, and a retry
/// many seconds.
const LATENCY_BUCKETS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// The families, whose `source` label is not filled in yet.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) events_published: IntCounterVec,
    pub(super) rows_marked: IntCounterVec,
    pub(super) rows_redelivered: IntCounterVec,
    pub(super) rows_passed_over: IntCounterVec,
    pub(super) dead_letters: IntCounterVec,
    pub(super) rows_purged: IntCounterVec,
    pub(super) partitions_dropped: IntCounterVec,
    pub(super) trace_spans_dropped: IntCounterVec,
    pub(super) lag_seconds: GaugeVec,
    pub(super) publish_latency: HistogramVec,
    pub(super) topic_latency: HistogramVec,
    pub(super) mark_latency: HistogramVec,
    pub(super) kafka_transactions: IntCounterVec,
    pub(super) kafka_transaction_seconds: HistogramVec,
    pub(super) in_flight_bytes: IntGaugeVec,
    pub(super) source_state: IntGaugeVec,
    pub(super) errors: IntCounterVec,
    pub(super) watched: Watched,
}

/// What only a look at Postgres tells.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) lag_bytes: GaugeVec,
    pub(super) unpublished_rows: GaugeVec,
    pub(super) oldest_unmarked: GaugeVec,
    pub(super) slot_retained_bytes: GaugeVec,
    pub(super) slot_spilled_bytes: GaugeVec,
    pub(super) monitor_up: IntGaugeVec,
    pub(super) monitor_age: GaugeVec,
    pub(super) slot_wal_status: IntGaugeVec,
}

impl Watched {
    fn new(registry: &Registry) -> Self {
        let gauge = |name, help, labels: &[&str]| register(registry, IntGaugeVec::new(Opts::new(name, help), labels));
        let number = |name, help, labels: &[&str]| register(registry, GaugeVec::new(Opts::new(name, help), labels));
        let source = &["source"];
        Self {
            lag_bytes: number(
                "outboxd_replication_lag_bytes",
                "Bytes of WAL between the end of the server's log and what is published and marked; NaN when unknown.",
                source,
            ),
            unpublished_rows: number(
                "outboxd_unpublished_rows",
                "Rows of the tables without a mark, with at most 1000000 counted in each; NaN when unknown.",
                source,
            ),
            oldest_unmarked: number(
                "outboxd_oldest_unmarked_seconds",
                "Age of the oldest row without a mark, by its creation time; 0 when there is none, NaN when unknown.",
                source,
            ),
            slot_retained_bytes: number(
                "outboxd_slot_retained_bytes",
                "Bytes of WAL that the replication slot keeps on the server; NaN when unknown.",
                source,
            ),
            slot_spilled_bytes: number(
                "outboxd_slot_spilled_bytes",
                "Bytes that the server wrote to disk to decode large transactions for the slot; NaN when unknown.",
                source,
            ),
            monitor_up: gauge(
                "outboxd_monitor_up",
                "1 when the last look at Postgres succeeded. It goes on in every state of the source.",
                source,
            ),
            monitor_age: number(
                "outboxd_monitor_age_seconds",
                "Age of the last look at Postgres that succeeded; NaN before the first one.",
                source,
            ),
            slot_wal_status: gauge(
                "outboxd_slot_wal_status",
                "1 for the slot's wal_status in pg_replication_slots, 0 for the others.",
                &["source", "status"],
            ),
        }
    }
}

impl Families {
    pub(super) fn new(registry: &Registry) -> Self {
        let counter =
            |name, help, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name, help, labels: &[&str]| register(registry, IntGaugeVec::new(Opts::new(name, help), labels));
        let number = |name, help, labels: &[&str]| register(registry, GaugeVec::new(Opts::new(name, help), labels));
        let seconds_by = |name, help, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
            register(registry, HistogramVec::new(opts, labels))
        };
        let seconds = |name, help| seconds_by(name, help, &["source"]);
        let source = &["source"];
        Self {
            events_published: counter(
                "outboxd_events_published_total",
                "Records committed to Kafka, by topic.",
                &["source", "topic"],
            ),
            rows_marked: counter("outboxd_rows_marked_total", "Rows whose mark is durable in Postgres.", source),
            rows_redelivered: counter(
                "outboxd_rows_redelivered_total",
                "Rows that Postgres sent again and that were not published again.",
                source,
            ),
            rows_passed_over: counter("outboxd_rows_passed_over_total", "Rows with their mark, or not ours.", source),
            dead_letters: counter("outboxd_dead_letters_total", "Rows sent to the dead-letter topic.", source),
            rows_purged: counter("outboxd_rows_purged_total", "Published rows deleted by retention.", source),
            partitions_dropped: counter("outboxd_partitions_dropped_total", "Partitions dropped by retention.", source),
            trace_spans_dropped: counter(
                "outboxd_trace_spans_dropped_total",
                "Spans that the collector did not get.",
                source,
            ),
            lag_seconds: number(
                "outboxd_replication_lag_seconds",
                "Age of the oldest committed, unpublished row; 0 when caught up, NaN when unknown.",
                source,
            ),
            publish_latency: seconds(
                "outboxd_publish_latency_seconds",
                "Time from the commit in Postgres to the commit in Kafka, of the oldest row of each Kafka transaction.",
            ),
            topic_latency: seconds_by(
                "outboxd_topic_latency_seconds",
                "The same of the Kafka transactions with records of a topic, for the first topics of a source.",
                &["source", "topic"],
            ),
            mark_latency: seconds(
                "outboxd_mark_latency_seconds",
                "Time from the commit in Kafka to the durable mark in Postgres, of the oldest rows of each marking job.",
            ),
            kafka_transactions: counter(
                "outboxd_kafka_transactions_total",
                "Kafka transactions, by how they ended.",
                &["source", "outcome"],
            ),
            kafka_transaction_seconds: seconds(
                "outboxd_kafka_transaction_seconds",
                "Time from the begin to the end of a Kafka transaction.",
            ),
            in_flight_bytes: gauge("outboxd_in_flight_bytes", "Bytes of encoded records held in memory.", source),
            source_state: gauge(
                "outboxd_source_state",
                "1 for what the source is doing, 0 for the other states.",
                &["source", "state"],
            ),
            errors: counter("outboxd_errors_total", "Errors, by code.", &["source", "code"]),
            watched: Watched::new(registry),
        }
    }
}

/// Registers a literal metric.
pub(super) fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    // Names, labels and buckets are literals of this file, and each is registered once in a new
    // registry. Every test that makes a `Metrics` proves that this works.
    #[expect(clippy::expect_used)]
    let collector = collector.expect("a literal metric is well formed");
    #[expect(clippy::expect_used)]
    registry.register(Box::new(collector.clone())).expect("a literal metric is registered once");
    collector
}
