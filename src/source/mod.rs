//! A source, as both servers know it: what was published, who may touch it, and whether the two
//! still belong together.
//!
//! ```text
//!   Kafka: position topic ─▶ newest ──┐
//!                                     ├─▶ facts ─▶ verdict: would a start halt, and with what?
//!   Postgres: slot, history, ─────────┘      └───▶ standing: what a person and a script are told
//!             publication, tables
//!   lock, producers, takeover: who may set it up, publish for it, or write its position
//! ```
//!
//! It knows both servers, and no command and no stream. The start of a daemon, `setup`, `recover`,
//! `status` and a table that joins all stand on it. The start reads the position first and the slot
//! after it, with the slot in hand. Commands hold nothing and read the slot first (`facts.rs` says
//! why).
//!
//! What must hold: nothing here changes a server, with three exceptions. `lock` takes an advisory
//! lock. `producers` and `takeover` fence whoever published before, and write what they are given.

pub mod compare;
pub mod facts;
pub(crate) mod lock;
pub mod newest;
pub mod position;
pub mod producers;
pub mod publication;
#[cfg(test)]
pub(crate) mod samples;
pub mod server;
pub(crate) mod standing;
pub(crate) mod takeover;
pub(crate) mod verdict;
