//! The machine, and how much its processes have used.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result};
use nix::{
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};
use serde_json::{Map, Value, json};

/// Processor time of a process, finer than the ticks of /proc.
pub(crate) struct Processor(ClockId);

impl Processor {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Ok(Self(clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?))
    }

    /// User and system time that all its threads have used so far.
    pub(crate) fn time(&self) -> Result<Duration> {
        Ok(self.0.now()?.into())
    }
}

/// Seconds of each thread that used any, by name, the busiest first. Threads of one name count
/// together.
pub(crate) fn thread_times(pid: u32) -> Result<Vec<(String, f64)>> {
    let mut times: Vec<(String, f64)> = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end before its file is read.
        let Ok((name, time)) = stat(&task?.path().join("stat")) else { continue };
        match times.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += time.as_secs_f64(),
            None => times.push((name, time.as_secs_f64())),
        }
    }
    times.retain(|(_, time)| *time > 0.0);
    times.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(times)
}

/// How many threads a process has.
pub(crate) fn threads(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

/// Name and time of a thread. The name stands in parentheses and may hold spaces. utime and stime
/// are fields 14 and 15, in ticks of 10 ms.
fn stat(path: &std::path::Path) -> Result<(String, Duration)> {
    let text = fs::read_to_string(path)?;
    let (head, tail) = text.rsplit_once(')').context("no name")?;
    let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).context("a short line").and_then(|field| Ok(field.parse::<u64>()?));
    Ok((name, Duration::from_millis((ticks(11)? + ticks(12)?) * 10)))
}

/// The machine and the commit that a result comes from.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) load: String,
    /// The short id, with `+` when the measured or the measuring code has changes that are not
    /// committed.
    pub(crate) commit: String,
    /// `2024-01-15T10:30:00Z`
    pub(crate) date: String,
}

/// A change in these paths changes the result. Documents and results may change during a run.
const MEASURED: [&str; 5] = [":/src", ":/testbed", ":/Cargo.toml", ":/Cargo.lock", ":/.cargo"];

impl Host {
    pub(crate) fn here() -> Self {
        let line = |path: &str, start: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
            line.trim_start_matches(start).trim_start_matches([' ', '\t', ':']).trim().to_owned()
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let kib: u64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        let changes =
            output("git", &[&["status", "--porcelain", "--untracked-files=no", "--"], MEASURED.as_slice()].concat());
        let dirty = if changes.is_empty() { "" } else { "+" };
        Self {
            name: line("/proc/sys/kernel/hostname", ""),
            processor: line("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_gib: kib.div_ceil(1024 * 1024),
            kernel: line("/proc/sys/kernel/osrelease", ""),
            load: line("/proc/loadavg", "").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            commit: format!("{}{dirty}", output("git", &["rev-parse", "--short", "HEAD"])),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        }
    }

    pub(crate) fn json(&self) -> Map<String, Value> {
        let Self { name, processor, cores, memory_gib, kernel, load, commit, date } = self;
        let fields = [
            ("commit", json!(commit)),
            ("date", json!(date)),
            ("host", json!(name)),
            ("processor", json!(processor)),
            ("cores", json!(cores)),
            ("memory_gib", json!(memory_gib)),
            ("kernel", json!(kernel)),
            ("load_before", json!(load)),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What a command prints; an empty text when it cannot run.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
