//! What must hold for any row.

use proptest::{prelude::*, sample::Index};

use super::*;

fn envelopes() -> Vec<Envelope> {
    vec![
        Envelope::Event,
        Envelope::Payload,
        cloudevents(CloudEventsMode::Binary),
        cloudevents(CloudEventsMode::Structured),
        Envelope::Debezium(Debezium::default()),
    ]
}

/// A value in text or binary form, of any bytes or of bytes that some type allows.
fn any_value() -> impl Strategy<Value = Option<(bool, Vec<u8>)>> {
    let likely: [&[u8]; 8] =
        [ID.as_bytes(), b"order", b"{\"a\": 1}", b"\\x00ff", b"2024-01-15 10:30:00.5+02", b"infinity", b"t", b"\x01{}"];
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..24),
        proptest::sample::select(likely.to_vec()).prop_map(<[u8]>::to_vec),
        any::<String>().prop_map(String::into_bytes),
    ];
    proptest::option::weighted(0.9, (any::<bool>(), bytes))
}

fn wire(values: &[Option<(bool, Vec<u8>)>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = TupleWriter::new();
    writer.begin(&mut out);
    for value in values {
        match value {
            None => writer.null(&mut out),
            Some((true, bytes)) => writer.binary(&mut out, bytes),
            Some((false, bytes)) => writer.text(&mut out, bytes),
        }
    }
    writer.finish(&mut out);
    out
}

/// Any JSON document, as text.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    let tree = leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    });
    tree.prop_map(|value| value.to_string())
}

proptest! {
    #[test]
    fn any_row_is_a_record_or_poison_and_never_half_a_one(
        envelope in proptest::sample::select(envelopes()),
        payload in proptest::sample::select(vec![JSON, JSONB, TEXT, BYTEA]),
        values in proptest::collection::vec(any_value(), 8),
    ) {
        let mut mapping = mapping(envelope);
        mapping.headers = vec![("extra".into(), "extra".into()), ("ce_extra".into(), "extra".into())];
        let encoder = bound(&mapping, &seed_with(payload, &[("extra", INT4)]));
        let bytes = wire(&values);
        let tuple = Tuple::parse(&bytes).unwrap();
        let mut records = Records::new();
        match encoder.encode(OID, &tuple, &mut records) {
            Ok(Encoded::Published) => prop_assert_eq!(records.len(), 1),
            Ok(Encoded::AlreadyMarked) => prop_assert!(values[6].is_some() && records.is_empty()),
            Err(Failure::Poison(poison)) => {
                prop_assert_eq!((records.len(), records.bytes()), (0, 0));
                encoder.encode_dead_letter(OID, &tuple, &poison, &mut records).unwrap();
                encoder.encode_dead_letter_without_payload(OID, &tuple, &poison, &mut records).unwrap();
                prop_assert_eq!(records.len(), 2);
                prop_assert_eq!(records.get(1).unwrap().value, None);
            }
            Err(Failure::Protocol(error)) => prop_assert!(false, "{}", error),
        }
        for record in all(&records) {
            prop_assert!(!record.topic.is_empty());
            prop_assert!(record.headers().all(|(name, _)| !name.is_empty()));
        }
    }

    #[test]
    fn the_envelope_is_json_and_its_data_is_the_payload(
        id in "\\PC{1,20}",
        event_type in any::<String>(),
        text in any::<String>(),
        document in any_json(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        use base64::Engine as _;
        let mut columns = SEED;
        columns[0].1 = TEXT;
        let hexadecimal = bytes.iter().fold("\\x".to_owned(), |digits, byte| format!("{digits}{byte:02x}"));
        let base64 = base64::engine::general_purpose::STANDARD.encode(&bytes);
        let expected_document: serde_json::Value = serde_json::from_str(&document).unwrap();
        for (type_oid, payload, data) in
            [(TEXT, &text, text.clone().into()), (JSON, &document, expected_document), (BYTEA, &hexadecimal, base64.into())]
        {
            columns[4].1 = type_oid;
            let mut values = ROW.map(|value| value.map(str::to_owned));
            values[0] = Some(id.clone());
            values[3] = Some(event_type.clone());
            values[4] = Some(payload.clone());
            let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
            let record = encode(&bound(&mapping(Envelope::Event), &table(&columns)), &values);
            let envelope: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            prop_assert_eq!(&envelope["event_id"], &id);
            prop_assert_eq!(&envelope["event_type"], &event_type);
            prop_assert_eq!(&envelope["data"], &data);
        }
    }

    #[test]
    fn splitting_keeps_every_record_as_it_was(
        topics in proptest::collection::vec("[a-c]", 0..20),
        first in any::<Index>(),
        second in any::<Index>(),
    ) {
        let encoder = bound(&mapping(Envelope::Event), &table(&SEED));
        let (mut records, mut tail) = (Records::new(), Records::new());
        for (number, topic) in topics.iter().enumerate() {
            let mut values = ROW;
            let id = format!("id-{number}");
            (values[0], values[1]) = (Some(id.as_str()), Some(topic.as_str()));
            let bytes = row(&values);
            let tuple = Tuple::parse(&bytes).unwrap();
            if number % 4 == 3 {
                encoder.marks_only(OID, &tuple, &mut records).unwrap();
            } else {
                encoder.encode(OID, &tuple, &mut records).unwrap();
            }
        }
        let seen = |records: &Records| -> Vec<String> {
            all(records).map(|record| {
                let headers: Vec<_> = record.headers().collect();
                format!("{:?}", (record.topic, record.key, record.value, record.event_id, record.table, headers))
            }).collect()
        };
        let (before, bytes) = (seen(&records), records.bytes());
        // The tail already holds rows of its own, whose topics have other numbers.
        let foreign = row(&with(1, Some("z")));
        encoder.encode(OID, &Tuple::parse(&foreign).unwrap(), &mut tail).unwrap();
        let (foreign, foreign_bytes) = (seen(&tail), tail.bytes());
        let at = first.index(topics.len() + 1);
        records.split_off_into(at, &mut tail);
        let mut rest = Records::new();
        records.split_off_into(second.index(at + 1), &mut rest);
        prop_assert_eq!(&seen(&tail)[..1], &foreign[..]);
        let after = [seen(&records), seen(&rest), seen(&tail).split_off(1)].concat();
        prop_assert_eq!(after, before);
        prop_assert_eq!(records.bytes() + rest.bytes() + tail.bytes() - foreign_bytes, bytes);
        let counted: usize = [&records, &rest, &tail].iter().flat_map(|part| part.topics()).map(|(_, rows)| rows).sum();
        prop_assert_eq!(counted, 1 + topics.len() - topics.len() / 4);
    }
}
