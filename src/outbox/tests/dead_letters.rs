//! Rows that are set aside.

use super::*;
use crate::outbox::PoisonReason;

/// Encodes a row that must be poison, and then its dead letter.
fn dead_letter(mapping: &Mapping, values: &[Option<&str>]) -> Record {
    let encoder = bound(mapping, &table(&SEED));
    let poison = poison(&encoder, values);
    let (row, mut out) = (row(values), Records::new());
    encoder.encode_dead_letter(OID, &Tuple::parse(&row).unwrap(), &poison, &mut out).unwrap();
    assert_eq!(out.len(), 1);
    Record::last_of(&out)
}

#[test]
fn a_row_for_an_illegal_topic_keeps_its_record_and_goes_to_the_fixed_topic() {
    let record = dead_letter(&mapping(Envelope::Event), &with(1, Some("a b")));
    assert_eq!(record.topic, "outboxd.dead-letter");
    assert_eq!(record.key.as_deref(), Some(AGGREGATE));
    assert!(record.value().starts_with(r#"{"event_id":"4d47e190"#), "{}", record.value());
    let always = ["event_id", "event_type", "aggregate_type", "aggregate_id", "content-type"];
    assert_eq!(record.header_names()[..5], always);
    let ours = ["outboxd_event_time", "outboxd_error_code", "outboxd_error", "outboxd_topic"];
    assert_eq!(record.header_names()[5..], ours);
    assert_eq!((record.timestamp, record.header(ours[0])), (None, Some("2024-01-15T10:30:00Z")));
    assert_eq!(record.header("outboxd_error_code"), Some("topic-invalid"));
    assert_eq!(record.header("outboxd_topic"), Some("a b.events"));
    assert!(record.header("outboxd_error").unwrap().contains("a b.events"));
}

#[test]
fn a_row_that_has_no_envelope_keeps_its_payload_as_postgres_sent_it() {
    let record = dead_letter(&mapping(Envelope::Event), &with(5, Some("infinity")));
    assert_eq!(record.topic, "order.events.dead-letter");
    assert_eq!(record.value(), ROW[4].unwrap());
    assert_eq!(record.key.as_deref(), Some(AGGREGATE));
    assert_eq!(record.timestamp, None, "the brokers may have refused the row for its own");
    assert_eq!(record.header("outboxd_error_code"), Some("timestamp-invalid"));
    assert!(!record.header_names().contains(&"content-type"));
}

#[test]
fn a_row_without_an_id_or_a_topic_has_null_for_them() {
    let record = dead_letter(&mapping(Envelope::Event), &with(0, None));
    assert_eq!((record.topic.as_str(), record.header("event_id")), ("order.events.dead-letter", None));
    let record = dead_letter(&mapping(Envelope::Event), &with(1, None));
    assert_eq!((record.topic.as_str(), record.header("outboxd_topic")), ("outboxd.dead-letter", None));
}

#[test]
fn a_dead_letter_never_goes_to_the_position_topic() {
    let mut mapping = mapping(Envelope::Event);
    mapping.dead_letter_topic = template("outboxd.positions");
    assert_eq!(dead_letter(&mapping, &with(5, Some("infinity"))).topic, "outboxd.dead-letter");
}

#[test]
fn a_row_that_is_too_large_even_for_the_dead_letter_topic_keeps_headers_and_error() {
    let (row, mut out) = (row(&ROW), Records::new());
    let too_large = Poison::new(PoisonReason::TooLarge, "1234 bytes");
    let encoder = bound(&mapping(Envelope::Event), &table(&SEED));
    let tuple = Tuple::parse(&row).unwrap();
    encoder.encode_dead_letter_without_payload(OID, &tuple, &too_large, &mut out).unwrap();
    let record = Record::last_of(&out);
    assert_eq!((record.value.as_deref(), record.topic.as_str()), (None, "order.events.dead-letter"));
    assert_eq!((record.header("event_id"), record.header("outboxd_error")), (Some(ID), Some("1234 bytes")));
    assert_eq!(out.get(0).unwrap().event_id, Some(ID));
}

#[test]
fn a_value_that_is_not_utf8_is_null_in_a_header_and_itself_in_the_value() {
    let mut bytes = Vec::new();
    let mut writer = TupleWriter::new();
    writer.begin(&mut bytes);
    for value in [ID.as_bytes(), b"order", b"\xff", b"T", b"\xfe", b"2024-01-15 10:30:00"] {
        writer.text(&mut bytes, value);
    }
    writer.null(&mut bytes);
    writer.finish(&mut bytes);
    let (encoder, mut out) = (bound(&mapping(Envelope::Payload), &table(&SEED)), Records::new());
    let tuple = Tuple::parse(&bytes).unwrap();
    let Err(Failure::Poison(poison)) = encoder.encode(OID, &tuple, &mut out) else { panic!("not poison") };
    assert_eq!(poison.reason, PoisonReason::ColumnUnreadable);
    encoder.encode_dead_letter(OID, &tuple, &poison, &mut out).unwrap();
    let record = Record::last_of(&out);
    assert_eq!((record.header("aggregate_id"), record.value.as_deref()), (None, Some(&b"\xfe"[..])));
    assert_eq!(record.key, None);
}
