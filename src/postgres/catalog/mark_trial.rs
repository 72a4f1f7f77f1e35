//! A mark on trial: the very statement of the marker, in a transaction that is taken back.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::{
    TableInfo, failed,
    marks::{Id, MarkStatement, is_passing, mark_failed, set_up},
};
use crate::{Result, config::Source};

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
    set_up(session, source).await?;
    let Some(statement) = MarkStatement::of(session, table, source).await? else { return Ok(None) };
    run(session, "BEGIN").await?;
    let trial = mark_one(session, &statement).await;
    run(session, "ROLLBACK").await?;
    let (made, swallowed) = trial?;
    Ok(Some(Trial { made, swallowed, by_index: goes_by_index(session, &statement).await? }))
}

async fn mark_one(session: &Client, statement: &MarkStatement) -> Result<(bool, Option<String>)> {
    let looked = session.query_opt(&statement.sql.sample, &[]).await;
    let id = looked.and_then(|row| row.map(|row| row.try_get::<_, String>(0)).transpose());
    let id = id.map_err(|error| failed("look for a row to mark on trial", error))?;
    let ids: Vec<Id<'_>> = id.iter().map(|id| Id(id)).collect();
    let changed = statement.execute(session, &ids).await;
    match changed.map_err(|error| mark_failed(format!("marking a row of {} on trial", statement.table()), error)) {
        Ok(changed) if changed.rows > changed.lost => Ok((true, None)),
        // A daemon may have marked the row since, or somebody may have deleted it.
        Ok(_) => Ok((false, statement.unmarked(session, &ids).await?)),
        Err(error) if is_passing(&error) => Ok((false, None)),
        Err(error) => Err(error),
    }
}

/// A marking session avoids sequential scans, so one that is left has no index to go by.
async fn goes_by_index(session: &Client, statement: &MarkStatement) -> Result<bool> {
    run(session, &format!("PREPARE outboxd_trial AS {}", statement.sql.mark)).await?;
    let plan = session.simple_query("EXPLAIN EXECUTE outboxd_trial('{}')").await;
    run(session, "DEALLOCATE outboxd_trial").await?;
    let plan = plan.map_err(|error| failed("look at the plan of the marking statement", error))?;
    let is_scan = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).is_some_and(|line| line.contains("Seq Scan")),
        _ => false,
    };
    Ok(!plan.iter().any(is_scan))
}

async fn run(session: &Client, sql: &str) -> Result<()> {
    session.batch_execute(sql).await.map_err(|error| failed("mark a row on trial", error))
}
