//! Where each source stands, as `outboxd status` shows it, whether a daemon runs or not.
//!
//! ```text
//!   Postgres: slot, history, end of the log, unpublished rows ─┐
//!                                                              ├─▶ Sides ─▶ Standing
//!   Kafka: the position topic, read_committed ─────────────────┘
//! ```
//!
//! What must hold: the command changes, fences and takes nothing, so a person may ask at any time
//! while a daemon runs. When one side cannot be reached, only the numbers of that side are missing.
//! What a daemon on this machine does, and why it stands still, it says itself (`daemon.rs`). Where
//! none answers, the rows that wait are looked at (`waiting.rs`).

mod daemon;
mod table;
mod waiting;

use std::time::Duration;

use crate::{
    config::{Kafka, Source},
    postgres::ConnectOptions,
    source::{facts::Look, standing::Standing},
};

pub(crate) use daemon::{add as add_daemon, has_one_of as daemon_has_one_of};
pub(crate) use table::print;
pub(crate) use waiting::add_stops;

/// Longest wait for each side: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks Postgres and Kafka where the source stands.
pub(crate) async fn of(source: &Source, kafka: &Kafka) -> Standing {
    let connect = ConnectOptions::of(source).within(PATIENCE);
    let sides = Look { source, kafka, connect: &connect, patience: PATIENCE }.at("status").await;
    Standing::of(source, &sides)
}
