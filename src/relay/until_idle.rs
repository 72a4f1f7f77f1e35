//! `run --until-idle`: the daemon for a test or a batch job. It publishes what there is, and ends.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    context::Context,
    once::{POLL, hurry, is_confirmed_up_to},
    supervisor::run_all,
};
use crate::{
    Config, Error, Lsn, Result,
    postgres::{SqlSession, catalog::server},
    source::standing::SourceState,
    telemetry::{Metrics, traces::Traces},
};

/// Runs all sources until each is published, marked and confirmed up to where its log ended when it
/// began to stream. Then it drains.
///
/// # Errors
/// A source cannot go on, or another instance has it. What the other sources have is published
/// first.
pub(crate) async fn run_until_idle(
    config: &Config,
    metrics: &Metrics,
    traces: Option<Traces>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let mut config = config.clone();
    config.sources.iter_mut().for_each(hurry);
    let (stop, stopping) = watch::channel(false);
    // What is over soon needs no other configuration.
    let (_, unchanged) = watch::channel(Arc::new(config.clone()));
    let relaying = run_all(unchanged, metrics, traces, &stopping, false);
    tokio::pin!(relaying);
    let halt = tokio::select! {
        ended = &mut relaying => ended?,
        () = all_idle(&config, metrics, &stopping) => {
            tracing::info!("nothing is left to publish");
            stop_and_wait(&stop, relaying).await?
        }
        _ = shutdown.wait_for(|stop| *stop) => stop_and_wait(&stop, relaying).await?,
    };
    halt.map_or(Ok(()), Err)
}

async fn stop_and_wait(
    stop: &watch::Sender<bool>,
    relaying: impl Future<Output = Result<Option<Error>>>,
) -> Result<Option<Error>> {
    // `relaying` holds a receiver.
    let _ = stop.send(true);
    relaying.await
}

/// Waits until every source is idle, or cannot go on.
async fn all_idle(config: &Config, metrics: &Metrics, stopping: &watch::Receiver<bool>) {
    let kafka = Arc::new(config.kafka.clone());
    for source in &config.sources {
        let context = Context::new(source, &kafka, metrics, stopping.clone());
        let mut watching = Watching { context: &context, sql: None, end: None };
        while !watching.is_idle().await {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A source that is watched until it is idle.
struct Watching<'a> {
    context: &'a Context,
    sql: Option<SqlSession>,
    /// Where its log ended once it streamed.
    end: Option<Lsn>,
}

impl Watching<'_> {
    /// Whether the source is confirmed up to the end of its log. A server that does not answer is
    /// asked again, since the source does so, too.
    async fn is_idle(&mut self) -> bool {
        match self.context.metrics.state() {
            SourceState::Halted => true,
            SourceState::Streaming => self.is_confirmed().await.unwrap_or(false),
            _ => false,
        }
    }

    async fn is_confirmed(&mut self) -> Result<bool> {
        let sql = match self.sql.take().filter(|sql| !sql.is_closed()) {
            Some(sql) => sql,
            None => self.context.connect.sql("idle").await?,
        };
        let end = match self.end {
            Some(end) => end,
            None => *self.end.insert(server::flushed_lsn(&sql).await?),
        };
        let is_confirmed = is_confirmed_up_to(&sql, &self.context.source.slot, end).await?;
        self.sql = Some(sql);
        Ok(is_confirmed)
    }
}
