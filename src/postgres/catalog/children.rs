//! Rows of a table that the stream does not send, or that our role does not see.
//!
//! Children by INHERITS are not partitions.
//! A query of a table reads its children's rows, too. The stream never sends them under the table's
//! name, not even when the publication has them, so nobody would notice that they are passed over.
//! Therefore backfill and marks leave them alone (`ONLY`), as the stream does, and outboxd refuses
//! a table that has children.

use tokio_postgres::Client;

use super::{TableInfo, TableKind, failed, tables::oids};
use crate::{Code, Error, Result};

impl TableInfo {
    /// The table without its children, for SQL. The rows of a partitioned table are all in its
    /// partitions.
    #[must_use]
    pub(crate) fn sql_only(&self) -> String {
        match self.kind {
            TableKind::Ordinary => format!("ONLY {}", self.sql_name()),
            TableKind::Partitioned => self.sql_name(),
        }
    }
}

// The parent of a partition is always a partitioned table. Such a table can have no other children.
const CHILDREN: &str = "
SELECT p.oid::regclass::text, string_agg(c.oid::regclass::text, ', ' ORDER BY c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
WHERE p.oid = ANY ($1) AND NOT c.relispartition
GROUP BY p.oid ORDER BY p.oid LIMIT 1";

/// Refuses tables whose children hold rows that the stream does not send.
///
/// # Errors
/// [`Code::TableInherited`] for the first table that has children.
pub(crate) async fn refuse_children(client: &Client, tables: &[TableInfo]) -> Result<()> {
    let found = client.query_opt(CHILDREN, &[&oids(tables)]).await;
    let found = found.map_err(|error| failed("look for children of the tables", error))?;
    found.map_or(Ok(()), |row| {
        let (table, children): (String, String) = (row.get(0), row.get(1));
        let text = format!("table {table} has children by INHERITS, whose rows are never sent: {children}");
        Err(Error::new(Code::TableInherited, text))
    })
}

// A partitioned table has no rows of its own, so nothing hangs on its own persistence.
// pg_partition_tree would wait for whoever has locked a partition.
const OUTSIDE_THE_LOG: &str = "
WITH RECURSIVE part(root, oid) AS (
  SELECT t.oid, t.oid FROM unnest($1::oid[]) AS t(oid)
  UNION SELECT part.root, i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.oid
                                           JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition)
SELECT part.root::regclass::text, c.oid::regclass::text, c.relkind = 'f'
FROM part JOIN pg_class c ON c.oid = part.oid
WHERE c.relkind = 'f' OR c.relkind = 'r' AND c.relpersistence <> 'p'
ORDER BY c.oid LIMIT 1";

/// Refuses tables and partitions whose rows are not in the log.
///
/// # Errors
/// [`Code::TableMissing`] for the first one.
pub(crate) async fn refuse_outside_the_log(client: &Client, tables: &[TableInfo]) -> Result<()> {
    let found = client.query_opt(OUTSIDE_THE_LOG, &[&oids(tables)]).await;
    let found = found.map_err(|error| failed("look for tables outside the log", error))?;
    found.map_or(Ok(()), |row| {
        let (table, part, is_foreign): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        let text = if is_foreign {
            format!("{part}, a partition of {table}, is a foreign table, and its rows are not in the log: detach it")
        } else {
            let what = if part == table { String::new() } else { format!(", a partition of {table},") };
            format!(
                "table {part}{what} is unlogged or temporary, and its rows are not in the log: ALTER TABLE {part} SET LOGGED"
            )
        };
        Err(Error::new(Code::TableMissing, text))
    })
}

/// Refuses tables whose rows row security hides from our role. A row that is hidden looks like one
/// that is gone, and would count as marked.
///
/// # Errors
/// [`Code::PostgresDenied`] for the first one.
pub(crate) async fn refuse_row_security(client: &Client, tables: &[TableInfo]) -> Result<()> {
    const HIDDEN: &str = "
SELECT c.oid::regclass::text, current_user::text FROM pg_class c
WHERE c.oid = ANY ($1) AND row_security_active(c.oid) ORDER BY c.oid LIMIT 1";
    let found = client.query_opt(HIDDEN, &[&oids(tables)]).await;
    let found = found.map_err(|error| failed("look for row security of the tables", error))?;
    found.map_or(Ok(()), |row| {
        let (table, role): (String, String) = (row.get(0), row.get(1));
        let text = format!(
            "row security of table {table} would hide rows from role {role}: ALTER ROLE {role} BYPASSRLS, or disable it \
             on the table"
        );
        Err(Error::new(Code::PostgresDenied, text))
    })
}
