//! The batch under construction: records and marks of the rows that were read and are not cut yet.

use super::{driver::Building, marks::Marks};
use crate::outbox::Records;

/// Either new rows with their records and marks, or redelivered rows with their marks alone.
pub(super) struct Gathered {
    pub(super) records: Records,
    /// Ids of the same rows, or ids of redelivered rows.
    pub(super) marks: Marks,
    /// Memory that records keep when it is used again, at most. One huge row must not keep its
    /// memory for good.
    keep_bytes: usize,
}

impl Gathered {
    pub(super) fn new(keep_bytes: usize) -> Self {
        Self { records: Records::default(), marks: Marks::default(), keep_bytes }
    }
}

impl Building for Gathered {
    type Records = Records;
    type Marks = Marks;

    fn take_records(&mut self, rows: usize, to: &mut Records) {
        self.records.split_off_into(rows, to);
        std::mem::swap(&mut self.records, to);
    }

    fn take_marks(&mut self, rows: usize) -> Marks {
        self.marks.split_front(rows)
    }

    fn clear(&self, records: &mut Records) {
        records.clear();
        records.shrink_to(self.keep_bytes);
    }
}
