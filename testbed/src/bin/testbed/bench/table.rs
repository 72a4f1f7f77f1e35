//! A table in Markdown. The first column names the line, and the others are numbers.

use std::fmt::Write as _;

pub(crate) struct Table(String);

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut text = format!("| | {} |\n|---|", columns.join(" | "));
        text.push_str(&"---:|".repeat(columns.len()));
        text.push('\n');
        Self(text)
    }

    pub(crate) fn row(&mut self, what: &str, cells: &[String]) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "| {what} | {} |", cells.join(" | "));
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}
