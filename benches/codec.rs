//! The pure part of the hot path: a seed row from the wire to its record. `make bench-codec`, or plain `cargo bench`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark is not an interface, and may stop at once")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outboxd::{
    config::{CloudEvents, CloudEventsMode, Debezium, Envelope, Mapping, Mark, Template},
    outbox::{Encoder, Records},
    pgoutput::{ColumnSchema, Message, RelationSchema, TupleWriter, decode},
};

const OID: u32 = 16_385;
/// Rows of one batch: the memory of the arena is used again for each.
const BATCH: usize = 2_000;

const COLUMNS: [(&str, u32); 7] = [
    ("id", 2950),
    ("aggregate_type", 1043),
    ("aggregate_id", 2950),
    ("event_type", 1043),
    ("payload", 3802),
    ("created_at", 1114),
    ("published_at", 1114),
];

const VALUES: [&str; 6] = [
    "4d47e190-0402-4048-bc2c-89dd54343cdc",
    "order",
    "10711fa5-0000-4000-8000-000000000001",
    "OrderCreated",
    r#"{"total": 1500.00, "user_id": "0f0e0d0c-0b0a-4908-8706-050403020100", "order_id": "10711fa5-0000-4000-8000-000000000001", "order_number": "ORD-123456", "shipping_address": {"city": "Mumbai", "line1": "123 Main St", "line2": "Apt 4", "state": "Maharashtra", "pincode": "400001"}}"#,
    "2024-01-15 10:30:00.123456",
];

fn insert() -> Vec<u8> {
    let mut tuple = Vec::new();
    let mut writer = TupleWriter::new();
    writer.begin(&mut tuple);
    for value in VALUES {
        writer.text(&mut tuple, value.as_bytes());
    }
    writer.null(&mut tuple);
    writer.finish(&mut tuple);
    // https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html, Insert.
    [b"I", &OID.to_be_bytes()[..], b"N", &tuple].concat()
}

fn encoder(envelope: Envelope, topic: &str) -> Encoder {
    let mapping = Mapping { topic: Template::parse(topic).unwrap(), envelope, ..Mapping::default() };
    let column = |(name, type_oid): (&str, u32)| ColumnSchema {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        key: name == "id",
    };
    let mut encoder = Encoder::new(&mapping, Mark::Update, "outboxd.positions").unwrap();
    let relation = RelationSchema {
        oid: OID,
        schema: "public".into(),
        name: "order_outbox".into(),
        replica_identity: b'd',
        columns: COLUMNS.map(column).into(),
    };
    encoder.bind(&relation, 0).unwrap();
    encoder
}

/// Decodes and encodes one batch.
fn batch(encoder: &Encoder, message: &[u8], records: &mut Records) {
    records.clear();
    for _ in 0..BATCH {
        let Ok(Message::Insert(insert)) = decode(black_box(message)) else { unreachable!("an Insert was written") };
        encoder.encode(insert.relation, &insert.row, records).unwrap();
    }
}

fn codec(criterion: &mut Criterion) {
    let message = insert();

    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    group.bench_function("insert", |bencher| bencher.iter(|| decode(black_box(&message)).is_ok()));
    group.finish();

    let mut group = criterion.benchmark_group("row");
    let cloudevents = |mode| Envelope::CloudEvents(CloudEvents::new(mode, "/outbox/order-service").unwrap());
    group.throughput(Throughput::Elements(BATCH as u64));
    let envelopes = [
        ("event", Envelope::Event),
        ("payload", Envelope::Payload),
        ("cloudevents", cloudevents(CloudEventsMode::Binary)),
        ("cloudevents-structured", cloudevents(CloudEventsMode::Structured)),
        ("debezium", Envelope::Debezium(Debezium::default())),
    ];
    for (name, envelope) in envelopes {
        let (encoder, mut records) = (encoder(envelope, "{aggregate_type}.events"), Records::new());
        group.bench_function(name, |bencher| bencher.iter(|| batch(&encoder, &message, &mut records)));
    }
    group.finish();

    // The same row with ever longer topic templates; what they add is the rendering.
    let mut group = criterion.benchmark_group("template");
    group.throughput(Throughput::Elements(BATCH as u64));
    let templates = [
        ("text", "order.events"),
        ("column-and-text", "{aggregate_type}.events"),
        ("three-columns", "{aggregate_type}.{event_type}.{id}"),
    ];
    for (name, topic) in templates {
        let (encoder, mut records) = (encoder(Envelope::Payload, topic), Records::new());
        group.bench_function(name, |bencher| bencher.iter(|| batch(&encoder, &message, &mut records)));
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
