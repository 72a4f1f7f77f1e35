//! Rows from before the slot. They are read from the slot's own snapshot and published chunk by
//! chunk, exactly once.
//!
//! ```text
//!   snapshot ── FETCH ──▶ chunk n ──▶ Kafka: records + position(backfill, ids of chunk n) ──▶ marks of chunk n
//!                  │                       ▲                                                     │
//!                  └─────▶ chunk n+1 ──────┴─────────────────── only then ◀──────────────────────┘
//! ```
//!
//! While chunk n is published and marked, chunk n+1 is read. It is sent only after the marks of
//! chunk n are durable. So at most one chunk can be published and unmarked, and the position names
//! its rows. After a crash they are marked first. Then the slot is made anew, and its snapshot shows
//! whatever is still unmarked.
//!
//! A server that was restored in the meantime would show published rows, too. So the position also
//! names a row that was marked before. If that row is there without its mark, the source halts.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    context::Context,
    marking::MarkingSession,
    marks::Marks,
    report::Report,
    rows::{Policy, Row, Rows, Verdicts, waiting},
};
use crate::{
    Error, Result,
    kafka::position_topic,
    outbox::{Encoder, Records, Times},
    pgoutput::TupleWriter,
    postgres::{
        SqlSession,
        catalog::{
            TableInfo,
            backfill::{BackfillCursor, BackfillRow},
            fetch, server,
        },
    },
    source::{
        position::{Position, RowId},
        producers::{PositionBytes, Producers, Unpublished},
    },
};

/// Rows of one FETCH, at most. So many make the round trips cheap.
const FETCH_ROWS: usize = 1_000;

/// Bytes of the position of one chunk, at most. It holds the ids of all rows of the chunk. So many
/// bytes fit a record of Kafka's default size, and the position topic may take less.
const POSITION_BYTES: usize = 1_000_000;

/// What Kafka adds to a position, and some room to spare.
const POSITION_OVERHEAD: usize = 1024;

/// How a backfill ended if Postgres gave no error.
pub(super) enum Ended {
    /// Every row is published and marked.
    Done(Box<Producers>),
    /// A chunk was not published, or is not known to be.
    Unpublished(Box<Unpublished>),
}

/// One backfill, on a session whose transaction has imported the slot's snapshot.
pub(super) struct Backfill<'a> {
    pub(crate) context: &'a Context,
    pub(crate) tables: &'a [TableInfo],
    pub(crate) snapshot: Arc<SqlSession>,
    /// The session that marks. `None` with `mark = "none"`.
    pub(crate) marking: Option<MarkingSession>,
    /// Records that Kafka has refused.
    pub(super) verdicts: Verdicts,
    /// Times that Kafka has refused.
    pub(super) times: Times,
    /// The position of phase `backfill` at the slot's consistent point.
    pub(crate) position: Position,
}

/// The rows of the snapshot, as they are read.
struct Reading<'a> {
    cursor: BackfillCursor<'a>,
    /// How many rows the next FETCH asks for.
    fetch: usize,
    /// Rows that were fetched and are in no chunk yet.
    fetched: VecDeque<BackfillRow>,
    is_at_end: bool,
    /// Why nothing more is read: a row that cannot be published. The backfill ends with it, once
    /// the rows before it are published and marked.
    refusal: Option<Error>,
}

impl Reading<'_> {
    /// The next row. It stays until it is taken from `fetched`.
    async fn next(&mut self) -> Result<Option<&BackfillRow>> {
        if self.fetched.is_empty() && !self.is_at_end {
            let fetched = self.cursor.fetch(self.fetch).await?;
            self.is_at_end = fetched.len() < self.fetch;
            self.fetch = next_fetch(&fetched);
            self.fetched = fetched.into();
        }
        Ok(self.fetched.front())
    }
}

/// What one Kafka transaction of a backfill publishes.
#[derive(Default)]
struct Chunk {
    records: Records,
    marks: Marks,
    dead_letters: u64,
}

