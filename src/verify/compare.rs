//! Rows against records, as they come out of the sorter. Each group has one id and one topic, and
//! its rows come first.
//!
//! This module counts what is wrong for good (duplicates). What may only be under way (missing,
//! unmarked, unknown) becomes a candidate for a second look. The order of the records goes on into
//! the second sorter.

use std::collections::HashMap;

use super::{
    disk,
    entry::{self, Entry, EventKey, OrderEntry, RecordEntry, RowEntry, order_value},
    report::{Kind, Report},
    sort::{Sorted, Sorter},
    subject::{SourceRules, Stranger, Strangers, Subject},
};
use crate::{Code, Error, Result, config::Mark};

/// The id and the topic of a group.
pub(super) type MatchKey = Box<[u8]>;

/// What a candidate takes in memory, roughly, with its key and its place in the map.
const CANDIDATE_BYTES: usize = 200;

/// What looks wrong and may only be under way.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    limit: usize,
    /// Rows without a record.
    pub(super) missing: HashMap<MatchKey, Vec<RowEntry>>,
    /// Rows with a record and without a mark.
    pub(super) unmarked: HashMap<MatchKey, Unmarked>,
    /// Records without a row.
    pub(super) unknown: HashMap<MatchKey, Unknown>,
    /// How many were counted without a second look because there were too many.
    pub(super) left_out: u64,
}

/// A row with a record and without a mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unmarked {
    pub(super) row: RowEntry,
    pub(super) record: RecordEntry,
}

/// Records of one event without a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unknown {
    /// The source that they count to.
    pub(super) source: u16,
    pub(super) first: RecordEntry,
    /// How many followed the first.
    pub(super) more: u64,
}

/// What the comparison found.
#[derive(Debug)]
pub(super) struct Compared {
    /// One for each source.
    pub(super) reports: Vec<Report>,
    pub(super) candidates: Candidates,
    /// [`OrderEntry`]s.
    pub(super) order: Sorter,
}

impl Candidates {
    fn new(memory: usize) -> Self {
        Self { limit: memory / CANDIDATE_BYTES, ..Self::default() }
    }

    /// None is left.
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unmarked.is_empty() && self.unknown.is_empty()
    }

    fn has_room(&mut self) -> bool {
        let has_room = self.missing.len() + self.unmarked.len() + self.unknown.len() < self.limit;
        self.left_out += u64::from(!has_room);
        has_room
    }

    /// Counts those that are left as what they are.
    pub(super) fn settle(self, subject: &Subject, reports: &mut [Report]) {
        for (key, rows) in self.missing {
            rows.iter().for_each(|row| count_missing(subject, reports, &key, row));
        }
        for (key, unmarked) in self.unmarked {
            count_unmarked(subject, reports, &key, &unmarked);
        }
        for (key, unknown) in self.unknown {
            (0..=unknown.more).for_each(|_| count_unknown(subject, reports, &key, &unknown));
        }
    }
}

/// One pass over the sorted entries.
struct Comparison<'s> {
    subject: &'s Subject,
    out: Compared,
    key: Vec<u8>,
    /// The group's rows. There is one, unless tables share ids and topics.
    rows: Vec<RowEntry>,
    records: usize,
    first: Option<RecordEntry>,
    scratch: Vec<u8>,
}

