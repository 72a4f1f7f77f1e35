//! What a source is configured to do, and how a running source hears that it has changed.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    Config,
    config::{Kafka, Source},
    postgres::ConnectOptions,
};

/// The configuration of one source.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) source: Source,
    pub(super) kafka: Arc<Kafka>,
    /// How to reach its Postgres.
    pub(super) connect: ConnectOptions,
}

impl Settings {
    pub(super) fn new(source: &Source, kafka: &Arc<Kafka>) -> Self {
        Self { source: source.clone(), kafka: Arc::clone(kafka), connect: ConnectOptions::of(source) }
    }

    fn is(&self, source: &Source, kafka: &Kafka) -> bool {
        self.source == *source && *self.kafka == *kafka
    }
}

/// The settings of all sources of a daemon. Those who work for a source hear when its own change.
pub(super) struct AllSettings(Vec<watch::Sender<Settings>>);

impl AllSettings {
    pub(super) fn of(config: &Config) -> Self {
        let kafka = Arc::new(config.kafka.clone());
        Self(config.sources.iter().map(|source| watch::Sender::new(Settings::new(source, &kafka))).collect())
    }

    /// One receiver for each source, in the order of the configuration.
    pub(super) fn receivers(&self) -> impl Iterator<Item = watch::Receiver<Settings>> {
        self.0.iter().map(watch::Sender::subscribe)
    }

    /// Passes a changed configuration on to the sources that it concerns.
    pub(super) fn change(&self, config: &Config) {
        let kafka = Arc::new(config.kafka.clone());
        for settings in &self.0 {
            settings.send_if_modified(|settings| {
                let source = config.sources.iter().find(|source| source.name == settings.source.name);
                let changed = source.filter(|source| !settings.is(source, &kafka));
                changed.is_some_and(|source| {
                    *settings = Settings::new(source, &kafka);
                    true
                })
            });
        }
    }
}

/// Resolves when the settings have changed; never where nobody can change them.
pub(super) async fn changed(settings: &mut watch::Receiver<Settings>) {
    if settings.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reaches_the_sources_that_it_concerns() {
        let mut config = Config::of_names(&["order", "user"]);
        let all = AllSettings::of(&config);
        let receivers: Vec<_> = all.receivers().collect();
        let told = || receivers.iter().map(|settings| settings.has_changed().unwrap()).collect::<Vec<_>>();
        all.change(&config);
        assert_eq!(told(), [false, false]);
        config.sources[1].limits.batch_rows = 7;
        all.change(&config);
        assert_eq!(told(), [false, true]);
        assert_eq!(receivers[1].borrow().source.limits.batch_rows, 7);
        config.kafka.topic_partitions = 9;
        all.change(&config);
        assert_eq!(told(), [true, true]);
    }
}
