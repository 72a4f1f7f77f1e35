//! Keeps each source going: runs its sessions one after another, waits between them where something must heal, and
//! halts a source where a person must act.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::Instrument;

use super::{
    session::{End, Memory, Session},
    start::Start,
    startup::Step,
};
use crate::{
    Class, Code, Error, Lsn, Result,
    config::{Config, Kafka, Source},
    postgres::{ConnectOptions, SqlSession, catalog::slots},
    telemetry::{Metrics, SourceMetrics, SourceState},
};

/// The first pause of the backoff.
const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// A waiting source shows this often that it is alive; `/livez` and the watchdog look for it.
const BEAT: Duration = Duration::from_secs(5);

/// Between sessions that follow at once: short, but no loop that takes a core.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);

/// A session that lived this long was healthy, since no start fails as late: the next failure begins the backoff anew.
const HEALTHY: Duration = Duration::from_secs(120);

/// How often a standby looks whether the slot is free; well within the takeover bound of 3 s.
const STANDBY_POLL: Duration = Duration::from_millis(500);

/// How often a slot that is in use is looked for by who would not stand by.
const IMPATIENT_TRIES: u32 = 20;

/// How often [`drain`] looks how far the slot is, and at most how long the source may keep to itself that it idles.
const DRAIN_POLL: Duration = Duration::from_millis(200);

/// Runs all sources until `shutdown` turns true and everything in flight is finished.
///
/// # Errors
/// A source's URL does not make sense, before anything is touched; or no source is left that can go on: the first
/// halt's error.
pub async fn run(config: &Config, metrics: &Metrics, shutdown: watch::Receiver<bool>) -> Result<()> {
    let kafka = Arc::new(config.kafka.clone());
    let contexts: Vec<_> = config
        .sources
        .iter()
        .map(|source| Context::new(source, &kafka, metrics, shutdown.clone()))
        .collect::<Result<_>>()?;
    let mut sources = Vec::new();
    for context in contexts {
        let span = tracing::info_span!("source", source = context.source.name);
        sources.push(on_a_thread(
            &context.source.name.clone(),
            async move { context.supervise().await }.instrument(span),
        )?);
    }
    let mut first_halt = None;
    for ended in sources {
        let halt = ended.await.unwrap_or_else(|_| Err(Error::new(Code::Internal, "a source's thread ended")));
        first_halt = first_halt.or(halt.err());
    }
    first_halt.filter(|_| !*shutdown.borrow()).map_or(Ok(()), Err)
}