/// Compares. `memory` bounds the candidates.
///
/// # Errors
/// The disk.
pub(super) fn compare(subject: &Subject, mut entries: Sorted, order: Sorter, memory: usize) -> Result<Compared> {
    let report = |source: &SourceRules| Report {
        source: source.name.clone(),
        unmarked: (source.mark != Mark::None).then_some(0),
        unknown: (source.mark != Mark::Delete).then_some(0),
        differing: subject.content.then_some(0),
        ..Report::default()
    };
    let reports = subject.sources.iter().map(report).collect();
    let out = Compared { reports, candidates: Candidates::new(memory), order };
    let mut comparison =
        Comparison { subject, out, key: Vec::new(), rows: Vec::new(), records: 0, first: None, scratch: Vec::new() };
    while let Some(bytes) = entries.next().map_err(disk)? {
        let foreign = || Error::new(Code::Internal, "an entry of verify that cannot be read");
        let length = entry::match_length(bytes).ok_or_else(foreign)?;
        let (key, rest) = bytes.split_at(length);
        if key != comparison.key {
            comparison.end_group();
            comparison.key.extend_from_slice(key);
        }
        match entry::read(rest).ok_or_else(foreign)? {
            Entry::Row(row) => comparison.row(row),
            Entry::Record(record) => comparison.record(record)?,
        }
    }
    comparison.end_group();
    Ok(comparison.out)
}

impl Comparison<'_> {
    fn row(&mut self, row: RowEntry) {
        if !row.optional
            && let Some(report) = self.out.reports.get_mut(usize::from(row.source))
        {
            report.rows += 1;
        }
        self.rows.push(row);
    }

    fn record(&mut self, record: RecordEntry) -> Result<()> {
        let number = self.records;
        self.records += 1;
        let repeated = *self.first.get_or_insert(record);
        let place = number.min(self.rows.len().saturating_sub(1));
        let Some(row) = self.rows.get(place).copied() else { return self.stranger(record, repeated, number) };
        self.report(row.source).records += 1;
        if number >= self.rows.len() {
            let table = self.subject.table(&row);
            self.duplicated(row.source, table, record, repeated);
            return Ok(());
        }
        if record.dead {
            self.dead_lettered(row.source, self.subject.table(&row), record);
        } else {
            self.judge_order(record, row.source, Some(row.table), row.order)?;
            self.judge_content(record, row);
        }
        let marks = self.subject.sources.get(usize::from(row.source)).is_some_and(|rules| rules.mark != Mark::None);
        if marks && !row.marked {
            let (candidates, unmarked) = (&mut self.out.candidates, Unmarked { row, record });
            if candidates.has_room() {
                candidates.unmarked.insert(self.key.as_slice().into(), unmarked);
            } else {
                count_unmarked(self.subject, &mut self.out.reports, &self.key, &unmarked);
            }
        }
        Ok(())
    }

    /// A record whose row is not there.
    fn stranger(&mut self, record: RecordEntry, first: RecordEntry, number: usize) -> Result<()> {
        let Some(Stranger { source, what }) = self.subject.stranger(&record) else { return Ok(()) };
        self.report(source).records += 1;
        if what == Strangers::Gone {
            if number > 0 {
                self.duplicated(source, None, record, first);
            } else if record.dead {
                self.dead_lettered(source, None, record);
            } else {
                // The record has kept only the time of its row, to the millisecond.
                let value = record.created.map(|ms| order_value(ms.saturating_mul(1000)));
                self.judge_order(record, source, None, value)?;
            }
            return Ok(());
        }
        let (candidates, unknown) = (&mut self.out.candidates, Unknown { source, first: record, more: 0 });
        if let Some(known) = candidates.unknown.get_mut(self.key.as_slice()) {
            known.more += 1;
        } else if candidates.has_room() {
            candidates.unknown.insert(self.key.as_slice().into(), unknown);
        } else {
            count_unknown(self.subject, &mut self.out.reports, &self.key, &unknown);
        }
        Ok(())
    }

    /// Counts the rows that got no record, and begins anew.
    fn end_group(&mut self) {
        for row in self.rows.iter().skip(self.records).filter(|row| !row.optional) {
            let candidates = &mut self.out.candidates;
            if candidates.has_room() {
                candidates.missing.entry(self.key.as_slice().into()).or_default().push(*row);
            } else {
                count_missing(self.subject, &mut self.out.reports, &self.key, row);
            }
        }
        self.key.clear();
        self.rows.clear();
        self.records = 0;
        self.first = None;
    }

    fn judge_order(&mut self, record: RecordEntry, source: u16, table: Option<u16>, value: Option<u128>) -> Result<()> {
        let (Some(key), Some(value)) = (record.key, value) else { return Ok(()) };
        let by_table = self.subject.sources.get(usize::from(source)).is_some_and(|rules| rules.order_by_table);
        let scope = u32::from(source) << 16 | if by_table { table.map_or(0, u32::from) } else { 0 };
        let id = entry::split_match(&self.key).id;
        self.scratch.clear();
        OrderEntry { place: record.place, key, scope, value, source, table, id }.write(&mut self.scratch);
        self.out.order.push(&self.scratch).map_err(disk)
    }

    /// Compares what the record holds with what its row makes now. Where rows of two tables share id
    /// and topic, nobody knows whose record it is.
    fn judge_content(&mut self, record: RecordEntry, row: RowEntry) {
        let (Some(holds), Some(should)) = (record.content, row.content) else { return };
        if holds == should || self.rows.len() > 1 {
            return;
        }
        let (subject, id) = (self.subject, entry::split_match(&self.key).id);
        let Some(report) = self.out.reports.get_mut(usize::from(row.source)) else { return };
        report.count(Kind::Differing, || {
            let mut offender = subject.offender(Kind::Differing, id);
            offender.table = subject.table(&row);
            offender.place = Some(subject.place(record.place));
            offender
        });
    }

    fn duplicated(&mut self, source: u16, table: Option<String>, record: RecordEntry, first: RecordEntry) {
        let (subject, id) = (self.subject, entry::split_match(&self.key).id);
        let Some(report) = self.out.reports.get_mut(usize::from(source)) else { return };
        report.count(Kind::Duplicated, || {
            let mut offender = subject.offender(Kind::Duplicated, id);
            offender.table = table;
            offender.place = Some(subject.place(record.place));
            offender.after = Some(subject.place(first.place));
            offender
        });
    }

    fn dead_lettered(&mut self, source: u16, table: Option<String>, record: RecordEntry) {
        let (subject, id) = (self.subject, entry::split_match(&self.key).id);
        let Some(report) = self.out.reports.get_mut(usize::from(source)) else { return };
        report.count(Kind::DeadLettered, || {
            let mut offender = subject.offender(Kind::DeadLettered, id);
            offender.table = table;
            offender.place = Some(subject.place(record.place));
            offender
        });
    }

    fn report(&mut self, source: u16) -> &mut Report {
        // Every source has a report, and every entry has the number of a source.
        &mut self.out.reports[usize::from(source)]
    }
}

