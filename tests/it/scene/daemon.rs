//! What the tests do with a daemon and ask of it.

use anyhow::{Context, Result, bail, ensure};
use testbed::{Daemon, eventually};

use super::PATIENCE;

/// Starts a daemon with this configuration.
pub(crate) fn start(config: &str) -> Result<Daemon> {
    Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&["run", "--config", "{config}"]).config(config).start()
}

/// Waits until the daemon is ready.
pub(crate) async fn wait_ready(daemon: &Daemon) {
    eventually(PATIENCE, || async {
        match daemon.http_get("/readyz").await {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => bail!("/readyz says {status}: {body}\n{}", tail(daemon)),
            Err(error) => bail!("/readyz: {error:#}\n{}", tail(daemon)),
        }
    })
    .await;
}

/// Whether it streams from every source now.
pub(crate) async fn is_ready(daemon: &Daemon) -> bool {
    matches!(daemon.http_get("/readyz").await, Ok((200, _)))
}

/// Waits until `/status` shows the state.
pub(crate) async fn wait_state(daemon: &Daemon, state: &str) {
    let wanted = format!("\"{state}\"");
    eventually(PATIENCE, || async {
        let (_, body) = daemon.http_get("/status").await?;
        ensure!(body.contains(&wanted), "the status is {body}");
        Ok(())
    })
    .await;
}

/// The daemon's last lines, for a failure's message.
pub(crate) fn tail(daemon: &Daemon) -> String {
    let lines = daemon.lines();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// How often the daemon has begun to stream.
pub(crate) fn times_led(daemon: &Daemon) -> usize {
    daemon.lines().iter().filter(|line| line.contains("\"message\":\"streaming\"")).count()
}

/// Waits for a log line with this error code.
pub(crate) async fn wait_code(daemon: &Daemon, code: &str) -> Result<String> {
    let wanted = format!("\"code\":\"{code}\"");
    daemon.wait_for_line(|line| line.contains(&wanted), PATIENCE).await
}

/// Ends the daemon in order.
pub(crate) async fn stop(daemon: &Daemon) -> Result<()> {
    daemon.term()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 0, "a drain ends with exit code 0\n{}", tail(daemon));
    Ok(())
}

/// Waits until a daemon that runs has halted with this code. Gives back the log line with the code.
pub(crate) async fn halts(daemon: &Daemon, code: &str) -> Result<String> {
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 3, "{}", tail(daemon));
    wait_code(daemon, code).await
}

/// Starts a daemon that has ended, and waits until it has halted with this code.
pub(crate) async fn halts_again(daemon: &Daemon, code: &str) -> Result<()> {
    daemon.start_again()?;
    halts(daemon, code).await.map(drop)
}

/// Starts a daemon that has ended, and waits until it streams.
pub(crate) async fn streams_again(daemon: &Daemon) -> Result<()> {
    daemon.start_again()?;
    wait_ready(daemon).await;
    Ok(())
}

/// What `/metrics` shows at one moment.
pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) async fn of(daemon: &Daemon) -> Result<Self> {
        Ok(Self(daemon.http_get("/metrics").await?.1))
    }

    /// The value of the first series that has this name. Labels may follow: `name{label="value"`.
    pub(crate) fn value(&self, series: &str) -> Result<f64> {
        let is_it = |line: &&str| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(['{', ',', '}', ' ']));
        let line = self.0.lines().find(is_it);
        let value =
            line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {series} in {}", self.0))?;
        Ok(value.parse()?)
    }
}

/// One value of `/metrics`.
pub(crate) async fn metric(daemon: &Daemon, series: &str) -> Result<f64> {
    Metrics::of(daemon).await?.value(series)
}
