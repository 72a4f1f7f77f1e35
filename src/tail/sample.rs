//! Shows rows for another command, which reads them and prints the lines itself.

use super::{
    json,
    lines::Format,
    rows::{Row, Rows},
    text::{self, Look},
};
use crate::{
    Result,
    config::{Mark, Source},
    pgoutput::{RelationSchema, Tuple},
};

/// Shows rows of one source, whatever their marks say.
pub(crate) struct Sample(Rows);

impl Sample {
    /// For these tables, in the order of the configuration. `now` is in microseconds since the Unix
    /// epoch, and stands for the time of a row that has none.
    ///
    /// # Errors
    /// As [`Rows::new`].
    pub(crate) fn new(source: &Source, position_topic: &str, tables: &[RelationSchema], now: i64) -> Result<Self> {
        let source = Source { mark: Mark::None, ..source.clone() };
        let mut rows = Rows::new(&source, position_topic, tables)?;
        rows.begin(now);
        Ok(Self(rows))
    }

    /// Appends the lines of a row.
    ///
    /// # Errors
    /// The row is not one of the table that was described.
    pub(crate) fn write(&mut self, relation: u32, tuple: Tuple<'_>, format: Format, out: &mut Vec<u8>) -> Result<()> {
        let Some(event) = self.0.event(Row { relation, tuple, place: None })? else { return Ok(()) };
        // Writing into memory cannot fail.
        let _ = match format {
            Format::Json => json::write(&event, out),
            Format::Text { colours } => text::write(&event, &Look::new(colours), out),
        };
        Ok(())
    }
}
