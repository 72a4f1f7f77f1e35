//! A drain by several sources of one daemon.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::{Daemon, reader};

use super::{
    drain::{Progress, checkpoint, patience, progress, walsenders},
    setting::{Setting, Source, say},
    table::Table,
};
use crate::host::Processor;

const READY_WITHIN: Duration = Duration::from_secs(120);

/// The result of all sources together.
pub(crate) struct Drained {
    rate: f64,
    steady_rate: f64,
    /// Seconds per million rows.
    processor: f64,
    walsenders: f64,
    peak_mib: f64,
}

/// Drains what was written for these sources, `rows` rows in all, and counts the records.
pub(crate) async fn drain(setting: &Setting, sources: &[Source], rows: i64) -> Result<Drained> {
    let client = setting.postgres.client("postgres").await?;
    checkpoint(&client).await?;
    let topics: Vec<String> = sources.iter().map(Source::topic).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let brokers = setting.kafka.brokers();
    let before = reader::count_committed(&brokers, &topics).await?;
    say(&format!("{} sources drain {rows} rows", sources.len()));
    let started = Instant::now();
    let daemon = setting.daemon(sources)?;
    ready(&daemon).await?;
    let Progress { tenth, nine_tenths, done } = progress(&daemon, "none", rows).await?;
    let per_million = |time: Duration| time.as_secs_f64() / (rows as f64 / 1e6);
    let found = Drained {
        rate: rows as f64 / (done - started).as_secs_f64(),
        steady_rate: Progress::rate(tenth, nine_tenths),
        processor: per_million(Processor::of(daemon.pid()?)?.time()?),
        walsenders: per_million(walsenders(&client).await?),
        peak_mib: daemon.peak_resident()? as f64 / 1_048_576.0,
    };
    end(&daemon).await?;
    let records = reader::count_committed(&brokers, &topics).await? - before;
    ensure!(records == u64::try_from(rows)?, "{records} records of {rows} rows");
    Ok(found)
}

/// Waits until every source streams.
pub(crate) async fn ready(daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    // In the first moments the daemon does not listen yet.
    while !daemon.http_get("/readyz").await.is_ok_and(|(status, _)| status == 200) {
        ensure!(Instant::now() < deadline, "not ready:\n{}", daemon.lines().join("\n"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Stops the daemon, and waits for its orderly end.
pub(crate) async fn end(daemon: &Daemon) -> Result<()> {
    daemon.term()?;
    ensure!(daemon.wait_exit(patience(0)).await? == 0, "{}", daemon.lines().join("\n"));
    Ok(())
}

impl Drained {
    /// A table with a line for each drain.
    pub(crate) fn table<'a>(lines: impl IntoIterator<Item = (String, &'a Self)>) -> Table {
        let mut table = Table::new(&["rows/s with start-up", "steady", "CPU s/M rows", "walsenders", "peak MiB"]);
        for (name, Self { rate, steady_rate, processor, walsenders, peak_mib }) in lines {
            let mut cells: Vec<_> = [rate, steady_rate].map(|rate| format!("{rate:.0}")).into();
            cells.extend([processor, walsenders].map(|seconds| format!("{seconds:.1}")));
            cells.push(format!("{peak_mib:.0}"));
            table.row(&name, &cells);
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "rows_per_second_with_start": self.rate,
            "steady_rows_per_second": self.steady_rate,
            "cpu_seconds_per_million_rows": self.processor,
            "walsenders_cpu_seconds_per_million_rows": self.walsenders,
            "peak_resident_mib": self.peak_mib,
        })
    }
}
