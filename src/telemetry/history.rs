//! The last hour of a source, for the page: its lag, and how many rows were published.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How often a sample is taken.
pub(crate) const EVERY: Duration = Duration::from_secs(10);

/// How far back the samples go.
pub(crate) const REACH: Duration = Duration::from_secs(3600);

/// Over how long a rate is taken.
const RATE_OVER: Duration = Duration::from_secs(60);

/// A moment of a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// The lag in seconds; `None` where nobody knew it.
    pub(crate) lag: Option<f64>,
    /// Rows published since the process began.
    pub(crate) published: u64,
}

/// The samples of the last hour, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(VecDeque<Sample>);

impl History {
    pub(crate) fn add(&mut self, sample: Sample) {
        while self.0.front().is_some_and(|first| sample.at.saturating_duration_since(first.at) > REACH) {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }

    /// Rows published in a second, over the last minute before `now`. `None` before there are two
    /// samples.
    pub(crate) fn rate(&self, now: Sample) -> Option<f64> {
        let within = |sample: &&Sample| now.at.saturating_duration_since(sample.at) <= RATE_OVER;
        let first = self.0.iter().find(within).filter(|first| first.at < now.at)?;
        let rows = now.published.saturating_sub(first.published);
        Some(rows as f64 / now.at.saturating_duration_since(first.at).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_the_rate_is_that_of_the_last_minute() {
        let start = Instant::now();
        let sample =
            |seconds: u64, published| Sample { at: start + Duration::from_secs(seconds), lag: None, published };
        let mut history = History::default();
        assert_eq!(history.rate(sample(0, 7)), None);
        for seconds in (0..=7200).step_by(10) {
            history.add(sample(seconds, if seconds > 7100 { 1000 } else { 0 }));
        }
        assert_eq!(history.samples().count(), 361);
        assert_eq!(history.rate(sample(7200, 1000)), Some(0.0));
        assert_eq!(history.rate(sample(7210, 1500)), Some(500.0 / 60.0));
    }
}
