//! The relay: a source's rows from the replication stream to Kafka, and back again as marks.
//!
//! ```text
//!             start: slot, fence, position                 (startup.rs decides, start/ does)
//!               │            └─ backfill                    (backfill.rs)
//!               ▼
//!   walsender ─▶ intake ─▶ driver ─▶ publisher ─▶ Kafka      records, and the position last
//!                          │  ▲  ▲       │
//!        state machine ◀───┤  │  └───────┤ committed
//!                          │  └───── marker ─▶ UPDATE … SET published_at
//!    status ◀──────────────┘
//! ```
//!
//! [`state`], [`driver`] and [`startup`] know no socket, clock or thread. Every rule about order
//! lives there, and the simulation uses them. The other modules are thin: each does one thing and
//! talks to the machine through one bounded channel. `supervisor` runs one session after another.
//! Nothing of a failed session is used again, except what `memory.rs` holds. A command that relays
//! for a moment does so through `once.rs`.

mod backfill;
mod behind;
mod context;
pub mod driver;
mod gathered;
mod intake;
mod kept;
mod looks;
mod marker;
mod marking;
mod marks;
mod memory;
mod monitor;
mod neighbours;
mod once;
mod preconditions;
mod publisher;
mod report;
mod rest;
mod retaining;
mod rows;
mod session;
mod settings;
mod start;
pub mod startup;
pub mod state;
mod stream;
mod supervisor;
mod tally;
mod traced;
mod until_idle;

pub(crate) use once::{drain, set_up};
pub(crate) use supervisor::run;
pub(crate) use until_idle::run_until_idle;
