//! Measures how long `outboxd verify` takes for many events, and how much memory it needs.
//!
//! SQL fills the table, and a plain producer fills the topic. Both use the same numbers. So five
//! million events are there within a minute or two, and every one matches.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rdkafka::{
    config::ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value;

use super::setting::{Setting, Source, TABLE, say};
use crate::host::Host;

const DATABASE: &str = "audited";
const TOPIC: &str = "audited.events";
const PARTITIONS: i32 = 3;
/// Rows of one aggregate are this far apart.
const KEYS: i64 = 100_000;
/// Spreads the ids, which would otherwise be sorted already.
const SPREAD: i64 = 2_654_435_761;
/// 2024-01-01, in milliseconds since the Unix epoch.
const CREATED: i64 = 1_704_067_200_000;

/// One audit.
struct Audit {
    wall: Duration,
    peak_kib: u64,
    outcome: Value,
}

pub(crate) async fn measure(setting: &Setting, rows: i64, results: &str) -> Result<()> {
    let host = Host::here();
    let client = setting.database(DATABASE).await?;
    say(&format!("filling the table with {rows} rows"));
    client.batch_execute("SET synchronous_commit = off").await?;
    let insert = format!(
        "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, event_type, payload, created_at, published_at)
         SELECT (lpad(to_hex(n * {SPREAD} % 4294967296), 8, '0') || '-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
                'audited', ('00000000-0000-4000-8000-' || lpad(to_hex(n % {KEYS}), 12, '0'))::uuid, 'OrderCreated',
                jsonb_build_object('order_number', 'ORD-' || n, 'total', n % 1000 + 0.99, 'currency', 'EUR'),
                timestamp '2024-01-01' + n * interval '1 millisecond', now()
         FROM generate_series($1::bigint, $2::bigint) n"
    );
    let mut first = 0;
    while first < rows {
        let last = rows.min(first + 250_000);
        client.execute(&insert, &[&first, &(last - 1)]).await?;
        first = last;
    }
    client.batch_execute(&format!("ANALYZE {TABLE}")).await?;
    say("filling the topic");
    setting.kafka.create_topic(TOPIC, PARTITIONS, &[]).await?;
    let brokers = setting.kafka.brokers();
    tokio::task::spawn_blocking(move || fill(&brokers, rows)).await??;

    say("auditing");
    let audit = run(setting).await?;
    let report = &audit.outcome["sources"][0];
    ensure!(audit.outcome["clean"] == true && report["rows"] == rows && report["records"] == rows, "{report:#}");
    let text = markdown(&host, setting.version.major(), rows, &audit);
    println!("\n{text}");
    if !results.is_empty() {
        std::fs::create_dir_all(results)?;
        let name = format!("{}-{}-verify.md", host.date.replace(':', ""), host.commit);
        let path = Path::new(results).join(name);
        std::fs::write(&path, text)?;
        println!("kept as {}", path.display());
    }
    Ok(())
}

/// Writes what the daemon would have published.
fn fill(brokers: &str, rows: i64) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "500000")
        .create()?;
    for n in 0..rows {
        let id = format!("{:08x}-0000-4000-8000-{n:012x}", n * SPREAD % 4_294_967_296);
        let key = format!("00000000-0000-4000-8000-{:012x}", n % KEYS);
        let value = format!(
            r#"{{"event_id":"{id}","event_type":"OrderCreated","timestamp":"2024-01-01T00:00:00Z","data":{{"order_number": "ORD-{n}"}}}}"#
        );
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new()
            .insert(header("event_id", id.as_str()))
            .insert(header("event_type", "OrderCreated"))
            .insert(header("aggregate_type", "audited"))
            .insert(header("aggregate_id", key.as_str()))
            .insert(header("content-type", "application/json"));
        let mut record = BaseRecord::to(TOPIC).key(&key).payload(&value).timestamp(CREATED + n).headers(headers);
        while let Err((error, back)) = producer.send(record) {
            ensure!(error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        if n % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    Ok(producer.flush(Duration::from_secs(120))?)
}

/// Runs the command to its end and watches its memory.
async fn run(setting: &Setting) -> Result<Audit> {
    let config = setting.config(&[Source::new(DATABASE, DATABASE, "update")]).replace("{http}", "off");
    let path = std::env::temp_dir().join(format!("outboxd-bench-{}.toml", std::process::id()));
    std::fs::write(&path, config)?;
    let started = Instant::now();
    let mut command = tokio::process::Command::new(setting.outboxd());
    command.args(["verify", "--json", "--config"]).arg(&path).stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn()?;
    let status = format!("/proc/{}/status", child.id().context("it has ended already")?);
    let mut peak_kib = 0;
    let mut output = std::pin::pin!(child.wait_with_output());
    let output = loop {
        tokio::select! {
            output = &mut output => break output?,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let peak = peak.and_then(|peak| peak.trim().trim_end_matches("kB").trim().parse().ok());
                peak_kib = peak_kib.max(peak.unwrap_or(0));
            }
        }
    };
    let wall = started.elapsed();
    std::fs::remove_file(&path)?;
    Ok(Audit { wall, peak_kib, outcome: serde_json::from_slice(&output.stdout)? })
}

fn markdown(host: &Host, major: u32, rows: i64, audit: &Audit) -> String {
    let Host { name, processor, cores, memory_gib, kernel, load, commit, date } = host;
    let seconds = audit.wall.as_secs_f64();
    format!(
        "# outboxd verify {commit}, {date}\n\n\
         {cores} cores of {processor}, {memory_gib} GiB, Linux {kernel}, host {name}, load before: {load}.\n\
         Postgres {major}, Kafka {} (one broker, {PARTITIONS} partitions) and outboxd share them. Command: `testbed bench --verify {rows}`.\n\n\
         | rows | records | keys | `--memory` | wall s | events/s (rows) | peak resident MiB |\n\
         |---:|---:|---:|---:|---:|---:|---:|\n\
         | {rows} | {rows} | {KEYS} | 64 MiB | {seconds:.1} | {:.0} | {:.0} |\n\n\
         The result was clean: every row has its record, once, in order, and is marked.\n",
        testbed::artifacts::KAFKA,
        rows as f64 / seconds,
        audit.peak_kib as f64 / 1024.0
    )
}
