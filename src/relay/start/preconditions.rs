//! What every start looks at besides what the position is compared with.

use super::walk::Start;
use crate::{
    Code, Error, Result,
    config::{Kafka, Mark},
    kafka::position_topic,
    postgres::catalog::{ColumnInfo, IdUniqueness, tables},
};

impl Start<'_> {
    /// Judges what a mark rests on: an id that is unique, and a column that nobody else sets. A row
    /// that is inserted with its mark is passed over, so nothing is begun on a table whose rows are
    /// all like that. A source that was set up goes on for the sake of its other rows.
    pub(super) async fn look_at_marks(&self) -> Result<()> {
        let source = &self.context.source;
        let id = &source.mapping.columns.id;
        let ambiguous = self.tables.iter().filter(|table| table.id_uniqueness(id) == IdUniqueness::None);
        for table in ambiguous.filter(|_| source.mark != Mark::None) {
            let shown = table.display_name();
            tracing::warn!(
                "table {shown}: {id} has no unique index: a mark could meet other rows than the published one"
            );
        }
        if source.mark != Mark::Update {
            return Ok(());
        }
        let name = &source.mapping.columns.published_at;
        for table in &self.tables {
            let shown = table.display_name();
            if let Some((text, hint)) = table.column(name).and_then(ColumnInfo::never_null) {
                let text = format!("table {shown}: {text}: {hint}");
                if self.startup.is_setting_up() {
                    return Err(Error::new(Code::ColumnInvalid, text));
                }
                tracing::warn!("{text}");
            }
            for trigger in tables::setting_triggers(self.sql()?, table, name).await? {
                tracing::warn!("table {shown}: rows whose {name} is set by trigger {trigger} are passed over");
            }
        }
        Ok(())
    }
}

/// Refuses a position topic that may delete positions. Brokers that do not tell hold nothing up.
pub(super) async fn require_compacted(kafka: &Kafka) -> Result<()> {
    match position_topic::validate(kafka).await {
        Err(error) if error.code() == Code::PositionInvalid => Err(error),
        _ => Ok(()),
    }
}
