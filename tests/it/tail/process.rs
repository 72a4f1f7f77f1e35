//! A `tail` that runs, and whose reader the test is.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{eventually, unique};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::scene::PATIENCE;

/// What it says when it has begun.
pub(super) const BEGINS: &str = "shows what commits from";

/// A `tail` that runs.
pub(super) struct Tail {
    child: Child,
    /// `None` once its reader has gone.
    pub(super) out: Option<Lines<BufReader<ChildStdout>>>,
    /// The lines of standard error.
    said: Arc<Mutex<Vec<String>>>,
    /// It ends with the process, once the last line is read.
    reading: Option<JoinHandle<()>>,
    config: PathBuf,
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.config);
    }
}

impl Tail {
    /// Starts it, and waits until it shows what commits.
    pub(super) async fn start(config: &str, arguments: &[&str]) -> Result<Self> {
        let tail = Self::spawn(config, arguments)?;
        tail.wait_said(BEGINS).await;
        Ok(tail)
    }

    pub(super) fn spawn(config: &str, arguments: &[&str]) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("outboxd-{}.toml", unique("tail")));
        std::fs::write(&path, config.replace("{http}", "off"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command.arg("tail").arg("--config").arg(&path).args(arguments).kill_on_drop(true);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut errors = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let all = Arc::clone(&said);
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                all.lock().unwrap().push(line);
            }
        });
        let out = Some(BufReader::new(child.stdout.take().context("no stdout")?).lines());
        Ok(Self { child, out, said, reading: Some(reading), config: path })
    }

    pub(super) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Waits until standard error has a line with this text.
    pub(super) async fn wait_said(&self, text: &str) {
        eventually(PATIENCE, || async {
            ensure!(self.said().contains(text), "{text:?} is not in:\n{}", self.said());
            Ok(())
        })
        .await;
    }

    pub(super) async fn line(&mut self) -> Result<String> {
        let out = self.out.as_mut().context("the reader has gone")?;
        let line = timeout(PATIENCE, out.next_line()).await;
        let line = line.with_context(|| format!("no line; it said:\n{}", self.said.lock().unwrap().join("\n")))??;
        line.with_context(|| format!("it printed no more; it said:\n{}", self.said.lock().unwrap().join("\n")))
    }

    pub(super) async fn lines(&mut self, count: usize) -> Result<Vec<Value>> {
        let mut lines = Vec::with_capacity(count);
        for _ in 0..count {
            lines.push(serde_json::from_str(&self.line().await?)?);
        }
        Ok(lines)
    }

    /// `-INT` or `-TERM`
    pub(super) async fn signal(&self, signal: &str) -> Result<()> {
        let sent = Command::new("kill").args([signal, &self.pid()?.to_string()]).status().await?;
        ensure!(sent.success(), "kill {signal}: {sent}");
        Ok(())
    }

    pub(super) fn pid(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// The most memory that it ever occupied, in bytes.
    pub(super) fn peak(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("it has ended")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }

    pub(super) async fn exit(&mut self) -> Result<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.with_context(|| format!("it goes on; it said:\n{}", self.said()))??;
        if let Some(reading) = self.reading.take() {
            timeout(PATIENCE, reading).await??;
        }
        status.code().with_context(|| format!("{status}"))
    }
}
