//! The payload alone: a document's text as Postgres prints it, text as it is, bytes raw; NULL is a
//! tombstone.

use super::{Content, attribute_headers, bare_payload, content_type, extra_headers, text_header};
use crate::outbox::{draft::Draft, poison::Poison};

pub(super) fn write(Content { row, event, attributes }: Content<'_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
    let value = bare_payload(&event.payload, draft);
    draft.value(value);
    attribute_headers(attributes, draft);
    content_type(event.payload_type().unwrap_or("application/octet-stream"), draft);
    extra_headers(row, draft, text_header)
}
