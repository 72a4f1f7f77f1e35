//! The ids of rows that wait for their mark. They are packed, so a batch of ten thousand rows is
//! two allocations.

/// Takes the place of the table for a row that cannot be marked.
const NO_TABLE: u16 = u16::MAX;

/// Ids in stream order, each with its table and the transaction that inserted it.
#[derive(Debug, Default)]
pub(super) struct Marks {
    text: String,
    rows: Vec<Packed>,
}

#[derive(Debug, Clone, Copy)]
struct Packed {
    end: usize,
    xid: u32,
    table: u16,
}

/// A row to mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MarkRow<'a> {
    /// Index of its table in configuration order.
    pub(super) table: u16,
    /// The transaction that inserted it. 0 if every snapshot sees it.
    pub(super) xid: u32,
    /// The text of the id column.
    pub(super) id: &'a str,
}

impl Marks {
    pub(super) fn push(&mut self, row: MarkRow<'_>) {
        self.text.push_str(row.id);
        self.rows.push(Packed { end: self.text.len(), xid: row.xid, table: row.table });
    }

    /// Adds a row that has no id to be marked by. So rows and records stay in step.
    pub(super) fn push_none(&mut self) {
        self.rows.push(Packed { end: self.text.len(), xid: 0, table: NO_TABLE });
    }

    /// Takes all rows out, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.rows.clear();
    }

    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows that have an id, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = MarkRow<'_>> {
        let mut start = 0;
        self.rows.iter().filter_map(move |&Packed { end, xid, table }| {
            let id = &self.text[start..end];
            start = end;
            (table != NO_TABLE).then_some(MarkRow { table, xid, id })
        })
    }

    /// The rows of these tables, as a copy.
    #[must_use]
    pub(super) fn only(&self, is_wanted: impl Fn(u16) -> bool) -> Self {
        let mut only = Self::default();
        self.iter().filter(|row| is_wanted(row.table)).for_each(|row| only.push(row));
        only
    }

    /// Takes the first `rows` rows away.
    #[must_use]
    pub(super) fn split_front(&mut self, rows: usize) -> Self {
        if rows >= self.rows.len() {
            return std::mem::take(self);
        }
        let cut = rows.checked_sub(1).map_or(0, |last| self.rows[last].end);
        let moved = |row: &Packed| Packed { end: row.end - cut, ..*row };
        let rest = Self { text: self.text[cut..].to_owned(), rows: self.rows[rows..].iter().map(moved).collect() };
        self.text.truncate(cut);
        self.rows.truncate(rows);
        std::mem::replace(self, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_keeps_every_row_in_order() {
        let all =
            [(0, 7, "a"), (1, 7, ""), (0, 8, "ccc"), (2, 9, "dd")].map(|(table, xid, id)| MarkRow { table, xid, id });
        for cut in 0..=all.len() {
            let mut rest = Marks::default();
            all.iter().for_each(|row| rest.push(*row));
            let front = rest.split_front(cut);
            assert_eq!(front.iter().collect::<Vec<_>>(), &all[..cut]);
            assert_eq!(rest.iter().collect::<Vec<_>>(), &all[cut..]);
        }
    }

    #[test]
    fn a_row_without_an_id_counts_and_is_not_marked() {
        let mut marks = Marks::default();
        marks.push_none();
        marks.push(MarkRow { table: 0, xid: 1, id: "a" });
        assert_eq!((marks.len(), marks.iter().count()), (2, 1));
    }
}
