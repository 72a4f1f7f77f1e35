//! Judges whether the committed records are exactly the committed rows.
//!
//! The header `event_id` matches records with rows. Order is judged for each (topic, partition,
//! key) by the `seq` of the payload (see [`crate::workload`]). That comes from the row where there
//! is one, and else from the record's value.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::reader::{Record, read_committed};

/// What the topics should hold.
#[derive(Debug, Clone, Copy)]
pub enum Expect<'a> {
    /// Every row of these outbox tables, each marked.
    Tables(&'a [&'a str]),
    /// Every row of these outbox tables, none of them marked (`mark = "none"`).
    UnmarkedTables(&'a [&'a str]),
    /// These events, whose rows may be deleted by now (`mark = "delete"`), as
    /// [`crate::workload::Loaded`] has them.
    Ids(&'a [Uuid]),
}

/// The verdict: counts, and details of the first few faults.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Audit {
    pub rows: usize,
    pub records: usize,
    /// Records beyond the first of an event.
    pub duplicates: usize,
    /// Rows without a record.
    pub missing: usize,
    /// Records whose `event_id` belongs to no expected row, and records without one.
    pub unknown: usize,
    /// Records whose `seq` is below one that came before in the same key.
    pub out_of_order: usize,
    /// Transactions in which some rows have records and some have none.
    pub torn: usize,
    /// Rows that have not been marked.
    pub unmarked: usize,
    pub first_offenders: Vec<String>,
}

const KEEP_OFFENDERS: usize = 20;

