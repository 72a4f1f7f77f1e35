//! The numbers behind the metrics that only Postgres knows: the slot's lag and what waits in the
//! tables.

use std::time::Duration;

use tokio_postgres::{
    Client,
    types::{PgLsn, Type},
};

use super::{TableInfo, failed, names::quote_ident};
use crate::{
    Code, Error, Lsn, Result,
    config::{Columns, Mark},
};

/// The count of unpublished rows stops at this many: it must not read a whole backlog every few
/// seconds.
pub(crate) const COUNT_LIMIT: u32 = 1_000_000;

/// What the monitor saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The end of the server's log.
    pub end: Lsn,
    /// `None` when there is no such slot.
    pub slot: Option<SlotReading>,
    /// `None` when counting took too long, and with `mark = "none"`, where the table does not tell.
    pub backlog: Option<Backlog>,
}

/// The slot against the server's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotReading {
    /// What we confirmed.
    pub confirmed_flush: Option<Lsn>,
    /// Bytes of log after what we confirmed.
    pub lag_bytes: u64,
    /// Bytes of log that the server keeps for the slot.
    pub retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Somebody streams from it.
    pub active: bool,
    /// Bytes of transactions that did not fit `logical_decoding_work_mem`, and that the server wrote
    /// to disk to decode them. Counted since the slot's statistics were reset.
    pub spilled_bytes: u64,
}

/// What waits in the tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backlog {
    /// Unpublished rows, at most [`COUNT_LIMIT`] for each table.
    pub rows: u64,
    /// Age of the oldest one by its creation time. `None` when there is no such row, or no usable
    /// creation time.
    pub oldest: Option<Duration>,
}

/// The monitor of one source. It builds its statements once.
#[derive(Debug, Clone)]
pub struct Monitor {
    slot: String,
    backlog: Option<String>,
}

const SLOT: &str = "
SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_lsn() END,
       s.slot_name IS NOT NULL, s.confirmed_flush_lsn, s.restart_lsn, s.wal_status, coalesce(s.active, false),
       coalesce((SELECT spill_bytes FROM pg_stat_replication_slots stat WHERE stat.slot_name = s.slot_name), 0)
FROM (SELECT) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1::text";

impl Monitor {
    /// A monitor of `slot` and of the unpublished rows of `tables`.
    #[must_use]
    pub fn new(slot: &str, tables: &[TableInfo], columns: &Columns, mark: Mark) -> Self {
        let counts: Vec<_> = tables.iter().filter_map(|table| count_sql(table, columns, mark)).collect();
        let backlog = (!counts.is_empty())
            .then(|| format!("SELECT sum(n)::int8, max(age)::float8 FROM ({}) counted", counts.join(" UNION ALL ")));
        Self { slot: slot.to_owned(), backlog }
    }

    /// Whether unpublished rows are counted.
    #[must_use]
    pub(crate) fn counts(&self) -> bool {
        self.backlog.is_some()
    }

    /// Reads everything in one round trip.
    ///
    /// # Errors
    /// As [`Monitor::slot`] and [`Monitor::backlog`].
    pub async fn read(&self, client: &Client) -> Result<Reading> {
        // Both queries go out before either is answered.
        let (slot, backlog) = tokio::join!(self.slot(client), self.backlog(client));
        let (end, slot) = slot?;
        Ok(Reading { end, slot, backlog: backlog? })
    }

    /// Reads the end of the server's log, and the slot if there is one. This costs the same however
    /// much waits.
    ///
    /// # Errors
    /// What a broken session brings.
    pub(crate) async fn slot(&self, client: &Client) -> Result<(Lsn, Option<SlotReading>)> {
        let rows = client
            .query_typed(SLOT, &[(&self.slot, Type::TEXT)])
            .await
            .map_err(|error| failed(&format!("read the replication slot {}", self.slot), error))?;
        let row = rows.first().ok_or_else(|| Error::new(Code::Internal, "an outer join without a row"))?;
        let lsn = |index: usize| row.get::<_, Option<PgLsn>>(index).map(|lsn| Lsn(lsn.into()));
        let end = lsn(0).unwrap_or_default();
        let behind = |lsn: Option<Lsn>| lsn.map_or(0, |lsn| end.bytes_since(lsn));
        let slot = row.get::<_, bool>(1).then(|| SlotReading {
            confirmed_flush: lsn(2),
            lag_bytes: behind(lsn(2)),
            retained_bytes: behind(lsn(3)),
            wal_status: row.get(4),
            active: row.get(5),
            spilled_bytes: row.get::<_, i64>(6).unsigned_abs(),
        });
        Ok((end, slot))
    }

    /// Counts what waits in the tables. `None` where the tables do not tell, and when that takes
    /// longer than the session's statement_timeout.
    ///
    /// # Errors
    /// What a broken session or a missing privilege brings.
    pub(crate) async fn backlog(&self, client: &Client) -> Result<Option<Backlog>> {
        use tokio_postgres::error::SqlState;
        let Some(sql) = &self.backlog else { return Ok(None) };
        let rows = match client.query_typed(sql, &[]).await {
            Ok(rows) => rows,
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => return Ok(None),
            Err(error) => return Err(failed("count the unpublished rows", error)),
        };
        let row = rows.first().ok_or_else(|| Error::new(Code::Internal, "an aggregate without a row"))?;
        let seconds: Option<f64> = row.get(1);
        Ok(Some(Backlog {
            rows: row.get::<_, Option<i64>>(0).unwrap_or(0).unsigned_abs(),
            oldest: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()),
        }))
    }
}

/// The count of one table's unpublished rows and the age in seconds of the oldest. It counts the
/// rows of a child by INHERITS, so that somebody sees that they wait for ever.
fn count_sql(table: &TableInfo, columns: &Columns, mark: Mark) -> Option<String> {
    let unpublished = match mark {
        Mark::None => return None,
        Mark::Delete => "true".to_owned(),
        Mark::Update => format!("{} IS NULL", quote_ident(&columns.published_at)),
    };
    let name = table.sql_name();
    let age = age_sql(table, &columns.created_at)
        .map_or_else(|| "NULL::float8".to_owned(), |age| format!("(SELECT {age} FROM {name} WHERE {unpublished})"));
    Some(format!(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM {name} WHERE {unpublished} LIMIT {COUNT_LIMIT}) waiting) AS n, {age} AS age"
    ))
}

/// The age in seconds of the smallest `created_at`; a timestamp without zone is UTC.
fn age_sql(table: &TableInfo, created_at: &str) -> Option<String> {
    let column = table.column(created_at)?;
    let oldest = format!("min({})", quote_ident(&column.name));
    let oldest = match Type::from_oid(column.base_type_oid)? {
        Type::TIMESTAMPTZ => oldest,
        Type::TIMESTAMP => format!("({oldest} AT TIME ZONE 'UTC')"),
        _ => return None,
    };
    Some(format!("extract(epoch FROM clock_timestamp() - {oldest})::float8"))
}
