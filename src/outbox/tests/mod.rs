//! What the encoder does, seen from outside: rows in, literal bytes out.

mod arena;
mod cloudevents;
mod dead_letters;
mod golden;
mod properties;

use super::{Encoded, Encoder, Failure, Poison, RecordRef, Records};
use crate::{
    config::{CloudEvents, CloudEventsMode, Debezium, Envelope, Mapping, Mark, Template},
    pgoutput::{ColumnSchema, RelationSchema, Tuple, TupleWriter},
};

pub(super) const OID: u32 = 16_385;
pub(super) const ID: &str = "4d47e190-0402-4048-bc2c-89dd54343cdc";
pub(super) const AGGREGATE: &str = "10711fa5-0000-4000-8000-000000000001";
/// 2024-01-15 10:30:01.25 UTC in microseconds.
pub(super) const COMMIT_TIME: i64 = 1_705_314_601_250_000;

pub(super) const BOOL: u32 = 16;
pub(super) const BYTEA: u32 = 17;
pub(super) const INT4: u32 = 23;
pub(super) const TEXT: u32 = 25;
pub(super) const JSON: u32 = 114;
pub(super) const TIMESTAMP: u32 = 1114;
pub(super) const TIMESTAMPTZ: u32 = 1184;
pub(super) const JSONB: u32 = 3802;

pub(super) fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

/// The defaults of the configuration.
pub(super) fn mapping(envelope: Envelope) -> Mapping {
    Mapping { envelope, ..Mapping::default() }
}

pub(super) fn cloudevents(mode: CloudEventsMode) -> Envelope {
    Envelope::CloudEvents(CloudEvents::new(mode, "/outbox/order-service").unwrap())
}

/// A table of these (name, type oid) columns.
pub(super) fn table(columns: &[(&str, u32)]) -> RelationSchema {
    let column = |&(name, type_oid): &(&str, u32)| ColumnSchema {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        key: name == "id",
    };
    RelationSchema {
        oid: OID,
        schema: "public".into(),
        name: "order_outbox".into(),
        replica_identity: b'd',
        columns: columns.iter().map(column).collect(),
    }
}

/// The seed's table.
pub(super) const SEED: [(&str, u32); 7] = [
    ("id", 2950),
    ("aggregate_type", 1043),
    ("aggregate_id", 2950),
    ("event_type", 1043),
    ("payload", JSONB),
    ("created_at", TIMESTAMP),
    ("published_at", TIMESTAMP),
];

/// The seed's table with another column in place of `payload`, and more at the end.
pub(super) fn seed_with(payload: u32, more: &[(&str, u32)]) -> RelationSchema {
    let mut columns = SEED.to_vec();
    columns[4].1 = payload;
    columns.extend_from_slice(more);
    table(&columns)
}

/// A row of the seed's table.
pub(super) const ROW: [Option<&str>; 7] = [
    Some(ID),
    Some("order"),
    Some(AGGREGATE),
    Some("OrderCreated"),
    Some(r#"{"total": 1500.00, "order_id": "o-1"}"#),
    Some("2024-01-15 10:30:00"),
    None,
];

/// A row in the wire form.
pub(super) fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = TupleWriter::new();
    writer.begin(&mut out);
    for value in values {
        match value {
            Some(text) => writer.text(&mut out, text.as_bytes()),
            None => writer.null(&mut out),
        }
    }
    writer.finish(&mut out);
    out
}

/// The row with the column at `index` changed.
pub(super) fn with(index: usize, value: Option<&'static str>) -> [Option<&'static str>; 7] {
    let mut values = ROW;
    values[index] = value;
    values
}

pub(super) fn bound(mapping: &Mapping, relation: &RelationSchema) -> Encoder {
    let mut encoder = Encoder::new(mapping, Mark::Update, "outboxd.positions").unwrap();
    encoder.bind(relation, 3).unwrap();
    encoder.begin(COMMIT_TIME);
    encoder
}

pub(super) fn all(records: &Records) -> impl Iterator<Item = RecordRef<'_>> {
    (0..records.len()).map(|index| records.get(index).unwrap())
}

/// What became of one row, owned.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub(super) topic: String,
    pub(super) key: Option<String>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<String>)>,
    pub(super) timestamp: Option<i64>,
}

impl Record {
    pub(super) fn last_of(records: &Records) -> Self {
        let record = records.get(records.len() - 1).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            topic: record.topic.to_owned(),
            key: record.key.map(text),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers().map(|(name, value)| (name.to_owned(), value.map(text))).collect(),
            timestamp: record.timestamp,
        }
    }

    pub(super) fn value(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap()).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|header| header.0 == name);
        let header = found.next().unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers));
        assert!(found.next().is_none(), "header {name} stands twice");
        header.1.as_deref()
    }

    pub(super) fn header_names(&self) -> Vec<&str> {
        self.headers.iter().map(|header| header.0.as_str()).collect()
    }
}

pub(super) fn encode(encoder: &Encoder, values: &[Option<&str>]) -> Record {
    let (row, mut out) = (row(values), Records::new());
    let encoded = encoder.encode(OID, &Tuple::parse(&row).unwrap(), &mut out);
    assert_eq!(encoded.unwrap(), Encoded::Published);
    Record::last_of(&out)
}

pub(super) fn poison(encoder: &Encoder, values: &[Option<&str>]) -> Poison {
    let (row, mut out) = (row(values), Records::new());
    match encoder.encode(OID, &Tuple::parse(&row).unwrap(), &mut out) {
        Err(Failure::Poison(poison)) => {
            assert_eq!((out.len(), out.bytes(), out.topics().count()), (0, 0, 0), "something was left behind");
            poison
        }
        other => panic!("not poison: {other:?}"),
    }
}
