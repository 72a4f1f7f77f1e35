//! The chaos of `make soak`: three sources, three instances of the daemon on them, and everything
//! that can go wrong, at random, for as long as you like. A second verb measures how long a standby
//! takes to lead.
//!
//! ```text
//!   writers ─▶ Postgres, 3 databases ─proxies─▶ 3 daemons ─proxies─▶ Kafka, 3 brokers ─▶ the audit
//!                    ▲                             ▲                       ▲
//!                    └──────────── faults, dealt from a seeded deck ───────┘
//! ```
//! Every few minutes all faults are healed, everything comes to rest, and an audit compares tables
//! and topics. The exit code is 0 only if every audit is clean. A seed repeats the faults and their
//! order, but not their moments.

mod audit;
mod deck;
mod fault;
mod inflict;
mod kafka;
mod pair;
mod rain;
mod report;
mod servers;
mod stage;
mod takeover;
mod watch;
mod writer;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Three sources, three instances, mixed writers, random faults of all kinds; ends with the
    /// audit
    Run(rain::Arguments),
    /// Kill and stop the leader again and again, and measure how long the standby takes
    Takeover(takeover::Arguments),
}

/// Returns whether every audit was clean.
pub(crate) async fn run(verb: Verb) -> Result<bool> {
    match verb {
        Verb::Run(arguments) => rain::run(arguments).await,
        Verb::Takeover(arguments) => takeover::run(arguments).await.map(|()| true),
    }
}
