//! `outboxd run`: the daemon around the relay.
//!
//! Logs, metrics and the listener come first, then the relay; a signal tells the relay to drain; when it has ended the
//! listener goes. Readiness turns false with the signal, while `/metrics` stays to the end.

use std::{process::ExitCode, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tracing::{error, info};

use super::exit_code;
use crate::{
    Code, Config, Error, Result, http,
    source::standing::SourceState,
    telemetry::{Metrics, logs},
};

/// How long a request that is under way at the end may take.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// How often systemd hears of us, unless its watchdog wants it oftener.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// What the relay is given.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The validated configuration.
    pub(crate) config: Config,
    /// Every source is in it already, as `starting`.
    pub(crate) metrics: Metrics,
    /// Turns true once, when the daemon is to drain.
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Ok: told to stop, everything drained. Err: no source is left that can go on; the first halt's error.
pub(super) async fn relay(daemon: Daemon) -> Result<()> {
    crate::relay::run(&daemon.config, &daemon.metrics, daemon.shutdown).await
}

/// Runs `relay` until it ends, and tells it of SIGTERM and SIGINT.
pub(super) async fn run<R, F>(config: Config, relay: R) -> Result<ExitCode>
where
    R: FnOnce(Daemon) -> F,
    F: Future<Output = Result<()>>,
{
    logs::init(&config.log);
    let unavailable = |error| Error::new(Code::Internal, "cannot listen for signals").because(error);
    let mut term = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut int = signal(SignalKind::interrupt()).map_err(unavailable)?;
    let stop = async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    };
    run_until(config, stop, relay).await
}

/// The same with any reason to stop, which says its name.
async fn run_until<R, F>(
    config: Config,
    stop: impl Future<Output = &'static str> + Send + 'static,
    relay: R,
) -> Result<ExitCode>
where
    R: FnOnce(Daemon) -> F,
    F: Future<Output = Result<()>>,
{
    info!(version = env!("CARGO_PKG_VERSION"), "outboxd starts");
    for line in config.redacted() {
        info!("{line}");
    }
    let metrics = Metrics::new();
    for source in &config.sources {
        let _ = metrics.source(&source.name);
    }
    let (stopping, shutdown) = watch::channel(false);
    let listener = Listener::start(&config, &metrics, &shutdown).await?;
    let signals = tokio::spawn(async move {
        let reason = stop.await;
        info!(reason, "draining");
        notify(&[NotifyState::Stopping]);
        // Nobody listens once the relay has ended.
        let _ = stopping.send(true);
    });
    // Ready in systemd's sense: the daemon works. Whether rows flow is told by /readyz and by the status line; a
    // standby that never streams must not be killed for it.
    notify(&[NotifyState::Ready]);
    let reporter = tokio::spawn(report(metrics.clone()));

    let outcome = relay(Daemon { config, metrics, shutdown }).await;

    signals.abort();
    reporter.abort();
    notify(&[NotifyState::Stopping]);
    listener.stop().await;
    Ok(match outcome {
        Ok(()) => {
            info!("outboxd ends, drained");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!(code = error.code().as_str(), hint = error.hint(), "{}", error.detail());
            exit_code(&error)
        }
    })
}

/// The HTTP listener's task; nothing with `listen = "off"`.
struct Listener(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Listener {
    async fn start(config: &Config, metrics: &Metrics, stopping: &watch::Receiver<bool>) -> Result<Self> {
        let Some(address) = config.http.listen else { return Ok(Self(None)) };
        let listener = http::bind(address).await?;
        // The port as the system gave it, where the configuration says 0.
        let address = listener.local_addr().unwrap_or(address);
        info!(%address, "listening");
        let served = http::Served { metrics: metrics.clone(), stopping: stopping.clone() };
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let until = async {
                let _ = ended.await;
            };
            if let Err(error) = http::serve(listener, served, until).await {
                error!(%error, "the HTTP listener failed");
            }
        });
        Ok(Self(Some((end, task))))
    }

    async fn stop(self) {
        let Some((end, mut task)) = self.0 else { return };
        let _ = end.send(());
        if tokio::time::timeout(LAST_REQUEST, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Keeps systemd's status line, and its watchdog where the unit sets one, for as long as no source is stuck.
async fn report(metrics: Metrics) {
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 2)).max(Duration::from_millis(100));
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        let states = metrics.standings();
        let states: Vec<_> =
            states.iter().map(|source| format!("{}: {}", source.source, shown(source.state()))).collect();
        notify(&[NotifyState::Status(&states.join(", "))]);
        if watchdog.is_some() && metrics.stuck(http::STUCK_AFTER).is_empty() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn shown(state: Option<SourceState>) -> &'static str {
    state.map_or("unknown", SourceState::as_str)
}

/// Does nothing where systemd does not ask for it.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn config(listen: &str) -> Config {
        let mut flags =
            Flags { brokers: Some("k:9092".to_owned()), http_listen: Some(listen.to_owned()), ..Flags::default() };
        flags.source.source_url = Some("postgres://u@db/shop".to_owned());
        flags.source.tables = vec!["outbox".to_owned()];
        Config::load_with(&flags, &|_| None).unwrap()
    }

    #[tokio::test]
    async fn a_signal_drains_the_relay_and_ends_with_0() {
        let stop = async { "SIGTERM" };
        let code = run_until(config("127.0.0.1:0"), stop, |mut daemon| async move {
            assert_eq!(daemon.metrics.standings()[0].state(), Some(SourceState::Starting));
            daemon.shutdown.wait_for(|stopping| *stopping).await.unwrap();
            Ok(())
        });
        assert_eq!(code.await.unwrap(), ExitCode::SUCCESS);
    }

    #[tokio::test]
    async fn a_halt_of_the_last_source_ends_with_3() {
        let halted = |_| async { Err(Error::new(Code::SlotMissing, "slot outboxd_shop")) };
        let code = run_until(config("off"), std::future::pending(), halted).await.unwrap();
        assert_eq!(code, ExitCode::from(3));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_ends_with_2_before_the_relay_starts() {
        let taken = http::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let listen = taken.local_addr().unwrap().to_string();
        let relay = |_| async { panic!("the relay was started") };
        let error = run_until(config(&listen), std::future::pending(), relay).await.unwrap_err();
        assert_eq!(exit_code(&error), ExitCode::from(2));
    }
}
