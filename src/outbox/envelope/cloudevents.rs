//! CloudEvents 1.0 over Kafka, in binary and in structured mode (`conformance/cloudevents.md`).
//!
//! The attributes id, type and time come from their columns. The subject is `aggregate_id` and is
//! left out when that is NULL or empty. The source is configured. The datacontenttype follows the
//! payload column: `application/json`, `text/plain; charset=utf-8`, or none for bytea. An extra
//! header `ce_<name>` is an extension attribute. Binary mode writes it as that header, structured
//! mode as the member `<name>` (int2, int4 and bool without quotes), and both leave it out when it
//! is NULL or empty. So an event has a `partitionkey` only where one is configured, as
//! `ce_partitionkey = "aggregate_id"`. Both modes write the always-headers, too.

use super::{
    Content, attribute_headers, attribute_text, bare_payload, content_type, extra_names, names, text_header, time,
};
use crate::{
    Code, Error,
    config::{CloudEvents, CloudEventsMode, cloudevents_extension},
    outbox::{
        binding::Row,
        cell::{Cell, Kind, Payload},
        draft::Draft,
        event::Event,
        json,
        poison::{Poison, PoisonReason},
        records::Span,
    },
};

/// The options, and what follows from the configured headers.
#[derive(Debug)]
pub(in crate::outbox) struct Shape {
    options: CloudEvents,
    /// For each extra header the extension attribute that it carries, if it carries one.
    extensions: Vec<Option<Box<str>>>,
}

impl Shape {
    /// `headers` are the configured (header, column) pairs.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] when a header `ce_…` is not the name of an extension.
    pub(super) fn new(options: CloudEvents, headers: &[(String, String)]) -> Result<Self, Error> {
        let mut extensions = Vec::with_capacity(headers.len());
        for (header, _) in headers {
            let name = cloudevents_extension(header).map_err(|allowed| {
                let message = format!("header {header:?} cannot be an attribute of CloudEvents: {allowed}");
                Error::new(Code::ConfigInvalid, message)
            })?;
            extensions.push(name.map(Box::from));
        }
        Ok(Self { options, extensions })
    }

    /// Writes the value and the headers.
    pub(super) fn write(&self, content: Content<'_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
        check(content.event)?;
        match self.options.mode() {
            CloudEventsMode::Binary => self.write_binary(content, draft)?,
            CloudEventsMode::Structured => self.write_structured(content, draft)?,
        }
        attribute_headers(content.attributes, draft);
        self.write_extras(content.row, draft)
    }

    /// Binary mode: attributes in `ce_` headers, the payload as the value.
    fn write_binary(
        &self,
        Content { event, attributes, .. }: Content<'_>,
        draft: &mut Draft<'_>,
    ) -> Result<(), Poison> {
        let value = bare_payload(&event.payload, draft);
        draft.value(value);
        let version = draft.put(b"1.0");
        draft.header(names::CE_SPECVERSION, version);
        draft.header(names::CE_ID, attributes.id);
        let source = draft.put(self.options.source().as_bytes());
        draft.header(names::CE_SOURCE, source);
        draft.header(names::CE_TYPE, attributes.event_type);
        if subject(event).is_some() {
            draft.header(names::CE_SUBJECT, attributes.aggregate_id);
        }
        let at = draft.position();
        time(event, draft.out())?;
        let moment = draft.since(at);
        draft.header(names::CE_TIME, moment);
        if let Some(media_type) = event.payload_type() {
            content_type(media_type, draft);
        }
        Ok(())
    }

    /// Structured mode: the whole event as one JSON object.
    fn write_structured(&self, Content { row, event, .. }: Content<'_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
        let value = self.write_object(row, event, draft)?;
        draft.value(value);
        content_type("application/cloudevents+json", draft);
        Ok(())
    }

