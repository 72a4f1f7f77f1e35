//! Rows from before the slot: read from the slot's own snapshot, published chunk by chunk, exactly once.
//!
//! ```text
//!   snapshot ── FETCH ──▶ chunk n ──▶ Kafka: records + position(backfill, ids of chunk n) ──▶ marks of chunk n
//!                            ▲                                                                   │
//!                            └────────────────────── only then chunk n+1 ◀───────────────────────┘
//! ```
//!
//! Because chunk n+1 is committed only after chunk n's marks are durable, at most one chunk can be published and
//! unmarked, and the position names its rows. After a crash they are marked, the slot is made anew, and whatever is
//! still unmarked is what its snapshot shows.

use std::time::Instant;

use super::{
    marker::MarkingSession,
    marks::Marks,
    position::{Position, RowId},
    publisher::Producers,
    report::Report,
    rows::{Row, Rows, TooLarge},
    start::position_bytes,
    supervisor::Context,
};
use crate::{
    Code, Error, Result,
    outbox::{Encoder, Records},
    pgoutput::{ColumnSchema, RelationSchema, Tuple, TupleWriter},
    postgres::{
        SqlSession,
        catalog::{TableInfo, backfill as snapshot, publications::{self, Membership}, server, tables::RelationShape},
    },
};

/// Rows of one FETCH: few enough that large payloads stay within memory, enough that round trips cost little.
const FETCH_ROWS: usize = 250;

/// One backfill, on a session whose transaction has imported the slot's snapshot.
pub struct Backfill<'a> {
    /// The source.
    pub context: &'a Context,
    /// Its tables.
    pub tables: &'a [TableInfo],
    /// The snapshot.
    pub snapshot: SqlSession,
    /// The session that marks; none with `mark = "none"`.
    pub marking: Option<MarkingSession>,
    /// Records that Kafka was seen to refuse.
    pub too_large: TooLarge,
    /// Position of phase `backfill` at the slot's consistent point.
    pub position: Position,
}

impl Backfill<'_> {
    /// Publishes and marks every unpublished row of the snapshot.
    ///
    /// # Errors
    /// Whatever stopped it; the next start marks what was published and begins anew.
    pub async fn run(mut self, mut producers: Producers) -> Result<Producers> {
        let mut report = Report::new(self.context.metrics.clone());
        let tables = self.published_tables().await?;
        let mut rows = self.rows(&tables)?;
        let cursor = snapshot::Backfill::resume(&self.snapshot);
        cursor.open(&self.query(&tables).await?).await?;
        let (mut records, mut total) = (Records::default(), 0_usize);
        loop {
            let marks = self.next_chunk(&cursor, &mut rows, &mut records).await?;
            if records.is_empty() {
                tracing::info!(rows = total, "backfill done");
                return Ok(producers);
            }
            self.position.chunk = marks.iter().map(|(table, id)| RowId { table, id: id.to_owned() }).collect();
            let began = Instant::now();
            let position = position_bytes(self.context, &self.position);
            (producers, records) = producers.publish(records, position).await?;
            report.committed(&records, began.elapsed(), None);
            total += records.len();
            records.clear();
            if let Some(marking) = &self.marking {
                marking.mark(&marks).await?;
                self.context.metrics.rows_marked.inc_by(marks.len() as u64);
            }
            tracing::info!(rows = total, "backfilling");
        }
    }

    /// The tables as the publication has them, so that a row is the same whichever way it comes.
    async fn published_tables(&self) -> Result<Vec<snapshot::BackfillTable>> {
        let name = &self.context.source.publication;
        let publication = publications::publication(&self.snapshot, name).await?;
        let publication = publication.ok_or_else(|| Error::new(Code::PublicationMissing, name.clone()))?;
        let tables = self.tables.iter().map(|table| {
            let (columns, row_filter) = match publication.membership(table) {
                Membership::Listed(listed) => (listed.columns.as_deref(), listed.row_filter.clone()),
                Membership::InSchema(_) | Membership::AllTables => (None, None),
                Membership::Absent => {
                    let text = format!("publication {name} does not have table {}", table.display_name());
                    return Err(Error::new(Code::PublicationMissing, text));
                }
            };
            let shape = table.relation_shape(columns, publication.generated);
            Ok(snapshot::BackfillTable { table: table.clone(), shape, row_filter })
        });
        tables.collect()
    }

    fn rows(&self, tables: &[snapshot::BackfillTable]) -> Result<Rows> {
        let source = &self.context.source;
        let mut encoder = Encoder::new(&source.mapping, source.mark, &self.context.kafka.position_topic)?;
        for (number, table) in (0_u16..).zip(tables) {
            encoder.bind(&relation_schema(&table.shape), number)?;
        }
        Ok(Rows::new(encoder, source.on_poison, self.too_large.clone()))
    }

    async fn query(&self, tables: &[snapshot::BackfillTable]) -> Result<snapshot::BackfillQuery> {
        let source = &self.context.source;
        let commit_timestamps = server::server(&self.snapshot).await?.track_commit_timestamp;
        let order = snapshot::Order::choose(source.backfill_order_by.as_deref(), commit_timestamps);
        snapshot::BackfillQuery::new(tables, &source.mapping.columns, source.mark, &order)
    }

    /// Reads rows until the chunk has its rows or its bytes, fetching few at a time, as one may be large.
    async fn next_chunk(
        &self,
        cursor: &snapshot::Backfill<'_>,
        rows: &mut Rows,
        records: &mut Records,
    ) -> Result<Marks> {
        let limits = &self.context.source.limits;
        let (mut marks, mut tuple, mut writer) = (Marks::default(), Vec::new(), TupleWriter::new());
        while records.len() < limits.backfill_chunk_rows && records.bytes() < limits.batch_bytes {
            let fetched = cursor.fetch(FETCH_ROWS).await?;
            for row in &fetched {
                tuple.clear();
                writer.begin(&mut tuple);
                for column in &row.values {
                    match column {
                        Some(text) => writer.text(&mut tuple, text),
                        None => writer.null(&mut tuple),
                    }
                }
                let range = writer.finish(&mut tuple);
                let tuple = Tuple::parse(&tuple[range])
                    .map_err(|error| Error::new(Code::Internal, "a row of the backfill").because(error))?;
                let relation = self.tables[row.table].oid;
                rows.append(Row { relation, tuple: &tuple }, records, &mut marks)?;
            }
            if fetched.len() < FETCH_ROWS {
                break;
            }
        }
        Ok(marks)
    }

}

/// The shape as the stream would describe it.
fn relation_schema(shape: &RelationShape) -> RelationSchema {
    let column = |(name, type_oid): &(String, u32)| ColumnSchema {
        name: name.clone(),
        type_oid: *type_oid,
        type_modifier: -1,
        key: false,
    };
    RelationSchema {
        oid: shape.oid,
        schema: shape.schema.clone(),
        name: shape.name.clone(),
        replica_identity: b'd',
        columns: shape.columns.iter().map(column).collect(),
    }
}
