//! The pure core: what comes out of sorter and merge equals a comparison of sets in memory.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    compare::{Compared, compare},
    entry::{EventKey, Place, RecordEntry, RowEntry, key_hash, order_value},
    id, order,
    report::Kind,
    sort::Sorter,
    subject::{SourceRules, Strangers, Subject, TopicRules},
};
use crate::config::Mark;

/// One source with two tables, one topic of its own, one that is somebody else's, too, and a
/// dead-letter topic.
fn subject(mark: Mark, tolerance: u128) -> Subject {
    let tables = vec!["public.a".to_owned(), "public.b".to_owned()];
    let source = SourceRules { name: "order".into(), tables, mark, order_by_table: false, tolerance };
    let own = if mark == Mark::Delete { Strangers::Gone } else { Strangers::Unknown };
    let topic = |name: &str, strangers| TopicRules { name: name.into(), owner: Some(0), strangers };
    let topics = vec![topic("own", own), topic("shared", Strangers::Elsewhere), topic("own.dead-letter", own)];
    Subject { sources: vec![source], topics, since: false, content: false }
}

#[derive(Debug, Clone)]
struct Row {
    id: u8,
    topic: u32,
    marked: bool,
    created: i64,
}

#[derive(Debug, Clone)]
struct Record {
    id: u8,
    topic: u32,
    key: u8,
    dead: bool,
}

fn event_id(number: u8) -> Vec<u8> {
    let mut id = Vec::new();
    // Both forms of ids.
    if number.is_multiple_of(2) {
        id::put_uuid([number; 16], &mut id);
    } else {
        id::put_text(number.to_string().as_bytes(), &mut id);
    }
    id
}

/// Compares everything, without a second look.
fn outcome(subject: &Subject, rows: &[Row], records: &[Record], memory: usize) -> Compared {
    let directory = std::env::temp_dir();
    let mut sorter = Sorter::new(memory, &directory);
    let mut bytes = Vec::new();
    for row in rows {
        bytes.clear();
        let (source, table, order) = (0, u16::from(row.id) % 2, Some(order_value(row.created)));
        let entry = RowEntry { source, table, marked: row.marked, optional: false, order, content: None };
        entry.write(EventKey { id: &event_id(row.id), meant_for: row.topic }, &mut bytes);
        sorter.push(&bytes).unwrap();
    }
    for (offset, record) in (0..).zip(records) {
        bytes.clear();
        let topic = if record.dead { 2 } else { record.topic };
        let key = Some(key_hash(&[record.key]));
        let place = Place { topic, partition: 0, offset };
        let entry = RecordEntry { place, dead: record.dead, created: None, key, content: None };
        entry.write(EventKey { id: &event_id(record.id), meant_for: record.topic }, &mut bytes);
        sorter.push(&bytes).unwrap();
    }
    let order = Sorter::new(memory, &directory);
    let mut compared = compare(subject, sorter.finish().unwrap(), order, 1 << 20).unwrap();
    let candidates = std::mem::take(&mut compared.candidates);
    candidates.settle(subject, &mut compared.reports);
    let sorter = std::mem::replace(&mut compared.order, Sorter::new(1, &directory));
    order::judge(subject, sorter.finish().unwrap(), &mut compared.reports).unwrap();
    compared
}

/// Missing, duplicated, out of order, within tolerance, unmarked, unknown, dead-lettered.
fn naive(rows: &[Row], records: &[Record], tolerance: i64) -> [u64; 7] {
    let mut by_id: HashMap<(Vec<u8>, u32), Vec<&Row>> = HashMap::new();
    for row in rows {
        by_id.entry((event_id(row.id), row.topic)).or_default().push(row);
    }
    let mut counts = [0; 7];
    let mut seen: HashMap<(Vec<u8>, u32), usize> = HashMap::new();
    let mut greatest: HashMap<(u32, u8), i64> = HashMap::new();
    // The first of a group is the one that lies first: in the lower topic, then at the lower
    // offset.
    let (dead, alive): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|record| record.dead);
    for record in alive.into_iter().chain(dead) {
        let key = (event_id(record.id), record.topic);
        let Some(found) = by_id.get(&key) else {
            counts[5] += u64::from(record.dead || record.topic == 0);
            continue;
        };
        let number = seen.entry(key).or_default();
        *number += 1;
        if *number > found.len() {
            counts[1] += 1;
            continue;
        }
        counts[6] += u64::from(record.dead);
    }
    for (key, found) in &by_id {
        let seen = seen.get(key).copied().unwrap_or(0);
        counts[0] += found.len().saturating_sub(seen) as u64;
        // Rows of one id are equal in these tests, so it does not matter which of them has the
        // record.
        counts[4] += found.iter().take(seen).filter(|row| !row.marked).count().min(1) as u64;
    }
    let mut judged: HashMap<(Vec<u8>, u32), usize> = HashMap::new();
    for record in records.iter().filter(|record| !record.dead) {
        let key = (event_id(record.id), record.topic);
        let Some(found) = by_id.get(&key) else { continue };
        let number = judged.entry(key).or_default();
        *number += 1;
        if *number > found.len() {
            continue;
        }
        let value = found[0].created;
        let greatest = greatest.entry((record.topic, record.key)).or_insert(value);
        if value < *greatest {
            counts[if *greatest - value > tolerance { 2 } else { 3 }] += 1;
        } else {
            *greatest = value;
        }
    }
    counts
}

