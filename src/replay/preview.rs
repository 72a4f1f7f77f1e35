//! Says what a request would publish, and publishes nothing.

use super::{Selection, chosen, prepared};
use crate::{
    Result,
    config::{Kafka, Source},
    pgoutput::TupleWriter,
    postgres::{
        ConnectOptions,
        catalog::{
            TableInfo,
            replay::{Asked, ReplayCursor},
            server, tables,
        },
    },
    tail,
};

/// What a request would publish.
pub(crate) struct Preview {
    pub(crate) rows: u64,
    /// As [`Event::OtherLetters`](super::Event::OtherLetters).
    pub(crate) other_letters: u64,
    /// The first of them, as `tail` shows events.
    pub(crate) shown: Vec<u8>,
}

/// Counts the rows of a selection, and shows the first `show` of them. It needs no Kafka, unless dead
/// letters are meant.
///
/// # Errors
/// Whatever keeps the source from being read.
pub(crate) async fn preview(
    source: &Source,
    kafka: &Kafka,
    selection: &Selection,
    show: usize,
    format: tail::Format,
) -> Result<Preview> {
    let (configured, position_topic) = (source, &kafka.position_topic);
    let source = prepared(source, position_topic, selection)?;
    let session = ConnectOptions::of(&source).sql("replay").await?;
    let tables = tables::resolve_all(&session, &source).await?;
    let by = server::clock(&session).await?;
    let (chosen, other_letters) = chosen(configured, kafka, selection).await?;
    let asked = Asked { source: &source, tables: &tables, chosen: &chosen, by, after: None };
    let cursor = ReplayCursor::begin(&session).await?;
    let rows = cursor.count(asked).await?;
    cursor.open(asked).await?;
    let schemas: Vec<_> = tables.iter().map(TableInfo::relation_schema).collect();
    let mut sample = tail::Sample::new(&source, position_topic, &schemas, by)?;
    let (mut shown, mut tuple, mut writer) = (Vec::new(), Vec::new(), TupleWriter::new());
    for row in cursor.fetch(show).await? {
        let Some(table) = tables.get(usize::from(row.place.table)) else { continue };
        let tuple = writer.alone(&mut tuple, row.columns.iter().map(Option::as_deref))?;
        sample.write(table.oid, tuple, format, &mut shown)?;
    }
    Ok(Preview { rows, other_letters, shown })
}
