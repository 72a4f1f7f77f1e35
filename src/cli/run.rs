//! `outboxd run`: the daemon around the relay.
//!
//! Logs, metrics and the listener start first, and then the relay. A signal tells the relay to
//! drain. When the relay has ended, the listener ends. Readiness turns false at the signal, and
//! `/metrics` answers to the end. SIGHUP lets the configuration be read again (`reload.rs`).

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tracing::{debug, error, info, warn};

use super::{exit_code, reload::Reloading};
use crate::{
    Config, Result,
    config::{Flags, ShownSource, Source},
    http,
    runtime::{reload_signal, stop_signal},
    source::standing::SourceState,
    status,
    telemetry::{Metrics, build, logs, traces::Traces},
};

/// How long a request may take that is under way when the relay has ended.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// How often an instance that stands by tries to take the address of the one that serves there.
const ADDRESS_AGAIN: Duration = Duration::from_secs(3);

/// How often systemd hears from the daemon, unless its watchdog asks for more.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The arguments of `run`.
#[derive(Args)]
pub(super) struct RunArgs {
    /// Publish everything that is committed by the time that the sources stream, then drain and end
    /// with 0. An instance that runs already is an error.
    #[arg(long)]
    pub(super) until_idle: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// What the relay is given.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The validated configuration, and each one that replaces it.
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// Every source is registered already, as `starting`.
    pub(crate) metrics: Metrics,
    /// Where traced rows go, if rows are traced.
    pub(crate) traces: Option<Traces>,
    /// Turns true once, when the daemon has to drain.
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// `Ok`: the daemon was told to stop and has drained everything. `Err`: no source can go on; the
/// error is that of the first halt.
pub(super) async fn relay(daemon: Daemon) -> Result<()> {
    crate::relay::run(daemon.config, &daemon.metrics, daemon.traces, daemon.shutdown).await
}

/// `Ok`: every source had nothing left to publish, or the daemon was told to stop. `Err`: a source
/// cannot go on, or another instance has it.
pub(super) async fn relay_until_idle(daemon: Daemon) -> Result<()> {
    let config = daemon.config.borrow().clone();
    crate::relay::run_until_idle(&config, &daemon.metrics, daemon.traces, daemon.shutdown).await
}

/// Runs `relay` until it ends, and passes SIGTERM and SIGINT on to it. At SIGHUP it reads the
/// configuration again that `flags` name. Without them SIGHUP ends the process, as it does by
/// default.
pub(super) async fn run<R, F>(config: Config, flags: Option<Flags>, relay: R) -> Result<ExitCode>
where
    R: FnOnce(Daemon) -> F,
    F: Future<Output = Result<()>>,
{
    let level = logs::init(&config.log);
    let (sender, newest) = watch::channel(Arc::new(config));
    let reloading = match flags {
        Some(flags) => Some(tokio::spawn(Reloading { flags, level, config: sender }.run(reload_signal()?))),
        None => None,
    };
    let outcome = run_until(newest, stop_signal()?, relay).await;
    reloading.inspect(JoinHandle::abort);
    outcome
}

/// Does the same with any reason to stop. `stop` gives the name of the reason.
async fn run_until<R, F>(
    newest: watch::Receiver<Arc<Config>>,
    stop: impl Future<Output = &'static str> + Send + 'static,
    relay: R,
) -> Result<ExitCode>
where
    R: FnOnce(Daemon) -> F,
    F: Future<Output = Result<()>>,
{
    let config = newest.borrow().clone();
    info!(version = build::VERSION, commit = build::COMMIT, "outboxd starts");
    config.shown().iter().for_each(say);
    say_traced(&config);
    let metrics = Metrics::new();
    for source in &config.sources {
        let _ = metrics.source(&source.name);
    }
    let (stopping, shutdown) = watch::channel(false);
    let listener = Listener::start(&config, &metrics, &shutdown).await?;
    let signals = tokio::spawn(async move {
        let reason = stop.await;
        info!(reason, "stopping");
        notify(&[NotifyState::Stopping]);
        // Nobody listens once the relay has ended.
        let _ = stopping.send(true);
    });
    // systemd takes READY to mean that the daemon works. /readyz and the status line tell whether
    // rows flow. systemd must not kill a standby because it never streams.
    notify(&[NotifyState::Ready]);
    let reporter = tokio::spawn(report(metrics.clone()));

    let (traces, exporter) = config.tracing.as_ref().map(|tracing| Traces::start(tracing, &metrics)).unzip();

    let outcome = relay(Daemon { config: newest, metrics, traces, shutdown }).await;

    signals.abort();
    reporter.abort();
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
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

/// Says what a source was configured to do. Each fact is a field of its own.
fn say(shown: &ShownSource) {
    let ShownSource { source, tables, url, slot, publication, topic, brokers, delivery, mark, kafka_options } = shown;
    info!(source, tables, url, slot, publication, topic, brokers, delivery, mark, kafka_options, "source");
}

/// Says where spans go, and which sources can have none.
fn say_traced(config: &Config) {
    let Some(tracing) = &config.tracing else { return };
    info!(endpoint = %tracing.endpoint, sample = tracing.sample, "rows are traced");
    let has_parents = |source: &&Source| source.mapping.headers.iter().any(|(header, _)| *header == tracing.header);
    for source in config.sources.iter().filter(|source| !has_parents(source)) {
        let (source, header) = (&source.name, &tracing.header);
        warn!(source, header, "no row of the source is traced: [source.headers] names no column for this header");
    }
}

/// The task of the HTTP listener; `None` with `listen = "off"`.
struct Listener(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Listener {
    async fn start(config: &Config, metrics: &Metrics, stopping: &watch::Receiver<bool>) -> Result<Self> {
        let Some(address) = config.http.listen else { return Ok(Self(None)) };
        let at_once = take(address, config).await?;
        let served = http::Served { metrics: metrics.clone(), stopping: stopping.clone() };
        let (end, mut ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let listener = match at_once {
                Some(listener) => listener,
                None => tokio::select! {
                    listener = take_later(address) => listener,
                    _ = &mut ended => return,
                },
            };
            // Where the configuration says port 0, the system has chosen one.
            let address = listener.local_addr().unwrap_or(address);
            info!(%address, "listening");
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

/// Takes the address. `None` where another instance of one of these sources serves there, which is
/// no reason not to stand by.
async fn take(address: SocketAddr, config: &Config) -> Result<Option<TcpListener>> {
    match http::bind(address).await {
        Err(error) if http::is_taken(&error) => {}
        taken => return taken.map(Some),
    }
    let sources: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
    if status::daemon_has_one_of(address, &sources).await {
        warn!(
            %address,
            "another outboxd of this configuration serves at the address; this one serves nothing until the address is free"
        );
        return Ok(None);
    }
    // The other one may have ended between the two looks.
    http::bind(address).await.map(Some)
}

/// Waits until the address is free, and takes it.
async fn take_later(address: SocketAddr) -> TcpListener {
    loop {
        tokio::time::sleep(ADDRESS_AGAIN).await;
        match http::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => debug!(%error, "the address is still taken"),
        }
    }
}

/// Updates systemd's status line. It also feeds the watchdog, where the unit sets one, as long as
/// no source is stuck.
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

/// Tells systemd. It does nothing where systemd did not ask for it.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Error};

    fn config(listen: &str) -> watch::Receiver<Arc<Config>> {
        let mut flags =
            Flags { brokers: Some("k:9092".to_owned()), http_listen: Some(listen.to_owned()), ..Flags::default() };
        flags.source.source_url = Some("postgres://u@db/shop".to_owned());
        flags.source.tables = vec!["outbox".to_owned()];
        watch::channel(Arc::new(Config::load_with(&flags, &|_| None).unwrap())).1
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
    async fn an_address_that_a_stranger_has_ends_with_2_before_the_relay_starts() {
        let taken = http::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let listen = taken.local_addr().unwrap().to_string();
        let relay = |_| async { panic!("the relay was started") };
        let error = run_until(config(&listen), std::future::pending(), relay).await.unwrap_err();
        assert_eq!(exit_code(&error), ExitCode::from(2));
    }
}
