//! Where each source stands, as `outboxd status` shows it, whether a daemon runs or not.
//!
//! ```text
//!   Postgres: slot, history, end of the log, unpublished rows ─┐
//!                                                              ├─▶ Sides ─▶ Standing: numbers, and what is wrong
//!   Kafka: the position topic, read_committed ─────────────────┘
//! ```
//!
//! What must hold: nothing is changed, fenced or taken, so that it may be asked at any time beside a running daemon; and
//! a side that cannot be reached takes only its own numbers away.

mod table;

use std::time::Duration;

use crate::{
    config::{Kafka, Source},
    postgres::ConnectOptions,
    source::{facts::Look, standing::Standing},
};

pub(crate) use table::print;

/// Bound of each side: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks Postgres and Kafka where the source stands.
pub(crate) async fn of(source: &Source, kafka: &Kafka) -> Standing {
    let connect = ConnectOptions::of(source).within(PATIENCE);
    let sides = Look { source, kafka, connect: &connect, patience: PATIENCE }.at("status").await;
    Standing::of(source, &sides)
}