impl Backfill<'_> {
    /// Publishes and marks every unpublished row of the snapshot. While a chunk is published and
    /// marked, the next one is read.
    ///
    /// # Errors
    /// Whatever stopped it. The next start marks what was published and begins anew.
    pub(super) async fn run(mut self, mut producers: Producers) -> Result<Ended> {
        let mut report = Report::new(self.context.metrics.clone());
        let mut rows = self.rows()?;
        let snapshot = Arc::clone(&self.snapshot);
        if let Some(marking) = &self.marking {
            marking.wait_to_see(&snapshot).await?;
        }
        let cursor = BackfillCursor::open(&snapshot, self.tables, &self.context.source).await?;
        let mut reading = Reading { cursor, fetch: 1, fetched: VecDeque::new(), is_at_end: false, refusal: None };
        let limit = position_topic::largest_record(&self.context.kafka).await?.unwrap_or(POSITION_BYTES);
        let limit = limit.min(POSITION_BYTES).saturating_sub(POSITION_OVERHEAD);
        // Nobody knows any more when the rows were committed. A row without a creation time, or with
        // one ahead of the server's clock, gets the time of its backfill, by the server's clock.
        rows.begin(server::clock(&snapshot).await?);
        self.position.chunk.clear();
        let mut total = 0_usize;
        let mut chunk = Chunk::default();
        let mut spare = Chunk::default();
        self.read_chunk(&mut reading, &mut rows, &mut chunk, limit).await?;
        while !chunk.records.is_empty() {
            let oid = |table: u16| self.tables[usize::from(table)].oid;
            self.position.chunk =
                chunk.marks.iter().map(|row| RowId { table: oid(row.table), id: row.id.to_owned() }).collect();
            let position = self.context.record_of(&self.position);
            let marked = last_marked(&self.position.chunk, self.tables).filter(|_| self.marking.is_some());
            self.position.marked = marked.or_else(|| self.position.marked.take());
            self.position.chunk.clear();

            let publishing = self.publish_chunk(producers, &mut chunk, position, &mut report);
            let (published, read) =
                tokio::join!(publishing, self.read_chunk(&mut reading, &mut rows, &mut spare, limit));
            producers = match published? {
                Ok(producers) => producers,
                Err(unpublished) => return Ok(Ended::Unpublished(unpublished)),
            };
            total += chunk.records.len();
            tracing::info!(rows = total, "backfilling");
            read?;
            std::mem::swap(&mut chunk, &mut spare);
        }
        if let Some(refusal) = reading.refusal {
            return Err(refusal);
        }
        tracing::info!(rows = total, "backfill done");
        Ok(Ended::Done(Box::new(producers)))
    }

    /// Publishes a chunk, and then marks its rows.
    async fn publish_chunk(
        &self,
        producers: Producers,
        chunk: &mut Chunk,
        position: PositionBytes,
        report: &mut Report,
    ) -> Result<std::result::Result<Producers, Box<Unpublished>>> {
        let began = Instant::now();
        let (producers, records) = match producers.publish(std::mem::take(&mut chunk.records), position).await {
            Ok(published) => published,
            Err(unpublished) => {
                report.failed(&unpublished.failure);
                return Ok(Err(Box::new(unpublished)));
            }
        };
        chunk.records = records;
        let metrics = &self.context.metrics;
        report.committed(&chunk.records, began.elapsed(), None);
        metrics.dead_letters.inc_by(chunk.dead_letters);
        if let Some(marking) = &self.marking {
            marking.mark(&chunk.marks).await?;
            metrics.rows_marked.inc_by(chunk.marks.len() as u64);
        }
        Ok(Ok(producers))
    }

    fn rows(&self) -> Result<Rows> {
        let source = &self.context.source;
        let mut encoder = Encoder::new(&source.mapping, source.mark, &self.context.kafka.position_topic)?;
        for (number, table) in (0_u16..).zip(self.tables) {
            encoder.bind(&table.relation_schema(), number)?;
        }
        encoder.times = self.times.clone();
        Ok(Rows::new(encoder, Policy::of(source), self.verdicts.clone()))
    }

    /// Reads rows until the chunk has enough rows or bytes, or its position has no room for another
    /// id, or a row is refused. Whatever the chunk held before is gone. `limit` is what the
    /// position may take.
    async fn read_chunk(
        &self,
        snapshot: &mut Reading<'_>,
        rows: &mut Rows,
        chunk: &mut Chunk,
        limit: usize,
    ) -> Result<()> {
        let limits = &self.context.source.limits;
        let mut room = limit.saturating_sub(self.position.encode().len());
        let Chunk { records, marks, dead_letters } = chunk;
        records.clear();
        records.shrink_to(2 * limits.batch_bytes);
        marks.clear();
        let (mut tuple, mut writer) = (Vec::new(), TupleWriter::new());
        let id = &self.context.source.mapping.columns.id;
        let place = |table: &TableInfo| table.relation_schema().columns.iter().position(|column| column.name == *id);
        let ids: Vec<Option<usize>> = self.tables.iter().map(place).collect();
        while snapshot.refusal.is_none()
            && records.len() < limits.backfill_chunk_rows
            && records.bytes() < limits.batch_bytes
        {
            let Some(row) = snapshot.next().await? else { break };
            let id = ids[usize::from(row.table)].and_then(|place| row.columns.get(place)?.as_deref());
            let needs = id.map_or(0, bytes_in_position);
            if needs > room && !records.is_empty() {
                break;
            }
            room = room.saturating_sub(needs);
            let Some(row) = snapshot.fetched.pop_front() else { break };
            let tuple = writer.alone(&mut tuple, row.columns.iter().map(Option::as_deref))?;
            let relation = self.tables[usize::from(row.table)].oid;
            if let Err(error) = rows.append(Row { xid: 0, relation, tuple: &tuple }, records, marks) {
                snapshot.refusal = Some(waiting(error)?);
            }
        }
        *dead_letters = rows.take_dead_letters();
        Ok(())
    }
}

