//! A row as an event: its attributes as text, its payload by type, its time.

use super::{
    binding::{Row, UsedColumn},
    cell::{Kind, Payload, Text},
    draft::Draft,
    poison::{Poison, PoisonReason},
    records::Span,
};

/// What every envelope is made of.
#[derive(Debug)]
pub(super) struct Event<'a> {
    pub(super) id: Text<'a>,
    pub(super) event_type: Option<Text<'a>>,
    pub(super) aggregate_type: Option<Text<'a>>,
    pub(super) aggregate_id: Option<Text<'a>>,
    pub(super) payload: Payload<'a>,
    /// The payload column's type, which is known when the payload is NULL too.
    pub(super) payload_kind: Kind,
    /// `created_at`, or the commit time when it is NULL; microseconds since the Unix epoch.
    pub(super) time: i64,
    /// The record's timestamp, milliseconds since the Unix epoch.
    pub(super) timestamp: i64,
}

/// Where the attributes stand in a draft. They are written once and serve as headers, key and id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) id: Span,
    pub(super) event_type: Span,
    pub(super) aggregate_type: Span,
    pub(super) aggregate_id: Span,
}

impl<'a> Event<'a> {
    /// Reads a row. `commit_time` is that of its transaction, in microseconds since the Unix epoch.
    pub(super) fn read(row: &Row<'_, 'a>, commit_time: i64) -> Result<Self, Poison> {
        let attribute = |used: Option<UsedColumn>| used.map_or(Ok(None), |used| row.text(used));
        let time = row.created_at()?.unwrap_or(commit_time);
        Ok(Self {
            id: row.id()?,
            event_type: attribute(row.binding.event_type)?,
            aggregate_type: attribute(row.binding.aggregate_type)?,
            aggregate_id: attribute(row.binding.aggregate_id)?,
            payload: row.payload()?,
            payload_kind: row.cell(row.binding.payload).kind,
            time,
            timestamp: record_timestamp(time, commit_time),
        })
    }

    /// The event type, for an envelope that must have one.
    pub(super) fn required_type(&self) -> Result<&str, Poison> {
        let missing = || Poison::new(PoisonReason::AttributeMissing, "the event type is NULL");
        self.event_type.as_deref().ok_or_else(missing)
    }

    /// The media type of the payload, by its column; `None` for bytes of no known type.
    pub(super) fn payload_type(&self) -> Option<&'static str> {
        match self.payload_kind {
            Kind::Json | Kind::Jsonb => Some("application/json"),
            Kind::Bytea => None,
            _ => Some("text/plain; charset=utf-8"),
        }
    }

    pub(super) fn write_attributes(&self, draft: &mut Draft<'_>) -> Attributes {
        Attributes {
            id: draft.put_text(Some(&self.id)),
            event_type: draft.put_text(self.event_type.as_deref()),
            aggregate_type: draft.put_text(self.aggregate_type.as_deref()),
            aggregate_id: draft.put_text(self.aggregate_id.as_deref()),
        }
    }
}

/// Milliseconds since the Unix epoch, rounded down. Kafka has no time before 1970 and takes -1 for
/// no time, and librdkafka takes 0 for "now". The brokers refuse what lies too far ahead of their
/// clock. A clock is no fault of a row, so an event that is that old, or that lies ahead of its own
/// commit, has the commit time on its record.
pub(super) fn record_timestamp(time: i64, commit_time: i64) -> i64 {
    let millis = time.div_euclid(1000);
    let commit = commit_time.div_euclid(1000);
    if (1..=commit).contains(&millis) { millis } else { commit }
}
