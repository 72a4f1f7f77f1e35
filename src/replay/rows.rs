//! Reads the rows of a request, and makes the records of a batch of them: with the relay's own
//! encoder, as it made them the first time.

use std::{collections::VecDeque, sync::Arc};

use super::plan::Place;
use crate::{
    Code, Error, Result,
    config::{Mark, Source},
    kafka::{Batch, Header, Outgoing},
    outbox::{self, Encoder, Failure, PoisonReason, Records, Times},
    pgoutput::TupleWriter,
    postgres::catalog::{
        TableInfo,
        fetch::next_fetch,
        replay::{PlacedRow, ReplayCursor, RowPlace},
    },
};

/// Rows of one FETCH, at most.
const FETCH_ROWS: usize = 1_000;

/// Records that are published again. Each has one header more than it had the first time: the name
/// of the request.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) records: Records,
    pub(super) request: Arc<str>,
}

impl Batch for Replayed {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn record(&self, index: usize) -> Option<Outgoing<'_, impl ExactSizeIterator<Item = Header<'_>>>> {
        let Outgoing { topic, key, value, timestamp, partition, headers } = Batch::record(&self.records, index)?;
        let mut all = Vec::with_capacity(headers.len() + 1);
        all.extend(headers);
        all.push((outbox::REPLAY, Some(self.request.as_bytes())));
        Some(Outgoing { topic, key, value, timestamp, partition, headers: all.into_iter() })
    }
}

/// What one Kafka transaction publishes again.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) replayed: Replayed,
    /// The place of its last row.
    pub(super) last: Option<Place>,
    /// No row is behind them.
    pub(super) is_end: bool,
    /// Why no row is behind them: the next one cannot become a record.
    pub(super) refusal: Option<Error>,
}

/// How large a chunk may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// The rows of a request, as they are read.
pub(super) struct Reading<'a> {
    cursor: ReplayCursor<'a>,
    tables: &'a [TableInfo],
    encoder: Encoder,
    /// How many rows the next FETCH asks for.
    fetch: usize,
    fetched: VecDeque<PlacedRow>,
    is_at_end: bool,
}

impl<'a> Reading<'a> {
    /// Reads from a cursor that is open. `began` stands for the commit of a row that has no creation
    /// time.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a column that the mapping needs is missing or cannot serve.
    pub(super) fn new(cursor: ReplayCursor<'a>, tables: &'a [TableInfo], encoder: Encoder) -> Self {
        Self { cursor, tables, encoder, fetch: 1, fetched: VecDeque::new(), is_at_end: false }
    }

    /// Reads rows until the chunk has enough of them, or one of them is refused. Whatever the chunk
    /// held before is gone.
    ///
    /// # Errors
    /// What the server says.
    pub(super) async fn read(&mut self, bounds: Bounds, chunk: &mut Chunk) -> Result<()> {
        let records = &mut chunk.replayed.records;
        records.clear();
        records.shrink_to(2 * bounds.bytes);
        (chunk.last, chunk.is_end, chunk.refusal) = (None, false, None);
        let (mut tuple, mut writer) = (Vec::new(), TupleWriter::new());
        while records.len() < bounds.rows.max(1) && records.bytes() < bounds.bytes {
            if self.fetched.is_empty() && !self.is_at_end {
                self.fetch_more().await?;
            }
            let Some(row) = self.fetched.pop_front() else { break };
            let Some(table) = self.tables.get(usize::from(row.place.table)) else { continue };
            let tuple = writer.alone(&mut tuple, row.columns.iter().map(Option::as_deref))?;
            match self.encoder.encode(table.oid, &tuple, records) {
                Ok(_) => chunk.last = Some(place(row.place)),
                Err(Failure::Protocol(error)) => return Err(error),
                Err(Failure::Poison(poison)) => {
                    let code =
                        if poison.reason == PoisonReason::TooLarge { Code::RowTooLarge } else { Code::RowInvalid };
                    let about = about(&row.place.id, table);
                    chunk.refusal = Some(Error::new(code, format!("{about} cannot be published again: {poison}")));
                    return Ok(());
                }
            }
        }
        chunk.is_end = self.is_at_end && self.fetched.is_empty();
        Ok(())
    }

    async fn fetch_more(&mut self) -> Result<()> {
        let fetched = self.cursor.fetch(self.fetch).await?;
        self.is_at_end = fetched.len() < self.fetch;
        let bytes = fetched.iter().flat_map(|row| row.columns.iter().flatten()).map(|column| column.len()).sum();
        self.fetch = next_fetch(fetched.len(), bytes, FETCH_ROWS);
        self.fetched = fetched.into();
        Ok(())
    }
}

/// The encoder of a request. The rows are marked, so it passes over none for that.
///
/// # Errors
/// [`Code::ColumnInvalid`] when a column that the mapping needs is missing or cannot serve.
pub(super) fn encoder(
    source: &Source,
    tables: &[TableInfo],
    position_topic: &str,
    began: i64,
    times: &Times,
) -> Result<Encoder> {
    let mut encoder = Encoder::new(&source.mapping, Mark::None, position_topic)?;
    for (number, table) in (0..).zip(tables) {
        encoder.bind(&table.relation_schema(), number)?;
    }
    encoder.begin(began);
    encoder.times = times.clone();
    Ok(encoder)
}

/// A row, for a message.
pub(super) fn about(id: &str, table: &TableInfo) -> String {
    format!("event {id:?} of {}", table.display_name())
}

fn place(RowPlace { order, table, id }: RowPlace) -> Place {
    Place { order, table, id }
}

pub(super) fn row_place(place: &Place) -> RowPlace {
    RowPlace { order: place.order.clone(), table: place.table, id: place.id.clone() }
}
