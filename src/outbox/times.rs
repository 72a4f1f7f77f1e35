//! Which times the brokers take for the records of a topic. A clock is no fault of a row, so a
//! record whose time they refuse gets another one.
//!
//! ```text
//!   the row's own time ─refused▶ its commit's ─refused▶ the time of sending
//!   a dead letter:  the time of sending ─refused▶ its row's commit's
//! ```
//!
//! Nobody asks the brokers for their limits: that takes a right of its own, and their clock counts,
//! not ours. What they refuse tells both.

use std::collections::HashMap;

/// Topics that are kept, at most. When there are more, all are dropped and found anew.
const MAX_TOPICS: usize = 10_000;

/// What the brokers have refused so far. Times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    topics: HashMap<String, Limits>,
    now: i64,
}

/// What one topic takes, by our clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Milliseconds before now from which on a time is refused.
    behind: i64,
    /// Milliseconds after now from which on a time is refused.
    ahead: i64,
    /// Whether the time of sending is taken.
    sending: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { behind: i64::MAX, ahead: i64::MAX, sending: true }
    }
}

/// Of the times of one topic that were refused at once, those that are farthest from now. librdkafka
/// names all records of a request where the broker refuses a single one, so the nearer times may be
/// taken. At least one of the farthest is not.
#[derive(Debug, Clone, Copy, Default)]
struct Refusal {
    behind: Option<i64>,
    ahead: Option<i64>,
    sending: bool,
}

impl Refusal {
    fn add(&mut self, time: Option<i64>, now: i64) {
        let Some(time) = time else { return self.sending = true };
        let age = now.saturating_sub(time);
        let (side, apart) = if age > 0 { (&mut self.behind, age) } else { (&mut self.ahead, age.saturating_neg()) };
        *side = Some(side.map_or(apart, |farthest| farthest.max(apart)));
    }
}

impl Limits {
    /// Returns whether this says anything new.
    fn narrow(&mut self, refused: Refusal) -> bool {
        let before = *self;
        if let Some(age) = refused.behind {
            self.behind = age.min(self.behind / 2);
        }
        if let Some(apart) = refused.ahead {
            self.ahead = apart.min(self.ahead / 2);
        }
        let sending_alone = refused.behind.is_none() && refused.ahead.is_none();
        self.sending &= !(refused.sending && sending_alone);
        *self != before
    }

    fn take(self, time: i64, now: i64) -> bool {
        let age = now.saturating_sub(time);
        if age > 0 { age < self.behind } else { age.saturating_neg() < self.ahead }
    }
}

impl Times {
    /// Whether no topic has refused a time. Nobody has to say what time it is then.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// What time it is for the rows that follow.
    pub(crate) fn set_now(&mut self, now: i64) {
        self.now = now;
    }

    /// The brokers refused these records for their times, all at once: the topic of each, and its
    /// time or `None` for the time of sending. Each refusal at least halves what counts as taken, so
    /// a few of them find the limit. Returns whether another time may be taken.
    pub(crate) fn refuse<'a>(&mut self, refused: impl Iterator<Item = (&'a str, Option<i64>)>, now: i64) -> bool {
        let mut farthest: HashMap<&str, Refusal> = HashMap::new();
        for (topic, time) in refused {
            farthest.entry(topic).or_default().add(time, now);
        }
        let mut another = false;
        for (topic, refusal) in farthest {
            if !self.topics.contains_key(topic) && self.topics.len() >= MAX_TOPICS {
                self.topics.clear();
            }
            let limits = self.topics.entry(topic.to_owned()).or_default();
            if limits.narrow(refusal) {
                another = true;
            } else {
                // No time is left. The next session begins with nothing known, as clocks get
                // repaired.
                self.topics.remove(topic);
            }
        }
        another
    }

    /// The time of a record of `topic`. `wanted` is its own time, or `None` for the time of sending.
    pub(super) fn choose(&self, topic: &str, wanted: Option<i64>, commit: i64) -> Option<i64> {
        let Some(limits) = self.topics.get(topic) else { return wanted };
        let taken = |time: &i64| limits.take(*time, self.now);
        match wanted {
            None if limits.sending => None,
            None => Some(commit),
            Some(own) => {
                let found = Some(own).filter(taken).or_else(|| Some(commit).filter(taken));
                found.or_else(|| (!limits.sending).then_some(commit))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn refused(time: Option<i64>) -> Times {
        let mut times = Times::default();
        times.set_now(NOW);
        assert!(times.refuse([("t", time)].into_iter(), NOW));
        times
    }

    #[test]
    fn a_topic_that_refused_nothing_takes_every_time() {
        let times = refused(Some(5));
        for wanted in [None, Some(1), Some(i64::MAX)] {
            assert_eq!(times.choose("other", wanted, NOW), wanted);
        }
    }

    #[test]
    fn a_time_that_is_too_old_becomes_the_commit_s_and_a_younger_one_stays() {
        let times = refused(Some(NOW - 100));
        assert_eq!(times.choose("t", Some(NOW - 100), NOW - 5), Some(NOW - 5));
        assert_eq!(times.choose("t", Some(NOW - 99), NOW - 5), Some(NOW - 99));
        assert_eq!(times.choose("t", Some(NOW - 200), NOW - 150), None);
    }

    #[test]
    fn a_commit_that_is_ahead_becomes_the_time_of_sending() {
        let times = refused(Some(NOW + 100));
        assert_eq!(times.choose("t", Some(NOW + 100), NOW + 100), None);
        assert_eq!(times.choose("t", Some(NOW + 99), NOW + 100), Some(NOW + 99));
    }

    #[test]
    fn a_dead_letter_has_its_commit_s_time_where_the_time_of_sending_is_refused() {
        let times = refused(None);
        assert_eq!(times.choose("t", None, NOW - 5), Some(NOW - 5));
    }

    #[test]
    fn of_what_was_refused_at_once_the_farthest_counts() {
        let mut times = Times::default();
        times.set_now(NOW);
        assert!(times.refuse([300, 100, 200].map(|age| ("t", Some(NOW - age))).into_iter(), NOW));
        assert_eq!(times.choose("t", Some(NOW - 299), NOW), Some(NOW - 299));
        assert_eq!(times.choose("t", Some(NOW - 300), NOW), Some(NOW));
        assert!(times.refuse([("t", Some(NOW - 299)), ("t", None)].into_iter(), NOW));
        assert_eq!(times.choose("t", Some(NOW - 150), NOW), Some(NOW), "each refusal halves what is taken");
        assert_eq!(times.choose("t", None, NOW), None);
    }

    #[test]
    fn refusals_come_to_an_end() {
        let mut times = Times::default();
        times.set_now(NOW);
        let mut refusals = 0;
        while times.refuse([("t", times.choose("t", Some(1), NOW - 1000))].into_iter(), NOW) {
            refusals += 1;
        }
        assert!(refusals < 100 && times.is_empty(), "{refusals}");
    }
}
