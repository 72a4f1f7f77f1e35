//! What a record should hold, made anew from its row as it is now.

use super::entry::{ContentHash, content_hash};
use crate::{
    Result,
    config::{Mark, Source},
    outbox::{Encoder, Failure, Records},
    pgoutput::TupleWriter,
    postgres::catalog::TableInfo,
};

/// Makes the records of a source's rows.
pub(super) struct Contents {
    encoder: Encoder,
    tables: Vec<Table>,
    records: Records,
    tuple: Vec<u8>,
    writer: TupleWriter,
}

/// How the rows of a table are read.
struct Table {
    oid: u32,
    /// Where the creation time stands among the published columns.
    created_at: Option<usize>,
}

impl Contents {
    /// Binds the tables as the daemon would.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a column that the mapping needs is missing or cannot serve.
    pub(super) fn new(source: &Source, tables: &[TableInfo], position_topic: &str) -> Result<Self> {
        // The rows are published and marked. Without marks the encoder does not pass over them.
        let mut encoder = Encoder::new(&source.mapping, Mark::None, position_topic)?;
        let mut bound = Vec::with_capacity(tables.len());
        for (number, table) in (0..).zip(tables) {
            let relation = table.relation_schema();
            encoder.bind(&relation, number)?;
            let created_at = &source.mapping.columns.created_at;
            let place = relation.columns.iter().position(|column| column.name == *created_at);
            bound.push(Table { oid: table.oid, created_at: place });
        }
        Ok(Self { encoder, tables: bound, records: Records::new(), tuple: Vec::new(), writer: TupleWriter::new() })
    }

    /// The hash of key and value. `None` when the row alone does not tell: it would be a dead
    /// letter, or its record has the time of a commit that nobody knows any more.
    ///
    /// # Errors
    /// [`Code::Internal`]: the values are not those of the table.
    pub(super) fn of(&mut self, table: usize, values: &[Option<&[u8]>]) -> Result<Option<ContentHash>> {
        let Some(Table { oid, created_at }) = self.tables.get(table) else { return Ok(None) };
        if created_at.and_then(|place| *values.get(place)?).is_none() {
            return Ok(None);
        }
        let tuple = self.writer.alone(&mut self.tuple, values.iter().copied())?;
        self.records.clear();
        match self.encoder.encode(*oid, &tuple, &mut self.records) {
            Ok(_) => Ok(self.records.last().map(|record| content_hash(record.key, record.value))),
            Err(Failure::Poison(_)) => Ok(None),
            Err(Failure::Protocol(error)) => Err(error),
        }
    }
}
