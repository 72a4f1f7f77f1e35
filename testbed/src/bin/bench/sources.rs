//! `--sources`: what one more source costs a daemon, idle and draining.
//!
//! Each source has a database of its own, all on one server: every walsender then decodes the log of all of them, so
//! that the drain of many sources says more about Postgres than about the daemon.

use crate::drain::{Progress, patience, progress, walsenders};
use crate::host::{Processor, threads};
use crate::report::Report;
use crate::setting::{Setting, Source, TABLE, say};
use crate::shape::Shape;
use crate::table::Table;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testbed::{Daemon, reader};

const COUNTS: [usize; 4] = [1, 5, 20, 50];

const READY_WITHIN: Duration = Duration::from_secs(120);
/// What only the start needed is gone by then: tokio lets a blocking thread go after ten seconds.
const SETTLED_AFTER: Duration = Duration::from_secs(15);

struct Found {
    sources: usize,
    idle: Idle,
    drained: Drained,
}

struct Idle {
    resident_mib: f64,
    threads: usize,
    /// Sessions with Postgres, walsenders included.
    sessions: i64,
    /// Milliseconds of processor time in a second.
    processor: f64,
}

struct Drained {
    rate: f64,
    steady_rate: f64,
    /// Seconds per million rows.
    processor: f64,
    walsenders: f64,
    peak_mib: f64,
}

/// How many rows all sources together drain, and how long they are idle before.
pub(crate) async fn measure(setting: &Setting, rows: i64, idle: Duration, report: &mut Report) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for count in COUNTS {
        while names.len() < count {
            let name = format!("source_{}", names.len());
            let client = setting.database(&name).await?;
            setting.prepare(&client, &Source::new(&name, &name, "none")).await?;
            names.push(name);
        }
        let sources = |mark| names.iter().map(|name| Source::new(name, name, mark)).collect::<Vec<_>>();
        let idle = be_idle(setting, &sources("update"), idle).await?;
        let drained = drain(setting, &sources("none"), rows).await?;
        found.push(Found { sources: count, idle, drained });
    }
    write(&found, report);
    Ok(())
}

async fn be_idle(setting: &Setting, sources: &[Source], idle: Duration) -> Result<Idle> {
    say(&format!("{} idle sources", sources.len()));
    let daemon = setting.daemon(sources)?;
    ready(&daemon).await?;
    tokio::time::sleep(SETTLED_AFTER).await;
    let processor = Processor::of(daemon.pid()?)?;
    let (before, started) = (processor.time()?, Instant::now());
    tokio::time::sleep(idle).await;
    let used = (processor.time()? - before).as_secs_f64() / started.elapsed().as_secs_f64();
    let client = setting.postgres.client("postgres").await?;
    let query = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
    let found = Idle {
        resident_mib: daemon.resident()? as f64 / 1_048_576.0,
        threads: threads(daemon.pid()?)?,
        sessions: client.query_one(query, &[&testbed::postgres::ROLE]).await?.get(0),
        processor: used * 1e3,
    };
    end(&daemon).await?;
    Ok(found)
}

/// Lets each source have its part of the rows.
async fn drain(setting: &Setting, sources: &[Source], rows: i64) -> Result<Drained> {
    let each = rows / i64::try_from(sources.len())?;
    let rows = each * i64::try_from(sources.len())?;
    for source in sources {
        Shape::seed(each, 1_000).load(&setting.postgres.client(&source.database).await?).await?;
    }
    let client = setting.postgres.client("postgres").await?;
    client.batch_execute("CHECKPOINT").await?;
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
    for source in sources {
        setting.postgres.client(&source.database).await?.batch_execute(&format!("TRUNCATE {TABLE}")).await?;
    }
    Ok(found)
}

/// Waits until every source streams.
async fn ready(daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    // Nobody listens yet in the first moments.
    while !daemon.http_get("/readyz").await.is_ok_and(|(status, _)| status == 200) {
        ensure!(Instant::now() < deadline, "not ready:\n{}", daemon.lines().join("\n"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn end(daemon: &Daemon) -> Result<()> {
    daemon.term()?;
    ensure!(daemon.wait_exit(patience(0)).await? == 0, "{}", daemon.lines().join("\n"));
    Ok(())
}

fn write(found: &[Found], report: &mut Report) {
    let mut idle = Table::new(&["MiB", "threads", "Postgres sessions", "CPU ms/s"]);
    let mut drained = Table::new(&["rows/s with start-up", "steady", "CPU s/M rows", "walsenders", "peak MiB"]);
    for Found { sources, idle: Idle { resident_mib, threads, sessions, processor }, drained: d } in found {
        let cells =
            [format!("{resident_mib:.1}"), threads.to_string(), sessions.to_string(), format!("{processor:.1}")];
        idle.row(&sources.to_string(), &cells);
        let mut cells: Vec<_> = [d.rate, d.steady_rate].map(|rate| format!("{rate:.0}")).into();
        cells.extend([d.processor, d.walsenders].map(|seconds| format!("{seconds:.1}")));
        cells.push(format!("{:.0}", d.peak_mib));
        drained.row(&sources.to_string(), &cells);
    }
    let mut text = idle.text().to_owned();
    if let [first, .., last] = found {
        let more = (last.sources - first.sources) as f64;
        let memory = (last.idle.resident_mib - first.idle.resident_mib) / more;
        let processor = (last.idle.processor - first.idle.processor) / more;
        text.push_str(&format!(
            "\nOne more idle source: {memory:.2} MiB, {processor:.2} ms of processor time a second."
        ));
        report.figure("idle_mib_per_source", memory);
        report.figure("idle_cpu_ms_per_second_per_source", processor);
    }
    report.section("Idle sources, mark update", &text);
    report.section("Drain by all sources together, mark none", drained.text());
    report.figure("sources", found.iter().map(Found::json).collect::<Vec<_>>());
}

impl Found {
    fn json(&self) -> Value {
        let Self { sources, idle, drained } = self;
        json!({
            "sources": sources,
            "idle_resident_mib": idle.resident_mib,
            "idle_threads": idle.threads,
            "idle_postgres_sessions": idle.sessions,
            "idle_cpu_ms_per_second": idle.processor,
            "rows_per_second_with_start": drained.rate,
            "steady_rows_per_second": drained.steady_rate,
            "cpu_seconds_per_million_rows": drained.processor,
            "walsenders_cpu_seconds_per_million_rows": drained.walsenders,
            "peak_resident_mib": drained.peak_mib,
        })
    }
}