/// Runs a source on a thread and a runtime of its own. Its stream may then rest without anybody waiting on its socket, so
/// that the walsender wakes nobody with every row that it writes (`Stream::rest`); and a busy source is not moved from
/// core to core.
fn on_a_thread(
    source: &str,
    relay: impl Future<Output = Result<()>> + Send + 'static,
) -> Result<oneshot::Receiver<Result<()>>> {
    let failed = |error| Error::new(Code::Internal, "starting a source's thread").because(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (ended, told) = oneshot::channel();
    let run = move || {
        let outcome = runtime.block_on(relay);
        // A thread within a library's call must not hold up the end of the process.
        runtime.shutdown_background();
        // Nobody listens when the process is ending.
        let _ = ended.send(outcome);
    };
    std::thread::Builder::new().name(format!("relay-{source}")).spawn(run).map_err(failed)?;
    Ok(told)
}

/// What every session of a source needs.
pub(super) struct Context {
    /// The source.
    pub source: Source,
    /// The cluster.
    pub kafka: Arc<Kafka>,
    /// Where its position goes.
    pub position_topic: Arc<str>,
    /// The key of its position.
    pub position_key: Arc<str>,
    /// How to reach its Postgres.
    pub connect: ConnectOptions,
    /// Its metrics and its state as others see it.
    pub metrics: SourceMetrics,
    /// Turns true once, when the daemon is to stop.
    pub shutdown: watch::Receiver<bool>,
    /// Whether to wait where another instance streams, as a daemon does.
    pub(super) patient: bool,
}

/// Sets a source up as the daemon would at its first start, and ends where it would begin to stream: the slot is made
/// and the position written. A source that is set up already is left as it is.
///
/// # Errors
/// Whatever stands in the way.
pub async fn set_up(source: &Source, kafka: &Kafka) -> Result<()> {
    let (_stop, shutdown) = watch::channel(false);
    let source = Source { auto_setup: true, ..source.clone() };
    let context = Context::new(&source, &Arc::new(kafka.clone()), &Metrics::new(), shutdown)?;
    match Start::new(&context, &mut Memory::default()).impatient().run().await? {
        Step::StandBy => Err(in_use(&source)),
        _ => Ok(()),
    }
}

/// Relays a source as the daemon does until its slot is confirmed up to `end`, and then stops in order. What was
/// written before is published and marked then, unless the stop took longer than it may: look at the position.
///
/// # Errors
/// [`Code::SlotInUse`] when an instance is running; whatever halts the source. What can heal is waited for, as the
/// daemon does.
pub async fn drain(source: &Source, kafka: &Kafka, end: Lsn) -> Result<()> {
    let (stop, shutdown) = watch::channel(false);
    let mut source = Source { auto_setup: false, ..source.clone() };
    // Nobody wants to wait for an idle source to say how far it is.
    source.timeouts.idle_advance = source.timeouts.idle_advance.min(DRAIN_POLL);
    source.timeouts.status = source.timeouts.status.min(DRAIN_POLL);
    let mut context = Context::new(&source, &Arc::new(kafka.clone()), &Metrics::new(), shutdown)?;
    context.patient = false;
    let sql = context.connect.sql("drain").await?;
    let relaying = context.supervise();
    tokio::pin!(relaying);
    tokio::select! {
        ended = &mut relaying => return ended,
        reached = confirmed_up_to(&sql, &source.slot, end) => reached?,
    }
    // It cannot be gone: `relaying` has the receiver.
    let _ = stop.send(true);
    relaying.await
}

/// Waits until the slot is confirmed up to `end`.
async fn confirmed_up_to(sql: &SqlSession, slot: &str, end: Lsn) -> Result<()> {
    while slots::slot(sql, slot).await?.is_none_or(|slot| slot.confirmed_flush < end) {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    Ok(())
}

fn in_use(source: &Source) -> Error {
    Error::new(Code::SlotInUse, format!("an instance of source {} is running", source.name))
}

impl Context {
    fn new(source: &Source, kafka: &Arc<Kafka>, metrics: &Metrics, shutdown: watch::Receiver<bool>) -> Result<Self> {
        let connect = ConnectOptions::parse(&source.url, source.password.as_ref())?
            .connect_timeout(source.timeouts.connect)
            .statement_timeout(source.timeouts.statement)
            .max_message_bytes(source.limits.message_bytes);
        Ok(Self {
            metrics: metrics.source(&source.name),
            position_topic: Arc::from(kafka.position_topic.as_str()),
            position_key: Arc::from(source.name.as_str()),
            source: source.clone(),
            kafka: Arc::clone(kafka),
            connect,
            shutdown,
            patient: true,
        })
    }

    /// Resolves when the daemon is to stop.
    pub(super) async fn stopping(&self) {
        let mut shutdown = self.shutdown.clone();
        // An error means that the sender is gone, which is a stop as well.
        let _ = shutdown.wait_for(|stop| *stop).await;
    }

    /// Runs one session after another until the daemon stops, or a person must act.
    async fn supervise(&self) -> Result<()> {
        let mut memory = Memory::default();
        let mut backoff = Backoff::new(self.source.timeouts.backoff_max);
        let mut stood_by = 0;
        loop {
            if *self.shutdown.borrow() {
                return Ok(());
            }
            let began = Instant::now();
            let ended = Session::new(self, &mut memory).run().await;
            if began.elapsed() > HEALTHY {
                backoff.reset();
            }
            let pause = match ended {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Again) => AGAIN_PAUSE,
                // The walsender of our own last session may live for a moment.
                Ok(End::StandBy) if !self.patient && stood_by >= IMPATIENT_TRIES => return Err(in_use(&self.source)),
                Ok(End::StandBy) => {
                    stood_by += 1;
                    self.metrics.set_state(SourceState::Standby);
                    STANDBY_POLL
                }
                Err(error) => match self.judge(&error, &mut backoff) {
                    Some(pause) => pause,
                    None => return Err(error),
                },
            };
            tokio::select! {
                () = self.pause(pause) => {}
                () = self.stopping() => return Ok(()),
            }
        }
    }

    /// Waits, and shows meanwhile that it is not stuck.
    async fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.metrics.beat();
            tokio::time::sleep_until(end.min(Instant::now() + BEAT)).await;
        }
    }

    /// How long to wait after an error; none if the source halts.
    fn judge(&self, error: &Error, backoff: &mut Backoff) -> Option<Duration> {
        self.metrics.error(error);
        let (code, detail, hint) = (error.code().as_str(), error.detail(), error.hint());
        if matches!(error.class(), Class::Halt | Class::Config) {
            tracing::error!(code, hint, "halted: {detail}");
            self.metrics.set_state(SourceState::Halted);
            return None;
        }
        let pause = backoff.next();
        let retry_in =
            humantime::format_duration(Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)));
        tracing::warn!(code, hint, %retry_in, "{detail}");
        self.metrics.set_state(SourceState::Retrying);
        Some(pause)
    }
}

/// Doubling pauses with jitter, so that fifty sources do not come back at the same instant.
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn new(max: Duration) -> Self {
        Self { next: BACKOFF_MIN.min(max), max }
    }

    fn reset(&mut self) {
        self.next = BACKOFF_MIN.min(self.max);
    }

    /// Between half of the current step and all of it.
    fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_to_its_bound_and_starts_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        for step in [200_u64, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            let step = Duration::from_millis(step);
            assert!(pause >= step / 2 && pause <= step, "{pause:?} is not within a step of {step:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }
}
