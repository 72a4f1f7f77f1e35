//! The statements of retention: published rows are deleted in small ranges of blocks, and partitions
//! are made, detached and dropped.
//!
//! What was detached is written into the table's comment, in the same database as the table itself.
//! So whoever comes next finds it, wherever the one before was killed.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio_postgres::{
    Client,
    error::SqlState,
    types::{PgLsn, Type},
};

use super::{ColumnInfo, TableInfo, clocks::as_utc, failed, names::quote_ident, names::quote_qualified};
use crate::{Code, Error, Lsn, Result};

/// A moment in microseconds since the Unix epoch.
pub type Micros = i64;

/// The moment for a person and for Postgres, in whole seconds: `2026-11-29T00:00:00Z`.
pub(crate) fn rfc3339(at: Micros) -> String {
    let since = Duration::from_micros(u64::try_from(at).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// What a partition holds: from a moment on, and before another one. `None` is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its first moment.
    pub from: Option<Micros>,
    /// The first moment behind it.
    pub to: Option<Micros>,
}

/// What begins the comment of a table that is on its way out.
const COMMENT: &str = "outboxd retention: ";

/// Prepares a session. The role or the database may default to read-only transactions.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn set_up(client: &Client, lock: Duration) -> Result<()> {
    let sql = format!("SET default_transaction_read_only = off; SET lock_timeout = {}", lock.as_millis().max(1));
    client.batch_execute(&sql).await.map_err(|error| failed("set up a session for retention", error))
}

// ---- rows -------------------------------------------------------------------------------------------

/// How many blocks the largest leaf of the table has, and how many leaves there are.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn blocks(client: &Client, table: &TableInfo) -> Result<(i64, i64)> {
    const BLOCKS: &str = "
SELECT coalesce(max(pg_relation_size(relid) / current_setting('block_size')::bigint), 0), count(*)
FROM (SELECT relid::oid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf UNION SELECT $1::oid) AS leaf (relid)";
    let row = client.query_one(BLOCKS, &[&table.oid]).await;
    let row = row.map_err(|error| failed(&format!("read the size of {}", table.display_name()), error))?;
    Ok((row.get(0), row.get(1)))
}

/// The condition of a row that was marked longer ago than `$1` seconds.
fn is_old(mark: &ColumnInfo) -> String {
    let marked = mark.as_utc(&quote_ident(&mark.name));
    format!("{marked} < now() - make_interval(secs => $1)")
}

/// Deletes the rows in the blocks from `from` on and before `to` that were marked longer ago than
/// `keep`. Returns how many. A row without its mark is never among them.
///
/// # Errors
/// What the server says, for example that the role may not delete.
pub(crate) async fn delete_old(
    client: &Client,
    table: &TableInfo,
    mark: &ColumnInfo,
    keep: Duration,
    (from, to): (i64, i64),
) -> Result<u64> {
    let sql = format!(
        "DELETE FROM {} WHERE ctid >= '({from},0)'::tid AND ctid < '({to},0)'::tid AND {}",
        table.sql_name(),
        is_old(mark)
    );
    let deleted = client.execute(&sql, &[&keep.as_secs_f64()]).await;
    deleted.map_err(|error| failed(&format!("delete published rows of {}", table.display_name()), error))
}

/// How many rows of the whole table [`delete_old`] would delete.
///
/// # Errors
/// What the server says.
pub(crate) async fn count_old(client: &Client, table: &TableInfo, mark: &ColumnInfo, keep: Duration) -> Result<i64> {
    let sql = format!("SELECT count(*) FROM {} WHERE {}", table.sql_name(), is_old(mark));
    let rows = client.query_typed(&sql, &[(&keep.as_secs_f64(), Type::FLOAT8)]).await;
    let rows = rows.map_err(|error| failed(&format!("count published rows of {}", table.display_name()), error))?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

// ---- partitions -------------------------------------------------------------------------------------

/// How a table is partitioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partitioning {
    /// The type of its key, which is one column that holds a time.
    pub(crate) key: Type,
    pub(crate) has_default: bool,
    /// Tables whose foreign keys refer to it.
    pub(crate) referring: Vec<String>,
    pub(crate) partitions: Vec<Partition>,
}

