//! Keeps each source going. It runs the source's sessions one after another, waits between them
//! where something must heal, and halts the source where a person must act.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::Instrument;

use super::{
    context::Context,
    memory::{End, Memory},
    monitor::Monitor,
    neighbours::Neighbours,
    retaining::Retaining,
    session::Session,
    settings::AllSettings,
};
use crate::{
    Class, Code, Error, Result,
    backoff::Backoff,
    config::Config,
    kafka::durability,
    postgres::farewell::Task,
    runtime::run_to_end,
    setup::topics::constant_topics,
    source::standing::SourceState,
    telemetry::{Metrics, traces::Traces},
};

/// How often a waiting source shows that it is alive. `/livez` and the watchdog look for it.
const BEAT: Duration = Duration::from_secs(5);

/// The pause between sessions that follow at once. It is short, but long enough that the loop does
/// not take a core.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);

/// A session that published, or had nothing to publish, and lived longer than this was healthy. The
/// next failure begins the backoff anew.
const HEALTHY: Duration = Duration::from_secs(10);

/// How often a standby looks whether the slot is free. It is well within the takeover bound of 3 s.
const STANDBY_POLL: Duration = Duration::from_millis(500);

/// A command gives up after this many attempts to take a slot that another session holds.
const IMPATIENT_TRIES: u32 = 20;

/// Runs all sources until `shutdown` turns true and everything in flight is finished. A source takes
/// over a configuration that has changed with its next session, which begins at once.
///
/// # Errors
/// The first halt's error, if no source is left that can go on.
pub(crate) async fn run(
    config: watch::Receiver<Arc<Config>>,
    metrics: &Metrics,
    traces: Option<Traces>,
    shutdown: watch::Receiver<bool>,
) -> Result<()> {
    match run_all(config, metrics, traces, &shutdown, true).await? {
        Some(halt) if !*shutdown.borrow() => Err(halt),
        _ => Ok(()),
    }
}

/// Runs all sources, and returns the first halt. `patient` is a daemon: it waits while another
/// instance streams, and its halted sources wait for a person while others go on.
///
/// # Errors
/// The system has no thread to give.
pub(super) async fn run_all(
    mut config: watch::Receiver<Arc<Config>>,
    metrics: &Metrics,
    traces: Option<Traces>,
    shutdown: &watch::Receiver<bool>,
    patient: bool,
) -> Result<Option<Error>> {
    let settings = AllSettings::of(&config.borrow_and_update());
    // All contexts are made before the first source is started, so that no source is missing from
    // the metrics.
    let neighbours = Neighbours::new(metrics);
    let context = |settings| Context {
        patient,
        traces: traces.clone(),
        neighbours: patient.then(|| neighbours.clone()),
        ..Context::with_settings(settings, metrics, shutdown.clone())
    };
    let contexts: Vec<_> = settings.receivers().map(context).collect();
    // They go on when their source has halted.
    let _monitors: Vec<_> = contexts.iter().map(Monitor::start).collect();
    let _retaining: Vec<_> = contexts.iter().map(Retaining::start).collect();
    let mut sources = Vec::new();
    for mut context in contexts {
        let span = tracing::info_span!("source", source = context.source.name);
        sources.push(on_a_thread(
            &context.source.name.clone(),
            async move { context.supervise().await }.instrument(span),
        )?);
    }
    let changes = Task::spawn(pass_on(config, settings));
    let mut first_halt = None;
    for ended in sources {
        let halt = ended.await.unwrap_or_else(|_| Err(Error::new(Code::Internal, "a source's thread ended")));
        first_halt = first_halt.or(halt.err());
    }
    drop(changes);
    Ok(first_halt)
}

/// Passes changes of the configuration on to the sources, and says what the topics of the newest one
/// stand on.
async fn pass_on(mut config: watch::Receiver<Arc<Config>>, settings: AllSettings) {
    let tell = |config: &Config| {
        let known = durability::topics_of(&config.kafka, config.sources.iter().flat_map(constant_topics));
        Task::spawn(durability::tell(config.kafka.clone(), known))
    };
    let mut newest = config.borrow().clone();
    let mut telling = tell(&newest);
    while config.changed().await.is_ok() {
        let before = std::mem::replace(&mut newest, config.borrow_and_update().clone());
        settings.change(&newest);
        if before.kafka != newest.kafka && !telling.is_finished() {
            telling = tell(&newest);
        }
    }
    // Nobody can change it any more, and the sources go on.
    std::future::pending::<()>().await;
}

