//! Children by INHERITS, which are not partitions.
//!
//! A query of a table reads its children's rows, too. The stream never sends them under the table's
//! name, not even when the publication has them, so nobody would notice that they are passed over.
//! Therefore backfill and marks leave them alone (`ONLY`), as the stream does, and outboxd refuses
//! a table that has children.

use tokio_postgres::Client;

use super::{TableInfo, TableKind, failed};
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
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let found = client.query_opt(CHILDREN, &[&oids]).await;
    let found = found.map_err(|error| failed("look for children of the tables", error))?;
    found.map_or(Ok(()), |row| {
        let (table, children): (String, String) = (row.get(0), row.get(1));
        let text = format!("table {table} has children by INHERITS, whose rows are never sent: {children}");
        Err(Error::new(Code::TableInherited, text))
    })
}
