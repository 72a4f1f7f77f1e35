//! Literal bytes for the seed's envelope, the payload envelope and the router's, and each way to be
//! poison.

use super::*;
use crate::{Code, outbox::PoisonReason, pgoutput::Type};

#[test]
fn a_seed_row_is_the_seeds_record() {
    let record = encode(&bound(&mapping(Envelope::Event), &table(&SEED)), &ROW);
    assert_eq!(record.topic, "order.events");
    assert_eq!(record.key.as_deref(), Some(AGGREGATE));
    assert_eq!(record.timestamp, Some(1_705_314_600_000));
    assert_eq!(
        record.value(),
        r#"{"event_id":"4d47e190-0402-4048-bc2c-89dd54343cdc","event_type":"OrderCreated","timestamp":"2024-01-15T10:30:00Z","data":{"total": 1500.00, "order_id": "o-1"}}"#
    );
    let headers = [
        ("event_id", ID),
        ("event_type", "OrderCreated"),
        ("aggregate_type", "order"),
        ("aggregate_id", AGGREGATE),
        ("content-type", "application/json"),
    ];
    assert_eq!(record.headers, headers.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))));
}

#[test]
fn a_binary_row_is_the_same_record_as_its_text() {
    let mut bytes = Vec::new();
    let mut writer = TupleWriter::new();
    writer.begin(&mut bytes);
    writer.binary(&mut bytes, uuid::Uuid::parse_str(ID).unwrap().as_bytes());
    writer.binary(&mut bytes, b"order");
    writer.binary(&mut bytes, uuid::Uuid::parse_str(AGGREGATE).unwrap().as_bytes());
    writer.binary(&mut bytes, b"OrderCreated");
    writer.binary(&mut bytes, b"\x01{\"total\": 1500.00, \"order_id\": \"o-1\"}");
    writer.binary(&mut bytes, &758_629_800_000_000_i64.to_be_bytes());
    writer.null(&mut bytes);
    writer.finish(&mut bytes);
    let (encoder, mut out) = (bound(&mapping(Envelope::Event), &table(&SEED)), Records::new());
    let tuple = Tuple::parse(&bytes).unwrap();
    encoder.encode(OID, &tuple, &mut out).unwrap();
    assert_eq!(Record::last_of(&out), encode(&encoder, &ROW));
    assert_eq!(encoder.event_id(OID, &tuple).as_deref(), Some(ID));
}

