//! Since when rows wait, for one who looks at the server now and then.
//!
//! Only the stream knows when each row was committed. While nobody streams, three things are left:
//! where the server's log ended at each look, how far it is published, and whether a table has
//! unmarked rows. The oldest row that waits was committed after the last look at which the log ended
//! within what is published, and after the last look at which no row waited. So its age is known to
//! within the time between two looks. A row's own creation time is used only for rows that were
//! there before the first look, since applications set it.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use crate::{Lsn, telemetry::Lag};

/// So many ends of the log are kept. When there are more, every second one is forgotten.
const SAMPLES: usize = 1024;

/// What a look has found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// The end of the server's log.
    pub(super) end: Lsn,
    /// How far it is published, if that is known.
    pub(super) published: Option<Lsn>,
    /// Unmarked rows, where the tables tell.
    pub(super) rows: Option<u64>,
    /// Age of the oldest of them by its creation time.
    pub(super) oldest: Option<Duration>,
}

/// The looks so far.
#[derive(Debug)]
pub(super) struct Behind {
    began: SystemTime,
    /// Where the log ended, each with the last time at which it ended there.
    ends: VecDeque<(SystemTime, Lsn)>,
    /// The last time at which no row waited.
    caught_up: Option<SystemTime>,
}

impl Behind {
    /// Nobody has looked yet.
    pub(super) fn new(now: SystemTime) -> Self {
        Self { began: now, ends: VecDeque::new(), caught_up: None }
    }

    /// Takes in a look. Without marks, log of other tables counts as a row that waits, until
    /// somebody reads it.
    pub(super) fn look(&mut self, now: SystemTime, found: &Found) -> Lag {
        self.note(now, found.end);
        let is_published = found.published.is_some_and(|published| published >= found.end);
        if found.rows == Some(0) || is_published {
            self.caught_up = Some(now);
            return Lag::Nothing;
        }
        let passed = found.published.and_then(|published| self.passed(published));
        let created = || found.oldest.and_then(|age| now.checked_sub(age));
        Lag::Since(passed.max(self.caught_up).or_else(created).unwrap_or(self.began))
    }

    fn note(&mut self, now: SystemTime, end: Lsn) {
        if self.ends.back().is_some_and(|(_, last)| *last > end) {
            // Another server answers, or one that was restored.
            self.ends.clear();
        }
        match self.ends.back_mut() {
            Some((time, last)) if *last == end => *time = now,
            _ => self.ends.push_back((now, end)),
        }
        if self.ends.len() > SAMPLES {
            let mut number = 0;
            self.ends.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// The last look at which the log ended within what is published.
    fn passed(&mut self, published: Lsn) -> Option<SystemTime> {
        while self.ends.get(1).is_some_and(|(_, end)| *end <= published) {
            self.ends.pop_front();
        }
        self.ends.front().filter(|(_, end)| *end <= published).map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    fn found(end: u64, published: u64, rows: Option<u64>) -> Found {
        Found { end: Lsn(end), published: Some(Lsn(published)), rows, oldest: None }
    }

    #[test]
    fn the_lag_grows_from_the_last_look_at_which_no_row_waited() {
        let mut behind = Behind::new(at(0));
        assert_eq!(behind.look(at(5), &found(100, 90, Some(0))), Lag::Nothing);
        // Log of other tables is no row.
        assert_eq!(behind.look(at(10), &found(200, 90, Some(0))), Lag::Nothing);
        for second in [15, 20, 600] {
            assert_eq!(behind.look(at(second), &found(200 + second, 90, Some(3))), Lag::Since(at(10)));
        }
    }

    #[test]
    fn while_it_catches_up_the_lag_follows_the_position() {
        let mut behind = Behind::new(at(0));
        for second in 1..=10 {
            behind.look(at(second), &found(second * 100, 100, None));
        }
        assert_eq!(behind.look(at(11), &found(1100, 100, None)), Lag::Since(at(1)));
        assert_eq!(behind.look(at(12), &found(1100, 450, None)), Lag::Since(at(4)));
        assert_eq!(behind.look(at(13), &found(1100, 1100, None)), Lag::Nothing);
    }

    #[test]
    fn a_busy_source_that_keeps_up_is_only_a_look_behind() {
        let mut behind = Behind::new(at(0));
        for second in (5..100).step_by(5) {
            let lag = behind.look(at(second), &found(second * 10, second * 10 - 20, Some(7)));
            assert!(second == 5 || lag == Lag::Since(at(second - 5)), "{second}: {lag:?}");
        }
    }

    #[test]
    fn rows_from_before_the_first_look_have_their_own_age() {
        let mut behind = Behind::new(at(0));
        let old = Found { oldest: Some(Duration::from_secs(60)), ..found(100, 90, Some(1)) };
        assert_eq!(behind.look(at(100), &old), Lag::Since(at(40)));
        let ageless = Found { published: None, ..found(100, 0, Some(1)) };
        assert_eq!(Behind::new(at(0)).look(at(100), &ageless), Lag::Since(at(0)));
    }

    #[test]
    fn a_log_that_goes_back_is_another_one() {
        let mut behind = Behind::new(at(0));
        behind.look(at(5), &found(1000, 1000, None));
        behind.look(at(10), &found(1100, 1000, None));
        assert_eq!(behind.look(at(15), &found(500, 400, None)), Lag::Since(at(5)));
        assert_eq!(behind.ends.len(), 1);
    }

    #[test]
    fn a_long_outage_takes_bounded_memory() {
        let mut behind = Behind::new(at(0));
        behind.look(at(1), &found(10, 10, None));
        for second in 2..50_000 {
            behind.look(at(second), &found(second * 10, 10, None));
        }
        assert!(behind.ends.len() <= SAMPLES, "{}", behind.ends.len());
        assert_eq!(behind.look(at(50_000), &found(500_000, 10, None)), Lag::Since(at(1)));
    }
}
