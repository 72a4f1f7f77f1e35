//! The relay's state machine. It decides which rows are published, when a batch is cut, what is
//! marked and what is confirmed.
//!
//! It knows no socket, no clock and no thread. `relay/intake.rs` feeds it with what the stream
//! brings. `relay/driver.rs` turns its actions into effects, and `relay/stream.rs` carries them
//! out. `tests/simulation` uses the same driver, with models of Postgres and Kafka around it,
//! millions of times.
//!
//! ```text
//!   begin/row/commit ─▶ building ─Publish─▶ sending ─sent─▶ committing ─committed─▶ marking ─marked─▶ done ─▶ Confirm
//!   (redelivered)    ─▶ building ──────────────▶ held ────────proved──────────────▶ marking ─marked─▶ done ─▶ Confirm
//! ```
//!
//! Batches stand in one queue in stream order. Three things hold at any time:
//! - A row is published only if its transaction ends after the position in Kafka (rule 10).
//! - A new batch is marked only when Kafka has committed it, and a redelivered batch only when the
//!   server has proved that its history is the one that was published (design, "Redelivery").
//! - The LSN confirmed to the server is the end of the longest prefix of the queue that is done.
//!   With nothing in flight it is an idle LSN that a position in Kafka carries (rules 4, 7, 8).
//!   None of it lies behind the last look at the publication and the tables (rule 35).
//!
//! The machine has no input for a failed or unknown Kafka transaction. Such a transaction ends the
//! session, and a new machine starts from the position that is read then (rules 22 to 24).
//!
//! The machine insists. A batch that is unknown, or that is told to leave a stage in which it is
//! not, is an `internal` error and ends the session. Debug builds check the three sentences above,
//! and the sums of the queue, after every input (`invariants.rs`).

mod action;
mod bounds;
mod cutting;
mod faults;
#[cfg(debug_assertions)]
mod invariants;
mod machine;
mod queue;
mod reading;
mod redelivery;
mod settling;

pub use self::{
    action::{Action, BatchId, Place, RowIs},
    bounds::Bounds,
    machine::Machine,
};
