//! What the server tells of times: the zone of a session, and rows that are ahead of its clock.

use std::time::Duration;

use tokio_postgres::{Client, types::Type};

use super::{ColumnInfo, TableInfo, failed, names::quote_ident};
use crate::Result;

/// The time zone of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    /// `TimeZone`, as the server shows it.
    pub(crate) name: String,
    /// Its local time is UTC, in winter and in summer.
    pub(crate) is_utc: bool,
}

/// The zone of this session.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn zone(client: &Client) -> Result<Zone> {
    const ZONE: &str = "SELECT current_setting('TimeZone'), bool_and(extract(timezone FROM day) = 0)
        FROM unnest(ARRAY[timestamptz '2026-01-15', timestamptz '2026-07-15']) day";
    let row = client.query_one(ZONE, &[]).await.map_err(|error| failed("read the session's time zone", error))?;
    Ok(Zone { name: row.get(0), is_utc: row.get(1) })
}

/// How far the newest creation time is ahead of the server's clock; `None` for less than a minute.
///
/// # Errors
/// The statement takes longer than the session allows, or the role may not read the table.
pub(crate) async fn ahead(client: &Client, table: &TableInfo, column: &ColumnInfo) -> Result<Option<Duration>> {
    let (name, table) = (quote_ident(&column.name), table.sql_name());
    let now = if column.is_local_time() { "(now() AT TIME ZONE 'UTC')" } else { "now()" };
    let ahead = format!(
        "SELECT extract(epoch FROM max({name}) - {now})::bigint FROM {table}
         WHERE {name} > {now} + interval '1 minute' AND isfinite({name})"
    );
    let row = client.query_one(&ahead, &[]).await.map_err(|error| failed("look for rows ahead of the clock", error))?;
    let seconds: Option<i64> = row.get(0);
    Ok(seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs))
}

/// The same for a value of this type: `timestamptz`, `timestamp` or `date`.
pub(super) fn as_utc(type_oid: u32, value: &str) -> String {
    if type_oid == Type::TIMESTAMPTZ.oid() {
        format!("{value}::timestamptz")
    } else {
        format!("({value}::timestamp AT TIME ZONE 'UTC')")
    }
}

impl ColumnInfo {
    /// Whether it is a `timestamp`, which has no time zone.
    pub(crate) fn is_local_time(&self) -> bool {
        self.base_type_oid == Type::TIMESTAMP.oid()
    }

    /// Whether it is a `timestamp` or a `timestamptz`.
    pub(crate) fn is_time(&self) -> bool {
        self.is_local_time() || self.base_type_oid == Type::TIMESTAMPTZ.oid()
    }

    /// SQL for the `timestamptz` of `value`, which has this column's type. A time without a zone
    /// counts as UTC, and so does a date.
    pub(crate) fn as_utc(&self, value: &str) -> String {
        as_utc(self.base_type_oid, value)
    }
}
