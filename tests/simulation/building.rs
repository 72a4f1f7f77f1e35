//! The batch under construction and the memory of records, as the driver sees them. Rows are
//! numbers here.

use std::{
    cell::{Ref, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use outboxd::relay::driver::Building;

use crate::postgres::RowNo;

/// The records of a batch. Clones share the memory, so that a bug can hand it back while the
/// producer reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arena(Rc<RefCell<Vec<RowNo>>>);

impl Arena {
    pub(crate) fn rows(&self) -> Ref<'_, Vec<RowNo>> {
        self.0.borrow()
    }
}

impl From<Vec<RowNo>> for Arena {
    fn from(rows: Vec<RowNo>) -> Self {
        Self(Rc::new(RefCell::new(rows)))
    }
}

/// Rows that were read and are not cut yet.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Each row, and whether it is redelivered.
    rows: VecDeque<(RowNo, bool)>,
    /// How many rows at the front have had their records taken. Their marks are taken next.
    recorded: usize,
    /// How many rows were taken to be held.
    pub(crate) held: usize,
    /// For `Bug::ArenaKeepsRows`.
    keeps_rows: bool,
    /// What the driver did wrong, if anything.
    pub(crate) wrong: Option<String>,
}

impl Read {
    pub(crate) fn new(keeps_rows: bool) -> Self {
        Self { keeps_rows, ..Self::default() }
    }

    pub(crate) fn push(&mut self, row: RowNo, is_redelivered: bool) {
        self.rows.push_back((row, is_redelivered));
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn is_redelivering(&self) -> bool {
        self.rows.front().is_some_and(|(_, again)| *again)
    }

    /// Requires that the first rows are there and of one kind.
    fn require(&mut self, count: usize, is_redelivered: bool) {
        let there = self.rows.len();
        if count > there {
            self.wrong = Some(format!("{count} rows are asked for, and {there} were read"));
        } else if self.rows.iter().take(count).any(|(_, again)| *again != is_redelivered) {
            self.wrong = Some(format!("redelivered and new rows in one batch: {:?}", self.rows));
        }
    }
}

impl Building for Read {
    type Records = Arena;
    type Marks = Vec<RowNo>;

    fn take_records(&mut self, rows: usize, to: &mut Arena) {
        self.require(rows, false);
        self.recorded = rows;
        to.0.borrow_mut().extend(self.rows.iter().take(rows).map(|(row, _)| *row));
    }

    fn take_marks(&mut self, rows: usize) -> Vec<RowNo> {
        if self.recorded == rows && rows > 0 {
            self.recorded = 0;
        } else if rows > 0 {
            self.require(rows, true);
            self.held += rows;
        }
        let count = rows.min(self.rows.len());
        self.rows.drain(..count).map(|(row, _)| row).collect()
    }

    fn clear(&self, records: &mut Arena) {
        if !self.keeps_rows {
            records.0.borrow_mut().clear();
        }
    }
}
