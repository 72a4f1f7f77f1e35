//! What the audit found, counted for each source. The first offenders have names.

use std::io::{self, Write};

use serde::Serialize;

/// How many offenders of one kind the report names. The others are only counted.
const NAMED: usize = 5;

/// What an audit found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Outcome {
    /// No source has a difference.
    pub(crate) clean: bool,
    /// One entry for each source, in configuration order.
    pub(crate) sources: Vec<Report>,
}

/// What was found of one source. A number that is `None` could not be judged, and `notes` say why.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) source: String,
    /// Nothing is missing, duplicated, out of order, unmarked, unknown or differing.
    pub(crate) clean: bool,
    /// Rows that were looked at.
    pub(crate) rows: u64,
    /// Records that were looked at, including dead letters.
    pub(crate) records: u64,
    /// Rows without a record.
    pub(crate) missing: u64,
    /// Records beyond the first of their row.
    pub(crate) duplicated: u64,
    /// Records behind a later one of their key.
    pub(crate) out_of_order: u64,
    /// The same, where the two are so near that their transactions may have been concurrent. It is
    /// no difference.
    pub(crate) inversions_within_tolerance: u64,
    /// Rows with a record that are not marked (or, with `mark = "delete"`, still there).
    pub(crate) unmarked: Option<u64>,
    /// Records whose row is not there.
    pub(crate) unknown: Option<u64>,
    /// Records whose key or value is not what their row makes now. Judged only where that is asked
    /// for.
    pub(crate) differing: Option<u64>,
    /// Rows that are in a dead-letter topic. That is no difference.
    pub(crate) dead_lettered: u64,
    /// The first of each kind.
    pub(crate) offenders: Vec<Offender>,
    /// What could not be judged, and what a person should know when reading the numbers.
    pub(crate) notes: Vec<String>,
}

/// What a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A row without a record.
    Missing,
    /// A record beyond the first of its row.
    Duplicated,
    /// A record behind a later one of its key.
    OutOfOrder,
    /// A row with a record that is not marked.
    Unmarked,
    /// A record whose row is not there.
    Unknown,
    /// A record whose key or value is not what its row makes now.
    Differing,
    /// A row in a dead-letter topic. That is no difference.
    DeadLettered,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Offender {
    pub(crate) kind: Kind,
    /// `schema.table` of the row. `None` where there is no row.
    pub(crate) table: Option<String>,
    /// The event id. `None` for a record without one.
    pub(crate) id: Option<String>,
    /// `topic-partition@offset` of the record. For a missing row it is the topic that the row is
    /// meant for.
    pub(crate) place: Option<String>,
    /// The record that it repeats, or behind which it should not be.
    pub(crate) after: Option<String>,
}

impl Report {
    /// Counts a difference, and keeps its name if it is one of the first of its kind.
    pub(super) fn count(&mut self, kind: Kind, name: impl FnOnce() -> Offender) {
        match kind {
            Kind::Missing => self.missing += 1,
            Kind::Duplicated => self.duplicated += 1,
            Kind::OutOfOrder => self.out_of_order += 1,
            Kind::Unmarked => *self.unmarked.get_or_insert(0) += 1,
            Kind::Unknown => *self.unknown.get_or_insert(0) += 1,
            Kind::Differing => *self.differing.get_or_insert(0) += 1,
            Kind::DeadLettered => self.dead_lettered += 1,
        }
        if self.offenders.iter().filter(|offender| offender.kind == kind).count() < NAMED {
            self.offenders.push(name());
        }
    }

    /// Adds a note, unless it is there already.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn differences(&self) -> u64 {
        let may_be_unjudged = self.unmarked.unwrap_or(0) + self.unknown.unwrap_or(0) + self.differing.unwrap_or(0);
        self.missing + self.duplicated + self.out_of_order + may_be_unjudged
    }
}

