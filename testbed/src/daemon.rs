//! The daemon under test as a child process, or any other binary.

use std::{
    io::{BufRead, BufReader, Read},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::process::{Guarded, wait_until};

/// How many lines of its daemon a failing test shows.
const LAST_LINES: usize = 40;

/// How to run the daemon.
#[derive(Debug, Clone)]
pub struct Builder {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    config: Option<String>,
    http: u16,
}

impl Builder {
    /// An argument. `{config}` stands for the path of the configuration file, `{http}` for the HTTP
    /// address.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Several arguments.
    #[must_use]
    pub fn args(self, args: &[&str]) -> Self {
        args.iter().fold(self, |builder, arg| builder.arg(arg))
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The text of the configuration file; `{http}` stands for the HTTP address.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// `127.0.0.1:<free port>`, for which `{http}` stands.
    #[must_use]
    pub fn http_address(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    /// Starts it.
    pub fn start(self) -> Result<Daemon> {
        let guard = Guarded::new("daemon", None)?;
        let config = guard.dir().join("config.toml");
        let http = self.http_address();
        if let Some(text) = &self.config {
            std::fs::write(&config, text.replace("{http}", &http))?;
        }
        let daemon = Daemon { guard, builder: self, config, output: Arc::default() };
        daemon.launch()?;
        Ok(daemon)
    }
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    guard: Guarded,
    builder: Builder,
    config: PathBuf,
    output: Arc<Output>,
}

/// What the process has written, and how many of its pipes may still bring more.
#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    open: AtomicUsize,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything is read that the process wrote before its end.
    fn is_whole(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }
}

/// A test that panics shows what its daemon said.
impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.output.lines();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("the last lines of {}:\n{}", self.builder.program.display(), last.join("\n"));
        }
    }
}

impl Daemon {
    /// A binary: `env!("CARGO_BIN_EXE_outboxd")` in an integration test.
    pub fn builder(program: impl AsRef<Path>) -> Result<Builder> {
        Ok(Builder {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            config: None,
            http: crate::ports::free()?,
        })
    }

    /// Starts it again after its end, with the same arguments. New lines come after the old ones.
    pub fn start_again(&self) -> Result<()> {
        self.launch()
    }

    /// Gives its configuration file another text, as [`Builder::config`] does. It reads the file again
    /// when it is started or told to.
    pub fn rewrite_config(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(&self.config, text.replace("{http}", &self.http_address()))?)
    }

    fn launch(&self) -> Result<()> {
        let mut command = self.guard.server(&self.builder.program);
        let config = self.config.to_string_lossy();
        for arg in &self.builder.args {
            command.arg(arg.replace("{config}", &config).replace("{http}", &self.builder.http_address()));
        }
        command.envs(self.builder.env.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.guard.launch(&mut command)?;
        let (stdout, stderr) = self.guard.take_outputs();
        self.collect(stdout.context("no stdout")?);
        self.collect(stderr.context("no stderr")?);
        Ok(())
    }

    fn collect(&self, pipe: impl Read + Send + 'static) {
        let output = self.output.clone();
        output.open.fetch_add(1, Ordering::Release);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                output.lines().push(line);
            }
            output.open.fetch_sub(1, Ordering::Release);
        });
    }

    /// The lines of stdout and stderr so far, as they arrived.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output.lines().clone()
    }

    /// Waits for the first line for which `wanted` holds. The line may be there already.
    pub async fn wait_for_line(&self, wanted: impl Fn(&str) -> bool, within: Duration) -> Result<String> {
        self.wait_for_line_after(0, wanted, within).await
    }

    /// Waits in the same way among the lines from number `after` on, for example `lines().len()`
    /// before the fault.
    pub async fn wait_for_line_after(
        &self,
        after: usize,
        wanted: impl Fn(&str) -> bool,
        within: Duration,
    ) -> Result<String> {
        let started = Instant::now();
        loop {
            // This comes before the look at the lines, so that we do not miss the last lines of a
            // process that has ended.
            let ended = self.guard.exited()?.is_some() && self.output.is_whole();
            if let Some(line) = self.lines().into_iter().skip(after).find(|line| wanted(line)) {
                return Ok(line);
            }
            if ended {
                bail!("it ended without that line; its output:\n{}", self.lines().join("\n"));
            }
            if started.elapsed() > within {
                bail!("no such line within {within:?}; its output:\n{}", self.lines().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends SIGKILL, and waits as [`wait_status`](Self::wait_status) does.
    pub fn kill9(&self) -> Result<()> {
        self.guard.kill9()?;
        self.wait_whole()
    }

    fn wait_whole(&self) -> Result<()> {
        wait_until(|| self.output.is_whole()).context("it has ended, but something still holds its output open")
    }

    /// SIGTERM.
    pub fn term(&self) -> Result<()> {
        self.guard.signal(Signal::SIGTERM)
    }

    /// SIGINT.
    pub fn int(&self) -> Result<()> {
        self.guard.signal(Signal::SIGINT)
    }

    /// SIGHUP.
    pub fn hup(&self) -> Result<()> {
        self.guard.signal(Signal::SIGHUP)
    }

    /// SIGSTOP.
    pub fn pause(&self) -> Result<()> {
        self.guard.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.guard.signal(Signal::SIGCONT)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> Result<bool> {
        Ok(self.guard.exited()?.is_none())
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(u32::try_from(self.guard.pid()?.as_raw())?)
    }

    /// Waits until it has ended and all that it wrote is in [`lines`](Self::lines), and returns its
    /// status.
    pub async fn wait_status(&self, within: Duration) -> Result<ExitStatus> {
        let status = self.guard.wait_exit(within).await;
        let status = status.with_context(|| format!("its output:\n{}", self.lines().join("\n")))?;
        self.wait_whole()?;
        Ok(status)
    }

    /// Waits for its end and returns its exit code. It is an error when a signal ended it.
    pub async fn wait_exit(&self, within: Duration) -> Result<i32> {
        let status = self.wait_status(within).await?;
        status.code().with_context(|| format!("it was ended by a signal: {status}"))
    }

    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn http_address(&self) -> String {
        self.builder.http_address()
    }

    /// Status and body of `GET <path>`.
    pub async fn http_get(&self, path: &str) -> Result<(u16, String)> {
        http_get(self.builder.http, path).await
    }

    /// The memory that it occupies now, in bytes (VmRSS).
    pub fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory that it ever occupied, in bytes (VmHWM).
    pub fn peak_resident(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("it has ended")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }
}

/// Status and body of a `GET` on 127.0.0.1. The body must come in one piece.
pub async fn http_get(port: u16, path: &str) -> Result<(u16, String)> {
    exchange(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")).await
}

/// The same of a server that sends its body in chunks to whoever speaks HTTP/1.1.
pub(crate) async fn http_get_unchunked(port: u16, path: &str) -> Result<(u16, String)> {
    exchange(port, &format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")).await
}

async fn exchange(port: u16, request: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Not every server hangs up after its answer.
        while !is_whole(&answer) && stream.read_buf(&mut answer).await? > 0 {}
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await.context("no answer within 5 s")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the header")?;
    let status = head.split_whitespace().nth(1).context("no status line")?.parse()?;
    Ok((status, body.to_owned()))
}

/// Whether the answer has as many bytes as it says.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| answer.len() >= head.len() + 4 + length)
}
