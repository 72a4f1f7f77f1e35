//! Child processes that cannot outlive us.
//!
//! ```text
//!   test process ──pipe──▶ watcher (sh, reads until EOF)
//!        │                    │ then: kill -9 the server and its children, remove its directory
//!        └──fork──▶ server ◀──┘
//! ```
//! The kernel closes the pipe in whatever way the test process ends, even by `kill -9`. So the
//! watcher is the one place that cleans up, and `Drop` only closes the pipe early. The server
//! writes its process id into its directory before `exec`. When we die between the fork and that
//! write, the directory is already gone, the write fails and nothing starts.

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::{Pid, User},
};

/// Longest wait for the effect of a signal. A process that waits for the disk ends only after that.
const SIGNAL_WITHIN: Duration = Duration::from_secs(30);

/// `postmaster.pid` names the System V segment that a killed Postgres leaves behind (line 7: key
/// and id).
const WATCHER: &str = r#"
trap '' HUP INT TERM
dir=$1
while read -r _; do :; done
pid=$(cat "$dir/pid" 2>/dev/null)
if [ -n "$pid" ]; then
    kill -STOP "$pid"
    children=$(cat "/proc/$pid/task/$pid/children")
    for p in $children "$pid"; do kill -KILL "$p"; done
    kill -KILL -- "-$pid"
fi 2>/dev/null
segment=$(sed -n 7p "$dir/data/postmaster.pid" 2>/dev/null)
[ -n "$segment" ] && ipcrm -m "${segment##* }" 2>/dev/null
mountpoint -q "$dir/tmpfs" 2>/dev/null && umount -l "$dir/tmpfs" 2>/dev/null
n=0
until rm -rf "$dir" 2>/dev/null && [ ! -e "$dir" ]; do
    n=$((n + 1)); [ $n -gt 100 ] && exit 1
    sleep 0.05
done
exit 0
"#;

/// `$0` is the server's directory. The arguments are the server's command line.
const LAUNCHER: &str = r#"echo $$ > "$0/pid" && exec "$@""#;

/// The user that runs a server when we are root. Postgres refuses to run as root.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// `None` when we are an ordinary user, who needs no other one.
    pub(crate) fn unprivileged() -> Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
            }
        }
        bail!("running as root, and there is neither a user `postgres` nor `nobody` to run Postgres as")
    }

    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("chown {}", path.display()))
    }
}

/// A directory, a server that lives in it (at most one at a time), and the watcher that ends both.
#[derive(Debug)]
pub(crate) struct Guarded {
    dir: PathBuf,
    account: Option<Account>,
    watcher: Child,
    child: Mutex<Option<Child>>,
}

impl Guarded {
    pub(crate) fn new(label: &str, account: Option<Account>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(&format!("testbed-{label}-")).tempdir()?.keep();
        let watcher = Command::new("sh")
            .args(["-c", WATCHER, "testbed-watcher"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the terminal's foreground group, and the watcher has to outlive that
            // group.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let guarded = Self { dir, account, watcher, child: Mutex::new(None) };
        if let Some(account) = &guarded.account {
            account.own(&guarded.dir)?;
        }
        Ok(guarded)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A subdirectory that belongs to the server's user.
    pub(crate) fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path)?;
        self.own(&path)?;
        Ok(path)
    }

    /// A file system in memory of this size, which ends together with the directory. It needs root.
    pub(crate) fn mount_tmpfs(&self, megabytes: u32) -> Result<PathBuf> {
        let path = self.subdir("tmpfs")?;
        mount(&["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"], &path)?;
        self.own(&path)?;
        Ok(path)
    }

    pub(crate) fn resize_tmpfs(&self, megabytes: u32) -> Result<()> {
        mount(&["-o", &format!("remount,size={megabytes}m")], &self.dir.join("tmpfs"))
    }

    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        self.account.as_ref().map_or(Ok(()), |account| account.own(path))
    }

    /// A command that runs as the server's user inside its directory and ends by itself, such as
    /// initdb.
    pub(crate) fn tool(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command
    }

