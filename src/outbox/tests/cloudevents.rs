//! The conformance cases CE-01 to CE-08, as far as our configuration can ask for them.

use super::*;
use crate::{
    Code,
    config::CloudEventsMode::{Binary, Structured},
    outbox::PoisonReason,
};

const ROW_A: [Option<&str>; 7] = [
    Some(ID),
    Some("Order"),
    Some("1"),
    Some("OrderCreated"),
    Some(r#"{"a": 1}"#),
    Some("2019-05-03 13:31:34.344"),
    None,
];

fn changed(index: usize, value: Option<&'static str>) -> [Option<&'static str>; 7] {
    let mut values = ROW_A;
    values[index] = value;
    values
}

fn keyed(envelope: Envelope) -> Mapping {
    let mut mapping = mapping(envelope);
    mapping.headers = vec![("ce_partitionkey".into(), "aggregate_id".into())];
    mapping
}

/// The seed's table with a text id for the aggregate.
fn relation(payload: u32, more: &[(&str, u32)]) -> RelationSchema {
    let mut relation = seed_with(payload, more);
    relation.columns[2].type_oid = TEXT;
    relation
}

fn binary(payload: u32, values: &[Option<&str>]) -> Record {
    encode(&bound(&mapping(cloudevents(Binary)), &relation(payload, &[])), values)
}

fn structured(payload: u32, values: &[Option<&str>]) -> serde_json::Value {
    let record = encode(&bound(&mapping(cloudevents(Structured)), &relation(payload, &[])), values);
    assert_eq!(record.header("content-type"), Some("application/cloudevents+json"));
    serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()
}

#[test]
fn ce_01_binary_mode_has_the_attributes_in_headers() {
    let record = encode(&bound(&keyed(cloudevents(Binary)), &relation(JSONB, &[])), &ROW_A);
    assert_eq!((record.key.as_deref(), record.value()), (Some("1"), r#"{"a": 1}"#));
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", ID),
        ("ce_source", "/outbox/order-service"),
        ("ce_type", "OrderCreated"),
        ("ce_subject", "1"),
        ("ce_time", "2019-05-03T13:31:34.344Z"),
        ("content-type", "application/json"),
        ("event_id", ID),
        ("event_type", "OrderCreated"),
        ("aggregate_type", "Order"),
        ("aggregate_id", "1"),
        ("ce_partitionkey", "1"),
    ];
    assert_eq!(record.headers, headers.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))));
}

#[test]
fn ce_02_structured_mode_is_one_json_object() {
    let record = encode(&bound(&keyed(cloudevents(Structured)), &relation(JSONB, &[])), &ROW_A);
    assert_eq!(
        record.value(),
        r#"{"specversion":"1.0","id":"4d47e190-0402-4048-bc2c-89dd54343cdc","source":"/outbox/order-service","type":"OrderCreated","datacontenttype":"application/json","subject":"1","time":"2019-05-03T13:31:34.344Z","partitionkey":"1","data":{"a": 1}}"#
    );
    let names = ["content-type", "event_id", "event_type", "aggregate_type", "aggregate_id"];
    assert_eq!((record.key.as_deref(), record.header_names()), (Some("1"), names.to_vec()));
}

#[test]
fn ce_04_bytes_of_no_known_type_have_no_content_type() {
    let values = changed(4, Some("\\x00ff7b7d"));
    let record = binary(BYTEA, &values);
    assert_eq!(record.value.as_deref(), Some(&b"\x00\xff\x7b\x7d"[..]));
    assert!(!record.header_names().contains(&"content-type"));
    let event = structured(BYTEA, &values);
    assert_eq!(event["data_base64"], "AP97fQ==");
    assert!(event.get("data").is_none() && event.get("datacontenttype").is_none(), "{event}");
}

#[test]
fn ce_05_and_ce_06_a_null_payload_is_a_tombstone_and_json_null_is_not() {
    let record = binary(JSONB, &changed(4, None));
    assert_eq!((record.value.as_deref(), record.header("content-type")), (None, Some("application/json")));
    assert_eq!(record.header("ce_id"), Some(ID));
    assert!(structured(JSONB, &changed(4, None)).get("data").is_none());
    assert_eq!(binary(JSONB, &changed(4, Some("null"))).value(), "null");
    assert_eq!(structured(JSONB, &changed(4, Some("null"))).get("data"), Some(&serde_json::Value::Null));
}

