//! The rows that were unpublished when the slot was made, read in the slot's own snapshot (rule
//! 14).
//!
//! In: an ordinary session, the name of the snapshot that creating the slot exported, and the
//! source's tables. Out: chunks of rows. The rows of all tables of the source come in one order,
//! and each value is the text that pgoutput would send for it. What must hold: the snapshot is
//! imported before the replication session does anything else (the export ends with its next
//! command). Memory is bounded by one chunk, since the cursor's rows stay in the server.
//!
//! [`output`](super::output) tells how a value becomes the text that pgoutput would send.

use tokio_postgres::{
    Client, Row,
    types::{FromSql, Type},
};

use super::{
    TableInfo, failed,
    names::quote_literal,
    output::{column_sql, text_sql},
    publications::{self, Membership},
    server,
};
use crate::{
    Code, Error, Result,
    config::{Mark, Source},
};

/// The order in which a backfill reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// By the configured monotonic column.
    Column(String),
    /// By commit time (`track_commit_timestamp`), then as [`Order::Insertion`].
    CommitTimestamp,
    /// By creation time, inserting transaction, command and place in the table.
    Insertion,
}

impl Order {
    /// The order that applies; `check` shows it.
    #[must_use]
    pub fn choose(order_by: Option<&str>, track_commit_timestamp: bool) -> Self {
        match order_by {
            Some(column) => Self::Column(column.to_owned()),
            None if track_commit_timestamp => Self::CommitTimestamp,
            None => Self::Insertion,
        }
    }
}

/// The query of a backfill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackfillQuery {
    sql: String,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackfillRow {
    /// Index of its table in configuration order.
    pub table: u16,
    /// The values of the columns of that table's [`TableInfo::relation_schema`], in its order, as
    /// the text that pgoutput would send. In a SQL_ASCII database the text need not be UTF-8. Such
    /// a row is poison.
    pub columns: Vec<Option<Box<[u8]>>>,
}

impl BackfillQuery {
    /// The query that reads the unpublished rows of `tables` in one order. `filters` are the
    /// publication's row filters, one for each table. The backfill leaves out what the stream
    /// leaves out.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a table lacks the mark column or the column to order by, or
    /// when the columns to order by have types that cannot be compared across the tables.
    pub fn new(tables: &[TableInfo], filters: &[Option<String>], source: &Source, order: &Order) -> Result<Self> {
        let keys = order_keys(tables, &source.mapping.columns.created_at, order)?;
        let mut parts = Vec::with_capacity(tables.len());
        for (index, table) in tables.iter().enumerate() {
            let condition = condition(table, filters.get(index).and_then(Option::as_deref), source)?;
            parts.push(table_sql(index, table, &condition, &keys));
        }
        let places: Vec<_> =
            keys.iter().enumerate().map(|(at, key)| format!("outboxd_k{} {}", at + 1, key.direction)).collect();
        // The table's number breaks ties between tables. Within one table the ctid has broken them
        // already.
        let sql = format!("SELECT i, v FROM (\n{}\n) o ORDER BY {}, i", parts.join("\nUNION ALL\n"), places.join(", "));
        Ok(Self { sql })
    }

    /// The text of the query.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }
}

/// An open backfill: a cursor in a transaction that sees the slot's snapshot. The transaction ends
/// with the session, or with [`BackfillCursor::finish`].
#[derive(Debug)]
pub struct BackfillCursor<'a> {
    client: &'a Client,
}

impl<'a> BackfillCursor<'a> {
    /// Begins the transaction and imports the snapshot. The session that exported it must do
    /// nothing until this has returned. After that it may start to stream.
    ///
    /// # Errors
    /// What the server says, for example that the snapshot is gone.
    pub async fn import_snapshot(client: &Client, snapshot: &str) -> Result<()> {
        let import = format!("SET TRANSACTION SNAPSHOT {};", quote_literal(snapshot));
        begin(client, &import).await.map_err(|error| failed("import the snapshot of the slot", error))
    }

