//! From the answer to COMMIT until a `read_committed` consumer has the record. One process has both clocks.

use crate::setting::{Setting, Source, TABLE, say, streaming};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use testbed::reader::{Follower, From};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

const DATABASE: &str = "latency";
const TOPIC: &str = "latency.events";
const PATIENCE: Duration = Duration::from_secs(60);

/// Sessions that write under load.
const WRITERS: u32 = 8;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) idle: usize,
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
}

/// Milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Latency {
    pub(crate) what: String,
    pub(crate) rows: usize,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

pub(crate) async fn measure(setting: &Setting, amount: Amount) -> Result<Vec<Latency>> {
    let client = setting.database(DATABASE).await?;
    let source = Source { name: "latency", database: DATABASE, topic: TOPIC, mark: "update" };
    setting.set_up(&client, &source).await?;
    let mut follower = Follower::start(&setting.kafka.brokers(), &[TOPIC], From::End).await?;

    say("start to first record");
    let insert = prepare(&client).await?;
    client.execute(&insert, &[&Uuid::new_v4()]).await?;
    let started = Instant::now();
    let daemon = setting.daemon(&source)?;
    let (_, arrived) = follower.next(PATIENCE).await?;
    let mut found = vec![Latency::of("process start to its first record", vec![arrived - started])];
    streaming(&daemon).await?;

    say("single rows while idle");
    let mut idle = Vec::new();
    for _ in 0..amount.idle {
        client.execute(&insert, &[&Uuid::new_v4()]).await?;
        let committed = Instant::now();
        let (_, arrived) = follower.next(PATIENCE).await?;
        idle.push(arrived.saturating_duration_since(committed));
        // Idle again, marks and all.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..20))).await;
    }
    found.push(Latency::of("idle, one row at a time", idle));

    say("under load");
    found.push(loaded(setting, &mut follower, amount).await?);
    daemon.term()?;
    daemon.wait_exit(PATIENCE).await?;
    Ok(found)
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

async fn loaded(setting: &Setting, follower: &mut Follower, amount: Amount) -> Result<Latency> {
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let client = setting.postgres.client(DATABASE).await?;
        let pause = Duration::from_secs(1) * WRITERS / amount.rate;
        let rows = amount.rate * amount.seconds / WRITERS;
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
        Self { what: what.to_owned(), rows: found.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}
