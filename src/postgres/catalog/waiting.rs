//! The topics that the rows which wait go to.

use tokio_postgres::Client;

use super::{TableInfo, names::quote_ident, output::template_sql};
use crate::{Result, config::Template, postgres::sql_error};

/// The rows that are looked at, at most. A backlog of any size costs no more than these.
const ROWS: u32 = 100_000;

/// The distinct names that the template gives for the rows without a mark, at most `most` of them,
/// in order. Without a mark column all rows count.
///
/// # Errors
/// What the server says, for example that the role may not read the table.
pub(crate) async fn topics(
    client: &Client,
    table: &TableInfo,
    template: &Template,
    mark: Option<&str>,
    most: u32,
) -> Result<Vec<String>> {
    // What the table lacks is told elsewhere.
    let Ok(topic) = template_sql("t", template, table) else { return Ok(Vec::new()) };
    if mark.is_some_and(|mark| table.column(mark).is_none()) {
        return Ok(Vec::new());
    }
    let waits = mark.map_or_else(|| "true".to_owned(), |mark| format!("t.{} IS NULL", quote_ident(mark)));
    let sql = format!(
        "SELECT DISTINCT topic FROM (SELECT {topic} AS topic FROM {} t WHERE {waits} LIMIT {ROWS}) AS waiting \
         WHERE topic IS NOT NULL ORDER BY topic LIMIT {most}",
        table.sql_name(),
    );
    let rows = client.query(&sql, &[]).await;
    let rows =
        rows.map_err(|error| sql_error(&format!("reading the waiting rows of {}", table.display_name()), error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
