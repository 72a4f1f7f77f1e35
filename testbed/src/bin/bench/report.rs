//! The results of one run, as a table for people and as JSON for comparisons.

use crate::drain::Drain;
use crate::host::Host;
use crate::latency::Latency;
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Report {
    host: Host,
    rows: i64,
    per_transaction: i64,
    limits: Vec<String>,
    /// `pg_recvlogical`, rows a second, before and after outboxd.
    pub(crate) reference: Vec<f64>,
    pub(crate) none: Option<Drain>,
    pub(crate) update: Option<Drain>,
    /// The marking UPDATE alone, rows a second.
    pub(crate) marking: Option<f64>,
    pub(crate) latency: Vec<Latency>,
}

impl Report {
    /// Looks at the machine before anything is measured.
    pub(crate) fn begin(rows: i64, per_transaction: i64, limits: &[String]) -> Self {
        Self {
            host: Host::here(),
            rows,
            per_transaction,
            limits: limits.to_owned(),
            reference: Vec::new(),
            none: None,
            update: None,
            marking: None,
            latency: Vec::new(),
        }
    }

    fn reference_rate(&self) -> f64 {
        self.reference.iter().sum::<f64>() / self.reference.len().max(1) as f64
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = self.heading();
        // Writing to a string cannot fail.
        let _ = self.write_drains(&mut text);
        let _ = self.write_latencies(&mut text);
        text
    }

    fn heading(&self) -> String {
        let Host { name, processor, cores, memory_gib, kernel, load, commit, date } = &self.host;
        let limits = if self.limits.is_empty() { String::new() } else { format!(", with {}", self.limits.join(", ")) };
        format!(
            "# outboxd {commit}, {date}\n\n\
             {cores} cores of {processor}, {memory_gib} GiB, Linux {kernel}, host {name}, load before: {load}.\n\
             Postgres 15 (fsync on), Kafka {} (one broker), outboxd and the measuring program share them; exactly-once{limits}.\n",
            testbed::artifacts::KAFKA
        )
    }

    fn write_drains(&self, text: &mut String) -> std::fmt::Result {
        let (Some(none), Some(update), Some(marking)) = (&self.none, &self.update, self.marking) else { return Ok(()) };
        let reference = self.reference_rate();
        let twice: Vec<String> = self.reference.iter().map(|rate| format!("{rate:.0}")).collect();
        writeln!(
            text,
            "\n## Drain of {} seed-shaped rows, {} to a transaction\n\n\
             | | rows/s | steady | with start-up | of its reference | CPU s/M rows | walsender | Kafka | peak MiB | Kafka transactions |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n\
             | pg_recvlogical ({}) | {reference:.0} | | | 1.00 | | | | | |",
            self.rows,
            self.per_transaction,
            twice.join(", then ")
        )?;
        drain_line(text, "outboxd, mark none", none, reference)?;
        writeln!(text, "| the marking UPDATE alone | {marking:.0} | | | 1.00 | | | | | |")?;
        drain_line(text, "outboxd, mark update", update, marking)?;
        for (name, drain) in [("none", none), ("update", update)] {
            let threads: Vec<String> = drain.threads.iter().map(|(name, time)| format!("`{name}` {time:.2}")).collect();
            writeln!(text, "\nCPU seconds by thread, mark {name}: {}.", threads.join(", "))?;
        }
        Ok(())
    }

    fn write_latencies(&self, text: &mut String) -> std::fmt::Result {
        if self.latency.is_empty() {
            return Ok(());
        }
        writeln!(
            text,
            "\n## Commit to read_committed consumer, mark update, in ms\n\n\
             | | rows | p50 | p90 | p99 | max |\n|---|---:|---:|---:|---:|---:|"
        )?;
        self.latency.iter().try_for_each(|Latency { what, rows, p50, p90, p99, max }| {
            writeln!(text, "| {what} | {rows} | {p50:.1} | {p90:.1} | {p99:.1} | {max:.1} |")
        })
    }

    fn json(&self) -> Value {
        let host = &self.host;
        let drain = |drain: &Drain| {
            json!({
                "rows_per_second": drain.rate,
                "steady_rows_per_second": drain.steady_rate,
                "rows_per_second_with_start": drain.wall_rate,
                "cpu_seconds_per_million_rows": drain.processor_per_million,
                "walsender_cpu_seconds_per_million_rows": drain.walsender_per_million,
                "kafka_cpu_seconds_per_million_rows": drain.kafka_per_million,
                "peak_resident_mib": drain.peak_mib,
                "kafka_transactions": drain.transactions,
                "cpu_seconds_by_thread": drain.threads.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            })
        };
        let latency = |l: &Latency| json!({"what": l.what, "rows": l.rows, "p50_ms": l.p50, "p90_ms": l.p90, "p99_ms": l.p99, "max_ms": l.max});
        json!({
            "commit": host.commit,
            "date": host.date,
            "host": host.name,
            "processor": host.processor,
            "cores": host.cores,
            "memory_gib": host.memory_gib,
            "kernel": host.kernel,
            "load_before": host.load,
            "rows": self.rows,
            "rows_per_transaction": self.per_transaction,
            "limits": self.limits,
            "pg_recvlogical_rows_per_second": self.reference,
            "outboxd_mark_none": self.none.as_ref().map(drain),
            "outboxd_mark_update": self.update.as_ref().map(drain),
            "marking_update_alone_rows_per_second": self.marking,
            "latency": self.latency.iter().map(latency).collect::<Vec<_>>(),
        })
    }

    /// Writes `<date>-<commit>.md` and `.json`; the path of the former.
    pub(crate) fn keep(&self, results: &Path) -> Result<PathBuf> {
        fs::create_dir_all(results)?;
        let name = format!("{}-{}", self.host.date.replace(':', ""), self.host.commit);
        let (table, data) = (results.join(format!("{name}.md")), results.join(format!("{name}.json")));
        fs::write(&table, self.markdown())?;
        fs::write(data, format!("{:#}\n", self.json()))?;
        Ok(table.canonicalize()?)
    }
}

fn drain_line(text: &mut String, name: &str, drain: &Drain, reference: f64) -> std::fmt::Result {
    writeln!(
        text,
        "| {name} | {:.0} | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
        drain.rate,
        drain.steady_rate,
        drain.wall_rate,
        drain.rate / reference,
        drain.processor_per_million,
        drain.walsender_per_million,
        drain.kafka_per_million,
        drain.peak_mib,
        drain.transactions
    )
}