    /// The command that [`Guarded::launch`] takes; the caller adds arguments, environment and
    /// outputs.
    pub(crate) fn server(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCHER]).arg(&self.dir).arg(program);
        self.prepare(&mut command);
        command.process_group(0);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(&self.dir).stdin(Stdio::null());
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
    }

    pub(crate) fn launch(&self, command: &mut Command) -> Result<()> {
        let mut child = self.lock();
        if let Some(running) = child.as_mut()
            && running.try_wait()?.is_none()
        {
            bail!("the server in {} is running already", self.dir.display());
        }
        *child = Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }

    /// The outputs of the process, when the command piped them.
    pub(crate) fn take_outputs(&self) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        self.lock().as_mut().map_or((None, None), |child| (child.stdout.take(), child.stderr.take()))
    }

    /// How the server ended; `None` while it runs. It is an error when the server was never
    /// launched.
    pub(crate) fn exited(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.lock();
        let Some(running) = child.as_mut() else { bail!("nothing was started in {}", self.dir.display()) };
        let status = running.try_wait()?;
        if status.is_some() {
            // From now on the kernel may give the id to another process.
            let _ = std::fs::remove_file(self.dir.join("pid"));
        }
        Ok(status)
    }

    pub(crate) async fn wait_exit(&self, within: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if started.elapsed() > within {
                bail!("{} did not end within {within:?}", self.describe());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn describe(&self) -> String {
        format!("process {} in {}", self.pid().map_or_else(|_| "?".to_owned(), |p| p.to_string()), self.dir.display())
    }

    pub(crate) fn pid(&self) -> Result<Pid> {
        let id = self.lock().as_ref().map(Child::id).context("nothing was started")?;
        Ok(Pid::from_raw(i32::try_from(id)?))
    }

    /// Sends a signal to the server itself.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if self.exited()?.is_some() {
            bail!("{} is not running", self.describe());
        }
        signal::kill(self.pid()?, signal).context("kill")
    }

    /// Sends a signal to the server and to every child of it. Postgres gives each backend a session
    /// of its own, so a process group is not enough. The server is stopped first, so that it does
    /// not fork while its children are listed.
    pub(crate) fn signal_tree(&self, signal: Signal) -> Result<()> {
        self.signal_listed(signal).map(|_| ())
    }

    /// Sends a signal in the same way, and returns the children.
    fn signal_listed(&self, signal: Signal) -> Result<Vec<Pid>> {
        self.signal(Signal::SIGSTOP)?;
        let pid = self.pid()?;
        // A process stops when it would run next, not when the signal is sent.
        wait_until(|| matches!(state(pid), None | Some('T' | 't' | 'Z' | 'X')))
            .with_context(|| format!("{} does not stop", self.describe()))?;
        let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut children = Vec::new();
        for child in listed.split_whitespace() {
            let child = Pid::from_raw(child.parse()?);
            // A child that has just ended is no error.
            let _ = signal::kill(child, signal);
            children.push(child);
        }
        signal::kill(pid, signal).context("kill")?;
        Ok(children)
    }

    /// Sends SIGKILL to the server and its children. It returns when the server is reaped and no
    /// child holds anything: the next start must find the shared memory unused.
    pub(crate) fn kill9(&self) -> Result<()> {
        let children = self.signal_listed(Signal::SIGKILL)?;
        if let Some(child) = self.lock().as_mut() {
            child.wait()?;
        }
        for child in children {
            wait_until(|| matches!(state(child), None | Some('Z' | 'X')))
                .with_context(|| format!("child {child} of {} does not end", self.describe()))?;
        }
        self.exited().map(|_| ())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The letter of a process's state (proc_pid_stat(5)); `None` when the process is gone.
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses, and may itself contain some.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Waits for what follows a signal or an end, which comes soon but not at once.
pub(crate) fn wait_until(mut done: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        anyhow::ensure!(started.elapsed() < SIGNAL_WITHIN, "not within {SIGNAL_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn mount(options: &[&str], path: &Path) -> Result<()> {
    let status = Command::new("mount").args(options).arg(path).status().context("cannot run mount")?;
    anyhow::ensure!(status.success(), "mount {options:?} {}: {status}", path.display());
    Ok(())
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
        if let Some(child) = self.lock().as_mut() {
            let _ = child.wait();
        }
    }
}
