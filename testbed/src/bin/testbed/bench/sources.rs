//! `--sources`: what one more source costs a daemon, idle and draining.
//!
//! Each source has a database of its own, and all are on one server. Every walsender decodes the
//! log of all of them. So the drain of many sources says more about Postgres than about the daemon.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    report::Report,
    setting::{Setting, Source, TABLE, say},
    shape::Shape,
    table::Table,
    together::{self, Drained},
};
use crate::host::{Processor, threads};

const COUNTS: [usize; 4] = [1, 5, 20, 50];

/// After this time nothing is left that only the start needed: tokio ends an idle blocking thread
/// after ten seconds.
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
    /// Processor time, in milliseconds a second.
    processor: f64,
}

/// Measures each number of sources. They are idle for `idle`, and then drain `rows` rows in all.
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
    together::ready(&daemon).await?;
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
    together::end(&daemon).await?;
    Ok(found)
}

/// Gives each source its part of the rows, and drains them.
async fn drain(setting: &Setting, sources: &[Source], rows: i64) -> Result<Drained> {
    let each = rows / i64::try_from(sources.len())?;
    for source in sources {
        Shape::seed(each, 1_000).load(&setting.postgres.client(&source.database).await?).await?;
    }
    let drained = together::drain(setting, sources, each * i64::try_from(sources.len())?).await?;
    for source in sources {
        setting.postgres.client(&source.database).await?.batch_execute(&format!("TRUNCATE {TABLE}")).await?;
    }
    Ok(drained)
}

fn write(found: &[Found], report: &mut Report) {
    let mut idle = Table::new(&["MiB", "threads", "Postgres sessions", "CPU ms/s"]);
    for Found { sources, idle: Idle { resident_mib, threads, sessions, processor }, .. } in found {
        let cells =
            [format!("{resident_mib:.1}"), threads.to_string(), sessions.to_string(), format!("{processor:.1}")];
        idle.row(&sources.to_string(), &cells);
    }
    let drained = Drained::table(found.iter().map(|found| (found.sources.to_string(), &found.drained)));
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
            "drained": drained.json(),
        })
    }
}
