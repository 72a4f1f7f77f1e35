//! Reports what happens, at once and in the end.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::Result;
use serde_json::Value;
use testbed::Audit;

use super::{
    audit::Auditor,
    fault::Kind,
    rain::{Inflicted, Times},
    stage::Stage,
    watch::AllSeen,
};
use crate::{host::Host, sources::SOURCES};

/// Prints what happens, with the time, and keeps it.
pub(crate) struct Timeline {
    started: Instant,
    lines: Mutex<String>,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), lines: Mutex::default() }
    }

    pub(crate) fn say(&self, text: &str) {
        let line = format!("{:>7.1} s  {text}", self.started.elapsed().as_secs_f64());
        println!("{line}");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_str(&line);
        lines.push('\n');
    }
}

pub(crate) struct Report<'a> {
    pub(crate) host: Host,
    pub(crate) command: String,
    /// The major of Postgres.
    pub(crate) postgres: u32,
    pub(crate) stage: &'a Stage,
    pub(crate) inflicted: &'a Inflicted,
    pub(crate) auditor: &'a Auditor,
    pub(crate) seen: AllSeen,
    pub(crate) clean: bool,
}

impl Report<'_> {
    pub(crate) fn text(&self) -> Result<String> {
        let mut text = self.heading();
        self.write_audit(&mut text)?;
        self.write_faults(&mut text)?;
        self.write_sources(&mut text)?;
        self.write_daemons(&mut text)?;
        Ok(text)
    }

    fn heading(&self) -> String {
        let Host { name, processor, cores, memory_gib, kernel, load, commit, date } = &self.host;
        let postgres = self.postgres;
        format!(
            "# Chaos: outboxd {commit}, {date}\n\n`{}`\n\n\
             {cores} cores of {processor}, {memory_gib} GiB, Linux {kernel}, host {name}, load before: {load}.\n\
             Postgres {postgres}{}, Kafka {} (three brokers and a controller), three daemons with all three sources, and the writers share them.\n",
            self.command,
            if self.stage.has_standby { " with a standby" } else { "" },
            testbed::artifacts::KAFKA
        )
    }

    fn write_audit(&self, text: &mut String) -> Result<()> {
        let written = &self.auditor.written;
        writeln!(
            text,
            "\n## The audit: {}\n\n\
             {} transactions committed with {} rows ({} of them with 1,000 rows and more), {} rolled back; {} audits, \
             the longest wait for rest {:.0} s.\n\n\
             | source | rows | records | duplicates | missing | unknown | out of order | torn | unmarked |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|",
            if self.clean { "clean" } else { "NOT CLEAN" },
            written.transactions,
            written.rows,
            written.large,
            written.rolled_back,
            self.auditor.audits,
            self.auditor.longest_rest.as_secs_f64()
        )?;
        let together: Audit = self.auditor.sums.iter().cloned().sum();
        let named = SOURCES.iter().map(|source| source.name).chain(["together"]);
        for (name, audit) in named.zip(self.auditor.sums.iter().chain([&together])) {
            let Audit { rows, records, duplicates, missing, unknown, out_of_order, torn, unmarked, .. } = audit;
            writeln!(
                text,
                "| {name} | {rows} | {records} | {duplicates} | {missing} | {unknown} | {out_of_order} | {torn} | {unmarked} |"
            )?;
        }
        Ok(())
    }

    fn write_faults(&self, text: &mut String) -> Result<()> {
        let total: usize = self.inflicted.values().map(|times| times.happened).sum();
        writeln!(text, "\n## The faults: {total}\n\n| fault | dealt | happened |\n|---|---:|---:|")?;
        for (kind, ..) in Kind::ALL {
            let Times { dealt, happened } = self.inflicted.get(&kind).copied().unwrap_or_default();
            writeln!(text, "| {} | {dealt} | {happened} |", kind.name())?;
        }
        Ok(())
    }

    fn write_sources(&self, text: &mut String) -> Result<()> {
        writeln!(text, "\n## The sources\n\n| source | takeovers | time with a leader |\n|---|---:|---:|")?;
        for (source, seen) in SOURCES.iter().zip(&self.seen) {
            let share = 100.0 * seen.streaming as f64 / seen.looks.max(1) as f64;
            writeln!(text, "| {} | {} | {share:.0} % |", source.name, seen.takeovers)?;
        }
        Ok(())
    }

    /// Writes the memory of each daemon, and the codes of the errors that ended its sessions.
    fn write_daemons(&self, text: &mut String) -> Result<()> {
        let mut codes: BTreeMap<String, usize> = BTreeMap::new();
        writeln!(text, "\n## The daemons\n")?;
        for (number, daemon) in self.stage.daemons.iter().enumerate() {
            writeln!(
                text,
                "Daemon {number}: at most {:.0} MiB in its last life.",
                daemon.peak_resident()? as f64 / 1_048_576.0
            )?;
            for line in daemon.lines() {
                if let Some(code) = code_of(&line) {
                    *codes.entry(code).or_default() += 1;
                }
            }
        }
        let codes: Vec<String> = codes.iter().map(|(code, times)| format!("`{code}` {times}")).collect();
        writeln!(text, "\nWarnings by code: {}.", codes.join(", "))?;
        Ok(())
    }

    /// Writes `<date>-chaos.md`, and the timeline beside it.
    pub(crate) fn keep(&self, results: &Path, timeline: &Timeline) -> Result<PathBuf> {
        let day = self.host.date.split('T').next().unwrap_or_default();
        let path = results.join(format!("{day}-chaos.md"));
        let log = format!("{day}-chaos-timeline.txt");
        std::fs::write(&path, format!("{}\nWhat happened when: [{log}]({log}).\n", self.text()?))?;
        std::fs::write(results.join(log), timeline.lines.lock().unwrap_or_else(PoisonError::into_inner).as_str())?;
        Ok(path.canonicalize()?)
    }
}

/// The error code of a log line, if it has one.
fn code_of(line: &str) -> Option<String> {
    if !line.contains("\"code\"") {
        return None;
    }
    let line: Value = serde_json::from_str(line).ok()?;
    let code = line.get("code").or_else(|| line.get("fields")?.get("code"))?;
    code.as_str().map(str::to_owned)
}
