//! The statements that mark rows as published, and the settings of the sessions that run them.
//!
//! A mark is seen, not assumed. A rule or a trigger of the table may swallow the change, and then the
//! server counts the row as changed all the same, or as not found like a row that is gone. So the
//! statement says what it stored, and what it did not find is looked for.

use std::time::Duration;

use bytes::BytesMut;
use tokio_postgres::{
    Client, Statement,
    error::SqlState,
    types::{IsNull, ToSql, Type, accepts, to_sql_checked},
};
use uuid::Uuid;

use super::{ColumnInfo, TableInfo, failed, names::quote_ident};
use crate::{
    Code, Error, Result,
    config::{Columns, Mark, Source},
    postgres::{sql_error, sqlstate},
};

/// The rows among which [`MarkSql::sample`] looks. A look through a whole table could take long.
const SAMPLE: usize = 1000;

/// The statements for the rows of one table. `mark` and `unmarked` have one parameter, an array of
/// [`Id`]s.
pub struct MarkSql {
    /// Marks the rows. A row that is gone or already marked is not among the affected rows.
    pub mark: String,
    /// Gives the id of one of the rows that is there without its mark.
    unmarked: String,
    /// Gives the id of some row without its mark, if there is one among the first.
    pub(super) sample: String,
    /// What the server must evaluate after the change, to tell whether it stored the mark.
    returning: Option<String>,
}

impl MarkSql {
    /// One row: how many rows the server changed, and how many of them have no mark all the same.
    fn counted(&self) -> String {
        match &self.returning {
            Some(is_lost) => format!(
                "WITH changed AS ({} RETURNING {is_lost} AS is_lost) \
                 SELECT count(*), count(*) FILTER (WHERE is_lost) FROM changed",
                self.mark
            ),
            None => self.mark.clone(),
        }
    }

    /// A row for each that the server changed: whether it has no mark all the same. For tables with
    /// rules, which the server does not allow in `WITH`.
    fn returned(&self) -> String {
        match &self.returning {
            Some(is_lost) => format!("{} RETURNING {is_lost}", self.mark),
            None => self.mark.clone(),
        }
    }
}

/// The statements that mark rows of one table. `None` with `mark = "none"`.
///
/// # Errors
/// [`Code::ColumnInvalid`] when the id or the mark column is missing, or when the mark column does
/// not hold a point in time.
pub fn mark_sql(table: &TableInfo, columns: &Columns, mark: Mark) -> Result<Option<MarkSql>> {
    let id = table.needed_column(&columns.id)?;
    let name = table.sql_only();
    let column = quote_ident(&id.name);
    // The ids come from the stream as text, and each type reads its own output back. So the parameter
    // is text.
    let chosen = match &id.cast_name {
        _ if id.base_type_oid == Type::UUID.oid() => format!("{column} = ANY ($1::uuid[])"),
        // An array of arrays would be one array of more dimensions.
        array if array.ends_with("[]") => {
            format!("{column} IN (SELECT id::{array} FROM unnest($1::text[]) AS ids (id))")
        }
        other => format!("{column} = ANY ($1::text[]::{other}[])"),
    };
    let unmarked = format!("SELECT {column}::text FROM {name} WHERE {chosen}");
    let sample = |columns: &str, is_unmarked: &str| {
        format!(
            "SELECT {column}::text FROM (SELECT {columns} FROM {name} LIMIT {SAMPLE}) AS sample \
             WHERE num_nulls({column}) = 0{is_unmarked} LIMIT 1"
        )
    };
    match mark {
        Mark::None => Ok(None),
        Mark::Delete => Ok(Some(MarkSql {
            mark: format!("DELETE FROM {name} WHERE {chosen}"),
            unmarked: format!("{unmarked} LIMIT 1"),
            sample: sample(&column, ""),
            returning: None,
        })),
        Mark::Update => {
            let published_at = table.needed_column(&columns.published_at)?;
            let now = mark_value(table, published_at)?;
            let mark = quote_ident(&published_at.name);
            // The condition is not `IS NULL`. With that, an index over the unpublished rows (the
            // seed's index has just that WHERE) would look cheaper than the id's while there are
            // few of them. Then the server would compare every row of a later backlog with every
            // id.
            let is_unmarked = format!("num_nulls({mark}) = 1");
            Ok(Some(MarkSql {
                mark: format!("UPDATE {name} SET {mark} = {now} WHERE {chosen} AND {is_unmarked}"),
                unmarked: format!("{unmarked} AND {is_unmarked} LIMIT 1"),
                sample: sample(&format!("{column}, {mark}"), &format!(" AND {is_unmarked}")),
                returning: Some(is_unmarked),
            }))
        }
    }
}

