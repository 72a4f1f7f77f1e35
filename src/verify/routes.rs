//! Numbers for the names of topics.

use std::collections::HashMap;

/// Memory grows with the number of topics, not with that of rows.
#[derive(Debug, Default)]
pub(super) struct TopicNumbers {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The last number that was asked for: rows come in runs of one topic.
    last: u32,
}

impl TopicNumbers {
    /// The number of this name. A new name gets a new number.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if self.names.get(self.last as usize).is_some_and(|last| last == name) {
            return self.last;
        }
        if let Some(&number) = self.numbers.get(name) {
            self.last = number;
            return number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        self.last = number;
        number
    }

    /// All names by number.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let mut numbers = TopicNumbers::default();
        assert_eq!(["a", "b", "a", "a", "b"].map(|name| numbers.number(name)), [0, 1, 0, 0, 1]);
        assert_eq!(numbers.names(), ["a", "b"]);
    }
}
