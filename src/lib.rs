//! `outboxd` carries the rows of a Postgres outbox table to Kafka: each exactly once, keyed, in
//! commit order.
//!
//! # The way of one row
//!
//! ```text
//!   Postgres                                                                                    Kafka
//!   INSERT … COMMIT
//!    └▶ walsender ─▶ postgres::ReplicationStream        bytes of the replication connection, framed
//!                     └▶ pgoutput::decode               Begin, Relation, Insert, Commit, borrowed from those bytes
//!                         └▶ relay::state::Machine      is it new, published before, or marked already?
//!                             └▶ outbox::Encoder        topic, key, envelope, headers: a record in the batch's arena
//!                                 └▶ Action::Publish    the batch is cut
//!                                     └▶ kafka::Producer  one transaction: the records ────────▶ order.events …
//!                                                          and, last, the position ────────────▶ outboxd.positions
//!                                         committed ◀──────────────────────────────────────────┘
//!    ┌─ UPDATE … SET published_at ◀─ marker ◀─ Action::Mark
//!    └▶ marked, durably ─▶ relay::state::Machine ─▶ Action::Confirm
//!   walsender ◀── standby status ◀────────────────────┘  flush = end of what is published and marked
//! ```
//!
//! The position in Kafka says what was published. The slot's confirmed position only decides how
//! much the server sends again. So nothing that this process keeps in memory has to survive it.
//!
//! # Where to begin reading
//!
//! 1. [`relay::state`]: every rule about order, as a state machine without I/O.
//! 2. [`relay::startup`]: the order of a start and of every rebuild. It is pure, too;
//!    `relay/start/` carries it out.
//! 3. [`relay::driver`]: what a session does when the machine asks for it. `relay/stream.rs` is the
//!    one task that does it.
//! 4. `kafka/producer.rs`: one Kafka transaction, and what is known after each way in which it can
//!    fail.
//!
//! # The modules
//!
//! A test holds the last column to the code (`src/tests/imports.rs`). "Pure" means no socket, clock
//! or thread. "No server" means neither Postgres nor Kafka. No two modules of the table import each
//! other, and no two files of `relay` do.
//!
//! | module | in → out | knows |
//! |---|---|---|
//! | [`cli`] | arguments → one command → exit code; prints | no server |
//! | [`config`] | file, flags, variables → what is validated, once | no server |
//! | [`door`] | flags → configuration, with librdkafka's word on its own options | no Postgres |
//! | [`runtime`] | a command → its outcome, once its sessions have said goodbye | no Kafka |
//! | [`program`] | a command line → what the program prints, a secret | no server |
//! | [`clock`] | the time of day → a number | no server |
//! | [`backoff`] | failures in a row → the pause before the next attempt | pure; no server |
//! | [`error`] | what went wrong → a code, a class, a hint | pure; no server |
//! | [`postgres`] | URL → replication stream, SQL sessions; `catalog` is the SQL | no Kafka |
//! | [`pgoutput`] | bytes ↔ messages | pure; no server |
//! | [`outbox`] | row → record | pure; no server |
//! | [`kafka`] | batch and position → one transaction; the position back; topics | no Postgres |
//! | [`source`] | what a source is on both servers: position, facts, verdict, publication, lock, producers | both servers; no command, no stream |
//! | [`source::position`], [`source::compare`], [`source::verdict`] | what both sides hold → do they belong together? | pure |
//! | [`relay`] | `postgres`, `outbox` and `kafka`, in order | both servers; its rules are pure |
//! | [`relay::state`], [`relay::driver`], [`relay::startup`] | what came, what was done → what to do next | pure; no server |
//! | [`setup`] | what there is → what is missing → made, or its SQL told | both servers |
//! | [`joining`] | a source gets its slot, a table joins a source that streams: `setup` and `relay` together | both servers |
//! | [`check`] | what there is → findings; changes nothing | both servers |
//! | [`recover`] | a halted source → a way back that a person chose | both servers; its plan is pure |
//! | [`recover::plan`] | facts → what to write, and what that loses or repeats | pure |
//! | [`status`] | slot, position, tables → where a source stands; changes nothing | both servers |
//! | [`retention`] | published rows → gone, in batches or with their partition | both servers |
//! | [`retention::plan`] | partitions, what is confirmed → what is missing, what may go | pure |
//! | [`replay`] | chosen rows that were published → their records again, once for each request | both servers |
//! | [`replay::plan`] | what a request has published → what comes next | pure; no server |
//! | [`verify`] | tables and topics → what is missing, repeated, out of order; changes nothing | both servers |
//! | [`verify::compare`] | sorted rows and records → differences | pure; no server |
//! | [`tail`] | rows as they commit, or rows that wait → what would be sent, printed; marks nothing | no Kafka |
//! | [`tail::event`], [`tail::rows`], [`tail::value`], [`tail::wanted`], [`tail::json`], [`tail::text`] | row → event → is it asked for? → its line | pure; no server |
//! | [`telemetry`] | what happened → logs, metrics, spans, where each source stands | no server |
//! | [`http`] | `telemetry` → `/metrics`, `/livez`, `/readyz`, `/status`, and a page at `/` | no server |
//! | [`runbook`] | a code → what it means and the way back, from `docs/errors.md` | pure; no server |
//!
//! `docs/guarantees.md` says what is promised. `docs/architecture.md` says why the parts are as
//! they are.

#![allow(rustdoc::private_intra_doc_links, reason = "who reads the map of the modules reads the code, too")]

mod backoff;
pub mod check;
pub mod cli;
mod clock;
pub mod config;
mod door;
pub(crate) mod error;
pub(crate) mod http;
mod joining;
pub mod kafka;
mod lsn;
pub mod outbox;
pub mod pgoutput;
pub mod postgres;
mod program;
pub mod recover;
pub mod relay;
pub mod replay;
pub mod retention;
mod runbook;
mod runtime;
pub mod setup;
pub mod source;
pub mod status;
pub(crate) mod tail;
pub(crate) mod telemetry;
pub(crate) mod verify;

pub use config::Config;
pub use error::{Class, Code, Error, Result};
pub use lsn::Lsn;

#[cfg(test)]
mod tests;
