//! `make soak`: three sources, three instances of the daemon on them, and everything that can go wrong, at random, for
//! as long as one likes; and how long a standby takes to lead.
//!
//! ```text
//!   writers ─▶ Postgres, 3 databases ─proxies─▶ 3 daemons ─proxies─▶ Kafka, 3 brokers ─▶ the audit
//!                    ▲                             ▲                       ▲
//!                    └──────────── faults, dealt from a seeded deck ───────┘
//! ```
//! Every few minutes all faults are healed, everything comes to rest, and tables and topics are compared. The exit code
//! is 0 only if every audit is clean. A seed repeats the faults and their order; the moments are the machine's.

mod audit;
mod chaos;
mod deck;
mod fault;
#[path = "../bench/host.rs"]
#[expect(dead_code, reason = "the bench looks at threads, too")]
mod host;
mod inflict;
mod kafka;
mod pair;
mod report;
mod source;
mod stage;
mod takeover;
mod watch;
mod writer;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Random faults on everything, and the audit; or the times of a takeover.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Three sources, three instances, mixed writers, random faults of all kinds; ends with the audit
    Run(chaos::Arguments),
    /// Kill and stop the leader again and again, and measure how long the standby takes
    Takeover(takeover::Arguments),
}

/// Where results are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/results");

#[tokio::main]
async fn main() -> ExitCode {
    let clean = match Arguments::parse().command {
        Action::Run(arguments) => chaos::run(arguments).await,
        Action::Takeover(arguments) => takeover::run(arguments).await.map(|()| true),
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The daemon: the one that was named, or the one beside this program.
fn daemon_binary(named: Option<PathBuf>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("outboxd"),
    };
    path.canonicalize().with_context(|| format!("no daemon at {}", path.display()))
}