/// Runs a source on a thread and a runtime of its own. So its stream may rest while nobody waits on
/// its socket, and the walsender does not wake anybody with every row that it writes
/// (`Stream::rest`). A busy source is not moved from core to core either.
fn on_a_thread(
    source: &str,
    relay: impl Future<Output = Result<()>> + Send + 'static,
) -> Result<oneshot::Receiver<Result<()>>> {
    let failed = |error| Error::new(Code::Internal, "starting a source's thread").because(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (ended, told) = oneshot::channel();
    let run = move || {
        let outcome = run_to_end(runtime, relay);
        // Nobody listens any more when the process is ending.
        let _ = ended.send(outcome);
    };
    std::thread::Builder::new().name(format!("relay-{source}")).spawn(run).map_err(failed)?;
    Ok(told)
}

impl Context {
    /// Runs one session after another until the daemon stops or a person must act. As long as other
    /// sources go on, a halted one begins again now and then: it goes on by itself once the person
    /// has acted.
    pub(super) async fn supervise(&mut self) -> Result<()> {
        let mut memory = Memory::default();
        let mut last_halt = None;
        let mut backoff = Backoff::new(self.source.timeouts.backoff_max);
        let mut stood_by = 0;
        loop {
            if *self.shutdown.borrow() {
                return Ok(());
            }
            if self.renew() {
                tracing::info!("the configuration has changed");
                // What Kafka refused may be within the new settings.
                memory = Memory::default();
                backoff = Backoff::new(self.source.timeouts.backoff_max);
            }
            let began = Instant::now();
            let ended = Session::new(self, &mut memory).run().await;
            if began.elapsed() > HEALTHY && self.metrics.state() == SourceState::Streaming {
                backoff.reset();
            }
            if self.metrics.state() != SourceState::Halted {
                last_halt = None;
            }
            let pause = match ended {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Again) => AGAIN_PAUSE,
                // The walsender of our own last session may still live for a moment, so several
                // attempts are made.
                Ok(End::StandBy) if !self.patient && stood_by >= IMPATIENT_TRIES => {
                    self.metrics.set_state(SourceState::Halted);
                    return Err(self.in_use());
                }
                Ok(End::StandBy) => {
                    stood_by += 1;
                    self.stand_by();
                    STANDBY_POLL
                }
                Err(error) if matches!(error.class(), Class::Halt | Class::Config) => {
                    self.halt(&error, &mut last_halt);
                    let Some(neighbours) = &self.neighbours else { return Err(error) };
                    tokio::select! {
                        go_on = neighbours.wait() => if !go_on { return Err(error) },
                        () = self.stopping() => return Ok(()),
                        () = self.reloaded() => {}
                    }
                    Duration::ZERO
                }
                Err(error) => self.retry(&error, &mut backoff),
            };
            tokio::select! {
                () = self.pause(pause) => {}
                () = self.stopping() => return Ok(()),
                () = self.reloaded() => {}
            }
        }
    }

    /// Waits, and shows in the meantime that the source is not stuck.
    async fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.metrics.beat();
            tokio::time::sleep_until(end.min(Instant::now() + BEAT)).await;
        }
    }

    /// Halts the source. An error that halted it before is not told again.
    fn halt(&self, error: &Error, last: &mut Option<String>) {
        let text = error.to_string();
        if last.as_ref() != Some(&text) {
            self.metrics.error(error);
            tracing::error!(code = error.code().as_str(), hint = error.hint(), "halted: {}", error.detail());
        }
        *last = Some(text);
        self.metrics.set_state(SourceState::Halted);
    }

    /// How long to wait after an error that can heal by itself.
    fn retry(&self, error: &Error, backoff: &mut Backoff) -> Duration {
        self.metrics.error(error);
        let (code, detail, hint) = (error.code().as_str(), error.detail(), error.hint());
        let pause = backoff.next();
        let retry_in =
            humantime::format_duration(Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)));
        tracing::warn!(code, hint, %retry_in, "{detail}");
        self.metrics.set_state(SourceState::Retrying);
        pause
    }
}
