//! Replication slots as SQL sees them. This module reads and drops them. The replication session
//! creates them, since only that session exports a snapshot.

use std::time::Duration;

use tokio_postgres::{
    Client, Row,
    error::SqlState,
    types::{PgLsn, Type},
};

use super::failed;
use crate::{Code, Error, Lsn, Result};

/// One row of `pg_replication_slots`.
/// Source: PostgreSQL documentation, "pg_replication_slots".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Database; `None` for a physical slot.
    pub database: Option<String>,
    /// The slot ends with its session.
    pub temporary: bool,
    /// Somebody streams from it.
    pub active: bool,
    /// The process that streams from it.
    pub active_pid: Option<i32>,
    /// The oldest WAL that it keeps. `None` when it keeps none (never used, or lost).
    pub restart_lsn: Option<Lsn>,
    /// What its consumer has confirmed. On a slot that nobody has used it is the consistent point.
    /// It is zero while a slot is being made, and for a physical slot.
    pub confirmed_flush: Lsn,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why the server invalidated it: `wal_removed`, `rows_removed`, `wal_level_insufficient`,
    /// `idle_timeout` (Postgres 17); `conflict` where Postgres 16 only says that there was one.
    pub invalidation_reason: Option<String>,
    /// The server carries it to the standbys (Postgres 17).
    pub failover: bool,
    /// It is the copy that a standby keeps of its primary's slot (Postgres 17).
    pub synced: bool,
    /// It decodes prepared transactions at PREPARE. A source's slot must not.
    pub two_phase: bool,
}

impl SlotInfo {
    /// Rule 17: the server will never again stream from this slot. The text says why.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        match (&self.invalidation_reason, self.wal_status.as_deref()) {
            (Some(reason), _) => Some(reason.clone()),
            (None, Some("lost")) => Some("wal_removed".to_owned()),
            _ => None,
        }
    }

    fn from_row(row: &Row) -> Self {
        let lsn = |index: usize| row.get::<_, Option<PgLsn>>(index).map(|lsn| Lsn(lsn.into()));
        let conflict = row.get::<_, Option<bool>>(9).unwrap_or(false);
        Self {
            plugin: row.get(0),
            database: row.get(1),
            temporary: row.get(2),
            active: row.get(3),
            active_pid: row.get(4),
            restart_lsn: lsn(5),
            confirmed_flush: lsn(6).unwrap_or(Lsn::ZERO),
            wal_status: row.get(7),
            invalidation_reason: row.get::<_, Option<String>>(8).or_else(|| conflict.then(|| "conflict".to_owned())),
            failover: row.get(10),
            synced: row.get(11),
            two_phase: row.get(12),
        }
    }
}

// `conflicting` came with Postgres 16; `invalidation_reason`, `failover` and `synced` with 17.
const SLOT: &str = "
SELECT s.plugin::text, s.database::text, s.temporary, s.active, s.active_pid, s.restart_lsn, s.confirmed_flush_lsn,
       s.wal_status, j ->> 'invalidation_reason', (j ->> 'conflicting')::bool,
       coalesce((j ->> 'failover')::bool, false), coalesce((j ->> 'synced')::bool, false),
       s.two_phase
FROM pg_replication_slots s, to_jsonb(s) j WHERE s.slot_name = $1::text";

/// The slot, if there is one of that name.
///
/// # Errors
/// Only what a broken session brings.
pub async fn slot(client: &Client, name: &str) -> Result<Option<SlotInfo>> {
    let row = client
        .query_opt(SLOT, &[&name])
        .await
        .map_err(|error| failed(&format!("read the replication slot {name}"), error))?;
    Ok(row.as_ref().map(SlotInfo::from_row))
}

/// How long [`drop_slot`] waits until a walsender notices that its client has gone.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// Drops the slot. One that does not exist counts as dropped. While somebody streams from it, this
/// tries again for 10 s.
///
/// # Errors
/// [`Code::SlotInUse`] when it is still in use then; what the server says otherwise.
pub async fn drop_slot(client: &Client, name: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + DROP_PATIENCE;
    loop {
        let Err(error) = client.query_typed("SELECT pg_drop_replication_slot($1)", &[(&name, Type::NAME)]).await else {
            return Ok(());
        };
        match error.code() {
            Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
            Some(&SqlState::OBJECT_IN_USE) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Some(&SqlState::OBJECT_IN_USE) => {
                let what = format!("the replication slot {name} cannot be dropped while a session streams from it");
                return Err(Error::new(Code::SlotInUse, what).because(error));
            }
            _ => return Err(failed(&format!("drop the replication slot {name}"), error)),
        }
    }
}
