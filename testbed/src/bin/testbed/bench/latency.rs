//! Measures the time from the answer to COMMIT until a `read_committed` consumer has the record.
//! One process reads both clocks.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use testbed::{
    Daemon,
    reader::{Follower, From},
};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::{
    drain::{checkpoint, transactions},
    report::Report,
    setting::{Setting, Source, TABLE, Via, say, streaming},
    table::Table,
};
use crate::host::{Processor, thread_times};

const DATABASE: &str = "latency";
const PATIENCE: Duration = Duration::from_secs(60);

/// Smallest number of sessions that write under load. A high rate has more: one for each
/// `RATE_OF_WRITER` transactions a second.
const WRITERS: u32 = 8;
const RATE_OF_WRITER: u32 = 150;

/// Transactions a second, and their seconds, before anything is measured. A broker that has just
/// started spends a quarter of two cores on compiling the code that a transaction of a few rows
/// needs. A broker in service did so long ago.
const WARM_UP_RATE: u32 = 1_000;
const WARM_UP_SECONDS: u32 = 30;

/// How many of the broker's threads are told.
const THREADS: usize = 8;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Amount {
    pub(crate) idle: usize,
    /// Transactions a second of each load, one load after the other.
    pub(crate) rates: Vec<u32>,
    pub(crate) seconds: u32,
    /// Deliveries, and the ways of the rows. Each combination is measured by itself.
    pub(crate) deliveries: Vec<&'static str>,
    pub(crate) ways: Vec<Via>,
}

/// Milliseconds, and what a load took.
struct Latency {
    what: String,
    rows: usize,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    load: Option<Use>,
}

/// What a load took each second, on average.
#[derive(Debug, Clone)]
struct Use {
    /// Kafka transactions, or batches where there is no transaction.
    transactions: f64,
    /// Cores of the broker and of the daemon.
    kafka: f64,
    daemon: f64,
    /// Cores of the broker's threads, by their names, the busiest first.
    kafka_threads: Vec<(String, f64)>,
}

pub(crate) async fn measure(setting: &Setting, amount: &Amount, report: &mut Report) -> Result<()> {
    let client = setting.database(DATABASE).await?;
    settle(&client).await?;
    let mut found = Vec::new();
    for delivery in &amount.deliveries {
        for via in &amount.ways {
            let name = format!("latency_{}", found.len());
            let source = Source { delivery, via: Some(*via), ..Source::new(DATABASE, &name, "update") };
            say(&format!("latency, {delivery}, {via}"));
            let latencies = measure_one(setting, amount, &client, source).await?;
            found.push(Series { delivery, via: *via, found: latencies });
        }
    }
    write(report, &found);
    Ok(())
}

/// The latencies of one source.
struct Series {
    delivery: &'static str,
    via: Via,
    found: Vec<Latency>,
}

async fn measure_one(setting: &Setting, amount: &Amount, client: &Client, source: Source) -> Result<Vec<Latency>> {
    setting.set_up(client, &source).await?;
    let mut follower = Follower::start(&setting.kafka.brokers(), &[&source.topic()], From::End).await?;

    say("start to first record");
    let insert = prepare(client).await?;
    client.execute(&insert, &[&Uuid::new_v4()]).await?;
    let started = Instant::now();
    let daemon = setting.daemon(std::slice::from_ref(&source))?;
    let (_, arrived) = follower.next(PATIENCE).await?;
    let mut found = vec![Latency::of("process start to its first record", vec![arrived - started])];
    streaming(&daemon).await?;

    say("warming up");
    loaded(setting, &daemon, &mut follower, WARM_UP_RATE, WARM_UP_SECONDS).await?;

    say("single rows while idle");
    let mut idle = Vec::new();
    for _ in 0..amount.idle {
        client.execute(&insert, &[&Uuid::new_v4()]).await?;
        let committed = Instant::now();
        let (_, arrived) = follower.next(PATIENCE).await?;
        idle.push(arrived.saturating_duration_since(committed));
        // Now the daemon is idle again, and has marked the row.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..20))).await;
    }
    found.push(Latency::of("idle, one row at a time", idle));

    for rate in &amount.rates {
        say(&format!("{rate} transactions a second"));
        found.push(loaded(setting, &daemon, &mut follower, *rate, amount.seconds).await?);
    }
    daemon.term()?;
    daemon.wait_exit(PATIENCE).await?;
    setting.drop_slot(&source.slot()).await?;
    Ok(found)
}