/// "Now" in the type of the mark column. A timestamp without zone gets UTC whatever the session's
/// TimeZone is.
///
/// # Errors
/// [`Code::ColumnInvalid`] when the type does not hold a point in time.
pub(crate) fn mark_value(table: &TableInfo, column: &ColumnInfo) -> Result<&'static str> {
    match Type::from_oid(column.base_type_oid) {
        Some(Type::TIMESTAMPTZ) => Ok("now()"),
        Some(Type::TIMESTAMP) => Ok("(now() AT TIME ZONE 'UTC')"),
        Some(Type::DATE) => Ok("(now() AT TIME ZONE 'UTC')::date"),
        _ => Err(Error::new(
            Code::ColumnInvalid,
            format!(
                "column {} of table {} has type {}; a mark needs timestamp, timestamp with time zone or date",
                column.name,
                table.display_name(),
                column.type_name
            ),
        )),
    }
}

/// The statements that mark rows of one table, prepared on the session that will run them.
pub struct MarkStatement {
    table: String,
    pub(super) sql: MarkSql,
    mark: Statement,
    tells: Tells,
    unmarked: Statement,
}

/// How the marking statement tells what it did.
#[derive(Debug, Clone, Copy)]
enum Tells {
    /// By the number of rows in its command tag.
    Tag,
    /// By one row of two counts, see [`MarkSql::counted`].
    Counts,
    /// By a row for each changed row, see [`MarkSql::returned`].
    Rows,
}

/// What a marking statement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Rows that it changed or deleted.
    pub rows: u64,
    /// Those of them that have no mark all the same: a trigger has put the old value back.
    pub lost: u64,
}

impl MarkStatement {
    /// Sets up a session for marking, and prepares the statement of each table in configuration
    /// order. With `mark = "none"` there are no statements.
    ///
    /// # Errors
    /// As [`MarkStatement::of`].
    pub async fn prepare_all(client: &Client, tables: &[TableInfo], source: &Source) -> Result<Vec<Self>> {
        set_up(client, source).await?;
        let mut statements = Vec::with_capacity(tables.len());
        for table in tables {
            statements.extend(Self::of(client, table, source).await?);
        }
        Ok(statements)
    }

    /// Prepares the statement of a table on a session that [`set_up`] was called for. `None` with
    /// `mark = "none"`.
    ///
    /// # Errors
    /// As [`mark_sql`], and what the server says. `mark-failed`: a rule of the table swallows marks.
    pub async fn of(client: &Client, table: &TableInfo, source: &Source) -> Result<Option<Self>> {
        let Some(sql) = mark_sql(table, &source.mapping.columns, source.mark)? else { return Ok(None) };
        let what = || format!("prepare the statement that marks rows of {}", table.display_name());
        let prepared = Self::prepare(client, table, sql).await.map_err(|error| match error.code() {
            // The server has words for a rule that swallows an UPDATE.
            Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
                Error::new(Code::MarkFailed, what()).because(failed(&what(), error))
            }
            _ => failed(&what(), error),
        });
        prepared.map(Some)
    }

    async fn prepare(
        client: &Client,
        table: &TableInfo,
        sql: MarkSql,
    ) -> std::result::Result<Self, tokio_postgres::Error> {
        let (mark, tells) = match client.prepare(&sql.counted()).await {
            Ok(mark) if sql.returning.is_some() => (mark, Tells::Counts),
            Ok(mark) => (mark, Tells::Tag),
            Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
                (client.prepare(&sql.returned()).await?, Tells::Rows)
            }
            Err(error) => return Err(error),
        };
        let unmarked = client.prepare(&sql.unmarked).await?;
        Ok(Self { table: table.display_name(), sql, mark, tells, unmarked })
    }

    /// `schema.name`, for messages.
    #[must_use]
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Marks the rows of these ids.
    ///
    /// # Errors
    /// What the server says.
    pub async fn execute(
        &self,
        client: &Client,
        ids: &[Id<'_>],
    ) -> std::result::Result<Changed, tokio_postgres::Error> {
        match self.tells {
            Tells::Tag => client.execute(&self.mark, &[&ids]).await.map(|rows| Changed { rows, lost: 0 }),
            Tells::Counts => {
                let row = client.query_one(&self.mark, &[&ids]).await?;
                let count = |column: usize| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
                Ok(Changed { rows: count(0)?, lost: count(1)? })
            }
            Tells::Rows => {
                let rows = client.query(&self.mark, &[&ids]).await?;
                let lost = rows.iter().filter(|row| row.try_get(0).unwrap_or(true)).count();
                Ok(Changed { rows: rows.len() as u64, lost: lost as u64 })
            }
        }
    }

    /// The id of one of these rows that this session sees without its mark, if there is one.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn unmarked(&self, client: &Client, ids: &[Id<'_>]) -> Result<Option<String>> {
        let found = client.query_opt(&self.unmarked, &[&ids]).await;
        let id = found.and_then(|row| row.map(|row| row.try_get(0)).transpose());
        id.map_err(|error| failed(&format!("look for marks of {}", self.table), error))
    }
}

