//! Downloads what a server needs before it can start. It fetches everything once and unpacks it
//! into a cache, which all test processes of the machine share under a file lock.

use std::{
    fs,
    io::IsTerminal,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::{Flock, FlockArg};

/// The broker's version.
pub const KAFKA: &str = "4.4.0";

/// The directory of the downloads: `$TESTBED_CACHE`, or else `testbed-cache` in the workspace's
/// target directory.
pub(crate) fn cache() -> Result<PathBuf> {
    let dir = if let Some(dir) = std::env::var_os("TESTBED_CACHE") {
        PathBuf::from(dir)
    } else {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"), PathBuf::from);
        let dir = target.join("testbed-cache");
        if readable_by_others(&dir) { dir } else { std::env::temp_dir().join("outboxd-testbed-cache") }
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(fs::canonicalize(dir)?)
}

/// When we are root, Postgres runs as another user, who must be able to reach its binaries.
fn readable_by_others(dir: &Path) -> bool {
    !nix::unistd::geteuid().is_root()
        || dir.ancestors().filter_map(|d| fs::metadata(d).ok()).all(|m| m.permissions().mode() & 0o001 != 0)
}

/// The directory of the broker's jars.
pub fn kafka() -> Result<PathBuf> {
    once(&format!("kafka-{KAFKA}"), &format!("Kafka {KAFKA} from Maven"), |dir| {
        maven("kafka", &[format!("-Dkafka.version={KAFKA}")], dir)
    })
}

/// A Postgres installation (`bin/`, `lib/`, `share/`) of this full version, as zonky publishes it.
pub fn postgres(version: &str) -> Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64v8",
        other => bail!("no Postgres binaries are published for {other}"),
    };
    once(&format!("postgres-{version}"), &format!("Postgres {version} from Maven"), |dir| {
        maven("postgres", &[format!("-Dpostgres.version={version}"), format!("-Dtestbed.arch={arch}")], dir)?;
        for ending in ["jar", "txz"] {
            let archive = only_file(dir, ending)?;
            let mut unpack = if ending == "jar" {
                let mut c = Command::new("unzip");
                c.args(["-q", "-o"]).arg(&archive).arg("-d").arg(dir);
                c
            } else {
                let mut c = Command::new("tar");
                c.arg("-xJf").arg(&archive).arg("-C").arg(dir);
                c
            };
            run(&mut unpack)?;
            fs::remove_file(archive)?;
        }
        Ok(())
    })
}

fn only_file(dir: &Path, ending: &str) -> Result<PathBuf> {
    fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|path| path.extension().is_some_and(|e| e == ending))
        .with_context(|| format!("no .{ending} in {}", dir.display()))
}

/// Copies the runtime dependencies of `java/<project>/pom.xml` into `dir`.
fn maven(project: &str, properties: &[String], dir: &Path) -> Result<()> {
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("java").join(project).join("pom.xml");
    run(Command::new("mvn")
        .args(["-B", "-q", "-f"])
        .arg(pom)
        .args(properties)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", dir.display())))
}

/// Runs `make` on an empty directory, once on this machine. When `make` succeeds, the directory
/// becomes `<cache>/<name>`.
pub(crate) fn once(name: &str, what: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let done = cache.join(name);
    if done.exists() {
        return Ok(done);
    }
    let lock = fs::File::create(cache.join(format!("{name}.lock")))?;
    let _progress = Progress::start(what);
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).context("flock")?;
    if done.exists() {
        return Ok(done);
    }
    let partial = cache.join(format!("{name}.partial"));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    make(&partial).with_context(|| format!("cannot fetch {what}"))?;
    fs::rename(&partial, &done)?;
    Ok(done)
}

/// Runs a command to its end. When it fails, its output is the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?}: {}\n{out}{err}", output.status);
    }
    Ok(())
}

/// Says what we wait for when that takes longer than a second, with a spinner on a terminal and
/// with plain lines elsewhere.
pub struct Progress {
    done: Option<mpsc::Sender<()>>,
    shown: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows it until the returned value is dropped.
    #[must_use]
    pub fn start(what: &str) -> Self {
        let (done, wait) = mpsc::channel::<()>();
        let what = what.to_owned();
        let shown = std::thread::spawn(move || {
            let started = Instant::now();
            if wait.recv_timeout(Duration::from_secs(1)) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            if std::io::stderr().is_terminal() {
                let bar = ProgressBar::new_spinner().with_message(what);
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(Duration::from_millis(100));
                let _ = wait.recv();
                bar.finish_and_clear();
            } else {
                eprintln!("testbed: {what} …");
                let _ = wait.recv();
                eprintln!("testbed: {what}: {:.1} s", started.elapsed().as_secs_f64());
            }
        });
        Self { done: Some(done), shown: Some(shown) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(shown) = self.shown.take() {
            let _ = shown.join();
        }
    }
}
