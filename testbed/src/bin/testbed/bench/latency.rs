//! Measures the time from the answer to COMMIT until a `read_committed` consumer has the record.
//! One process reads both clocks.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::reader::{Follower, From};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::{
    drain::checkpoint,
    report::Report,
    setting::{Setting, Source, TABLE, say, streaming},
    table::Table,
};

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

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Amount {
    pub(crate) idle: usize,
    /// Transactions a second of each load, one load after the other.
    pub(crate) rates: Vec<u32>,
    pub(crate) seconds: u32,
}

/// Milliseconds.
struct Latency {
    what: String,
    rows: usize,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

pub(crate) async fn measure(setting: &Setting, amount: &Amount, report: &mut Report) -> Result<()> {
    let client = setting.database(DATABASE).await?;
    settle(&client).await?;
    let source = Source::new(DATABASE, "latency", "update");
    setting.set_up(&client, &source).await?;
    let mut follower = Follower::start(&setting.kafka.brokers(), &[&source.topic()], From::End).await?;

    say("start to first record");
    let insert = prepare(&client).await?;
    client.execute(&insert, &[&Uuid::new_v4()]).await?;
    let started = Instant::now();
    let daemon = setting.daemon(&[source])?;
    let (_, arrived) = follower.next(PATIENCE).await?;
    let mut found = vec![Latency::of("process start to its first record", vec![arrived - started])];
    streaming(&daemon).await?;

    say("warming up");
    loaded(setting, &mut follower, WARM_UP_RATE, WARM_UP_SECONDS).await?;

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
        found.push(loaded(setting, &mut follower, *rate, amount.seconds).await?);
    }
    daemon.term()?;
    daemon.wait_exit(PATIENCE).await?;
    write(report, &found);
    Ok(())
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

async fn loaded(setting: &Setting, follower: &mut Follower, rate: u32, seconds: u32) -> Result<Latency> {
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
    let mut latencies = Vec::new();
    while latencies.len() < committed.len() {
        let (record, arrived) = follower.next(PATIENCE).await?;
        let id = record.header_str("event_id").context("a record without event_id")?;
        let committed = committed.get(id).with_context(|| format!("event {id} is nobody's"))?;
        latencies.push(arrived.saturating_duration_since(*committed));
    }
    Ok(Latency::of(&format!("{reached:.0} single-row transactions a second"), latencies))
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
        }
    }

    fn json(&self) -> Value {
        let Self { what, rows, p50, p90, p99, p999, max } = self;
        json!({"what": what, "rows": rows, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "p99.9_ms": p999, "max_ms": max})
    }
}

fn write(report: &mut Report, found: &[Latency]) {
    let mut table = Table::new(&["rows", "p50", "p90", "p99", "p99.9", "max"]);
    for Latency { what, rows, p50, p90, p99, p999, max } in found {
        let mut cells = vec![rows.to_string()];
        cells.extend([p50, p90, p99, p999, max].map(|milliseconds| format!("{milliseconds:.1}")));
        table.row(what, &cells);
    }
    report.section("Commit to read_committed consumer, mark update, in ms", table.text());
    report.figure("latency", found.iter().map(Latency::json).collect::<Vec<_>>());
}
