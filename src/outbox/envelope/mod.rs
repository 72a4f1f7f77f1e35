//! The shapes of a record's value, and the headers that go with each. Each shape has a file of its
//! own.
//!
//! | envelope | value | headers |
//! |---|---|---|
//! | `event` | one JSON object: `event_id`, `event_type`, `timestamp`, `data` | always, extras |
//! | `payload` | the payload alone; NULL is a tombstone | always, extras |
//! | `cloudevents` | the payload alone; NULL is a tombstone | `ce_…`, always, extras |
//! | `cloudevents-structured` | one JSON object: the event | always, extras |
//! | `debezium` | the payload alone | `id`, extras |
//!
//! The always-headers are `event_id`, `event_type`, `aggregate_type`, `aggregate_id` and
//! `content-type`, in this order; with both envelopes of CloudEvents `content-type` comes first.
//! `outboxd_event_time` follows where the record's timestamp is not the event's own time. NULL in
//! the column is null in the header. Extras are the configured (header, column) pairs, in
//! configuration order.

mod cloudevents;
mod debezium;
mod event;
mod payload;

use super::{
    binding::Row,
    cell::{Cell, Kind, Payload, Text},
    draft::Draft,
    event::{Attributes, Event},
    json,
    poison::{Poison, PoisonReason},
    records::{HeaderNames, Span},
};
use crate::{
    Error,
    config::{Debezium, Envelope, Mapping},
};

/// Numbers of the headers that have fixed names. The numbers of the extras follow.
pub(in crate::outbox) mod names {
    pub(in super::super) const EVENT_ID: u16 = 0;
    pub(in super::super) const EVENT_TYPE: u16 = 1;
    pub(in super::super) const AGGREGATE_TYPE: u16 = 2;
    pub(in super::super) const AGGREGATE_ID: u16 = 3;
    pub(in super::super) const CONTENT_TYPE: u16 = 4;
    pub(in super::super) const ROUTER_ID: u16 = 5;
    pub(in super::super) const ERROR_CODE: u16 = 6;
    pub(in super::super) const ERROR: u16 = 7;
    pub(in super::super) const TOPIC: u16 = 8;
    pub(in super::super) const CE_SPECVERSION: u16 = 9;
    pub(in super::super) const CE_ID: u16 = 10;
    pub(in super::super) const CE_SOURCE: u16 = 11;
    pub(in super::super) const CE_TYPE: u16 = 12;
    pub(in super::super) const CE_SUBJECT: u16 = 13;
    pub(in super::super) const CE_TIME: u16 = 14;
    pub(in super::super) const EVENT_TIME: u16 = 15;

    /// By number.
    pub(in super::super) const FIXED: [&str; 16] = [
        "event_id",
        "event_type",
        "aggregate_type",
        "aggregate_id",
        "content-type",
        "id",
        "outboxd_error_code",
        "outboxd_error",
        crate::outbox::MEANT_FOR,
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_subject",
        "ce_time",
        crate::outbox::EVENT_TIME,
    ];
}

/// The envelope of a source, ready to write.
#[derive(Debug)]
pub(in crate::outbox) enum Shape {
    Event,
    Payload,
    CloudEvents(cloudevents::Shape),
    Debezium,
}

/// What an envelope is written from.
#[derive(Debug, Clone, Copy)]
pub(in crate::outbox) struct Content<'c> {
    pub(in crate::outbox) row: &'c Row<'c, 'c>,
    pub(in crate::outbox) event: &'c Event<'c>,
    /// Where the event's attributes stand in the draft.
    pub(in crate::outbox) attributes: &'c Attributes,
}

impl Shape {
    /// # Errors
    /// As [`cloudevents::Shape::new`].
    pub(in crate::outbox) fn new(mapping: &Mapping) -> Result<Self, Error> {
        Ok(match &mapping.envelope {
            Envelope::Event => Self::Event,
            Envelope::Payload => Self::Payload,
            Envelope::CloudEvents(options) => {
                Self::CloudEvents(cloudevents::Shape::new(options.clone(), &mapping.headers)?)
            }
            Envelope::Debezium(Debezium { .. }) => Self::Debezium,
        })
    }

    /// The names of all headers that the encoder can write, by number.
    pub(in crate::outbox) fn header_names(mapping: &Mapping) -> HeaderNames {
        let extras = mapping.headers.iter().map(|(header, _)| header.as_str());
        names::FIXED.into_iter().chain(extras).map(Box::from).collect()
    }

