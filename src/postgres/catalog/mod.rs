//! What outboxd asks of Postgres in SQL, and the little that it writes there.
//!
//! In: a connected `tokio_postgres::Client` (an ordinary session, not the replication one).
//!
//! Out:
//! - typed facts about the server ([`server`]), the slot ([`slots`]), the tables ([`tables`],
//!   [`children`], [`overlaps`]), the publication ([`publications`]) and its [`Fingerprint`];
//! - the rows that were there before the slot ([`backfill`]), each value as pgoutput sends it
//!   ([`output`]);
//! - the statements that mark rows ([`marks`]), what they cost ([`mark_cost`]), and the numbers for
//!   the metrics ([`monitor`]);
//! - the statements that let published rows go ([`retention`]);
//! - the rows that a request publishes again ([`replay`]).
//!
//! Nothing here knows Kafka or decides anything: `check`, `setup` and `relay` do.
//!
//! Every query works on Postgres 15 to 18. It reads a column that only later majors have through
//! `to_jsonb(row)`, where an absent key is null.

pub mod backfill;
pub mod children;
pub(crate) mod clocks;
pub(crate) mod fetch;
mod fingerprint;
pub mod mark_cost;
pub(crate) mod mark_trial;
pub mod marks;
pub mod monitor;
pub mod names;
pub(crate) mod output;
pub(crate) mod overlaps;
pub mod publications;
pub(crate) mod replay;
pub mod retention;
pub mod server;
pub mod slots;
mod table_info;
pub mod tables;
pub(crate) mod waiting;

pub(crate) use fingerprint::Fingerprint;
pub(crate) use publications::{PublicationInfo, PublishedTable};
pub(crate) use server::ServerInfo;
pub use slots::SlotInfo;
pub use table_info::{ColumnInfo, Generated, IdUniqueness, TableInfo, TableKind};

use super::sql_error;
use crate::Error;

/// The error of a statement that was meant to do `what`.
fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    sql_error(&format!("could not {what}"), error)
}
