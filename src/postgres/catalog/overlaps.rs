//! Tables of one source that share rows: one table under two names, or a table and a part of it.
//!
//! A backfill would publish the shared rows once for each name, and an audit that reads them twice
//! would see no duplicate.

use tokio_postgres::Client;

use super::failed;
use crate::{Code, Error, Result};

const OVERLAPS: &str = "
WITH RECURSIVE above(place, lower, upper) AS (
  SELECT t.place, t.oid, t.oid FROM unnest($1::oid[]) WITH ORDINALITY AS t(oid, place)
  UNION SELECT a.place, a.lower, i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.upper)
SELECT (SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = above.lower),
       (SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = above.upper)
FROM above JOIN unnest($1::oid[]) WITH ORDINALITY AS t(oid, place) ON t.oid = above.upper AND t.place <> above.place
ORDER BY above.place, t.place LIMIT 1";

/// Refuses tables, given by their oids, of which one is another one or a part of it.
///
/// # Errors
/// [`Code::ConfigInvalid`] for the first two that share rows.
pub(crate) async fn refuse_overlaps(client: &Client, tables: &[u32]) -> Result<()> {
    let found = client.query_opt(OVERLAPS, &[&tables]).await;
    let found = found.map_err(|error| failed("look for tables that share rows", error))?;
    found.map_or(Ok(()), |row| {
        let (lower, upper): (String, String) = (row.get(0), row.get(1));
        if lower == upper {
            return Err(named_twice(&lower));
        }
        let text = format!("`tables` has {lower} and {upper}, and {lower} is a part of {upper}: name {upper} alone");
        Err(Error::new(Code::ConfigInvalid, text))
    })
}

/// The error for a table that stands in `tables` under two names.
pub(crate) fn named_twice(table: &str) -> Error {
    Error::new(Code::ConfigInvalid, format!("`tables` names {table} twice: leave it there once"))
}
