//! What is audited, by number: sources, their tables, and topics; and what is judged of each.

use super::{
    entry::{NO_TOPIC, Place, RecordEntry, RowEntry},
    id,
    report::{Kind, Offender},
};
use crate::config::Mark;

/// Everything that entries name by number.
#[derive(Debug, Default)]
pub(super) struct Subject {
    pub(super) sources: Vec<SourceRules>,
    pub(super) topics: Vec<TopicRules>,
    /// The audit looks only at rows and records from a moment on. Then it cannot call a record
    /// without a creation time unknown: its row may be older.
    pub(super) since: bool,
    /// What records hold is compared with what their rows make.
    pub(super) content: bool,
}

/// What is judged of a source.
#[derive(Debug)]
pub(super) struct SourceRules {
    pub(super) name: String,
    /// `schema.table` each.
    pub(super) tables: Vec<String>,
    pub(super) mark: Mark,
    /// The values are of a column whose meaning may differ between tables.
    pub(super) order_by_table: bool,
    /// An inversion is no difference up to this.
    pub(super) tolerance: u128,
}

/// What is judged of a topic.
#[derive(Debug)]
pub(super) struct TopicRules {
    pub(super) name: String,
    /// The source to which records count whose row is not there. `None` for a topic without such a
    /// source.
    pub(super) owner: Option<u16>,
    pub(super) strangers: Strangers,
}

/// A record whose row is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stranger {
    /// The source to which it counts.
    pub(super) source: u16,
    pub(super) what: Strangers,
}

/// What a record is whose row is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strangers {
    /// A difference.
    Unknown,
    /// All is well: published rows are deleted.
    Gone,
    /// It may be somebody else's, so the audit passes over it.
    Elsewhere,
}

impl Subject {
    /// What a record is whose row is not there, and the source to which it counts. `None` when the
    /// audit passes over it.
    pub(super) fn stranger(&self, record: &RecordEntry) -> Option<Stranger> {
        let rules = self.topics.get(record.place.topic as usize)?;
        let undated = self.since && record.created.is_none();
        if undated || rules.strangers == Strangers::Elsewhere {
            return None;
        }
        Some(Stranger { source: rules.owner?, what: rules.strangers })
    }

    /// An offender by name. `id` as in a match entry.
    pub(super) fn offender(&self, kind: Kind, id: &[u8]) -> Offender {
        Offender { kind, table: None, id: Some(id::text(id)), place: None, after: None }
    }

    /// `schema.table`.
    pub(super) fn table(&self, row: &RowEntry) -> Option<String> {
        self.sources.get(usize::from(row.source))?.tables.get(usize::from(row.table)).cloned()
    }

    /// `topic-partition@offset`.
    pub(super) fn place(&self, place: Place) -> String {
        let Place { topic, partition, offset } = place;
        let name = self.topics.get(topic as usize).map_or("?", |topic| &topic.name);
        format!("{name}-{partition}@{offset}")
    }

    /// The name of the topic that a row is meant for. `None` when a column of the template is NULL.
    pub(super) fn topic(&self, topic: u32) -> Option<String> {
        if topic == NO_TOPIC { None } else { self.topics.get(topic as usize).map(|topic| topic.name.clone()) }
    }
}
