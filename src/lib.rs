//! `outboxd` carries the rows of a Postgres outbox table to Kafka: each exactly once, keyed, in commit order.
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
//! The position in Kafka is the truth of what was published; the slot's confirmed position only decides how much the
//! server sends again. So nothing that this process keeps in memory has to survive it.
//!
//! # Where to begin reading
//!
//! 1. [`relay::state`]: every rule about order, as a state machine without I/O.
//! 2. [`relay::startup`]: the order of a start and of every rebuild, likewise pure; `relay/start/` carries it out.
//! 3. `relay/stream.rs`: the one task that feeds the machine and does what it asks for.
//! 4. `kafka/producer.rs`: one Kafka transaction, and what is known after each way in which it can fail.
//!
//! # The modules
//!
//! | module | in → out | knows |
//! |---|---|---|
//! | [`cli`] | arguments → one command → exit code | |
//! | [`config`] | file, flags, variables → what is validated, once | no server |
//! | [`error`] | what went wrong → a code, a class, a hint | |
//! | [`postgres`] | URL → replication stream, SQL sessions; `catalog` is the SQL | no Kafka |
//! | [`pgoutput`] | bytes ↔ messages | pure |
//! | [`outbox`] | row → record | pure |
//! | [`kafka`] | batch and position → one transaction; the position back; topics | no Postgres |
//! | [`relay`] | `postgres`, `outbox` and `kafka`, in order | its rules are pure, its I/O is thin |
//! | [`setup`] | what there is → what is missing → made, or its SQL told | |
//! | [`check`] | what there is → findings; changes nothing | |
//! | [`recover`] | a halted source → a way back that a person chose | what to write is pure |
//! | [`status`] | slot, position, tables → where a source stands; changes nothing | |
//! | [`verify`] | tables and topics → what is missing, repeated, out of order; changes nothing | comparing is pure |
//! | [`telemetry`], [`http`] | what happened → logs, metrics, `/livez`, `/readyz`, `/status` | |
//!
//! `docs/guarantees.md` says what is promised, `docs/architecture.md` why the parts are as they are.

pub mod check;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
mod joining;
pub mod kafka;
mod lsn;
pub mod outbox;
pub mod pgoutput;
pub mod postgres;
pub mod recover;
pub mod relay;
pub mod setup;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod verify;

pub use config::Config;
pub use error::{Class, Code, Error, Result};
pub use lsn::Lsn;
