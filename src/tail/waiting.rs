//! The rows that wait in their tables, in the order in which a backfill would publish them.

use super::{
    event::{Event, Fate},
    lines::Lines,
    rows::{Row, Rows},
};
use crate::{
    Code, Error, Result,
    config::{Backfill, Source},
    pgoutput::{Tuple, TupleWriter},
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{
            TableInfo,
            backfill::{BackfillCursor, BackfillRow},
            fetch::next_fetch,
            server, tables,
        },
    },
};

/// Rows of one FETCH, at most.
const FETCH_ROWS: usize = 1_000;

/// How many of the oldest rows [`stops`] looks at.
pub(crate) const LOOKED_AT: usize = 1_000;

/// Why the source would halt at one of the oldest rows that wait. `None` where the first
/// [`LOOKED_AT`] of them can be published, or nothing tells which rows wait.
///
/// # Errors
/// What keeps the rows from being read.
pub(crate) async fn stops(
    session: &SqlSession,
    source: &Source,
    tables: &[TableInfo],
    position_topic: &str,
) -> Result<Option<Error>> {
    // Without a backfill, rows from before the slot are never published, and nothing tells them apart.
    if source.backfill != Backfill::Unpublished || tables.is_empty() {
        return Ok(None);
    }
    let schemas: Vec<_> = tables.iter().map(TableInfo::relation_schema).collect();
    let mut rows = Rows::new(source, position_topic, &schemas)?;
    BackfillCursor::begin(session).await?;
    let mut cursor = BackfillCursor::open(session, tables, source).await?;
    rows.begin(server::clock(session).await?);
    let (mut tuple, mut writer, mut limit, mut seen) = (Vec::new(), TupleWriter::new(), 1, 0);
    let mut stops = None;
    while stops.is_none() && seen < LOOKED_AT {
        let fetched = cursor.fetch(limit).await?;
        for row in &fetched {
            let Some(table) = tables.get(usize::from(row.table)) else { continue };
            let event =
                rows.event(Row { relation: table.oid, tuple: written(row, &mut tuple, &mut writer)?, place: None });
            if let Some(Event { fate: Fate::Stops(error), .. }) = event? {
                stops = Some(error);
                break;
            }
        }
        if fetched.len() < limit {
            break;
        }
        seen += fetched.len();
        limit = next_fetch(fetched.len(), fetched.iter().map(size).sum(), FETCH_ROWS).min(LOOKED_AT - seen).max(1);
    }
    cursor.finish().await?;
    Ok(stops)
}

/// The row as the stream would have brought it.
fn written<'a>(row: &BackfillRow, tuple: &'a mut Vec<u8>, writer: &mut TupleWriter) -> Result<Tuple<'a>> {
    tuple.clear();
    let range = writer.row(tuple, row.columns.iter().map(Option::as_deref));
    Tuple::parse(&tuple[range]).map_err(|error| Error::new(Code::Internal, "a row that waits").because(error))
}

/// Prints the rows of one source after the other, each source in one snapshot.
///
/// # Errors
/// Whatever keeps a source from being read.
pub(super) async fn print(sources: Vec<Source>, position_topic: String, mut lines: Lines) -> Result<()> {
    for source in &sources {
        let printed = print_source(source, &position_topic, &mut lines).await;
        let goes_on = printed.map_err(|error| error.about(format_args!("source {}", source.name)))?;
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// Prints the rows of one source. Returns whether more may be printed.
async fn print_source(source: &Source, position_topic: &str, lines: &mut Lines) -> Result<bool> {
    let session = ConnectOptions::of(source).sql("tail").await?;
    let tables = tables::resolve_all(&session, source).await?;
    let schemas: Vec<_> = tables.iter().map(TableInfo::relation_schema).collect();
    let mut rows = Rows::new(source, position_topic, &schemas)?;
    BackfillCursor::begin(&session).await?;
    let mut cursor = BackfillCursor::open(&session, &tables, source).await?;
    // As in a backfill: nobody knows any more when the rows were committed.
    rows.begin(server::clock(&session).await?);
    let (mut tuple, mut writer, mut limit) = (Vec::new(), TupleWriter::new(), 1);
    loop {
        let fetched = cursor.fetch(limit).await?;
        for row in &fetched {
            let Some(table) = tables.get(usize::from(row.table)) else { continue };
            let tuple = written(row, &mut tuple, &mut writer)?;
            if let Some(event) = rows.event(Row { relation: table.oid, tuple, place: None })? {
                lines.push(&event);
            }
            if !lines.has_room() && (!lines.flush().await || lines.is_enough()) {
                return Ok(false);
            }
        }
        if !lines.flush().await {
            return Ok(false);
        }
        if fetched.len() < limit {
            break;
        }
        limit = next_fetch(fetched.len(), fetched.iter().map(size).sum(), FETCH_ROWS);
    }
    cursor.finish().await?;
    Ok(true)
}

fn size(row: &BackfillRow) -> usize {
    row.columns.iter().flatten().map(|column| column.len()).sum()
}