#[test]
fn the_payload_stands_in_the_envelope_by_its_type() {
    let cases = [
        (JSONB, Some("{\"a\": 12345678901234567890.10}"), "{\"a\": 12345678901234567890.10}"),
        (JSON, Some("[1,\n 2]"), "[1,\n 2]"),
        (JSONB, Some("null"), "null"),
        (JSONB, None, "null"),
        (TEXT, Some("say \"hé\"\n"), "\"say \\\"hé\\\"\\n\""),
        (TEXT, Some(""), "\"\""),
        (BYTEA, Some("\\x00ff7b7d"), "\"AP97fQ==\""),
        (BYTEA, Some("\\x"), "\"\""),
    ];
    for (type_oid, payload, data) in cases {
        let record = encode(&bound(&mapping(Envelope::Event), &seed_with(type_oid, &[])), &with(4, payload));
        assert!(record.value().ends_with(&format!(r#""data":{data}}}"#)), "{payload:?}: {}", record.value());
        assert_eq!(record.header("content-type"), Some("application/json"));
    }
}

#[test]
fn the_payload_alone_has_its_own_bytes_and_media_type() {
    let cases = [
        (JSONB, Some("{\"a\": 1}"), Some(&b"{\"a\": 1}"[..]), "application/json"),
        (JSONB, None, None, "application/json"),
        (TEXT, Some("héllo"), Some(b"h\xc3\xa9llo"), "text/plain; charset=utf-8"),
        (TEXT, Some(""), Some(b""), "text/plain; charset=utf-8"),
        (BYTEA, Some("\\x00ff7b7d"), Some(b"\x00\xff\x7b\x7d"), "application/octet-stream"),
        (BYTEA, None, None, "application/octet-stream"),
    ];
    for (type_oid, payload, value, media_type) in cases {
        let record = encode(&bound(&mapping(Envelope::Payload), &seed_with(type_oid, &[])), &with(4, payload));
        assert_eq!(record.value.as_deref(), value, "{payload:?}");
        assert_eq!(record.header("content-type"), Some(media_type));
    }
}

#[test]
fn er_01_and_er_08_the_router_sends_the_payload_with_its_id_and_the_placed_columns() {
    let columns = [("id", 2950), ("aggregatetype", 1043), ("aggregateid", 1043), ("type", 1043), ("payload", JSONB)];
    let mut router = mapping(Envelope::Debezium(Debezium::default()));
    router.topic = template("outbox.event.{aggregatetype}");
    router.key = template("{aggregateid}");
    let values = |payload| {
        [Some("11111111-1111-1111-1111-111111111111"), Some("Order"), Some("1"), Some("OrderCreated"), Some(payload)]
    };
    let unmarked = |mapping: &Mapping| {
        let mut encoder = Encoder::new(mapping, Mark::Delete, "outboxd.positions").unwrap();
        encoder.bind(&table(&columns), 0).unwrap();
        encoder.begin(COMMIT_TIME);
        encoder
    };
    let record = encode(&unmarked(&router), &values(r#"{"b": "x", "id": 1}"#));
    assert_eq!((record.topic.as_str(), record.key.as_deref()), ("outbox.event.Order", Some("1")));
    assert_eq!(record.value(), r#"{"b": "x", "id": 1}"#);
    assert_eq!(record.headers, [("id".into(), Some("11111111-1111-1111-1111-111111111111".into()))]);
    assert_eq!(record.timestamp, Some(COMMIT_TIME / 1000));

    router.topic = template("{aggregatetype}.events");
    router.headers = vec![("eventType".into(), "type".into())];
    let record = encode(&unmarked(&router), &values(r#"{"a": 1}"#));
    assert_eq!((record.topic.as_str(), record.value()), ("Order.events", r#"{"a": 1}"#));
    assert_eq!(record.header_names(), ["id", "eventType"]);
    assert_eq!(record.header("eventType"), Some("OrderCreated"));
}

#[test]
fn extra_headers_follow_in_order_and_null_is_null() {
    let mut mapping = mapping(Envelope::Event);
    mapping.headers = vec![("trace".into(), "traceparent".into()), ("who".into(), "tenant".into())];
    let encoder = bound(&mapping, &seed_with(JSONB, &[("tenant", INT4), ("traceparent", TEXT)]));
    let record = encode(&encoder, &[&ROW[..], &[Some("7"), None]].concat());
    assert_eq!(record.header_names()[5..], ["trace", "who"]);
    assert_eq!((record.header("trace"), record.header("who")), (None, Some("7")));
}

#[test]
fn a_null_created_at_is_the_commit_time() {
    let record = encode(&bound(&mapping(Envelope::Event), &table(&SEED)), &with(5, None));
    assert!(record.value().contains(r#""timestamp":"2024-01-15T10:30:01.25Z""#), "{}", record.value());
    assert_eq!(record.timestamp, Some(1_705_314_601_250));
}

#[test]
fn a_zone_is_turned_to_utc_and_an_age_before_kafkas_has_the_commit_time_on_the_record() {
    let mut columns = SEED;
    columns[5].1 = TIMESTAMPTZ;
    let encoder = bound(&mapping(Envelope::Event), &table(&columns));
    let record = encode(&encoder, &with(5, Some("2019-05-03 15:31:34.344999+02")));
    assert!(record.value().contains(r#""timestamp":"2019-05-03T13:31:34.344999Z""#), "{}", record.value());
    assert_eq!(record.timestamp, Some(1_556_890_294_344));
    let record = encode(&encoder, &with(5, Some("1969-12-31 23:59:59+00")));
    assert!(record.value().contains(r#""timestamp":"1969-12-31T23:59:59Z""#), "{}", record.value());
    assert_eq!(record.timestamp, Some(COMMIT_TIME / 1000));
    assert_eq!(record.header("outboxd_event_time"), Some("1969-12-31T23:59:59Z"));
}

#[test]
fn a_row_that_is_ahead_of_its_commit_has_the_commit_time_and_its_own_in_a_header() {
    let encoder = bound(&mapping(Envelope::Payload), &table(&SEED));
    let record = encode(&encoder, &with(5, Some("2024-01-15 19:30:00.5")));
    assert_eq!(record.timestamp, Some(COMMIT_TIME / 1000));
    assert_eq!(record.header("outboxd_event_time"), Some("2024-01-15T19:30:00.5Z"));
    let record = encode(&encoder, &with(5, None));
    assert!(!record.header_names().contains(&"outboxd_event_time"), "the row has no time of its own");
}

#[test]
fn a_key_of_one_null_column_is_null_and_of_several_is_poison() {
    let mut mapping = mapping(Envelope::Event);
    let record = encode(&bound(&mapping, &table(&SEED)), &with(2, None));
    assert_eq!((record.key.as_deref(), record.header("aggregate_id")), (None, None));
    mapping.key = template("{aggregate_type}-{aggregate_id}");
    let encoder = bound(&mapping, &table(&SEED));
    assert_eq!(encode(&encoder, &ROW).key, Some(format!("order-{AGGREGATE}")));
    assert_eq!(poison(&encoder, &with(2, None)).reason, PoisonReason::NullKeyColumn);
    mapping.key = Template::of([]);
    assert_eq!(encode(&bound(&mapping, &table(&SEED)), &ROW).key.as_deref(), Some(""));
}

#[test]
fn a_row_that_cannot_be_a_record_is_poison_and_says_which_column() {
    let encoder = bound(&mapping(Envelope::Event), &table(&SEED));
    for (index, value, reason, about) in [
        (0, None, PoisonReason::NullId, "column id "),
        (1, None, PoisonReason::NullTopicColumn, "column aggregate_type "),
        (1, Some("a b"), PoisonReason::TopicInvalid, "a b.events"),
        (3, None, PoisonReason::AttributeMissing, "event type"),
        (4, Some(""), PoisonReason::PayloadInvalid, "column payload "),
        (5, Some("infinity"), PoisonReason::TimestampInvalid, "column created_at is infinite"),
        (5, Some("0044-03-15 12:00:00 BC"), PoisonReason::TimestampInvalid, "before Christ"),
    ] {
        let poison = poison(&encoder, &with(index, value));
        assert_eq!(poison.reason, reason, "{poison}");
        assert!(poison.detail.contains(about), "{poison}");
    }
}

#[test]
fn nothing_goes_to_the_position_topic_or_to_the_brokers_own() {
    let mut mapping = mapping(Envelope::Event);
    mapping.topic = template("{aggregate_type}");
    let encoder = bound(&mapping, &table(&SEED));
    for topic in ["outboxd.positions", "__consumer_offsets", "", "."] {
        assert_eq!(poison(&encoder, &with(1, Some(topic))).reason, PoisonReason::TopicInvalid, "{topic}");
    }
}

#[test]
fn a_row_whose_mark_is_set_is_passed_over() {
    let values = row(&with(6, Some("2024-01-15 10:30:00")));
    let tuple = Tuple::parse(&values).unwrap();
    let (encoder, mut out) = (bound(&mapping(Envelope::Event), &table(&SEED)), Records::new());
    assert_eq!(encoder.encode(OID, &tuple, &mut out).unwrap(), Encoded::AlreadyMarked);
    assert_eq!(encoder.marks_only(OID, &tuple, &mut out).unwrap(), Encoded::AlreadyMarked);
    assert!(out.is_empty());
}

#[test]
fn a_redelivered_row_leaves_its_id_and_no_record() {
    let values = row(&ROW);
    let (encoder, mut out) = (bound(&mapping(Envelope::Event), &table(&SEED)), Records::new());
    encoder.marks_only(OID, &Tuple::parse(&values).unwrap(), &mut out).unwrap();
    let mark = out.get(0).unwrap();
    assert_eq!((mark.mark_only, mark.event_id, mark.topic, mark.table), (true, Some(ID), "", 3));
    assert_eq!((out.bytes(), out.topics().count(), mark.headers().count()), (ID.len(), 0, 0));
}

#[test]
fn a_table_that_cannot_serve_names_the_column_and_the_key() {
    let mut encoder = Encoder::new(&mapping(Envelope::Event), Mark::Update, "p").unwrap();
    let mut bind = |columns: &[(&str, u32)]| {
        let error = encoder.bind(&table(columns), 0).unwrap_err();
        assert_eq!(error.code(), Code::ColumnInvalid);
        error.detail()
    };
    let missing = bind(&SEED[..6]);
    assert!(missing.contains("public.order_outbox has no column \"published_at\""), "{missing}");
    assert!(missing.contains("`columns.published_at`"), "{missing}");
    let mut columns = SEED;
    columns[4].1 = INT4;
    let unusable = bind(&columns);
    assert!(unusable.contains("column \"payload\"") && unusable.contains("jsonb, json, text"), "{unusable}");
    columns = SEED;
    columns[5].1 = TEXT;
    let unusable = bind(&columns);
    assert!(unusable.contains("timestamp or timestamptz"), "{unusable}");
    columns = SEED;
    columns[0].1 = JSONB;
    assert!(bind(&columns).contains("`columns.id`"));
}

#[test]
fn a_table_that_changes_in_mid_stream_is_read_by_its_new_shape() {
    let mut encoder = bound(&mapping(Envelope::Event), &table(&SEED));
    let before = encode(&encoder, &ROW);
    let mut columns = SEED.to_vec();
    columns.insert(0, ("note", TEXT));
    columns.swap(2, 6);
    encoder.bind(&table(&columns), 3).unwrap();
    let mut values = ROW.to_vec();
    values.insert(0, Some("x"));
    values.swap(2, 6);
    assert_eq!(encode(&encoder, &values), before);

    encoder.bind(&table(&SEED[1..]), 3).unwrap_err();
    assert!(!encoder.is_bound(OID));
    let values = row(&ROW);
    let failure = encoder.encode(OID, &Tuple::parse(&values).unwrap(), &mut Records::new());
    assert!(matches!(failure, Err(Failure::Protocol(error)) if error.code() == Code::PostgresProtocol));
}

#[test]
fn a_row_that_does_not_fit_its_relation_is_the_streams_fault() {
    let encoder = bound(&mapping(Envelope::Event), &table(&SEED));
    let values = row(&ROW[..6]);
    let failure = encoder.encode(OID, &Tuple::parse(&values).unwrap(), &mut Records::new());
    assert!(matches!(failure, Err(Failure::Protocol(error)) if error.code() == Code::PostgresProtocol));
}

#[test]
fn a_domain_over_jsonb_serves_as_jsonb() {
    let mut encoder = Encoder::new(&mapping(Envelope::Event), Mark::Update, "p").unwrap();
    encoder.bind(&seed_with(16_500, &[]), 3).unwrap_err();
    encoder.learn(&Type { oid: 16_500, schema: "", name: "jsonb" });
    encoder.bind(&seed_with(16_500, &[]), 3).unwrap();
    assert!(encode(&encoder, &ROW).value().ends_with(r#""data":{"total": 1500.00, "order_id": "o-1"}}"#));
}

#[test]
fn columns_beyond_those_at_hand_are_found_too() {
    let names: Vec<String> = (0..40).map(|number| format!("c{number}")).collect();
    let more: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), TEXT)).collect();
    let mut mapping = mapping(Envelope::Payload);
    mapping.headers = names.iter().rev().map(|name| (name.clone(), name.clone())).collect();
    let values: Vec<Option<&str>> = ROW.into_iter().chain(names.iter().map(|name| Some(name.as_str()))).collect();
    let record = encode(&bound(&mapping, &seed_with(JSONB, &more)), &values);
    for name in &names {
        assert_eq!(record.header(name), Some(name.as_str()));
    }
}
