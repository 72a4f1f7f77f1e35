//! Measures how fast outboxd drains a backlog.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use testbed::{Daemon, reader};
use tokio_postgres::Client;

use super::{
    setting::{Setting, Source, say, streaming},
    shape::Shape,
};
use crate::host::{Processor, thread_times};

/// How often the daemon is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A drain by outboxd. Processor times are in seconds per million rows.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    /// Rows a second from the line "streaming" to the last row published, or marked.
    pub(crate) rate: f64,
    /// Rows a second from the start of the process.
    wall_rate: f64,
    /// Rows a second between a tenth and nine tenths of the rows.
    steady_rate: f64,
    /// Processor time of the daemon, once with its start and once from the line "streaming" on.
    pub(crate) processor: f64,
    pub(crate) processor_streaming: f64,
    /// Processor time of the walsender and of the daemon's SQL sessions, with their start.
    walsender: f64,
    sessions: f64,
    kafka: f64,
    pub(crate) peak_mib: f64,
    /// Processor seconds by the daemon's threads.
    threads: Vec<(String, f64)>,
    /// Kafka transactions.
    transactions: f64,
}

pub(crate) async fn checkpoint(client: &Client) -> Result<()> {
    Ok(client.batch_execute("CHECKPOINT").await?)
}

/// Longest time for a drain of this many rows.
pub(crate) fn patience(rows: i64) -> Duration {
    Duration::from_secs(300) + Duration::from_millis(rows.unsigned_abs() / 5)
}

/// Drains the backlog of one source, and counts the records.
pub(crate) async fn run(setting: &Setting, source: &Source, client: &Client, shape: Shape) -> Result<Drain> {
    checkpoint(client).await?;
    say(&format!("outboxd drains, mark = \"{}\", {}", source.mark, source.delivery));
    let kafka = Processor::of(setting.kafka.pid(0)?)?;
    let kafka_before = kafka.time()?;
    let started = Instant::now();
    let daemon = setting.daemon(std::slice::from_ref(source))?;
    streaming(&daemon).await?;
    let streaming = Instant::now();
    let processor = Processor::of(daemon.pid()?)?;
    let processor_before = processor.time()?;
    let walsender = walsender(client, source).await?;

    let rows = shape.rows as f64;
    let Progress { tenth, nine_tenths, done } = progress(&daemon, source.mark, shape.rows).await?;
    let per_million = |time: Duration| time.as_secs_f64() / (rows / 1e6);
    let used = processor.time()?;
    let drain = Drain {
        rate: rows / (done - streaming).as_secs_f64(),
        wall_rate: rows / (done - started).as_secs_f64(),
        steady_rate: Progress::rate(tenth, nine_tenths),
        processor: per_million(used),
        processor_streaming: per_million(used - processor_before),
        walsender: per_million(walsender.time()?),
        kafka: per_million(kafka.time()? - kafka_before),
        sessions: per_million(sessions(client).await?),
        peak_mib: daemon.peak_resident()? as f64 / 1_048_576.0,
        threads: thread_times(daemon.pid()?)?,
        transactions: transactions(&daemon).await?,
    };
    daemon.term()?;
    ensure!(daemon.wait_exit(patience(0)).await? == 0, "{}", daemon.lines().join("\n"));
    // The numbers are worth nothing if the records are not there.
    let records = reader::count_committed(&setting.kafka.brokers(), &[&source.topic()]).await?;
    ensure!(records == u64::try_from(shape.rows)?, "{records} records of {} rows", shape.rows);
    say(&format!("  {:.0} rows/s", drain.rate));
    Ok(drain)
}

/// How many rows the daemon had done at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    at: Instant,
    rows: f64,
}

/// The first looks at which a tenth, nine tenths and all of the rows were done.
pub(crate) struct Progress {
    pub(crate) tenth: Look,
    pub(crate) nine_tenths: Look,
    pub(crate) done: Instant,
}

impl Progress {
    /// Rows a second between two looks, which may be the same look.
    pub(crate) fn rate(from: Look, to: Look) -> f64 {
        (to.rows - from.rows) / (to.at - from.at).max(LOOK_EVERY).as_secs_f64()
    }
}

