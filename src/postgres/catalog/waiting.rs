//! What the rows that wait say of themselves: the distinct texts of some of their columns.

use tokio_postgres::Client;

use super::{
    TableInfo,
    names::{quote_ident, quote_literal},
};
use crate::{Result, postgres::sql_error};

/// The rows that are looked at, at most. A backlog of any size costs no more than these.
const ROWS: u32 = 100_000;

/// A piece of a text that follows from a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// The same for every row.
    Text(&'a str),
    /// The text of this column, as the stream tells it.
    Column(&'a str),
}

/// The distinct texts that the rows without a mark give, at most `most` of them, in order. A row in
/// which one of the columns is NULL gives none. Without a mark column all rows count.
///
/// # Errors
/// What the server says, for example that the role may not read the table.
pub(crate) async fn texts(
    client: &Client,
    table: &TableInfo,
    pieces: &[Piece<'_>],
    mark: Option<&str>,
    most: u32,
) -> Result<Vec<String>> {
    let columns: Vec<_> = pieces.iter().filter_map(Piece::column).collect();
    if !columns.iter().copied().chain(mark).all(|column| table.column(column).is_some()) {
        return Ok(Vec::new()); // What the table lacks is told elsewhere.
    }
    let rows = client.query(&texts_sql(table, pieces, mark, most), &[]).await;
    let rows =
        rows.map_err(|error| sql_error(&format!("reading the waiting rows of {}", table.display_name()), error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn texts_sql(table: &TableInfo, pieces: &[Piece<'_>], mark: Option<&str>, most: u32) -> String {
    let text: String = pieces.iter().map(Piece::format).collect();
    let columns: Vec<_> = pieces.iter().filter_map(Piece::column).map(quote_ident).collect();
    let arguments: String = columns.iter().map(|column| format!(", {column}")).collect();
    let mut conditions: Vec<_> = mark.map(|mark| format!("{} IS NULL", quote_ident(mark))).into_iter().collect();
    if !columns.is_empty() {
        conditions.push(format!("num_nulls({}) = 0", columns.join(", ")));
    }
    let conditions = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
    format!(
        "SELECT DISTINCT text FROM (SELECT format({}{arguments}) AS text FROM {} WHERE {conditions} LIMIT {ROWS}) AS waiting \
         ORDER BY text LIMIT {most}",
        quote_literal(&text),
        table.sql_name(),
    )
}

impl<'a> Piece<'a> {
    fn column(&self) -> Option<&'a str> {
        match self {
            Self::Text(_) => None,
            Self::Column(name) => Some(name),
        }
    }

    /// For SQL's `format`, which writes a value as the stream does (`t`, and not `true`).
    fn format(&self) -> String {
        match self {
            Self::Text(text) => text.replace('%', "%%"),
            Self::Column(_) => "%s".to_owned(),
        }
    }
}