/// A partition of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) range: Range,
    /// Somebody's `DETACH … CONCURRENTLY` was begun and not finished.
    pub(crate) is_pending: bool,
}

impl Partition {
    fn sql_name(&self) -> String {
        quote_qualified(&self.schema, &self.name)
    }

    /// `schema.name` for a person.
    pub(crate) fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl Partitioning {
    /// Foreign keys keep partitions from being detached.
    pub(crate) fn referred_to(&self) -> Option<String> {
        let tables = self.referring.join(", ");
        (!tables.is_empty()).then(|| format!("foreign keys of {tables} refer to the table"))
    }
}

/// What the session's role lacks to make and drop the partitions of a table, with the way to give it.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn lacks(client: &Client, table: &TableInfo) -> Result<Option<(String, String)>> {
    const RIGHTS: &str = "
SELECT current_user::text, pg_has_role($1::text::name, 'USAGE'), has_schema_privilege($2::text, 'CREATE')";
    let row = client.query_one(RIGHTS, &[&table.owner, &table.schema]).await;
    let row = row.map_err(|error| failed(&format!("read who owns {}", table.display_name()), error))?;
    let (role, owns, creates): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let (owner, schema) = (quote_ident(&table.owner), quote_ident(&table.schema));
    let role = quote_ident(&role);
    Ok(match (owns, creates) {
        (false, _) => {
            let text = format!("role {role} is no member of {owner}, which owns the table");
            Some((text, format!("GRANT {owner} TO {role}")))
        }
        (true, false) => {
            let text = format!("role {role} may not create tables in schema {schema}");
            Some((text, format!("GRANT CREATE ON SCHEMA {schema} TO {role}")))
        }
        (true, true) => None,
    })
}

/// Reads how a table is partitioned.
///
/// # Errors
/// [`Code::RetentionFailed`] for a table that is not partitioned by range of one column that holds a
/// time.
pub(crate) async fn partitioning(client: &Client, table: &TableInfo) -> Result<Partitioning> {
    const KEY: &str = "
SELECT p.partstrat = 'r' AND p.partnatts = 1, a.atttypid, p.partdefid <> 0,
       ARRAY(SELECT DISTINCT conrelid::regclass::text FROM pg_constraint
             WHERE confrelid = p.partrelid AND contype = 'f' AND conparentid = 0)
FROM pg_partitioned_table p LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
WHERE p.partrelid = $1";
    let shown = table.display_name();
    let what = || format!("read the partitions of {shown}");
    let found = client.query_opt(KEY, &[&table.oid]).await.map_err(|error| failed(&what(), error))?;
    let key = found.as_ref().filter(|row| row.get(0)).and_then(|row| Type::from_oid(row.get::<_, Option<u32>>(1)?));
    let times = [Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::DATE];
    let (Some(row), Some(key)) = (found, key.filter(|key| times.contains(key))) else {
        let text = format!(
            "table {shown} is not partitioned by range of one column of type timestamptz, timestamp or date, as \
             retention by partition needs"
        );
        return Err(Error::new(Code::RetentionFailed, text));
    };
    let partitions = partitions(client, table, &key).await.map_err(|error| failed(&what(), error))?;
    Ok(Partitioning { key, has_default: row.get(2), referring: row.get(3), partitions })
}

