//! The seed's envelope:
//! `{"event_id":"…","event_type":"OrderCreated","timestamp":"2024-01-15T10:30:00Z","data":{…}}`,
//! with the members in this order and no white space outside the payload.

use super::{Content, attribute_headers, content_type, extra_headers, json_payload, text_header, time};
use crate::outbox::{draft::Draft, json, poison::Poison};

pub(super) fn write(Content { row, event, attributes }: Content<'_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
    let event_type = event.required_type()?;
    let at = draft.position();
    let out = draft.out();
    out.extend_from_slice(br#"{"event_id":"#);
    json::string(&event.id, out);
    out.extend_from_slice(br#","event_type":"#);
    json::string(event_type, out);
    out.extend_from_slice(br#","timestamp":""#);
    time(event, out)?;
    out.extend_from_slice(br#"","data":"#);
    json_payload(&event.payload, out);
    out.push(b'}');
    let value = draft.since(at);
    draft.value(value);
    attribute_headers(attributes, draft);
    content_type("application/json", draft);
    extra_headers(row, draft, text_header)
}