impl Outcome {
    /// Gives the verdict over what was counted.
    pub(super) fn of(mut sources: Vec<Report>) -> Self {
        for report in &mut sources {
            report.clean = report.differences() == 0;
            // People and scripts get a stable order: by kind, then as found.
            report.offenders.sort_by_key(|offender| offender.kind as u8);
        }
        Self { clean: sources.iter().all(|report| report.clean), sources }
    }

    /// Writes the numbers of each source, the first offenders and the notes.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        self.sources.iter().try_for_each(|report| report.print(out))
    }
}

impl Report {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let verdict = match self.differences() {
            0 => "clean".to_owned(),
            1 => "1 difference".to_owned(),
            many => format!("{many} differences"),
        };
        writeln!(out, "{}: {verdict}", self.source)?;
        let judged = |number: Option<u64>| number.map_or_else(|| "not judged".to_owned(), grouped);
        let lines = [
            ("rows", grouped(self.rows)),
            ("records", grouped(self.records)),
            ("missing", grouped(self.missing)),
            ("duplicated", grouped(self.duplicated)),
            ("out of order", grouped(self.out_of_order)),
            ("unmarked", judged(self.unmarked)),
            ("unknown", judged(self.unknown)),
            ("differing", judged(self.differing)),
            ("dead-lettered", grouped(self.dead_lettered)),
        ];
        for (name, number) in lines {
            writeln!(out, "  {name:<13} {number:>14}")?;
        }
        if self.inversions_within_tolerance > 0 {
            writeln!(out, "  inversions within tolerance: {}", grouped(self.inversions_within_tolerance))?;
        }
        for offender in &self.offenders {
            writeln!(out, "  {offender}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "  note: {note}"))
    }
}

impl std::fmt::Display for Offender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, table, id, place, after } = self;
        let (kind, link) = match kind {
            Kind::Missing => ("missing", "meant for"),
            Kind::Duplicated => ("duplicated", "at"),
            Kind::OutOfOrder => ("out of order", "at"),
            Kind::Unmarked => ("unmarked", "at"),
            Kind::Unknown => ("unknown", "at"),
            Kind::Differing => ("differing", "at"),
            Kind::DeadLettered => ("dead-lettered", "at"),
        };
        write!(f, "{kind}:")?;
        if let Some(table) = table {
            write!(f, " {table}")?;
        }
        write!(f, " {}", id.as_deref().unwrap_or("(no event id)"))?;
        if let Some(place) = place {
            write!(f, " {link} {place}")?;
        }
        if let Some(after) = after {
            write!(f, ", after {after}")?;
        }
        Ok(())
    }
}

/// `5000000` as `5,000,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_shown_with_its_numbers_its_first_offenders_and_its_notes() {
        let mut report = Report { source: "order".into(), rows: 5_000_001, unmarked: Some(0), ..Report::default() };
        for number in 0..7 {
            report.count(Kind::Missing, || Offender {
                kind: Kind::Missing,
                table: Some("public.order_outbox".into()),
                id: Some(number.to_string()),
                place: Some("order.events".into()),
                after: None,
            });
        }
        report.note("said once".into());
        report.note("said once".into());
        let outcome = Outcome::of(vec![report]);
        let mut out = Vec::new();
        outcome.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("order: 7 differences\n  rows               5,000,001\n"), "{text}");
        assert!(text.contains("  missing                    7\n"), "{text}");
        assert!(text.contains("  unknown           not judged\n"), "{text}");
        assert_eq!(text.matches("missing: public.order_outbox").count(), NAMED, "{text}");
        assert!(text.contains("  missing: public.order_outbox 0 meant for order.events\n"), "{text}");
        assert_eq!(text.matches("note: said once").count(), 1, "{text}");
        assert!(!outcome.clean);
    }

    #[test]
    fn what_was_not_judged_and_dead_letters_are_no_difference() {
        let report = Report { dead_lettered: 3, inversions_within_tolerance: 2, ..Report::default() };
        assert!(Outcome::of(vec![report]).clean);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