/// Writes what the drains left onto the disk. Otherwise that would disturb the commits that are
/// measured.
async fn settle(client: &Client) -> Result<()> {
    checkpoint(client).await?;
    Ok(tokio::task::spawn_blocking(nix::unistd::sync).await?)
}

async fn prepare(client: &Client) -> Result<Statement> {
    let insert = format!(
        "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, event_type, payload)
         VALUES ($1, 'order', gen_random_uuid(), 'OrderCreated', jsonb_build_object('order_id', gen_random_uuid(),
            'order_number', 'ORD-123456', 'user_id', gen_random_uuid(), 'total', 1500.00, 'shipping_address',
            jsonb_build_object('line1', '123 Main St', 'city', 'Mumbai', 'state', 'Maharashtra', 'pincode', '400001')))"
    );
    Ok(client.prepare(&insert).await?)
}

async fn loaded(
    setting: &Setting,
    daemon: &Daemon,
    follower: &mut Follower,
    rate: u32,
    seconds: u32,
) -> Result<Latency> {
    let meter = Meter::start(setting, daemon).await?;
    let mut writers = JoinSet::new();
    let count = WRITERS.max(rate.div_ceil(RATE_OF_WRITER));
    for _ in 0..count {
        let client = setting.postgres.client(DATABASE).await?;
        let pause = Duration::from_secs(1) * count / rate;
        let rows = rate * seconds / count;
        writers.spawn(async move {
            let insert = prepare(&client).await?;
            let mut pace = tokio::time::interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut committed = Vec::new();
            for _ in 0..rows {
                pace.tick().await;
                let id = Uuid::new_v4();
                client.execute(&insert, &[&id]).await?;
                committed.push((id.to_string(), Instant::now()));
            }
            anyhow::Ok(committed)
        });
    }
    let started = Instant::now();
    let mut committed = HashMap::new();
    while let Some(writer) = writers.join_next().await {
        committed.extend(writer??);
    }
    let reached = committed.len() as f64 / started.elapsed().as_secs_f64();
    let load = meter.stop(daemon).await?;
    let mut latencies = Vec::new();
    while latencies.len() < committed.len() {
        let (record, arrived) = follower.next(PATIENCE).await?;
        let id = record.header_str("event_id").context("a record without event_id")?;
        let committed = committed.get(id).with_context(|| format!("event {id} is nobody's"))?;
        latencies.push(arrived.saturating_duration_since(*committed));
    }
    let latency = Latency::of(&format!("{reached:.0} single-row transactions a second"), latencies);
    Ok(Latency { load: Some(load), ..latency })
}

/// Cores that each thread took since `before`, the busiest first.
fn since(before: &[(String, f64)], after: Vec<(String, f64)>, seconds: f64) -> Vec<(String, f64)> {
    let earlier = |name: &str| before.iter().find(|(known, _)| known == name).map_or(0.0, |(_, time)| *time);
    let mut used: Vec<_> =
        after.into_iter().map(|(name, time)| (name.clone(), (time - earlier(&name)) / seconds)).collect();
    used.sort_by(|a, b| b.1.total_cmp(&a.1));
    used.truncate(THREADS);
    used
}

/// The processor times and counters at one moment.
struct Meter {
    started: Instant,
    kafka_pid: u32,
    kafka_threads: Vec<(String, f64)>,
    kafka: Processor,
    daemon: Processor,
    kafka_before: Duration,
    daemon_before: Duration,
    transactions_before: f64,
}

