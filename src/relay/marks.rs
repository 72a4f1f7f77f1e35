//! The ids of rows that wait for their mark, packed: a batch of ten thousand rows is two allocations.

/// Stands for the table of a row that cannot be marked.
const NO_TABLE: u16 = u16::MAX;

/// Ids in stream order, each with the index of its table in configuration order.
#[derive(Debug, Default)]
pub struct Marks {
    text: String,
    rows: Vec<(u16, usize)>,
}

impl Marks {
    /// Adds the row `id` of table `table`.
    pub fn push(&mut self, table: u16, id: &str) {
        self.text.push_str(id);
        self.rows.push((table, self.text.len()));
    }

    /// Adds a row that has no id to be marked by, so that rows and records stay in step.
    pub fn push_none(&mut self) {
        self.rows.push((NO_TABLE, self.text.len()));
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows that have an id, in order: (table, id).
    pub fn iter(&self) -> impl Iterator<Item = (u16, &str)> {
        let mut start = 0;
        self.rows.iter().filter_map(move |&(table, end)| {
            let id = &self.text[start..end];
            start = end;
            (table != NO_TABLE).then_some((table, id))
        })
    }

    /// Takes the first `rows` rows away.
    #[must_use]
    pub fn split_front(&mut self, rows: usize) -> Self {
        if rows >= self.rows.len() {
            return std::mem::take(self);
        }
        let cut = rows.checked_sub(1).map_or(0, |last| self.rows[last].1);
        let rest = Self {
            text: self.text[cut..].to_owned(),
            rows: self.rows[rows..].iter().map(|&(table, end)| (table, end - cut)).collect(),
        };
        self.text.truncate(cut);
        self.rows.truncate(rows);
        std::mem::replace(self, rest)
    }

    /// Adds all of `other`.
    pub fn append(&mut self, other: &Self) {
        let shift = self.text.len();
        self.text.push_str(&other.text);
        self.rows.extend(other.rows.iter().map(|&(table, end)| (table, end + shift)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(rows: &[(u16, &str)]) -> Marks {
        let mut marks = Marks::default();
        for (table, id) in rows {
            marks.push(*table, id);
        }
        marks
    }

    #[test]
    fn splitting_and_appending_keep_every_row_in_order() {
        let all = [(0, "a"), (1, ""), (0, "ccc"), (2, "dd")];
        for cut in 0..=all.len() {
            let mut rest = marks(&all);
            let mut front = rest.split_front(cut);
            assert_eq!(front.iter().collect::<Vec<_>>(), &all[..cut]);
            assert_eq!(rest.iter().collect::<Vec<_>>(), &all[cut..]);
            front.append(&rest);
            assert_eq!(front.iter().collect::<Vec<_>>(), all);
        }
    }
}