/// Whether a mark failed for a reason that passes: a lock, a deadlock, a serialization failure. The
/// statement may run again in the same session.
pub(crate) fn is_passing(error: &Error) -> bool {
    let passing = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
    sqlstate(error).is_some_and(|state| passing.iter().any(|passing| passing.code() == state))
}

/// Whether the statement has to be prepared anew: a rule came, or the plan no longer fits the table.
pub(crate) fn spoils_the_statement(error: &Error) -> bool {
    sqlstate(error) == Some(SqlState::FEATURE_NOT_SUPPORTED.code())
}

/// Whether a mark failed for a reason that lies with its table or row, so that the session can go on
/// marking others and try this one again. Otherwise the connection is to blame, or the table is no
/// longer what the statement was prepared for, and only a new session can find out.
pub(crate) fn leaves_the_session(error: &Error) -> bool {
    match sqlstate(error) {
        // A right that is missing, or a timeout.
        Some("42501" | "57014") => true,
        // Connections; names and types that no longer fit; the server stops.
        Some(state) => !["08", "26", "28", "3D", "42", "57"].iter().any(|class| state.starts_with(class)),
        None => error.code() == Code::MarkFailed,
    }
}

/// The error of a mark that failed for another reason.
pub(crate) fn mark_failed(context: String, error: tokio_postgres::Error) -> Error {
    let error = sql_error(&context, error);
    match error.code() {
        Code::PostgresQueryFailed => Error::new(Code::MarkFailed, context).because(error),
        _ => error,
    }
}

/// The id of a row as the stream tells it, in text. A uuid travels in binary: if the server had to
/// read 36 characters, that would cost a good part of what it costs to find the row.
#[derive(Debug, Clone, Copy)]
pub struct Id<'a>(pub &'a str);

impl ToSql for Id<'_> {
    fn to_sql(
        &self,
        r#type: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        if *r#type == Type::UUID {
            out.extend_from_slice(Uuid::try_parse(self.0)?.as_bytes());
        } else {
            out.extend_from_slice(self.0.as_bytes());
        }
        Ok(IsNull::No)
    }

    accepts!(TEXT, UUID);
    to_sql_checked!();
}

/// Sets up a session for marking.
///
/// # Errors
/// What the server says.
pub async fn set_up(client: &Client, source: &Source) -> Result<()> {
    let settings = settings_sql(source.timeouts.statement, source.timeouts.lock);
    client.batch_execute(&settings).await.map_err(|error| failed("set up a marking session", error))
}

/// The settings of a marking session.
fn settings_sql(statement: Duration, lock: Duration) -> String {
    format!(
        "-- A mark that a crash of the server forgets must not have been confirmed (fault 78: the role or the database
-- may default to off).
SET synchronous_commit = on;
-- The statement is prepared once and its array says nothing to the planner: one plan serves all.
SET plan_cache_mode = force_generic_plan;
-- That plan may be made while the table is empty, or has no statistics yet; a sequential scan chosen then would be
-- repeated for every batch of a table that has grown since.
SET enable_seqscan = off;
-- Row security must fail a mark, not hide the row from it.
SET row_security = off;
SET TimeZone = 'UTC';
-- The role or the database may default to read-only, as some clouds set it when the disk is full. Without marks the slot
-- would never move, and the disk never be freed.
SET default_transaction_read_only = off;
SET statement_timeout = {};
SET lock_timeout = {};
-- That bounds a statement of ours; what the role allows other transactions (Postgres 17) would end the same one again and
-- again.
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout';",
        milliseconds(statement),
        milliseconds(lock)
    )
}

/// A duration as the server's timeout settings take it. At least 1, since 0 turns them off.
fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX).max(1)
}
