//! The rows that wait to be published: which topics they go to, and how old they are.

use std::time::Duration;

use tokio_postgres::Client;

use super::{TableInfo, names::quote_ident, output::template_sql};
use crate::{Result, config::Mapping, postgres::sql_error};

/// The rows that are looked at, at most. A backlog of any size costs no more than these.
const ROWS: u32 = 100_000;

/// The rows of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) topic: String,
    /// The age of the oldest of them by its own creation time; `None` where no column tells it.
    pub(crate) oldest: Option<Duration>,
}

/// The distinct topics of the rows without a mark, at most `most` of them, in order. Without a mark
/// column (`is_marked` is false) all rows count.
///
/// # Errors
/// What the server says, for example that the role may not read the table.
pub(crate) async fn waiting(
    client: &Client,
    table: &TableInfo,
    mapping: &Mapping,
    is_marked: bool,
    most: u32,
) -> Result<Vec<Waiting>> {
    // What the table lacks is told elsewhere.
    let Ok(topic) = template_sql("t", &mapping.topic, table) else { return Ok(Vec::new()) };
    let mark = is_marked.then_some(mapping.columns.published_at.as_str());
    if mark.is_some_and(|mark| table.column(mark).is_none()) {
        return Ok(Vec::new());
    }
    let waits = mark.map_or_else(|| "true".to_owned(), |mark| format!("t.{} IS NULL", quote_ident(mark)));
    let created = table.column(&mapping.columns.created_at).filter(|column| column.is_time());
    let created = created.map_or_else(
        || "NULL::timestamptz".to_owned(),
        |column| column.as_utc(&format!("t.{}", quote_ident(&column.name))),
    );
    let sql = format!(
        "SELECT topic, extract(epoch FROM now() - min(created) FILTER (WHERE isfinite(created)))::bigint
         FROM (SELECT {topic} AS topic, {created} AS created FROM {} t WHERE {waits} LIMIT {ROWS}) AS waiting
         WHERE topic IS NOT NULL GROUP BY topic ORDER BY topic LIMIT {most}",
        table.sql_name(),
    );
    let rows = client.query(&sql, &[]).await;
    let rows =
        rows.map_err(|error| sql_error(&format!("reading the waiting rows of {}", table.display_name()), error))?;
    let waiting = rows.iter().map(|row| Waiting {
        topic: row.get(0),
        oldest: row.get::<_, Option<i64>>(1).and_then(|age| u64::try_from(age).ok()).map(Duration::from_secs),
    });
    Ok(waiting.collect())
}