fn count_missing(subject: &Subject, reports: &mut [Report], key: &[u8], row: &RowEntry) {
    let EventKey { id, meant_for } = entry::split_match(key);
    let Some(report) = reports.get_mut(usize::from(row.source)) else { return };
    report.count(Kind::Missing, || {
        let mut offender = subject.offender(Kind::Missing, id);
        offender.table = subject.table(row);
        offender.place = subject.topic(meant_for);
        offender
    });
}

fn count_unmarked(subject: &Subject, reports: &mut [Report], key: &[u8], unmarked: &Unmarked) {
    let Unmarked { row, record } = unmarked;
    let id = entry::split_match(key).id;
    let Some(report) = reports.get_mut(usize::from(row.source)) else { return };
    report.count(Kind::Unmarked, || {
        let mut offender = subject.offender(Kind::Unmarked, id);
        offender.table = subject.table(row);
        offender.place = Some(subject.place(record.place));
        offender
    });
}

fn count_unknown(subject: &Subject, reports: &mut [Report], key: &[u8], unknown: &Unknown) {
    let id = entry::split_match(key).id;
    let Some(report) = reports.get_mut(usize::from(unknown.source)) else { return };
    report.count(Kind::Unknown, || {
        let mut offender = subject.offender(Kind::Unknown, id);
        offender.place = Some(subject.place(unknown.first.place));
        offender
    });
}