/// Bytes that a row with this id takes in the position of its chunk, at most.
fn bytes_in_position(id: &[u8]) -> usize {
    const AROUND: usize = r#"{"table":4294967295,"id":""},"#.len();
    let escaped = |byte: &u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    AROUND + id.iter().map(escaped).sum::<usize>()
}

/// The row of a chunk whose mark is made last, since rows are marked table by table.
pub(super) fn last_marked(chunk: &[RowId], tables: &[TableInfo]) -> Option<RowId> {
    chunk.iter().max_by_key(|row| tables.iter().position(|table| table.oid == row.table)).cloned()
}

/// How many rows to fetch after these.
fn next_fetch(fetched: &[BackfillRow]) -> usize {
    let size = |row: &BackfillRow| row.columns.iter().flatten().map(|column| column.len()).sum::<usize>();
    let bytes: usize = fetched.iter().map(size).sum();
    fetch::next_fetch(fetched.len(), bytes, FETCH_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_of_a_chunk_is_no_larger_than_was_counted() {
        let ids = ["", "4d47e190-0402-4048-bc2c-89dd54343cdc", "a \"quoted\" \\ one", "\u{1}\n\t", "größe"];
        let mut position = Position::creating("s", serde_json::Value::Null);
        position.phase = crate::source::position::Phase::Backfill;
        let before = position.encode().len();
        position.chunk = ids.map(|id| RowId { table: u32::MAX, id: id.to_owned() }).to_vec();
        let counted: usize = ids.iter().map(|id| bytes_in_position(id.as_bytes())).sum();
        let field = r#","chunk":[]"#.len();
        assert!(position.encode().len() <= before + field + counted, "{counted}");
    }

    #[test]
    fn as_many_rows_are_fetched_as_their_size_allows() {
        let rows = |count: usize, bytes: usize| -> Vec<BackfillRow> {
            let row = BackfillRow { table: 0, columns: vec![None, Some(vec![b'x'; bytes].into_boxed_slice())] };
            vec![row; count]
        };
        assert_eq!(next_fetch(&rows(1, 100)), 8);
        assert_eq!(next_fetch(&rows(64, 100)), 128);
        assert_eq!(next_fetch(&rows(1_000, 100)), 1_000);
        assert_eq!(next_fetch(&rows(8, 1 << 20)), 4);
        assert_eq!(next_fetch(&rows(1, 50 << 20)), 1);
        assert_eq!(next_fetch(&[]), 8);
    }
}