    /// Writes the value and the headers.
    pub(in crate::outbox) fn write(&self, content: Content<'_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
        match self {
            Self::Event => event::write(content, draft),
            Self::Payload => payload::write(content, draft),
            Self::CloudEvents(shape) => shape.write(content, draft),
            Self::Debezium => debezium::write(content, draft),
        }
    }

    /// Writes the headers of a row that could not be read whole. There is no content-type, and what
    /// cannot be read is null.
    pub(in crate::outbox) fn write_remaining_headers(
        &self,
        row: &Row<'_, '_>,
        attributes: &Attributes,
        draft: &mut Draft<'_>,
    ) {
        if matches!(self, Self::Debezium) {
            draft.header(names::ROUTER_ID, attributes.id);
        } else {
            attribute_headers(attributes, draft);
        }
        for (name, used) in extra_names().zip(&row.binding.extras) {
            let text = row.text(*used).ok().flatten();
            let value = draft.put_text(text.as_deref());
            draft.header(name, value);
        }
    }
}

/// The numbers of the extra headers, without end.
fn extra_names() -> impl Iterator<Item = u16> {
    // FIXED has sixteen names.
    let first = u16::try_from(names::FIXED.len()).unwrap_or(u16::MAX);
    first..
}

/// `event_id`, `event_type`, `aggregate_type`, `aggregate_id`.
fn attribute_headers(attributes: &Attributes, draft: &mut Draft<'_>) {
    draft.header(names::EVENT_ID, attributes.id);
    draft.header(names::EVENT_TYPE, attributes.event_type);
    draft.header(names::AGGREGATE_TYPE, attributes.aggregate_type);
    draft.header(names::AGGREGATE_ID, attributes.aggregate_id);
}

fn content_type(media_type: &str, draft: &mut Draft<'_>) {
    let value = draft.put(media_type.as_bytes());
    draft.header(names::CONTENT_TYPE, value);
}

/// Writes the configured headers. `value` makes the value of one from its column.
fn extra_headers(
    row: &Row<'_, '_>,
    draft: &mut Draft<'_>,
    value: impl Fn(Cell<'_, '_>, &mut Draft<'_>) -> Result<Span, Poison>,
) -> Result<(), Poison> {
    for (name, used) in extra_names().zip(&row.binding.extras) {
        let value = value(row.cell(*used), draft)?;
        draft.header(name, value);
    }
    Ok(())
}

/// A column's text as a header value; NULL is null.
fn text_header(cell: Cell<'_, '_>, draft: &mut Draft<'_>) -> Result<Span, Poison> {
    let text = cell.text().map_err(|poison| poison.with_reason(PoisonReason::HeaderInvalid))?;
    Ok(draft.put_text(text.as_deref()))
}

/// A column's text. Booleans are `true` and `false`, as CloudEvents and Connect write them.
fn attribute_text<'a>(cell: Cell<'_, 'a>) -> Result<Option<Text<'a>>, Poison> {
    let text = cell.text().map_err(|poison| poison.with_reason(PoisonReason::HeaderInvalid))?;
    Ok(match text {
        Some(text) if cell.kind == Kind::Bool => Some(Text::Borrowed(if &*text == "t" { "true" } else { "false" })),
        text => text,
    })
}

/// Writes the payload as it is; NULL is Kafka's null.
fn bare_payload(payload: &Payload<'_>, draft: &mut Draft<'_>) -> Span {
    match payload {
        Payload::Null => Span::NULL,
        Payload::Json(text) | Payload::Text(text) => draft.put(text.as_bytes()),
        Payload::Bytes(bytes) => {
            let at = draft.position();
            bytes.write(draft.out());
            draft.since(at)
        }
    }
}

/// Writes the payload as a JSON value: a document spliced in unchanged, text as a string, bytes as
/// a base64 string.
fn json_payload(payload: &Payload<'_>, out: &mut Vec<u8>) {
    match payload {
        Payload::Null => out.extend_from_slice(b"null"),
        Payload::Json(text) => out.extend_from_slice(text.as_bytes()),
        Payload::Text(text) => json::string(text, out),
        Payload::Bytes(bytes) => {
            out.push(b'"');
            bytes.write_base64(out);
            out.push(b'"');
        }
    }
}

/// Writes the event's time as RFC 3339.
fn time(event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), Poison> {
    let invalid = |what| Poison::new(PoisonReason::TimestampInvalid, format!("the event's time {what}"));
    super::timestamp::write_rfc3339(event.time, out).map_err(invalid)
}
