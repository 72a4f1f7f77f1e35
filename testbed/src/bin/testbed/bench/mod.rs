//! `make bench`, which is `testbed bench`: outboxd beside its references, on one machine, in one
//! run.
//!
//! ```text
//!   set up: slots for all ──────▶ load rows ─▶ pg_recvlogical ─▶ bare reader ─▶ outboxd, mark none
//!                                          ─▶ the bare reader, binary ─▶ pg_recvlogical again
//!                                          ─▶ outboxd, mark update ─▶ the UPDATE alone ─▶ latency
//! ```
//! Servers and daemon share the machine, so only the ratios within a run mean something. Postgres
//! keeps its durability (`fsync`, `full_page_writes` and `synchronous_commit` are on, so marks have
//! their full cost), and makes a checkpoint before each measurement. Kafka is one broker with the
//! optimising compiler, which the tests do not use.

mod backfill;
mod bare;
mod case;
mod chart;
mod counts;
mod drain;
mod growth;
mod latency;
mod look;
mod marking;
mod matrix;
mod peer;
mod quick;
mod report;
mod setting;
mod shape;
mod shards;
mod sources;
mod table;
mod together;
mod transaction;
mod verify;

use std::{path::Path, time::Duration};

use anyhow::Result;

use self::{
    latency::Amount,
    report::Report,
    setting::{EXACTLY_ONCE, Options, Setting, Via},
    shape::Shape,
};
use crate::RESULTS;

/// Rows to drain in a plain run.
const ROWS: i64 = 500_000;

/// What a service's topics have.
const PARTITIONS: [i32; 3] = [1, 6, 24];

const DELIVERIES: [&str; 2] = [EXACTLY_ONCE, "at-least-once"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Rows to drain; by default what the mode asks for, 500,000 in a plain run
    #[arg(long)]
    rows: Option<i64>,
    /// Rows of each transaction that is drained
    #[arg(long, default_value_t = 1_000)]
    rows_per_transaction: i64,
    /// Single rows inserted while nothing else happens
    #[arg(long, default_value_t = 1_000)]
    idle_rows: usize,
    /// Single-row transactions a second under load; several with commas
    #[arg(long, default_value = "1000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    rate: Vec<u32>,
    /// Seconds of each load, or of idleness
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Where results are kept; nothing is written when empty
    #[arg(long, default_value = RESULTS)]
    results: String,
    #[command(flatten)]
    mode: Mode,
}

/// What is measured instead of the drains and latency of a plain run.
#[derive(clap::Args)]
#[group(multiple = false)]
struct Mode {
    /// Leave the drains out
    #[arg(long)]
    only_latency: bool,
    /// Latencies with 1, 6 and 24 partitions, exactly once and at least once
    #[arg(long)]
    latencies: bool,
    /// Leave latency out
    #[arg(long)]
    only_drain: bool,
    /// Drains with every mark, delivery, size of transaction and payload, one dimension at a time,
    /// and three latencies
    #[arg(long)]
    matrix: bool,
    /// Drains of 10 thousand to 10 million rows; --rows is the largest
    #[arg(long)]
    growth: bool,
    /// One transaction of 2 GB
    #[arg(long)]
    transaction: bool,
    /// One daemon with 1, 5, 20 and 50 sources, idle for --seconds and draining --rows in all
    #[arg(long)]
    sources: bool,
    /// One table drained through 1, 2 and 4 slots, whose publications share its rows by a hash of
    /// the key
    #[arg(long)]
    shards: bool,
    /// Backfills of rows from before the slot, beside a COPY of the same rows
    #[arg(long)]
    backfill: bool,
    /// System calls and allocations of a row
    #[arg(long)]
    counts: bool,
    /// What the daemon's looks at Postgres cost beside ten thousand and ten million marked rows;
    /// --rows is the larger number, each is watched for --seconds
    #[arg(long)]
    look: bool,
    /// Fill a table and a topic with this many matching events, and audit them with
    /// `outboxd verify`
    #[arg(long, value_name = "ROWS")]
    verify: Option<i64>,
}

impl Mode {
    /// The mode, which ends the result's name.
    fn name(&self) -> Option<&'static str> {
        match self {
            _ if self.matrix => Some("matrix"),
            _ if self.growth => Some("growth"),
            _ if self.transaction => Some("transaction"),
            _ if self.sources => Some("sources"),
            _ if self.shards => Some("shards"),
            _ if self.backfill => Some("backfill"),
            _ if self.counts => Some("counts"),
            _ if self.look => Some("look"),
            _ if self.only_latency => Some("latency"),
            _ if self.latencies => Some("latencies"),
            _ if self.only_drain => Some("drain"),
            _ => None,
        }
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { options, mode, results, .. } = &arguments;
    let mut report = Report::begin(mode.name(), options);
    let setting = Setting::start(options).await?;
    if let Some(rows) = mode.verify {
        return verify::measure(&setting, rows, results).await;
    }
    let outcome = measure(&setting, &arguments, &mut report).await;
    // After a failure the results so far are shown, but not kept.
    println!("\n{}", report.markdown());
    outcome?;
    if !results.is_empty() {
        println!("kept as {}", report.keep(Path::new(results))?.display());
    }
    Ok(())
}

async fn measure(setting: &Setting, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let Arguments { mode, rows, rows_per_transaction, idle_rows, rate, seconds, .. } = arguments;
    let mut amount = Amount {
        idle: *idle_rows,
        rates: rate.clone(),
        seconds: *seconds,
        deliveries: vec![EXACTLY_ONCE],
        ways: vec![arguments.options.via],
    };
    let shape = Shape::seed(rows.unwrap_or(ROWS), *rows_per_transaction);
    match mode {
        _ if mode.matrix => {
            matrix::measure(setting, shape, report).await?;
            amount.rates = matrix::RATES.into();
            latency::measure(setting, &amount, report).await
        }
        _ if mode.growth => growth::measure(setting, rows.unwrap_or(growth::ROWS), report).await,
        _ if mode.transaction => transaction::measure(setting, rows.unwrap_or(transaction::ROWS), report).await,
        _ if mode.sources => {
            let idle = Duration::from_secs((*seconds).into());
            sources::measure(setting, shape.rows, idle, report).await
        }
        _ if mode.shards => shards::measure(setting, shape, report).await,
        _ if mode.backfill => backfill::measure(setting, shape, report).await,
        _ if mode.counts => counts::measure(setting, rows.unwrap_or(counts::ROWS), report).await,
        _ if mode.look => {
            let watched = Duration::from_secs((*seconds).into());
            look::measure(setting, rows.unwrap_or(look::ROWS), watched, report).await
        }
        _ if mode.latencies => {
            let via = arguments.options.via;
            amount.ways = PARTITIONS.map(|partitions| Via { partitions, ..via }).into();
            amount.deliveries = DELIVERIES.into();
            latency::measure(setting, &amount, report).await
        }
        _ if mode.only_latency => latency::measure(setting, &amount, report).await,
        _ if mode.only_drain => quick::measure(setting, shape, report).await,
        _ => {
            quick::measure(setting, shape, report).await?;
            latency::measure(setting, &amount, report).await
        }
    }
}
