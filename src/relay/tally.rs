//! How many rows were published and marked since the log last said it. Without I/O.

use std::time::Duration;

use tokio::time::Instant;

/// The log says it at most this often.
const EVERY: Duration = Duration::from_secs(60);

/// What was done since the last line.
#[derive(Debug)]
pub(super) struct Tally {
    since: Instant,
    done: Done,
    came_marked: u64,
    /// When the log last told of rows that came with their mark.
    told: Option<Instant>,
}

/// Numbers of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Kafka has committed their records, those that went to the dead-letter topic among them.
    pub(super) published: u64,
    /// Their marks are durable.
    pub(super) marked: u64,
}

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, done: Done::default(), came_marked: 0, told: None }
    }

    pub(super) fn published(&mut self, rows: usize) {
        self.done.published += rows as u64;
    }

    pub(super) fn marked(&mut self, rows: usize) {
        self.done.marked += rows as u64;
    }

    pub(super) fn came_marked(&mut self, rows: u64) {
        self.came_marked += rows;
    }

    /// How many rows came with their mark, if it is time to tell. The first ones are told of at
    /// once.
    pub(super) fn came_marked_due(&mut self, now: Instant) -> Option<u64> {
        let is_early = self.told.is_some_and(|told| now.saturating_duration_since(told) < EVERY);
        if self.came_marked == 0 || is_early {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.came_marked))
    }

    /// What a line that is due has to say. There is nothing to say of a minute without rows.
    pub(super) fn due(&mut self, now: Instant) -> Option<Done> {
        if now.saturating_duration_since(self.since) < EVERY {
            return None;
        }
        self.since = now;
        self.rest()
    }

    /// What no line has said yet.
    pub(super) fn rest(&mut self) -> Option<Done> {
        Some(std::mem::take(&mut self.done)).filter(|done| *done != Done::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_come_with_their_mark_are_told_of_at_once_and_then_once_a_minute() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        assert_eq!(tally.came_marked_due(start), None);
        tally.came_marked(2);
        assert_eq!(tally.came_marked_due(start), Some(2));
        tally.came_marked(3);
        assert_eq!(tally.came_marked_due(start + Duration::from_secs(59)), None);
        assert_eq!(tally.came_marked_due(start + EVERY), Some(3));
    }

    #[test]
    fn a_line_is_due_once_a_minute_while_there_are_rows_and_the_rest_at_the_end() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        tally.published(3);
        tally.marked(2);
        assert_eq!(tally.due(start + Duration::from_secs(59)), None);
        assert_eq!(tally.due(start + EVERY), Some(Done { published: 3, marked: 2 }));
        assert_eq!(tally.due(start + 2 * EVERY), None, "nothing happened");
        tally.marked(1);
        assert_eq!(tally.due(start + 2 * EVERY + Duration::from_secs(1)), None);
        assert_eq!(tally.rest(), Some(Done { published: 0, marked: 1 }));
        assert_eq!(tally.rest(), None);
    }
}
