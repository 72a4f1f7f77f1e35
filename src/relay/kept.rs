//! Marks that a table does not take for now. The marker keeps them, so that other tables' rows go
//! on being marked, and new rows being published.
//!
//! Their number is bounded: a batch counts in `unmarked_rows` until all of it is marked.

use std::time::Duration;

use super::{marks::Marks, state::BatchId};

/// The pause after marks that failed once. It doubles with each failure that follows.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The longest pause. A person who has mended the table sees its rows marked within it.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Some of the tables, by their index in configuration order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tables(Vec<u16>);

impl Tables {
    pub(super) fn insert(&mut self, table: u16) {
        if !self.contains(table) {
            self.0.push(table);
        }
    }

    pub(super) fn contains(&self, table: u16) -> bool {
        self.0.contains(&table)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is kept, oldest first.
#[derive(Debug)]
pub(super) struct Kept {
    batches: Vec<BatchId>,
    /// The marks of each that are owed still.
    marks: Vec<Marks>,
    /// The tables of these marks.
    tables: Tables,
    pause: Duration,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self { batches: Vec::new(), marks: Vec::new(), tables: Tables::default(), pause: PAUSE_MIN }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many rows wait.
    pub(super) fn rows(&self) -> usize {
        self.marks.iter().map(Marks::len).sum()
    }

    /// The tables that take no marks.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// How long to wait before they are tried again.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Keeps of these batches the marks in tables that take none. Returns the batches of which
    /// nothing is kept.
    pub(super) fn keep(&mut self, batches: Vec<BatchId>, marks: Vec<Marks>, failed: &Tables) -> Vec<BatchId> {
        failed.0.iter().for_each(|table| self.tables.insert(*table));
        if self.tables.is_empty() {
            return batches;
        }
        let mut done = Vec::new();
        for (batch, marks) in batches.into_iter().zip(marks) {
            let rest = marks.only(|table| self.tables.contains(table));
            if rest.len() == 0 {
                done.push(batch);
            } else {
                self.batches.push(batch);
                self.marks.push(rest);
            }
        }
        done
    }

    /// Everything that is kept, to be tried again. What fails comes back by [`Kept::keep_again`].
    pub(super) fn take(&mut self) -> (Vec<BatchId>, Vec<Marks>) {
        self.tables = Tables::default();
        (std::mem::take(&mut self.batches), std::mem::take(&mut self.marks))
    }

    /// What [`Kept::keep`] does, with what was tried again.
    pub(super) fn keep_again(&mut self, batches: Vec<BatchId>, marks: Vec<Marks>, failed: &Tables) -> Vec<BatchId> {
        self.pause = if failed.is_empty() { PAUSE_MIN } else { (2 * self.pause).min(PAUSE_MAX) };
        self.keep(batches, marks, failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::marks::MarkRow;

    fn marks(rows: &[(u16, &str)]) -> Marks {
        let mut marks = Marks::default();
        rows.iter().for_each(|&(table, id)| marks.push(MarkRow { table, xid: 1, id }));
        marks
    }

    fn tables(tables: &[u16]) -> Tables {
        Tables(tables.to_vec())
    }

    #[test]
    fn only_batches_with_rows_of_a_failing_table_are_kept_until_it_takes_marks_again() {
        let (a, b, c) = (BatchId(1), BatchId(2), BatchId(3));
        let mut kept = Kept::new();
        let first = vec![marks(&[(0, "a"), (1, "b")]), marks(&[(0, "c")])];
        assert_eq!(kept.keep(vec![a, b], first, &tables(&[1])), [b]);
        assert_eq!((kept.rows(), kept.pause()), (1, PAUSE_MIN));
        // A later job's rows of that table are not tried; they wait behind the first.
        assert_eq!(kept.keep(vec![c], vec![marks(&[(1, "d"), (2, "e")])], &tables(&[])), []);
        assert_eq!((kept.rows(), kept.tables()), (2, &tables(&[1])));

        let (batches, again) = kept.take();
        assert_eq!(batches, [a, c]);
        assert_eq!(kept.keep_again(batches, again, &tables(&[1])), []);
        assert_eq!((kept.rows(), kept.pause()), (2, 2 * PAUSE_MIN));

        let (batches, again) = kept.take();
        assert_eq!(kept.keep_again(batches, again, &tables(&[])), [a, c]);
        assert!(kept.is_empty() && kept.tables().is_empty());
        assert_eq!(kept.pause(), PAUSE_MIN);
    }

    #[test]
    fn the_pause_ends_at_its_longest() {
        let mut kept = Kept::new();
        for _ in 0..10 {
            kept.keep_again(vec![BatchId(1)], vec![marks(&[(0, "a")])], &tables(&[0]));
        }
        assert_eq!(kept.pause(), PAUSE_MAX);
    }
}
