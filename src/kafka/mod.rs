//! Kafka: the records of a batch and the position go in as one transaction, and the position comes
//! back at the next start.
//!
//! ```text
//!   outbox::Records ─┐             one transaction:
//!                    ├─▶ producer ── records, then the position ──▶ topics, outboxd.positions
//!   position ────────┘                                                       │
//!   position ◀─────────────── position_topic::read ◀─────────────────────────┘
//! ```
//!
//! What must hold:
//! - the position is the last record of its transaction, and nothing else is in it when any record
//!   failed (rules 2, 3);
//! - after any failure a producer is dropped, and [`Producer`] refuses to be used again (rules 22
//!   to 24);
//! - a commit that is not known to have succeeded is [`PublishFailure::Unknown`], and only
//!   [`position_topic::read`] tells afterwards what happened (rule 23);
//! - reading the position ends when it has seen everything below the high watermark, never at a
//!   time-out (rule 2).
//!
//! librdkafka blocks. [`Producer`] and `topic_reader` block, too, and belong on blocking threads.
//! Everything else here is async and puts its waiting on such threads itself.

mod batch;
pub(crate) mod broker;
mod context;
pub(crate) mod durability;
mod failure;
mod judge;
mod login;
mod options;
pub mod position_topic;
mod producer;
pub(crate) mod topic_reader;
pub mod topics;

pub use batch::{Batch, Header, Outgoing};
pub use failure::PublishFailure;
pub use judge::judge;
pub use producer::{Batching, PositionRecord, Producer};

use crate::error::{Code, Error, Result};

/// Runs a blocking call of librdkafka on one of tokio's blocking threads. The caller's span goes with
/// it, since librdkafka's log lines come during the call and have to name the source.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(call)).await {
        Ok(result) => result,
        Err(panic) => Err(Error::new(Code::Internal, "a call of librdkafka did not return").because(panic)),
    }
}
