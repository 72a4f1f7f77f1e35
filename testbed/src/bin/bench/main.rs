//! `make bench`: outboxd beside `pg_recvlogical` and beside the marking UPDATE, on one machine, in one run.
//!
//! ```text
//!   set up: slots for everyone ─▶ load rows ─▶ pg_recvlogical ─▶ outboxd, mark none ─▶ pg_recvlogical again
//!                                          ─▶ outboxd, mark update ─▶ the UPDATE alone ─▶ latency
//! ```
//! Servers and daemon share the machine, so only the ratios within a run say something. Postgres keeps its durability
//! (`fsync`, `full_page_writes`, `synchronous_commit` all on: marks are paid in full), and makes a checkpoint before
//! each measurement. Kafka is one broker with the optimising compiler, which testbed's tests do without.

mod drain;
mod host;
mod latency;
mod marking;
mod peer;
mod report;
mod setting;
mod verify;

use anyhow::Result;
use clap::Parser;
use report::Report;
use setting::Setting;
use std::path::{Path, PathBuf};

/// Drain and latency of outboxd on real servers; prints a table and keeps it in benches/results/.
#[derive(Parser)]
struct Arguments {
    /// The daemon; by default the outboxd beside this program
    #[arg(long)]
    outboxd: Option<PathBuf>,
    /// Rows to drain
    #[arg(long, default_value_t = 500_000)]
    rows: i64,
    /// Rows of each transaction that is drained
    #[arg(long, default_value_t = 1_000)]
    rows_per_transaction: i64,
    /// Single rows inserted while nothing else happens
    #[arg(long, default_value_t = 1_000)]
    idle_rows: usize,
    /// Single-row transactions a second under load
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Seconds of that load
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Where results are kept; nothing is written when empty
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/results"))]
    results: String,
    /// Leave the drains out
    #[arg(long)]
    only_latency: bool,
    /// Leave latency out
    #[arg(long)]
    only_drain: bool,
    /// Nothing of the above: fill a table and a topic with this many matching events, and audit them with `outboxd verify`
    #[arg(long, value_name = "ROWS")]
    verify: Option<i64>,
    /// Further lines of the daemon's [source.limits], for experiments: `batch_rows = 2000`
    #[arg(long)]
    limit: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let setting = Setting::start(arguments.outboxd.as_deref(), &arguments.limit).await?;
    if let Some(rows) = arguments.verify {
        return verify::measure(&setting, rows, &arguments.results).await;
    }
    let mut report = Report::begin(arguments.rows, arguments.rows_per_transaction, &arguments.limit);
    if !arguments.only_latency {
        let shape = drain::Shape { rows: arguments.rows, per_transaction: arguments.rows_per_transaction };
        drain::measure(&setting, shape, &mut report).await?;
    }
    if !arguments.only_drain {
        report.latency = latency::measure(
            &setting,
            latency::Amount { idle: arguments.idle_rows, rate: arguments.rate, seconds: arguments.seconds },
        )
        .await?;
    }
    println!("\n{}", report.markdown());
    if !arguments.results.is_empty() {
        println!("kept as {}", report.keep(Path::new(&arguments.results))?.display());
    }
    Ok(())
}
