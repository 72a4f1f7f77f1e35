//! Lets published rows go, now and then, as long as the daemon lives. It has a session of its own,
//! and holds up nothing.
//!
//! Rows go only while the source streams here: in any other state somebody may want to look at them.
//! Partitions are made in every state, since inserts need them.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};
use tracing::Instrument as _;

use super::{
    context::Context,
    settings::{Settings, changed},
};
use crate::{
    Result,
    config::{Retention, RetentionBy, Source},
    postgres::{ConnectOptions, farewell::Task},
    retention::{Event, Round, Scope},
    source::{lock, standing::SourceState},
    telemetry::SourceMetrics,
};

/// How often a round is made, at most and at least.
const MOST_OFTEN: Duration = Duration::from_secs(1);
const LEAST_OFTEN: Duration = Duration::from_secs(600);

/// The retention task of a source. It ends when this is dropped.
pub(super) struct Retaining {
    _task: Task,
}

impl Retaining {
    /// Starts the task. It rests while the source has no retention.
    pub(super) fn start(context: &Context) -> Self {
        let (settings, metrics) = (context.settings.clone(), context.metrics.clone());
        let span = tracing::info_span!("source", source = context.source.name);
        Self { _task: Task::spawn(async move { retain(settings, &metrics).await }.instrument(span)) }
    }
}

/// How often a round is due: often enough that nothing stays much longer than it has to, and that
/// there is a partition for every moment.
fn every(retention: &Retention) -> Duration {
    let width = match retention.by {
        RetentionBy::Delete => retention.keep,
        RetentionBy::Partition { width, .. } => width.min(retention.keep),
    };
    (width / 8).clamp(MOST_OFTEN, LEAST_OFTEN)
}

async fn retain(mut settings: watch::Receiver<Settings>, metrics: &SourceMetrics) {
    let mut last: Option<String> = None;
    loop {
        let Settings { source, connect, .. } = settings.borrow_and_update().clone();
        let Some(retention) = source.retention else {
            changed(&mut settings).await;
            continue;
        };
        let round = round(&source, &retention, &connect, metrics).await;
        let failed = round.err().map(|error| {
            metrics.count(error.code());
            (error.code().as_str(), error.code().hint(), error.detail())
        });
        match &failed {
            // The same failure is said once.
            Some((code, hint, detail)) if last.as_ref() != Some(detail) => {
                tracing::warn!(code, hint, "retention: {detail}");
            }
            None if last.is_some() => tracing::info!("retention goes on"),
            _ => {}
        }
        last = failed.map(|(_, _, detail)| detail);
        tokio::select! {
            () = sleep(every(&retention)) => {}
            () = changed(&mut settings) => {}
        }
    }
}

async fn round(
    source: &Source,
    retention: &Retention,
    connect: &ConnectOptions,
    metrics: &SourceMetrics,
) -> Result<()> {
    let session = connect.sql("retention").await?;
    if !lock::try_take(&session, &lock::of_retention(&source.name)).await? {
        tracing::debug!("another instance makes the rounds of retention");
        return Ok(());
    }
    let is_streaming = metrics.state() == SourceState::Streaming;
    let scope = if is_streaming { Scope::All } else { Scope::MakesOnly };
    let mut tell = |event: Event| {
        match event {
            Event::Deleted { rows, .. } => metrics.rows_purged.inc_by(rows),
            Event::Dropped { .. } => metrics.partitions_dropped.inc(),
            _ => {}
        }
        match event {
            Event::Keeps { .. } => tracing::debug!("retention {event}"),
            _ => tracing::info!("retention: {event}"),
        }
    };
    let position = metrics.position();
    Round { session: &session, source, retention, scope, position, tell: &mut tell }.run().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_what_is_kept_and_how_wide_partitions_are() {
        let day = Duration::from_secs(86_400);
        let delete = |keep| Retention { keep, by: RetentionBy::Delete };
        assert_eq!(every(&delete(7 * day)), LEAST_OFTEN);
        assert_eq!(every(&delete(MOST_OFTEN)), MOST_OFTEN);
        let width = Duration::from_secs(80);
        let partition = Retention { keep: day, by: RetentionBy::Partition { width, ahead: 3 } };
        assert_eq!(every(&partition), Duration::from_secs(10));
    }
}
