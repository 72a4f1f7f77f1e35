//! The rows that wait in their tables, in the order in which a backfill would publish them.

use super::{
    event::{Event, Fate},
    lines::Lines,
    rows::{Row, Rows},
};
use crate::{
    Error, Result,
    config::{Backfill, Source},
    pgoutput::TupleWriter,
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
    let mut waiting = Waiting::open(session, source, tables, position_topic).await?;
    let (mut tuple, mut writer, mut seen) = (Vec::new(), TupleWriter::new(), 0);
    let mut stops = None;
    while stops.is_none() && seen < LOOKED_AT {
        let Some(fetched) = waiting.fetch(LOOKED_AT - seen).await? else { break };
        seen += fetched.len();
        for row in &fetched {
            if let Some(Event { fate: Fate::Stops(error), .. }) = waiting.event(row, &mut tuple, &mut writer)? {
                stops = Some(error);
                break;
            }
        }
    }
    waiting.cursor.finish().await?;
    Ok(stops)
}

/// The rows of one source that wait, in one snapshot.
struct Waiting<'a> {
    cursor: BackfillCursor<'a>,
    rows: Rows,
    tables: &'a [TableInfo],
    /// How many rows the next FETCH asks for.
    limit: usize,
    is_at_end: bool,
}

impl<'a> Waiting<'a> {
    async fn open(
        session: &'a SqlSession,
        source: &'a Source,
        tables: &'a [TableInfo],
        position_topic: &str,
    ) -> Result<Self> {
        let schemas: Vec<_> = tables.iter().map(TableInfo::relation_schema).collect();
        let mut rows = Rows::new(source, position_topic, &schemas)?;
        BackfillCursor::begin(session).await?;
        let cursor = BackfillCursor::open(session, tables, source).await?;
        // As in a backfill: nobody knows any more when the rows were committed.
        rows.begin(server::clock(session).await?);
        Ok(Self { cursor, rows, tables, limit: 1, is_at_end: false })
    }

    /// The next rows, `most` of them at most; `None` behind the last one.
    async fn fetch(&mut self, most: usize) -> Result<Option<Vec<BackfillRow>>> {
        if self.is_at_end {
            return Ok(None);
        }
        let limit = self.limit.min(most);
        let fetched = self.cursor.fetch(limit).await?;
        self.is_at_end = fetched.len() < limit;
        self.limit = next_fetch(fetched.len(), fetched.iter().map(size).sum(), FETCH_ROWS);
        Ok(Some(fetched))
    }

    /// What becomes of a row, as [`Rows::event`] says.
    fn event<'r>(
        &'r mut self,
        row: &BackfillRow,
        tuple: &'r mut Vec<u8>,
        writer: &mut TupleWriter,
    ) -> Result<Option<Event<'r>>> {
        let Some(table) = self.tables.get(usize::from(row.table)) else { return Ok(None) };
        let tuple = writer.alone(tuple, row.columns.iter().map(Option::as_deref))?;
        self.rows.event(Row { relation: table.oid, tuple, place: None })
    }
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
    let mut waiting = Waiting::open(&session, source, &tables, position_topic).await?;
    let (mut tuple, mut writer) = (Vec::new(), TupleWriter::new());
    while let Some(fetched) = waiting.fetch(FETCH_ROWS).await? {
        for row in &fetched {
            if let Some(event) = waiting.event(row, &mut tuple, &mut writer)? {
                lines.push(&event);
            }
            if !lines.has_room() && (!lines.flush().await || lines.is_enough()) {
                return Ok(false);
            }
        }
        if !lines.flush().await {
            return Ok(false);
        }
    }
    waiting.cursor.finish().await?;
    Ok(true)
}

fn size(row: &BackfillRow) -> usize {
    row.columns.iter().flatten().map(|column| column.len()).sum()
}
