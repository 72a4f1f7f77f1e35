//! The batch under construction: records and marks of the rows that were read and are not cut yet.

use super::{driver::Building, marks::Marks, traced::Transactions};
use crate::{Lsn, outbox::Records};

/// Either new rows with their records and marks, or redelivered rows with their marks alone.
pub(super) struct Gathered {
    pub(super) records: Records,
    /// Ids of the same rows, or ids of redelivered rows.
    pub(super) marks: Marks,
    /// The transactions of the rows, where rows are traced.
    pub(super) transactions: Option<Transactions>,
    /// Memory that records keep when it is used again, at most. One huge row must not keep its
    /// memory for good.
    keep_bytes: usize,
}

impl Gathered {
    pub(super) fn new(keep_bytes: usize) -> Self {
        Self { records: Records::default(), marks: Marks::default(), transactions: None, keep_bytes }
    }

    /// Remembers from now on which rows came with which transaction.
    pub(super) fn with_transactions(self) -> Self {
        Self { transactions: Some(Transactions::default()), ..self }
    }

    /// A transaction begins. `commit_time` is in microseconds since the Unix epoch.
    pub(super) fn begin(&mut self, commit_time: i64, final_lsn: Lsn) {
        if let Some(transactions) = &mut self.transactions {
            transactions.begin(self.records.len(), commit_time, final_lsn);
        }
    }
}

impl Building for Gathered {
    type Records = Records;
    type Marks = Marks;

    fn take_records(&mut self, rows: usize, to: &mut Records) {
        self.records.split_off_into(rows, to);
        std::mem::swap(&mut self.records, to);
        if let Some(transactions) = &mut self.transactions {
            transactions.cut(rows);
        }
    }

    fn take_marks(&mut self, rows: usize) -> Marks {
        self.marks.split_front(rows)
    }

    fn clear(&self, records: &mut Records) {
        records.clear();
        records.shrink_to(self.keep_bytes);
    }
}
