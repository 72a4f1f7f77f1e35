//! From a row of an outbox table to a Kafka record. Pure: no socket, no clock, no thread.
//!
//! ```text
//!   Relation ─▶ Encoder::bind ─▶ Binding: which column is the id, the payload, a part of the topic
//!                                   │
//!   Insert's Tuple ─▶ Row ─▶ Event ─┴─▶ topic, key, envelope, headers ─▶ Draft ─▶ Records
//!                      │ mark column set: passed over                      │     (a batch's arena)
//!                      └ cannot become a record: Poison ◀──────────────────┘ nothing left behind
//!                           └─▶ encode_dead_letter
//! ```
//!
//! What must hold:
//! - a row gives one record, or is already marked, or is poison: never two records, never half a
//!   one;
//! - the same row gives the same bytes whenever it is sent again, from the stream or from the
//!   backfill, as long as the brokers take its time;
//! - the payload's JSON text is spliced in unchanged: numbers keep every digit;
//! - no column name is looked up and nothing is allocated for a row in the steady state.

mod binding;
mod cell;
mod dead_letter;
mod draft;
mod encoder;
mod envelope;
mod event;
mod json;
mod poison;
mod records;
mod template;
mod times;
mod timestamp;

#[cfg(test)]
mod tests;

pub use encoder::{Encoded, Encoder};
pub(crate) use poison::{Failure, Poison, PoisonReason};
pub use records::{RecordRef, Records};
pub(crate) use times::Times;
pub(crate) use timestamp::{parse_rfc3339, write_rfc3339};

/// The header of a dead letter with the topic that its row was meant for.
pub(crate) const MEANT_FOR: &str = "outboxd_topic";

/// The header with the event's own time, where the record's timestamp is another one.
pub(crate) const EVENT_TIME: &str = "outboxd_event_time";

/// The header that names the request, where a record is published again.
pub(crate) const REPLAY: &str = "outboxd_replay";