#[test]
fn ce_07_text_is_text() {
    let values = changed(4, Some("héllo"));
    let record = binary(TEXT, &values);
    assert_eq!(record.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(record.value.as_deref(), Some(&b"\x68\xc3\xa9\x6c\x6c\x6f"[..]));
    assert_eq!(structured(TEXT, &values)["data"], "héllo");
}

#[test]
fn ce_08_times_extensions_and_subjects() {
    for (created_at, time) in
        [("2019-05-03 13:31:34.344999", "2019-05-03T13:31:34.344999Z"), ("2019-05-03 13:31:34", "2019-05-03T13:31:34Z")]
    {
        assert_eq!(binary(JSONB, &changed(5, Some(created_at))).header("ce_time"), Some(time));
        assert_eq!(structured(JSONB, &changed(5, Some(created_at)))["time"], time);
    }
    let subject = changed(2, Some("Müller 50%"));
    assert_eq!(binary(JSONB, &subject).header("ce_subject"), Some("Müller 50%"));
    assert_eq!(structured(JSONB, &subject)["subject"], "Müller 50%");

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let more = [("seq", INT4), ("flag", BOOL), ("traceparent", TEXT), ("note", TEXT)];
    let values = [&ROW_A[..], &[Some("5"), Some("t"), Some(trace), None]].concat();
    let extended = |envelope| {
        let mut mapping = mapping(envelope);
        mapping.headers = more.iter().map(|(name, _)| (format!("ce_{name}"), (*name).to_owned())).collect();
        encode(&bound(&mapping, &relation(JSONB, &more)), &values)
    };
    let record = extended(cloudevents(Binary));
    assert_eq!((record.header("ce_seq"), record.header("ce_flag")), (Some("5"), Some("true")));
    assert_eq!(record.header("ce_traceparent"), Some(trace));
    assert!(!record.header_names().contains(&"ce_note"), "an unset attribute is left out");
    let record = extended(cloudevents(Structured));
    let text = record.value();
    assert!(text.contains(&format!(r#","seq":5,"flag":true,"traceparent":"{trace}","data":"#)), "{text}");
    assert!(!text.contains("note"), "{text}");
}

#[test]
fn a_subject_that_is_empty_or_null_is_left_out() {
    for value in [None, Some("")] {
        assert!(!binary(JSONB, &changed(2, value)).header_names().contains(&"ce_subject"));
        assert!(structured(JSONB, &changed(2, value)).get("subject").is_none());
    }
}

#[test]
fn an_event_without_a_type_or_with_control_characters_is_poison() {
    for envelope in [cloudevents(Binary), cloudevents(Structured)] {
        let encoder = bound(&mapping(envelope), &relation(JSONB, &[]));
        for (index, value, reason) in [
            (3, None, PoisonReason::AttributeMissing),
            (3, Some(""), PoisonReason::AttributeMissing),
            (3, Some("a\nb"), PoisonReason::AttributeInvalid),
            (2, Some("a\u{85}b"), PoisonReason::AttributeInvalid),
            (2, Some("a\u{fffe}b"), PoisonReason::AttributeInvalid),
        ] {
            assert_eq!(poison(&encoder, &changed(index, value)).reason, reason, "{value:?}");
        }
    }
}

#[test]
fn a_configuration_that_gives_no_valid_event_is_refused_at_start() {
    for mode in [Binary, Structured] {
        assert!(CloudEvents::new(mode, "").is_err(), "an event without a source is not valid");
    }
    let mut mappings = Vec::new();
    for header in ["ce_", "ce_aggregate_type", "ce_Seq", "ce_id", "ce_data"] {
        let mut mapping = mapping(cloudevents(Structured));
        mapping.headers = vec![(header.into(), "aggregate_id".into())];
        mappings.push(mapping);
    }
    for mapping in mappings {
        let error = Encoder::new(&mapping, Mark::None, "p").unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid, "{:?}", mapping.headers);
    }
}
