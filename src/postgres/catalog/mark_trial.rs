//! A mark on trial: the very statement of the marker, in a transaction that is taken back.

use tokio_postgres::{Client, error::SqlState};

use super::{
    TableInfo, failed,
    marks::{Id, MarkSql, MarkStatement, mark_sql},
};
use crate::{
    Code, Error, Result,
    config::{Mark, Source},
};

/// The rows among which an unmarked one is looked for. A look through a whole table could take long.
const SAMPLE: usize = 1000;

/// What a trial showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trial {
    /// A row had its mark, until the transaction was taken back. Without it there was no row to
    /// mark, or somebody had locked it, and the statement ran all the same.
    pub(crate) made: bool,
    /// The row that had no mark after the statement.
    pub(crate) swallowed: Option<String>,
    /// The statement finds its rows by an index.
    pub(crate) by_index: bool,
}

/// Marks a row, looks at the plan, and takes the mark back. `session` becomes a marking session.
/// `None` with `mark = "none"`.
///
/// # Errors
/// [`Code::MarkFailed`] and the other codes of a mark that fails.
pub(crate) async fn try_mark(session: &Client, table: &TableInfo, source: &Source) -> Result<Option<Trial>> {
    let Some(sql) = mark_sql(table, &source.mapping.columns, source.mark)? else { return Ok(None) };
    let statements = MarkStatement::prepare_all(session, std::slice::from_ref(table), source).await?;
    let Some(statement) = statements.first() else { return Ok(None) };
    run(session, "BEGIN").await?;
    let trial = mark_one(session, statement, &sample_sql(table, source)?).await;
    run(session, "ROLLBACK").await?;
    let (made, swallowed) = trial?;
    Ok(Some(Trial { made, swallowed, by_index: goes_by_index(session, &sql).await? }))
}

async fn mark_one(session: &Client, statement: &MarkStatement, sample: &str) -> Result<(bool, Option<String>)> {
    let looked = session.query_opt(sample, &[]).await;
    let id = looked.and_then(|row| row.map(|row| row.try_get::<_, String>(0)).transpose());
    let id = id.map_err(|error| failed("look for a row to mark on trial", error))?;
    let ids: Vec<Id<'_>> = id.iter().map(|id| Id(id)).collect();
    let changed = match statement.execute(session, &ids).await {
        Ok(changed) => changed,
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok((false, None)),
        Err(error) => {
            let what = format!("mark a row of {} on trial", statement.table());
            let error = failed(&what, error);
            return Err(match error.code() {
                Code::PostgresQueryFailed => Error::new(Code::MarkFailed, error.detail()),
                _ => error,
            });
        }
    };
    let made = changed.rows > changed.lost;
    Ok((made, id.filter(|_| !made)))
}

/// Gives the id of a row without its mark, if there is one among the first.
fn sample_sql(table: &TableInfo, source: &Source) -> Result<String> {
    let columns = &source.mapping.columns;
    let id = super::names::quote_ident(&table.needed_column(&columns.id)?.name);
    let name = table.sql_only();
    Ok(match source.mark {
        Mark::Update => {
            let mark = super::names::quote_ident(&table.needed_column(&columns.published_at)?.name);
            format!(
                "SELECT {id}::text FROM (SELECT {id}, {mark} FROM {name} LIMIT {SAMPLE}) AS sample \
                 WHERE num_nulls({mark}) = 1 AND num_nulls({id}) = 0 LIMIT 1"
            )
        }
        Mark::Delete | Mark::None => {
            format!(
                "SELECT {id}::text FROM (SELECT {id} FROM {name} LIMIT {SAMPLE}) AS sample WHERE num_nulls({id}) = 0 LIMIT 1"
            )
        }
    })
}

/// A marking session avoids sequential scans, so one that is left has no index to go by.
async fn goes_by_index(session: &Client, sql: &MarkSql) -> Result<bool> {
    run(session, &format!("PREPARE outboxd_trial AS {}", sql.mark)).await?;
    let plan = session.simple_query("EXPLAIN EXECUTE outboxd_trial('{}')").await;
    run(session, "DEALLOCATE outboxd_trial").await?;
    let plan = plan.map_err(|error| failed("look at the plan of the marking statement", error))?;
    let is_scan = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).is_some_and(|line| line.contains("Seq Scan")),
        _ => false,
    };
    Ok(!plan.iter().any(is_scan))
}

async fn run(session: &Client, sql: &str) -> Result<()> {
    session.batch_execute(sql).await.map_err(|error| failed("mark a row on trial", error))
}
