//! `--backfill`: rows that were in the table before the slot, published and marked, beside what
//! Postgres needs to hand out the same rows (`COPY … TO STDOUT`) and to mark them (the daemon's
//! UPDATE, alone).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures_util::TryStreamExt as _;
use serde_json::json;
use testbed::reader;
use tokio_postgres::Client;

use super::{
    drain::{Progress, backends, checkpoint, patience, progress, transactions},
    marking,
    report::Report,
    setting::{Setting, Source, TABLE, say},
    shape::Shape,
    table::Table,
    together,
};
use crate::host::{Processor, thread_times};

const DATABASE: &str = "backfill";

/// How often the daemon's sessions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One backfill. Processor times are in seconds per million rows.
struct Found {
    /// Rows a second from the start of the process to the last mark.
    rate: f64,
    /// Rows a second between a tenth and nine tenths of the rows.
    steady_rate: f64,
    processor: f64,
    sessions: f64,
    kafka: f64,
    peak_mib: f64,
    transactions: f64,
    threads: Vec<(String, f64)>,
}

pub(crate) async fn measure(setting: &Setting, shape: Shape, report: &mut Report) -> Result<()> {
    let client = setting.database(DATABASE).await?;
    say("warming up");
    shape.load(&client).await?;
    run(setting, &client, "backfill_warm", shape.rows).await?;
    client.batch_execute(&format!("TRUNCATE {TABLE}")).await?;

    shape.load(&client).await?;
    let copies = [copy(&client, shape.rows).await?, copy(&client, shape.rows).await?];
    let found = run(setting, &client, "backfill", shape.rows).await?;
    let mut alone = Vec::new();
    for connections in marking::CONNECTIONS {
        alone.push((connections, marking::alone(setting, &client, DATABASE, connections).await?));
    }
    write(shape, copies, &alone, &found, report);
    Ok(())
}

/// Rows a second of `COPY … TO STDOUT`, read and thrown away.
async fn copy(client: &Client, rows: i64) -> Result<f64> {
    checkpoint(client).await?;
    say("COPY of the same rows");
    let started = Instant::now();
    let mut copied = pin!(client.copy_out(&format!("COPY {TABLE} TO STDOUT")).await?);
    let mut lines = 0;
    while let Some(line) = copied.try_next().await? {
        lines += i64::from(line.ends_with(b"\n"));
    }
    ensure!(lines == rows, "COPY brought {lines} of {rows} rows");
    Ok(rows as f64 / started.elapsed().as_secs_f64())
}

/// Backfills the rows of the table, and counts the records.
async fn run(setting: &Setting, client: &Client, name: &str, rows: i64) -> Result<Found> {
    let source = Source { backfill: "unpublished", ..Source::new(DATABASE, name, "update") };
    setting.prepare(client, &source).await?;
    checkpoint(client).await?;
    say(&format!("outboxd backfills {rows} rows"));
    let kafka = Processor::of(setting.kafka.pid(0)?)?;
    let kafka_before = kafka.time()?;
    let started = Instant::now();
    let daemon = setting.daemon(std::slice::from_ref(&source))?;
    daemon.wait_for_line(|line| line.contains("\"backfilling\""), patience(rows)).await?;
    let mut used = BTreeMap::new();
    let Progress { tenth, nine_tenths, done } = tokio::select! {
        progress = progress(&daemon, source.mark, rows) => progress?,
        never = sample(client, &mut used) => match never? {},
    };
    let per_million = |time: Duration| time.as_secs_f64() / (rows as f64 / 1e6);
    let found = Found {
        rate: rows as f64 / (done - started).as_secs_f64(),
        steady_rate: Progress::rate(tenth, nine_tenths),
        processor: per_million(Processor::of(daemon.pid()?)?.time()?),
        sessions: per_million(used.values().sum()),
        kafka: per_million(kafka.time()? - kafka_before),
        peak_mib: daemon.peak_resident()? as f64 / 1_048_576.0,
        transactions: transactions(&daemon).await?,
        threads: thread_times(daemon.pid()?)?,
    };
    together::end(&daemon).await?;
    setting.drop_slot(&source.slot()).await?;
    let records = reader::count_committed(&setting.kafka.brokers(), &[&source.topic()]).await?;
    ensure!(records == u64::try_from(rows)?, "{records} records of {rows} rows");
    say(&format!("  {:.0} rows/s", found.rate));
    Ok(found)
}

/// Keeps the processor time of each of the daemon's sessions. The one that reads is gone once the
/// last row is marked.
async fn sample(client: &Client, used: &mut BTreeMap<u32, Duration>) -> Result<Infallible> {
    loop {
        used.extend(backends(client, "client backend").await?);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn write(shape: Shape, copies: [f64; 2], alone: &[(usize, f64)], found: &Found, report: &mut Report) {
    let reference = f64::midpoint(copies[0], copies[1]);
    let mut table = Table::new(&[
        "rows/s",
        "steady",
        "of COPY",
        "CPU s/M rows",
        "sessions",
        "Kafka",
        "peak MiB",
        "Kafka transactions",
    ]);
    let only_rate = |rate: f64| {
        let mut cells = vec![String::new(); 8];
        (cells[0], cells[2]) = (format!("{rate:.0}"), format!("{:.2}", rate / reference));
        cells
    };
    table.row(&format!("COPY ({:.0}, then {:.0})", copies[0], copies[1]), &only_rate(reference));
    for (connections, rate) in alone {
        table.row(&format!("the marking UPDATE alone, connections: {connections}"), &only_rate(*rate));
    }
    let Found { rate, steady_rate, processor, sessions, kafka, peak_mib, transactions, threads } = found;
    let mut cells = vec![format!("{rate:.0}"), format!("{steady_rate:.0}"), format!("{:.2}", rate / reference)];
    cells.extend([processor, sessions, kafka].map(|seconds| format!("{seconds:.1}")));
    cells.extend([peak_mib, transactions].map(|number| format!("{number:.0}")));
    table.row("outboxd, from its start to the last mark", &cells);
    let list: Vec<_> = threads.iter().map(|(name, time)| format!("`{name}` {time:.2}")).collect();
    report.section(
        &format!("Backfill of {shape}"),
        &format!("{}\nCPU seconds by thread: {}.", table.text(), list.join(", ")),
    );
    report.figure("rows", shape.rows);
    report.figure("copy_rows_per_second", copies.to_vec());
    report.figure(
        "outboxd_backfill",
        json!({
            "rows_per_second_with_start": rate,
            "steady_rows_per_second": steady_rate,
            "cpu_seconds_per_million_rows": processor,
            "sessions_cpu_seconds_per_million_rows": sessions,
            "kafka_cpu_seconds_per_million_rows": kafka,
            "peak_resident_mib": peak_mib,
            "kafka_transactions": transactions,
        }),
    );
}
