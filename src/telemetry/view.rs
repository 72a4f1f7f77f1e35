//! A source as the page shows it: where it stands, its last errors and its last hour.

use std::time::{Instant, SystemTime};

use super::{
    history::{History, Sample},
    metrics::{Metrics, OTHER_TOPICS, SourceMetrics, TOPICS, lock},
};
use crate::source::standing::{LastError, Standing};

/// What the page shows of a source.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) standing: Standing,
    /// The last errors, the newest first.
    pub(crate) errors: Vec<LastError>,
    /// Rows published in a second.
    pub(crate) rate: Option<f64>,
    pub(crate) history: History,
    /// The moment that is shown.
    pub(crate) now: Sample,
}

impl Metrics {
    /// Takes a sample of each source.
    pub(crate) fn sample(&self) {
        for source in lock(&self.0.sources).values() {
            let sample = source.now();
            lock(&source.shown).history.add(sample);
        }
    }

    /// Each source by name, as the page shows it.
    pub(crate) fn views(&self) -> Vec<View> {
        lock(&self.0.sources).values().map(SourceMetrics::view).collect()
    }
}

impl SourceMetrics {
    /// A sample of this moment.
    fn now(&self) -> Sample {
        let (at, published) = (Instant::now(), self.published());
        Sample { at, lag: lock(&self.shown).lag().seconds(SystemTime::now()), published }
    }

    /// Rows published since the process began, to whatever topic.
    fn published(&self) -> u64 {
        let topics = lock(&self.topics);
        let others = (topics.len() >= TOPICS).then_some(OTHER_TOPICS);
        let topics = topics.iter().map(AsRef::as_ref).chain(others);
        topics.map(|topic| self.events_published.with_label_values(&[&*self.name, topic]).get()).sum()
    }

    fn view(&self) -> View {
        let now = self.now();
        let shown = lock(&self.shown);
        View {
            standing: shown.standing(&self.name),
            errors: shown.errors.iter().cloned().collect(),
            rate: shown.history.rate(now),
            history: shown.history.clone(),
            now,
        }
    }
}
