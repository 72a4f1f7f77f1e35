//! `--counts`: the system calls and allocations of a row, counted by `perf` in drains of their own.
//!
//! The daemon is paused while its backlog is loaded. It goes on as soon as perf counts, so the
//! counts do not include its start. Probes at the allocator's entries in the binary count
//! allocations. A normal build needs nothing for that, and a drain without probes is not slower.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use testbed::Daemon;
use tokio::process::Command;

use super::{
    drain::{done, patience},
    report::Report,
    setting::{Setting, Source, say, streaming},
    shape::Shape,
    table::Table,
};

pub(crate) const ROWS: i64 = 200_000;

const ALL_SYSTEM_CALLS: &str = "raw_syscalls:sys_enter";

/// All system calls together, and those that a daemon may make for every row if it is not careful.
const SYSTEM_CALLS: [&str; 15] = [
    ALL_SYSTEM_CALLS,
    "syscalls:sys_enter_recvfrom",
    "syscalls:sys_enter_recvmsg",
    "syscalls:sys_enter_read",
    "syscalls:sys_enter_sendto",
    "syscalls:sys_enter_sendmsg",
    "syscalls:sys_enter_write",
    "syscalls:sys_enter_writev",
    "syscalls:sys_enter_poll",
    "syscalls:sys_enter_epoll_wait",
    "syscalls:sys_enter_futex",
    "syscalls:sys_enter_clock_nanosleep",
    "syscalls:sys_enter_madvise",
    "syscalls:sys_enter_mmap",
    "syscalls:sys_enter_munmap",
];

/// The entries of jemalloc, which both C and Rust call.
const ALLOCATIONS: [&str; 7] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "mallocx", "rallocx"];

/// How often the daemon is asked how far it is. This is seldom, since an answer also costs calls
/// and allocations.
const LOOK: Duration = Duration::from_millis(250);

/// Longest wait for perf to start or to end.
const PERF_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn measure(setting: &Setting, rows: i64, report: &mut Report) -> Result<()> {
    let events = Ok(SYSTEM_CALLS.map(str::to_owned).into());
    section(setting, rows, ("System calls", "system_calls"), events, report).await?;
    let probes = Probes::insert(setting.outboxd()).await;
    let events = probes.as_ref().map(Probes::events).map_err(|error| anyhow!("{error:#}"));
    section(setting, rows, ("Allocations", "allocations"), events, report).await
}

/// Counts these events, or tells why they cannot be counted here.
async fn section(
    setting: &Setting,
    rows: i64,
    (title, figure): (&str, &str),
    events: Result<Vec<String>>,
    report: &mut Report,
) -> Result<()> {
    let events = match events {
        Ok(events) => perf(&["stat", "-e", &events.join(","), "true"]).await.map(|()| events),
        Err(why) => Err(why),
    };
    match events {
        Ok(events) => {
            let counts = count(setting, figure, &events, rows).await?;
            let mut table = Table::new(&["all", "per 1,000 rows"]);
            for (event, count) in &counts {
                table.row(event, &[count.to_string(), format!("{:.1}", *count as f64 / (rows as f64 / 1e3))]);
                report.figure(&format!("{figure}_{event}"), *count);
            }
            report.section(&format!("{title} in a drain of {rows} rows, mark none"), table.text());
        }
        Err(why) => report.section(title, &format!("Not counted, as perf cannot do so here: {why:#}")),
    }
    Ok(())
}

/// Each event by its short name, and how often it happened in a drain.
async fn count(setting: &Setting, name: &str, events: &[String], rows: i64) -> Result<Vec<(String, u64)>> {
    let client = setting.database(name).await?;
    let source = Source::new(name, name, "none");
    setting.set_up(&client, &source).await?;
    let daemon = setting.daemon(std::slice::from_ref(&source))?;
    streaming(&daemon).await?;
    daemon.pause()?;
    Shape::seed(rows, 1_000).load(&client).await?;
    say("counting");
    let counted = perf_drain(&daemon, events, rows).await?;
    daemon.term()?;
    ensure!(daemon.wait_exit(PERF_WITHIN).await? == 0, "{}", daemon.lines().join("\n"));
    drop(client);
    setting.remove(&source).await?;
    // 123;;raw_syscalls:sys_enter;…
    let count = |line: &str| {
        let mut fields = line.split(';');
        let count = fields.next()?.parse().ok()?;
        let event = match fields.nth(1)? {
            ALL_SYSTEM_CALLS => "all",
            event => event.rsplit(':').next()?.trim_start_matches("sys_enter_"),
        };
        Some((event.to_owned(), count))
    };
    let mut counts: Vec<_> = counted.lines().filter_map(count).collect();
    ensure!(counts.len() == events.len(), "perf says:\n{counted}");
    if !events.iter().any(|event| event == ALL_SYSTEM_CALLS) {
        counts.insert(0, ("all".to_owned(), counts.iter().map(|(_, count)| count).sum()));
    }
    Ok(counts)
}

/// perf counts as long as its command runs. The command wakes the daemon and waits until we end it.
async fn perf_drain(daemon: &Daemon, events: &[String], rows: i64) -> Result<String> {
    let pid = daemon.pid()?.to_string();
    let mut perf = Command::new("perf")
        .args(["stat", "-x", ";", "-e", &events.join(","), "-p", &pid, "--"])
        .args(["sh", "-c", "kill -CONT $0; read -r _", &pid])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let word = perf.stdin.take().context("no stdin")?;
    let deadline = Instant::now() + patience(rows);
    while done(daemon, "none").await.unwrap_or(0.0) < rows as f64 {
        ensure!(Instant::now() < deadline, "not drained:\n{}", daemon.lines().join("\n"));
        tokio::time::sleep(LOOK).await;
    }
    drop(word);
    let output = tokio::time::timeout(PERF_WITHIN, perf.wait_with_output()).await.context("perf does not end")??;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Probes of the kernel at functions of a program. They are removed when this is dropped.
struct Probes {
    group: String,
}

impl Probes {
    async fn insert(program: &Path) -> Result<Self> {
        let probes = Self { group: format!("outboxd_bench_{}", std::process::id()) };
        let program = program.to_string_lossy();
        for function in ALLOCATIONS {
            let probe = format!("{}:{function}={function}", probes.group);
            // Rust has a `realloc` of its own, which is inlined everywhere and calls the
            // allocator's.
            perf(&["probe", "-q", "--no-inlines", "-x", &program, "--add", &probe]).await?;
        }
        Ok(probes)
    }

    fn events(&self) -> Vec<String> {
        ALLOCATIONS.map(|function| format!("{}:{function}", self.group)).into()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // This fails for probes that were never inserted, which is no problem.
        let _ = std::process::Command::new("perf").args(["probe", "-q", "-d", &format!("{}:*", self.group)]).output();
    }
}

/// Fails with perf's own words.
async fn perf(args: &[&str]) -> Result<()> {
    let mut command = Command::new("perf");
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PERF_WITHIN, command.output()).await.context("no answer")?;
    let output = output.context("cannot run perf")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