pub(crate) async fn progress(daemon: &Daemon, mark: &str, rows: i64) -> Result<Progress> {
    let (started, patience, all) = (Instant::now(), patience(rows), rows as f64);
    let (mut tenth, mut nine_tenths) = (None, None);
    loop {
        let rows = done(daemon, mark).await?;
        let now = Instant::now();
        if rows >= all * 0.1 {
            tenth.get_or_insert(Look { at: now, rows });
        }
        if rows >= all * 0.9 {
            nine_tenths.get_or_insert(Look { at: now, rows });
        }
        if rows >= all {
            let (tenth, nine_tenths) = tenth.zip(nine_tenths).context("no rows")?;
            return Ok(Progress { tenth, nine_tenths, done: now });
        }
        if started.elapsed() > patience {
            bail!("{rows} of {all} rows within {patience:?}:\n{}", daemon.lines().join("\n"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Rows that all sources of the daemon have published, or marked where they mark.
pub(crate) async fn done(daemon: &Daemon, mark: &str) -> Result<f64> {
    let counter = if mark == "none" { "outboxd_events_published_total{" } else { "outboxd_rows_marked_total{" };
    metric(daemon, counter).await
}

async fn walsender(client: &Client, source: &Source) -> Result<Processor> {
    let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let pid: Option<i32> = client.query_one(query, &[&source.slot()]).await?.get(0);
    Processor::of(u32::try_from(pid.context("nobody reads the slot")?)?)
}

/// Processor time that the daemon's SQL sessions have used since they began.
async fn sessions(client: &Client) -> Result<Duration> {
    Ok(backends(client, "client backend").await?.values().sum())
}

/// Processor time that all walsenders of the daemon have used.
pub(crate) async fn walsenders(client: &Client) -> Result<Duration> {
    Ok(backends(client, "walsender").await?.values().sum())
}

/// Processor time that each of the daemon's sessions of this kind has used since it began.
pub(crate) async fn backends(client: &Client, kind: &str) -> Result<BTreeMap<u32, Duration>> {
    let query = "SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = $2";
    let mut used = BTreeMap::new();
    for row in client.query(query, &[&testbed::postgres::ROLE, &kind]).await? {
        let pid = u32::try_from(row.get::<_, i32>(0))?;
        used.insert(pid, Processor::of(pid)?.time()?);
    }
    Ok(used)
}

/// How many batches Kafka has committed or, at least once, acknowledged.
pub(crate) async fn transactions(daemon: &Daemon) -> Result<f64> {
    metric(daemon, "outboxd_kafka_transactions_total{outcome=\"committed\"").await
}

/// The sum of all samples whose line begins with `start`.
async fn metric(daemon: &Daemon, start: &str) -> Result<f64> {
    let (_, text) = daemon.http_get("/metrics").await?;
    let samples = text.lines().filter(|line| line.starts_with(start));
    Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// The columns of a drain. Each line compares with the rate of its reference.
pub(crate) const COLUMNS: [&str; 10] = [
    "rows/s",
    "steady",
    "with start-up",
    "of its reference",
    "CPU s/M rows",
    "walsender",
    "sessions",
    "Kafka",
    "peak MiB",
    "Kafka transactions",
];

impl Drain {
    pub(crate) fn cells(&self, reference: f64) -> Vec<String> {
        let mut cells: Vec<_> = [self.rate, self.steady_rate, self.wall_rate].map(|rate| format!("{rate:.0}")).into();
        cells.push(format!("{:.2}", self.rate / reference));
        cells
            .extend([self.processor, self.walsender, self.sessions, self.kafka].map(|seconds| format!("{seconds:.1}")));
        cells.extend([self.peak_mib, self.transactions].map(|number| format!("{number:.0}")));
        cells
    }

    /// The cells of a reference, of which only the rate is known.
    pub(crate) fn reference_cells(rate: f64, of: f64) -> Vec<String> {
        let mut cells = vec![String::new(); COLUMNS.len()];
        cells[0] = format!("{rate:.0}");
        cells[3] = format!("{:.2}", rate / of);
        cells
    }

    /// ``"`relay-none` 0.55, …"``
    pub(crate) fn thread_list(&self) -> String {
        self.threads.iter().map(|(name, time)| format!("`{name}` {time:.2}")).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn json(&self) -> Value {
        let threads: Map<_, _> = self.threads.iter().map(|(name, time)| (name.clone(), json!(time))).collect();
        json!({
            "rows_per_second": self.rate,
            "steady_rows_per_second": self.steady_rate,
            "rows_per_second_with_start": self.wall_rate,
            "cpu_seconds_per_million_rows": self.processor,
            "cpu_seconds_per_million_rows_streaming": self.processor_streaming,
            "walsender_cpu_seconds_per_million_rows": self.walsender,
            "sessions_cpu_seconds_per_million_rows": self.sessions,
            "kafka_cpu_seconds_per_million_rows": self.kafka,
            "peak_resident_mib": self.peak_mib,
            "kafka_transactions": self.transactions,
            "cpu_seconds_by_thread": threads,
        })
    }
}
