//! Debezium's Outbox Event Router with StringConverter for key and value and the default
//! SimpleHeaderConverter (`conformance/eventrouter.md`, cases ER-01 and ER-08). A record has the
//! payload's text, one header `id`, then the placed columns. A bytea goes raw, as with
//! ByteArrayConverter. Other converters, expansion, envelope placements, tracing and the router's
//! renderings of numeric, time and array columns are not here yet.
//!
//! The router publishes a row whose id is NULL, with a null header. Here such a row is poison,
//! since it cannot be marked.

use super::{Content, attribute_text, bare_payload, extra_headers, names};
use crate::outbox::{draft::Draft, poison::Poison};

pub(super) fn write(Content { row, event, attributes }: Content<'_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
    let value = bare_payload(&event.payload, draft);
    draft.value(value);
    draft.header(names::ROUTER_ID, attributes.id);
    extra_headers(row, draft, |cell, draft| Ok(draft.put_text(attribute_text(cell)?.as_deref())))
}