impl Meter {
    async fn start(setting: &Setting, daemon: &Daemon) -> Result<Self> {
        let kafka_pid = setting.kafka.pid(0)?;
        let (kafka, process) = (Processor::of(kafka_pid)?, Processor::of(daemon.pid()?)?);
        let (kafka_before, daemon_before) = (kafka.time()?, process.time()?);
        let transactions_before = transactions(daemon).await?;
        let kafka_threads = thread_times(kafka_pid)?;
        let started = Instant::now();
        Ok(Self {
            started,
            kafka_pid,
            kafka_threads,
            kafka,
            daemon: process,
            kafka_before,
            daemon_before,
            transactions_before,
        })
    }

    async fn stop(self, daemon: &Daemon) -> Result<Use> {
        let seconds = self.started.elapsed().as_secs_f64();
        let cores = |processor: &Processor, before| {
            anyhow::Ok((processor.time()?.saturating_sub(before)).as_secs_f64() / seconds)
        };
        Ok(Use {
            transactions: (transactions(daemon).await? - self.transactions_before) / seconds,
            kafka: cores(&self.kafka, self.kafka_before)?,
            daemon: cores(&self.daemon, self.daemon_before)?,
            kafka_threads: since(&self.kafka_threads, thread_times(self.kafka_pid)?, seconds),
        })
    }
}

impl Latency {
    fn of(what: &str, mut found: Vec<Duration>) -> Self {
        found.sort_unstable();
        let at = |share: f64| {
            let index = (found.len() as f64 * share) as usize;
            found.get(index.min(found.len().saturating_sub(1))).map_or(0.0, |found| found.as_secs_f64() * 1e3)
        };
        Self {
            what: what.to_owned(),
            rows: found.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
            load: None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.rows.to_string()];
        let latencies = [self.p50, self.p90, self.p99, self.p999, self.max];
        cells.extend(latencies.map(|milliseconds| format!("{milliseconds:.1}")));
        cells.extend(match &self.load {
            Some(Use { transactions, kafka, daemon, .. }) => {
                [format!("{transactions:.0}"), format!("{:.0} %", kafka * 100.0), format!("{:.0} %", daemon * 100.0)]
            }
            None => [const { String::new() }; 3],
        });
        cells
    }

    fn json(&self) -> Value {
        let Self { what, rows, p50, p90, p99, p999, max, load } = self;
        let mut figures = json!({
            "what": what, "rows": rows, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "p99.9_ms": p999, "max_ms": max
        });
        if let Some(Use { transactions, kafka, daemon, kafka_threads }) = load {
            figures["kafka_transactions_per_second"] = json!(transactions);
            figures["kafka_cores"] = json!(kafka);
            figures["outboxd_cores"] = json!(daemon);
            figures["kafka_cores_by_thread"] =
                kafka_threads.iter().map(|(name, cores)| (name.clone(), json!(cores))).collect::<Map<_, _>>().into();
        }
        figures
    }
}

fn write(report: &mut Report, found: &[Series]) {
    let mut table =
        Table::new(&["rows", "p50", "p90", "p99", "p99.9", "max", "batches/s", "broker, of a core", "daemon"]);
    let (mut figures, mut threads) = (Vec::new(), String::new());
    for Series { delivery, via, found } in found {
        for latency in found {
            table.row(&format!("{delivery}, {via}: {}", latency.what), &latency.cells());
            let mut figure = latency.json();
            figure["via"] = json!(via.to_string());
            figure["delivery"] = json!(delivery);
            figures.push(figure);
            if let Some(load) = &latency.load {
                let names = load.kafka_threads.iter().map(|(name, cores)| format!("`{name}` {:.1} %", cores * 100.0));
                let names = names.collect::<Vec<_>>().join(", ");
                threads.push_str(&format!("\nThe broker, {delivery}, {via}, {}: {names}.\n", latency.what));
            }
        }
    }
    report.section("Commit to read_committed consumer, mark update, in ms", &format!("{}{threads}", table.text()));
    report.figure("latency", figures);
}