    /// Begins the transaction with a snapshot of this moment.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn begin(client: &Client) -> Result<()> {
        begin(client, "").await.map_err(|error| failed("begin to read the unpublished rows", error))
    }

    /// Opens the cursor over the unpublished rows of a source, on the session of
    /// [`BackfillCursor::import_snapshot`].
    ///
    /// # Errors
    /// As [`BackfillQuery::new`], and what the server says, for example that a right is missing.
    pub async fn open(client: &'a Client, tables: &[TableInfo], source: &Source) -> Result<Self> {
        let tracked = server::server(client).await?.track_commit_timestamp;
        let order = Order::choose(source.backfill_order_by.as_deref(), tracked);
        // This reads in the same snapshot, so the filters are those with which the slot begins.
        let publication = publications::publication(client, &source.publication).await?;
        let filter = |table: &TableInfo| match publication.as_ref().map(|publication| publication.membership(table)) {
            Some(Membership::Listed(listed)) => listed.row_filter.clone(),
            _ => None,
        };
        let filters: Vec<_> = tables.iter().map(filter).collect();
        let query = BackfillQuery::new(tables, &filters, source, &order)?;
        let declare = format!("DECLARE outboxd_backfill NO SCROLL CURSOR FOR {}", query.sql);
        client.batch_execute(&declare).await.map_err(|error| failed("read the unpublished rows", error))?;
        Ok(Self { client })
    }

    /// The next rows. Fewer than `limit` mean the end.
    ///
    /// # Errors
    /// What the server says.
    pub async fn fetch(&mut self, limit: usize) -> Result<Vec<BackfillRow>> {
        let sql = format!("FETCH FORWARD {} FROM outboxd_backfill", limit.max(1));
        let rows =
            self.client.query_typed(&sql, &[]).await.map_err(|error| failed("read the unpublished rows", error))?;
        rows.iter().map(backfill_row).collect()
    }

    /// Ends the transaction, which lets the snapshot go.
    ///
    /// # Errors
    /// Only what a broken session brings.
    pub async fn finish(self) -> Result<()> {
        self.client.batch_execute("COMMIT").await.map_err(|error| failed("end the backfill", error))
    }
}

/// Begins the transaction of a backfill. Row security must fail a backfill, not hide rows from it.
/// The planner must plan for the whole result, not for its first tenth. This transaction idles
/// while a chunk travels to Kafka. The sort may well outlast a statement_timeout, and the whole
/// backfill a transaction_timeout (Postgres 17).
pub(super) async fn begin(client: &Client, import: &str) -> std::result::Result<(), tokio_postgres::Error> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {import}
         SET LOCAL row_security = off; SET LOCAL cursor_tuple_fraction = 1;
         SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0;
         SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout';"
    );
    client.batch_execute(&sql).await
}

