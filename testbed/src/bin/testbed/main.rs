//! What a developer does with outboxd besides the tests. Each task has a verb.
//!
//! | verb | does |
//! |---|---|
//! | `up` | starts servers to play with, until Ctrl-C |
//! | `fetch` | downloads everything that the tests need |
//! | `demo` | `make demo`: three databases, a bad day, the audit |
//! | `bench` | `make bench`: drain and latency beside references |
//! | `chaos` | a part of `make soak`: random faults, or the times of a takeover |
//!
//! This is one program, because each program links every crate below it, which takes longer than
//! compiling these modules.

mod bench;
mod chaos;
mod demo;
mod host;
mod sources;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Real Postgres and Kafka servers for developing, demonstrating and measuring outboxd.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start servers, print how to reach them, stop them on Ctrl-C
    Up(up::Arguments),
    /// Download everything that the tests need
    Fetch,
    /// Three databases, 20,000 transactions, kill -9 and a broker restart on the way; ends with the
    /// audit
    Demo(demo::Arguments),
    /// Drain and latency of outboxd on real servers; prints a table and keeps it in
    /// benches/results/
    Bench(Box<bench::Arguments>),
    /// Random faults on everything, and the audit; or the times of a takeover
    #[command(subcommand)]
    Chaos(chaos::Verb),
}

/// Where results are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/results");

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().verb).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the audit was clean, where the verb has one.
async fn run(verb: Verb) -> Result<bool> {
    match verb {
        Verb::Up(arguments) => up::run(arguments).await.map(|()| true),
        Verb::Fetch => up::fetch().map(|()| true),
        Verb::Demo(arguments) => demo::run(arguments).await,
        Verb::Bench(arguments) => bench::run(*arguments).await.map(|()| true),
        Verb::Chaos(verb) => chaos::run(verb).await,
    }
}

/// The daemon that was named, or the one beside this program.
fn daemon_binary(named: Option<PathBuf>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("outboxd"),
    };
    path.canonicalize().with_context(|| format!("no daemon at {}", path.display()))
}