    /// The extra headers. In structured mode those that are extension attributes are members of the
    /// object instead.
    fn write_extras(&self, row: &Row<'_, '_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
        let binary = matches!(self.options.mode(), CloudEventsMode::Binary);
        for ((name, extension), used) in extra_names().zip(&self.extensions).zip(&row.binding.extras) {
            let cell = row.cell(*used);
            if extension.is_none() {
                let value = text_header(cell, draft)?;
                draft.header(name, value);
            } else if binary && let Some(text) = attribute_text(cell)?.filter(|text| !text.is_empty()) {
                check_string(&text, cell.name)?;
                let value = draft.put(text.as_bytes());
                draft.header(name, value);
            }
        }
        Ok(())
    }

    fn write_object(&self, row: &Row<'_, '_>, event: &Event<'_>, draft: &mut Draft<'_>) -> Result<Span, Poison> {
        let at = draft.position();
        let out = draft.out();
        out.extend_from_slice(br#"{"specversion":"1.0","id":"#);
        json::string(&event.id, out);
        out.extend_from_slice(br#","source":"#);
        json::string(self.options.source(), out);
        out.extend_from_slice(br#","type":"#);
        json::string(event.required_type()?, out);
        if let Some(media_type) = event.payload_type() {
            out.extend_from_slice(br#","datacontenttype":"#);
            json::string(media_type, out);
        }
        if let Some(subject) = subject(event) {
            out.extend_from_slice(br#","subject":"#);
            json::string(subject, out);
        }
        out.extend_from_slice(br#","time":""#);
        time(event, out)?;
        out.push(b'"');
        for (extension, used) in self.extensions.iter().zip(&row.binding.extras) {
            if let Some(extension) = extension {
                write_extension(extension, row.cell(*used), out)?;
            }
        }
        write_data(&event.payload, out);
        out.push(b'}');
        Ok(draft.since(at))
    }
}

fn write_extension(name: &str, cell: Cell<'_, '_>, out: &mut Vec<u8>) -> Result<(), Poison> {
    let Some(text) = attribute_text(cell)?.filter(|text| !text.is_empty()) else { return Ok(()) };
    check_string(&text, cell.name)?;
    out.push(b',');
    json::string(name, out);
    out.push(b':');
    // A bigint does not fit CloudEvents' Integer of 32 bits, so it travels as a string.
    if matches!(cell.kind, Kind::Int2 | Kind::Int4 | Kind::Bool) {
        out.extend_from_slice(text.as_bytes());
    } else {
        json::string(&text, out);
    }
    Ok(())
}

/// `data` for documents and text, `data_base64` for bytes, neither for NULL.
fn write_data(payload: &Payload<'_>, out: &mut Vec<u8>) {
    match payload {
        Payload::Null => {}
        Payload::Json(_) | Payload::Text(_) => {
            out.extend_from_slice(br#","data":"#);
            super::json_payload(payload, out);
        }
        Payload::Bytes(_) => {
            out.extend_from_slice(br#","data_base64":"#);
            super::json_payload(payload, out);
        }
    }
}

/// CloudEvents does not allow an empty subject, so the event has none then.
fn subject<'e>(event: &'e Event<'_>) -> Option<&'e str> {
    event.aggregate_id.as_deref().filter(|subject| !subject.is_empty())
}

/// Checks that the attributes which must be there are, and that none has a forbidden character.
fn check(event: &Event<'_>) -> Result<(), Poison> {
    for (what, text) in [("id", &*event.id), ("type", event.required_type()?)] {
        if text.is_empty() {
            return Err(Poison::new(PoisonReason::AttributeMissing, format!("the event {what} is empty")));
        }
        check_string(text, what)?;
    }
    check_string(subject(event).unwrap_or_default(), "subject")
}

/// The type String of CloudEvents has no control characters and no noncharacters.
fn check_string(text: &str, what: &str) -> Result<(), Poison> {
    let forbidden = |character: char| {
        let code = u32::from(character);
        character.is_control() || code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
    };
    if text.chars().any(forbidden) {
        let detail = format!("{what} has a control character, which an attribute of CloudEvents must not have");
        return Err(Poison::new(PoisonReason::AttributeInvalid, detail));
    }
    Ok(())
}