/// A value as the server sent it.
pub(super) struct Raw(pub(super) Box<[u8]>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.into()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

fn backfill_row(row: &Row) -> Result<BackfillRow> {
    let values: Vec<Option<Raw>> = row.get(1);
    let table = u16::try_from(row.get::<_, i32>(0))
        .map_err(|error| Error::new(Code::Internal, "a row of the backfill").because(error))?;
    Ok(BackfillRow { table, columns: values.into_iter().map(|value| value.map(|raw| raw.0)).collect() })
}

/// One key of the order: an expression over the row `t`, the same for all tables.
struct Key {
    /// Where NULL comes. Empty for the server's default.
    direction: &'static str,
    expression: KeyExpression,
}

enum KeyExpression {
    /// The column of that name, cast where the types differ between the tables.
    Column(String, Option<&'static str>),
    /// The same text for every table.
    Text(&'static str),
}

/// How a column is cast that a person chose to order all tables by.
///
/// # Errors
/// [`Code::ColumnInvalid`]: a table lacks it, or their types cannot be put in one order.
pub(super) fn ordering_cast(tables: &[TableInfo], name: &str) -> Result<Option<&'static str>> {
    for table in tables {
        table.needed_column(name)?;
    }
    common_type(tables, name).ok_or_else(|| {
        let text = format!("the tables have column {name} with types that cannot be put in one order");
        Error::new(Code::ColumnInvalid, text)
    })
}

/// The keys of the order, most significant first. Only a column that all tables have can order them
/// together.
fn order_keys(tables: &[TableInfo], created_at: &str, order: &Order) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    match order {
        Order::Column(name) => {
            let cast = ordering_cast(tables, name)?;
            keys.push(Key { direction: "NULLS FIRST", expression: KeyExpression::Column(name.clone(), cast) });
        }
        // Transactions from before somebody turned the setting on have no commit time. They are the
        // oldest.
        Order::CommitTimestamp => {
            let commit = KeyExpression::Text("pg_xact_commit_timestamp(t.xmin)");
            keys.push(Key { direction: "NULLS FIRST", expression: commit });
        }
        Order::Insertion => {}
    }
    if !matches!(order, Order::Column(_))
        && tables.iter().all(|table| table.column(created_at).is_some())
        && let Some(cast) = common_type(tables, created_at)
    {
        keys.push(Key { direction: "", expression: KeyExpression::Column(created_at.to_owned(), cast) });
    }
    // `age` counts back from now, since the numbers of transactions wrap round. Frozen ones come
    // first. The type cid has no order of its own. The ctid alone would repeat between partitions.
    for expression in ["-age(t.xmin)::int8", "t.cmin::text::int8", "t.tableoid", "t.ctid"] {
        keys.push(Key { direction: "", expression: KeyExpression::Text(expression) });
    }
    Ok(keys)
}

/// How to compare a column across tables. `Some(None)`: as it is, since all tables have one type
/// (then an index can serve). `Some(Some(type))`: after a cast. `None`: it cannot be compared.
#[allow(clippy::option_option)]
pub(super) fn common_type(tables: &[TableInfo], column: &str) -> Option<Option<&'static str>> {
    let mut types = tables.iter().filter_map(|table| table.column(column)).map(|column| column.base_type_oid);
    let first = types.next()?;
    let all: Vec<u32> = std::iter::once(first).chain(types).collect();
    if all.iter().all(|oid| *oid == first) {
        return Some(None);
    }
    let all_of = |of: &[Type]| all.iter().all(|oid| Type::from_oid(*oid).is_some_and(|ty| of.contains(&ty)));
    if all_of(&[Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::DATE]) {
        // The session's TimeZone is UTC.
        Some(Some("timestamptz"))
    } else if all_of(&[Type::INT2, Type::INT4, Type::INT8, Type::NUMERIC]) {
        Some(Some("numeric"))
    } else if all_of(&[Type::TEXT, Type::VARCHAR, Type::BPCHAR]) {
        Some(Some("text"))
    } else {
        None
    }
}

/// Which rows of a table are read.
fn condition(table: &TableInfo, row_filter: Option<&str>, source: &Source) -> Result<String> {
    let mut conditions = Vec::new();
    if source.mark == Mark::Update {
        let column = table.needed_column(&source.mapping.columns.published_at)?;
        conditions.push(format!("{} IS NULL", column_sql("t", &column.name)));
    }
    conditions.extend(row_filter.map(|filter| format!("({filter})")));
    Ok(if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") })
}

/// The part of one table, sorted on its own by the plain rows. So large values stay out of the sort
/// (the server fetches them from TOAST only when it outputs a row), and the server merges the
/// parts.
fn table_sql(index: usize, table: &TableInfo, condition: &str, keys: &[Key]) -> String {
    let values: Vec<_> = table.published_columns().map(|column| text_sql("s", column)).collect();
    let numbered = || (1..).zip(keys);
    let outer: Vec<_> = numbered().map(|(place, _)| format!("s.outboxd_k{place}")).collect();
    let inner: Vec<_> = numbered().map(|(place, key)| format!("{} AS outboxd_k{place}", key_sql(key))).collect();
    let order: Vec<_> = numbered().map(|(place, key)| format!("outboxd_k{place} {}", key.direction)).collect();
    format!(
        "(SELECT {index}::int4 AS i, ARRAY[{}]::text[] AS v, {}
  FROM (SELECT t.*, {} FROM {} t WHERE {condition} ORDER BY {} OFFSET 0) s)",
        values.join(", "),
        outer.join(", "),
        inner.join(", "),
        table.sql_only(),
        order.join(", ")
    )
}

fn key_sql(key: &Key) -> String {
    match &key.expression {
        KeyExpression::Text(text) => (*text).to_owned(),
        KeyExpression::Column(name, None) => column_sql("t", name),
        KeyExpression::Column(name, Some(cast)) => format!("{}::{cast}", column_sql("t", name)),
    }
}