impl Audit {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults().iter().all(|(_, count)| *count == 0)
    }

    /// # Panics
    /// With all counts when something is wrong.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }

    /// The verdict where some of the rows were backfilled. A backfill keeps order only as best
    /// effort: two rows of one statement differ only in their `ctid`, and a page whose dead rows
    /// were pruned gives out its places in any order.
    #[must_use]
    pub fn whatever_the_order(mut self) -> Self {
        self.out_of_order = 0;
        self
    }

    fn faults(&self) -> [(&'static str, usize); 6] {
        [
            ("duplicates", self.duplicates),
            ("missing", self.missing),
            ("unknown", self.unknown),
            ("out of order", self.out_of_order),
            ("torn", self.torn),
            ("unmarked", self.unmarked),
        ]
    }

    fn offend(&mut self, text: impl FnOnce() -> String) {
        if self.first_offenders.len() < KEEP_OFFENDERS {
            self.first_offenders.push(text());
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in [("rows", self.rows), ("records", self.records)].into_iter().chain(self.faults()) {
            writeln!(f, "{name:<13}{count:>10}")?;
        }
        self.first_offenders.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Adds up the verdicts over several sources.
impl std::iter::Sum for Audit {
    fn sum<I: Iterator<Item = Self>>(audits: I) -> Self {
        audits.fold(Self::default(), |mut sum, audit| {
            sum.rows += audit.rows;
            sum.records += audit.records;
            sum.duplicates += audit.duplicates;
            sum.missing += audit.missing;
            sum.unknown += audit.unknown;
            sum.out_of_order += audit.out_of_order;
            sum.torn += audit.torn;
            sum.unmarked += audit.unmarked;
            sum.first_offenders.extend(audit.first_offenders);
            sum
        })
    }
}

struct Row {
    table: String,
    seq: Option<i64>,
    transaction: Option<String>,
}

/// Reads both sides as they are now. The daemon should be at rest.
pub async fn audit(client: &Client, expect: Expect<'_>, brokers: &str, topics: &[&str]) -> Result<Audit> {
    let records = read_committed(brokers, topics).await?;
    audit_records(client, expect, &records).await
}

/// Judges records that were read already.
pub async fn audit_records(client: &Client, expect: Expect<'_>, records: &[Record]) -> Result<Audit> {
    let mut audit = Audit { records: records.len(), ..Audit::default() };
    let rows = match expect {
        Expect::Tables(tables) => read_rows(client, tables, Some(&mut audit)).await?,
        Expect::UnmarkedTables(tables) => read_rows(client, tables, None).await?,
        Expect::Ids(ids) => {
            let row = || Row { table: "expected ids".to_owned(), seq: None, transaction: None };
            ids.iter().map(|id| (id.to_string(), row())).collect()
        }
    };
    audit.rows = rows.len();
    let seen = judge_records(&mut audit, &rows, records);
    judge_rows(&mut audit, &rows, &seen);
    Ok(audit)
}

async fn read_rows(client: &Client, tables: &[&str], mut marks: Option<&mut Audit>) -> Result<HashMap<String, Row>> {
    let mut rows = HashMap::new();
    for &table in tables {
        let query = format!("SELECT id::text, payload->>'seq', payload->>'tx', published_at IS NOT NULL FROM {table}");
        for found in client.query(&query, &[]).await.with_context(|| format!("cannot read {table}"))? {
            let id: String = found.get(0);
            let seq: Option<String> = found.get(1);
            let marked: bool = found.get(3);
            if let (false, Some(audit)) = (marked, marks.as_deref_mut()) {
                audit.unmarked += 1;
                audit.offend(|| format!("unmarked: {table} {id}"));
            }
            let seq = seq.and_then(|text| text.parse().ok());
            rows.insert(id, Row { table: table.to_owned(), seq, transaction: found.get(2) });
        }
    }
    Ok(rows)
}

/// Topic, partition and key. Among the records of one such key, order is promised.
type Key<'a> = (&'a str, i32, Option<&'a [u8]>);

fn judge_records<'a>(audit: &mut Audit, rows: &HashMap<String, Row>, records: &'a [Record]) -> HashSet<&'a str> {
    let mut seen: HashMap<&str, &Record> = HashMap::new();
    let mut last: HashMap<Key<'_>, (i64, i64)> = HashMap::new();
    for record in records {
        let place = || format!("{}-{}@{}", record.topic, record.partition, record.offset);
        let Some(id) = record.header_str("event_id") else {
            audit.unknown += 1;
            audit.offend(|| format!("unknown: {} has no event_id", place()));
            continue;
        };
        let Some(row) = rows.get(id) else {
            audit.unknown += 1;
            audit.offend(|| format!("unknown: {} has event_id {id}, which is no committed row's", place()));
            continue;
        };
        if let Some(first) = seen.get(id) {
            audit.duplicates += 1;
            let first = format!("{}-{}@{}", first.topic, first.partition, first.offset);
            audit.offend(|| format!("duplicate: {id} at {first} and at {}", place()));
            // A repeated record also comes late. It counts once, as a duplicate.
            continue;
        }
        seen.insert(id, record);
        if let Some(seq) = row.seq.or_else(|| seq_of_value(record.value.as_deref())) {
            let key = (record.topic.as_str(), record.partition, record.key.as_deref());
            let (highest, offset) = last.get(&key).copied().unwrap_or((i64::MIN, -1));
            if seq < highest {
                audit.out_of_order += 1;
                audit.offend(|| {
                    format!("out of order: {} has seq {seq}, offset {offset} had {highest} ({id})", place())
                });
            } else {
                last.insert(key, (seq, record.offset));
            }
        }
    }
    seen.into_keys().collect()
}

fn judge_rows(audit: &mut Audit, rows: &HashMap<String, Row>, seen: &HashSet<&str>) {
    // Rows of a transaction with a record, and without one.
    let mut transactions: HashMap<&str, (usize, usize)> = HashMap::new();
    for (id, row) in rows {
        let published = seen.contains(id.as_str());
        if !published {
            audit.missing += 1;
            audit.offend(|| format!("missing: {} {id} (seq {:?})", row.table, row.seq));
        }
        if let Some(tx) = &row.transaction {
            let counts = transactions.entry(tx).or_default();
            if published { counts.0 += 1 } else { counts.1 += 1 }
        }
    }
    for (tx, (with, without)) in transactions {
        if with > 0 && without > 0 {
            audit.torn += 1;
            audit.offend(|| format!("torn: transaction {tx} has {with} records, {without} rows have none"));
        }
    }
}

/// Finds the payload at the top of the value or where an envelope puts it, and takes its `seq`.
fn seq_of_value(value: Option<&[u8]>) -> Option<i64> {
    let value: Value = serde_json::from_slice(value?).ok()?;
    [Some(&value), value.get("payload"), value.get("data")].into_iter().flatten().find_map(|v| v.get("seq")?.as_i64())
}