fn counts(compared: &Compared) -> [u64; 7] {
    let report = &compared.reports[0];
    [
        report.missing,
        report.duplicated,
        report.out_of_order,
        report.inversions_within_tolerance,
        report.unmarked.unwrap(),
        report.unknown.unwrap(),
        report.dead_lettered,
    ]
}

prop_compose! {
    /// At most one row of an id and topic. Another test has twins.
    fn rows()(drawn in prop::collection::vec((0..40_u8, 0..2_u32, any::<bool>(), -50..50_i64), 0..60)) -> Vec<Row> {
        let mut seen = std::collections::HashSet::new();
        let row = |(id, topic, marked, created)| Row { id, topic, marked, created };
        drawn.into_iter().map(row).filter(|row| seen.insert((event_id(row.id), row.topic))).collect()
    }
}

prop_compose! {
    fn records()(drawn in prop::collection::vec((0..40_u8, 0..2_u32, 0..3_u8, 0..8_u8), 0..80)) -> Vec<Record> {
        drawn.into_iter().map(|(id, topic, key, dead)| Record { id, topic, key, dead: dead == 0 }).collect()
    }
}

proptest! {
    #[test]
    fn sorted_runs_on_disk_say_what_sets_in_memory_say(
        rows in rows(), records in records(), tolerance in 0..60_u128, memory in 200..4_000_usize,
    ) {
        let compared = outcome(&subject(Mark::Update, tolerance), &rows, &records, memory);
        prop_assert_eq!(counts(&compared), naive(&rows, &records, i64::try_from(tolerance).unwrap()));
        prop_assert_eq!(compared.reports[0].rows, rows.len() as u64);
    }
}

fn row(id: u8, created: i64) -> Row {
    Row { id, topic: 0, marked: true, created }
}

fn record(id: u8) -> Record {
    Record { id, topic: 0, key: 1, dead: false }
}

#[test]
fn rows_and_records_that_agree_are_clean() {
    let (rows, records): (Vec<_>, Vec<_>) = (0..9).map(|id| (row(2 * id, id.into()), record(2 * id))).unzip();
    let compared = outcome(&subject(Mark::Update, 0), &rows, &records, 1 << 20);
    assert_eq!(counts(&compared), [0; 7]);
    assert_eq!((compared.reports[0].rows, compared.reports[0].records), (9, 9));
}

#[test]
fn an_offender_is_named_by_table_id_and_place() {
    let records = [record(2), record(2), record(4)];
    let compared = outcome(&subject(Mark::Update, 0), &[row(2, 1)], &records, 1 << 20);
    let named: Vec<_> = compared.reports[0].offenders.iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        [
            "duplicated: public.a 02020202-0202-0202-0202-020202020202 at own-0@1, after own-0@0",
            "unknown: 04040404-0404-0404-0404-040404040404 at own-0@2",
        ]
    );
}

#[test]
fn where_rows_are_deleted_a_record_alone_is_right_and_twice_is_not() {
    let records = [record(2), record(4), record(4)];
    let compared = outcome(&subject(Mark::Delete, 0), &[], &records, 1 << 20);
    let report = &compared.reports[0];
    assert_eq!((report.records, report.duplicated, report.unknown), (3, 1, None));
    assert!(report.offenders.iter().all(|offender| offender.kind == Kind::Duplicated));
}

#[test]
fn rows_that_are_never_marked_are_not_judged_by_their_mark() {
    let unmarked = Row { marked: false, ..row(2, 1) };
    let compared = outcome(&subject(Mark::None, 0), std::slice::from_ref(&unmarked), &[record(2)], 1 << 20);
    assert_eq!(compared.reports[0].unmarked, None);
    let compared = outcome(&subject(Mark::Update, 0), &[unmarked], &[record(2)], 1 << 20);
    assert_eq!(compared.reports[0].unmarked, Some(1));
}

#[test]
fn two_rows_of_one_id_and_topic_have_two_records() {
    let twins = [row(2, 1), row(2, 1)];
    let found = |records: &[Record]| counts(&outcome(&subject(Mark::Update, 0), &twins, records, 1 << 20));
    assert_eq!(found(&[record(2), record(2)]), [0; 7]);
    assert_eq!(found(&[record(2)])[0], 1);
    assert_eq!(found(&[record(2), record(2), record(2)])[1], 1);
}
