//! What a mark by UPDATE costs on a table, and what marks have cost so far.
//!
//! A heap-only (HOT) update writes a copy of the row into the same page and no index. It needs room
//! in that page. No index (but BRIN, since Postgres 16) may cover a column that changes, not even
//! in its WHERE.

use tokio_postgres::Client;

use super::{TableInfo, failed};
use crate::Result;

/// The largest `fillfactor` that keeps room for a second copy of every row.
const ROOM_FOR_A_COPY: u8 = 50;

/// What marks cost on a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkCost {
    /// Indexes that keep every mark from being HOT.
    pub covering: Vec<String>,
    /// Index entries that a mark writes when it is not HOT. Partial indexes do not count. Neither
    /// do BRIN indexes where they do not prevent HOT.
    pub entries: usize,
    /// The largest `fillfactor` of the table, or of its partitions.
    pub fillfactor: u8,
    /// Updates of any kind since the server's statistics were reset.
    pub updates: u64,
    /// Those of them that were HOT.
    pub hot: u64,
}

impl MarkCost {
    /// Whether every mark can be HOT.
    #[must_use]
    pub fn is_least(&self) -> bool {
        self.covering.is_empty() && self.fillfactor <= ROOM_FOR_A_COPY
    }

    /// The share of HOT updates so far in percent; `None` before the first update.
    #[must_use]
    pub fn hot_percent(&self) -> Option<u64> {
        self.hot.saturating_mul(100).checked_div(self.updates)
    }
}

// The rows of a partitioned table are in its leaves, and so are its storage parameters and
// statistics.
const STORAGE: &str = "
SELECT coalesce(max(coalesce((SELECT option_value::int4 FROM pg_options_to_table(c.reloptions)
                              WHERE option_name = 'fillfactor'), 100)), 100),
       coalesce(sum(pg_stat_get_tuples_updated(c.oid)), 0)::int8,
       coalesce(sum(pg_stat_get_tuples_hot_updated(c.oid)), 0)::int8
FROM pg_class c
WHERE c.relkind = 'r' AND (c.oid = $1 OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf))";

/// What a mark that sets `column` costs.
///
/// # Errors
/// Only what a broken session brings.
pub async fn mark_cost(client: &Client, table: &TableInfo, column: &str) -> Result<MarkCost> {
    let row = client.query_one(STORAGE, &[&table.oid]).await;
    let row = row.map_err(|error| failed("read the statistics of the tables", error))?;
    let count = |index: usize| row.get::<_, i64>(index).unsigned_abs();
    Ok(MarkCost {
        covering: table.indexes_over(column).map(str::to_owned).collect(),
        entries: table.indexes.iter().filter(|index| !index.partial && !index.depends_on.is_empty()).count(),
        fillfactor: u8::try_from(row.get::<_, i32>(0)).unwrap_or(100),
        updates: count(1),
        hot: count(2),
    })
}