/// The partitions but the default one. Times without a zone are UTC.
async fn partitions(client: &Client, table: &TableInfo, key: &Type) -> Result<Vec<Partition>, tokio_postgres::Error> {
    let moment = |text: &str| {
        format!(
            "CASE WHEN {text} IN ('MINVALUE', 'MAXVALUE', 'infinity', '-infinity') THEN NULL \
             ELSE (extract(epoch FROM {}) * 1000000)::bigint END",
            as_utc(key.oid(), text)
        )
    };
    let sql = format!(
        "SELECT nspname::text, relname::text, inhdetachpending, {}, {} FROM (
           SELECT n.nspname, c.relname, i.inhdetachpending, c.oid, trim('''' FROM bound[1]) AS low,
                  trim('''' FROM bound[2]) AS high
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
                regexp_match(pg_get_expr(c.relpartbound, c.oid),
                  $re$^FOR VALUES FROM \\((MINVALUE|'[^']*')\\) TO \\((MAXVALUE|'[^']*')\\)$$re$) AS bound
           WHERE i.inhparent = $1 AND bound IS NOT NULL) AS part ORDER BY oid",
        moment("low"),
        moment("high")
    );
    let rows = client.query(&sql, &[&table.oid]).await?;
    let partition = |row: &tokio_postgres::Row| Partition {
        schema: row.get(0),
        name: row.get(1),
        is_pending: row.get(2),
        range: Range { from: row.get(3), to: row.get(4) },
    };
    Ok(rows.iter().map(partition).collect())
}

/// Makes the partition of a range. It is made by itself and then attached, which lets writers go on.
/// Returns its name.
///
/// # Errors
/// What the server says, for example that the role does not own the table.
pub(crate) async fn make(client: &Client, table: &TableInfo, key: &Type, range: (Micros, Micros)) -> Result<String> {
    let (from, to) = (rfc3339(range.0), rfc3339(range.1));
    let digits: String = from.chars().filter(char::is_ascii_digit).collect();
    let (day, time) = digits.split_at(8);
    let suffix = if time == "000000" { day.to_owned() } else { format!("{day}_{time}") };
    // A name has 63 bytes.
    let fits = |&(at, c): &(usize, char)| at + c.len_utf8() <= 63 - 16;
    let stem: String = table.name.char_indices().take_while(fits).map(|(_, c)| c).collect();
    let name = format!("{stem}_{suffix}");
    let bound = |at: &str| match *key {
        Type::TIMESTAMPTZ => at.to_owned(),
        _ => at.trim_end_matches('Z').to_owned(),
    };
    let (root, part) = (table.sql_name(), quote_qualified(&table.schema, &name));
    // Each partition of a table with an identity column gets it from the table.
    let sql = format!(
        "CREATE TABLE {part} (LIKE {root} INCLUDING ALL EXCLUDING IDENTITY);
         ALTER TABLE {part} OWNER TO {};
         ALTER TABLE {root} ATTACH PARTITION {part} FOR VALUES FROM ('{}') TO ('{}')",
        quote_ident(&table.owner),
        bound(&from),
        bound(&to)
    );
    let made = client.batch_execute(&sql).await;
    made.map_err(|error| failed(&format!("make partition {name} of {}", table.display_name()), error))?;
    Ok(name)
}

/// What the comment of a table on its way out says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leaving {
    pub(crate) source: String,
    /// Where the log ended when it was detached. Everything in the partition is in the log before it.
    end: String,
}

impl Leaving {
    pub(crate) fn end(&self) -> Lsn {
        self.end.parse::<PgLsn>().map_or(Lsn(u64::MAX), |lsn| Lsn(lsn.into()))
    }
}

/// A table on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeavingTable {
    pub(crate) table: Partition,
    pub(crate) note: Leaving,
}

/// The tables of this source that were detached and are still there.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn leaving(client: &Client, source: &str) -> Result<Vec<LeavingTable>> {
    const LEAVING: &str = "
SELECT n.nspname::text, c.relname::text, substr(d.description, length($1) + 1)
FROM pg_description d JOIN pg_class c ON c.oid = d.objoid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND starts_with(d.description, $1) AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition
ORDER BY c.oid";
    let rows = client.query(LEAVING, &[&COMMENT]).await;
    let rows = rows.map_err(|error| failed("look for partitions that were detached", error))?;
    let found = rows.iter().filter_map(|row| {
        let note: Leaving = serde_json::from_str(row.get(2)).ok()?;
        let range = Range { from: None, to: None };
        let table = Partition { schema: row.get(0), name: row.get(1), range, is_pending: false };
        (note.source == source).then_some(LeavingTable { table, note })
    });
    Ok(found.collect())
}

/// What became of a partition that was to be detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detaching {
    Done,
    /// It has rows without their mark.
    HasUnmarked,
}

