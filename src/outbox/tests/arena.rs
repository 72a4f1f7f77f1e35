//! The arena keeps its memory, and rows can be cut off at any place.

use super::*;

fn filled(rows: usize) -> (Encoder, Records) {
    let encoder = bound(&mapping(Envelope::Event), &table(&SEED));
    let mut records = Records::new();
    fill(&encoder, rows, &mut records);
    (encoder, records)
}

fn fill(encoder: &Encoder, rows: usize, records: &mut Records) {
    for number in 0..rows {
        let values = row(&with(1, Some(["order", "user", "address"][number % 3])));
        encoder.encode(OID, &Tuple::parse(&values).unwrap(), records).unwrap();
    }
}

/// Bytes allocated, in use or not.
fn capacity(records: &Records) -> [usize; 3] {
    [records.bytes.capacity(), records.rows.capacity(), records.headers.capacity()]
}

#[test]
fn the_second_batch_allocates_nothing() {
    let (encoder, mut records) = filled(1000);
    let allocated = capacity(&records);
    assert_eq!(
        records.topics().collect::<Vec<_>>(),
        [("order.events", 334), ("user.events", 333), ("address.events", 333)]
    );
    records.clear();
    assert_eq!((records.len(), records.bytes(), records.topics().count()), (0, 0, 0));
    fill(&encoder, 1000, &mut records);
    assert_eq!((records.len(), capacity(&records)), (1000, allocated));
    records.clear();
    records.shrink_to(0);
    assert!(capacity(&records)[0] < allocated[0]);
}

#[test]
fn truncate_keeps_the_first_rows_as_they_were() {
    let (_, mut records) = filled(10);
    let before: Vec<_> = all(&records).map(|record| (record.topic.to_owned(), record.size())).collect();
    records.truncate(4);
    let after: Vec<_> = all(&records).map(|record| (record.topic.to_owned(), record.size())).collect();
    assert_eq!(after, before[..4]);
    assert_eq!(records.topics().map(|(_, rows)| rows).sum::<usize>(), 4);
    records.truncate(9);
    assert_eq!(records.len(), 4);
}

#[test]
fn a_row_that_is_poison_leaves_the_rows_before_it_alone() {
    let (encoder, mut records) = filled(3);
    let (bytes, last) = (records.bytes(), Record::last_of(&records));
    let values = row(&with(3, None));
    encoder.encode(OID, &Tuple::parse(&values).unwrap(), &mut records).unwrap_err();
    assert_eq!((records.len(), records.bytes()), (3, bytes));
    assert_eq!(Record::last_of(&records), last);
}

#[test]
fn a_size_is_that_of_key_value_and_headers() {
    let (_, records) = filled(1);
    let record = records.get(0).unwrap();
    let headers = "event_id".len() + "event_type".len() + "aggregate_type".len() + "aggregate_id".len();
    let values = 36 + "OrderCreated".len() + "order".len() + 36;
    let content_type = "content-type".len() + "application/json".len();
    assert_eq!(record.size(), 36 + record.value.unwrap().len() + headers + values + content_type);
}
