//! The statements that mark rows as published, and the settings of the sessions that run them.

use std::time::Duration;

use bytes::BytesMut;
use tokio_postgres::{
    Client, Statement,
    types::{IsNull, ToSql, Type, accepts, to_sql_checked},
};
use uuid::Uuid;

use super::{ColumnInfo, TableInfo, failed, names::quote_ident};
use crate::{
    Code, Error, Result,
    config::{Columns, Mark, Source},
};

/// The statement that marks rows of one table. Its one parameter is an array of [`Id`]s. `None`
/// with `mark = "none"`. A row that is gone or already marked is not among the affected rows. It
/// counts as marked.
///
/// # Errors
/// [`Code::ColumnInvalid`] when the id or the mark column is missing, or when the mark column does
/// not hold a point in time.
pub fn mark_sql(table: &TableInfo, columns: &Columns, mark: Mark) -> Result<Option<String>> {
    let id = table.needed_column(&columns.id)?;
    let name = table.sql_only();
    let column = quote_ident(&id.name);
    let chosen = if id.base_type_oid == Type::UUID.oid() {
        format!("{column} = ANY ($1::uuid[])")
    } else {
        // The ids come from the stream as text, and each type reads its own output back. So the
        // parameter is text.
        format!("{column} = ANY ($1::text[]::{}[])", id.cast_name)
    };
    match mark {
        Mark::None => Ok(None),
        Mark::Delete => Ok(Some(format!("DELETE FROM {name} WHERE {chosen}"))),
        Mark::Update => {
            let column = table.needed_column(&columns.published_at)?;
            let now = mark_value(table, column)?;
            let mark = quote_ident(&column.name);
            // The condition is not `IS NULL`. With that, an index over the unpublished rows (the
            // seed's index has just that WHERE) would look cheaper than the id's while there are
            // few of them. Then the server would compare every row of a later backlog with every
            // id.
            Ok(Some(format!("UPDATE {name} SET {mark} = {now} WHERE {chosen} AND num_nulls({mark}) = 1")))
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

/// The statement that marks rows of one table, prepared on the session that will run it.
pub struct MarkStatement {
    table: String,
    prepared: Statement,
}

impl MarkStatement {
    /// Sets up a session for marking, and prepares the statement of each table in configuration
    /// order. With `mark = "none"` there are no statements.
    ///
    /// # Errors
    /// As [`mark_sql`], and what the server says, for example that a right is missing.
    pub async fn prepare_all(client: &Client, tables: &[TableInfo], source: &Source) -> Result<Vec<Self>> {
        client
            .batch_execute(&settings_sql(source.timeouts.statement, source.timeouts.lock))
            .await
            .map_err(|error| failed("set up a marking session", error))?;
        let mut statements = Vec::with_capacity(tables.len());
        for table in tables {
            let Some(sql) = mark_sql(table, &source.mapping.columns, source.mark)? else { continue };
            let what = || format!("prepare the statement that marks rows of {}", table.display_name());
            let prepared = client.prepare(&sql).await.map_err(|error| failed(&what(), error))?;
            statements.push(Self { table: table.display_name(), prepared });
        }
        Ok(statements)
    }

    /// `schema.name`, for messages.
    #[must_use]
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// The statement. Its one parameter is an array of [`Id`]s.
    #[must_use]
    pub fn prepared(&self) -> &Statement {
        &self.prepared
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