/// Detaches a partition, and notes where the log ends, in one transaction.
///
/// `DETACH … CONCURRENTLY` will not do. Its first transaction takes the partition out of the tree for
/// logical decoding too, and whoever has an older snapshot still inserts into the partition. Such a
/// row would never be sent. Here the partition is locked first, which waits for whoever has inserted
/// into it. From then on all its rows are committed, and the log has them before its end. Last comes
/// the lock of the root. It is short, and as long as it is waited for, inserts wait as well:
/// `lock_timeout` bounds it.
///
/// # Errors
/// What the server says: a foreign key is in the way, or transactions use the table for longer than
/// the session waits.
pub(crate) async fn detach(
    client: &Client,
    table: &TableInfo,
    part: &Partition,
    source: &str,
    mark: Unmarked<'_>,
) -> Result<Detaching> {
    let what = || format!("detach partition {}", part.display_name());
    client.batch_execute("BEGIN").await.map_err(|error| failed(&what(), error))?;
    let detached = locked_and_detached(client, table, part, source, mark).await;
    let end = if matches!(detached, Ok(Detaching::Done)) { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(|error| failed(&what(), error))?;
    detached.map_err(|error| failed(&what(), error))
}

/// The inside of the transaction.
async fn locked_and_detached(
    client: &Client,
    table: &TableInfo,
    part: &Partition,
    source: &str,
    mark: Unmarked<'_>,
) -> Result<Detaching, tokio_postgres::Error> {
    let sql_name = part.sql_name();
    client.batch_execute(&format!("LOCK TABLE ONLY {sql_name} IN SHARE ROW EXCLUSIVE MODE")).await?;
    if let Some(condition) = mark.condition() {
        let sql = format!("SELECT EXISTS (SELECT FROM {sql_name} WHERE {condition})");
        if client.query_one(&sql, &[]).await?.get(0) {
            return Ok(Detaching::HasUnmarked);
        }
    }
    let end = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    // A source's name and an LSN need no quotes.
    let note = serde_json::json!(Leaving { source: source.to_owned(), end });
    let detach = format!(
        "COMMENT ON TABLE {sql_name} IS '{COMMENT}{note}'; ALTER TABLE {} DETACH PARTITION {sql_name}",
        table.sql_name()
    );
    client.batch_execute(&detach).await?;
    Ok(Detaching::Done)
}

/// Whether the partition has rows without their mark. Without a mark column there are none.
///
/// # Errors
/// What the server says.
pub(crate) async fn has_unmarked(client: &Client, part: &Partition, mark: Unmarked<'_>) -> Result<bool> {
    let Some(condition) = mark.condition() else { return Ok(false) };
    let sql = format!("SELECT EXISTS (SELECT FROM {} WHERE {condition})", part.sql_name());
    let row = client.query_one(&sql, &[]).await;
    Ok(row.map_err(|error| failed(&format!("look for unmarked rows of {}", part.display_name()), error))?.get(0))
}

/// What tells that a row has no mark.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unmarked<'a> {
    /// This column is null.
    Null(&'a str),
    /// It is there.
    There,
    /// Nothing does.
    Unknown,
}

impl Unmarked<'_> {
    fn condition(self) -> Option<String> {
        match self {
            Self::Null(column) => Some(format!("{} IS NULL", quote_ident(column))),
            Self::There => Some("true".to_owned()),
            Self::Unknown => None,
        }
    }
}

/// Drops a detached table.
///
/// # Errors
/// What the server says, for example that a view depends on it.
pub(crate) async fn drop_table(client: &Client, part: &Partition) -> Result<()> {
    let dropped = client.batch_execute(&format!("DROP TABLE {}", part.sql_name())).await;
    dropped.map_err(|error| failed(&format!("drop {}", part.display_name()), error))
}

/// Whether the statement ended because somebody held a lock or a transaction for too long. It is
/// tried again with the next round.
pub(crate) fn is_held_up(error: &Error) -> bool {
    let state = crate::postgres::sqlstate(error);
    state == Some(SqlState::LOCK_NOT_AVAILABLE.code()) || state == Some(SqlState::QUERY_CANCELED.code())
}
