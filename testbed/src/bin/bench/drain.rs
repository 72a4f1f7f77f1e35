//! How fast a backlog goes through.

use crate::host::{Processor, thread_times};
use crate::report::Report;
use crate::setting::{Setting, Source, TABLE, say, streaming};
use crate::{marking, peer};
use anyhow::{Context, Result, bail, ensure};
use std::time::{Duration, Instant};
use testbed::{Daemon, reader};
use tokio_postgres::Client;

const DATABASE: &str = "drain";

/// Longest drain.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(20);

/// What is drained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) rows: i64,
    pub(crate) per_transaction: i64,
}

/// A drain by outboxd.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    /// Rows a second from the line "streaming" to the last row published, or marked.
    pub(crate) rate: f64,
    /// The same from the start of the process.
    pub(crate) wall_rate: f64,
    /// The same between a tenth and nine tenths of the rows.
    pub(crate) steady_rate: f64,
    /// Processor seconds of the daemon per million rows, its start included.
    pub(crate) processor_per_million: f64,
    /// Of the walsender, and of Kafka.
    pub(crate) walsender_per_million: f64,
    pub(crate) kafka_per_million: f64,
    pub(crate) peak_mib: f64,
    /// Processor seconds by the daemon's threads.
    pub(crate) threads: Vec<(String, f64)>,
    /// Kafka transactions.
    pub(crate) transactions: f64,
}

pub(crate) async fn measure(setting: &Setting, shape: Shape, report: &mut Report) -> Result<()> {
    let client = setting.database(DATABASE).await?;
    let none = Source { name: "none", database: DATABASE, topic: "none.events", mark: "none" };
    let update = Source { name: "update", database: DATABASE, topic: "update.events", mark: "update" };
    let warm = Source { name: "warm", database: DATABASE, topic: "warm.events", mark: "none" };
    say("setting up the sources and the slots of pg_recvlogical");
    setting.set_up(&client, &warm).await?;
    setting.set_up(&client, &none).await?;
    setting.set_up(&client, &update).await?;
    for slot in ["reference_1", "reference_2"] {
        client.query_one("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
    }
    load(&client, shape).await?;
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);

    // A broker that has just started is compiling itself on the cores that are measured, and no peer was measured so.
    say("warming up");
    run(setting, &warm, &client, shape).await?;
    client.execute("SELECT pg_drop_replication_slot('outboxd_warm')", &[]).await?;
    checkpoint(&client).await?;
    let first = peer::drain(setting, DATABASE, ("reference_1", "outboxd_none"), &end).await?;
    report.reference.push(shape.rows as f64 / first.as_secs_f64());
    report.none = Some(run(setting, &none, &client, shape).await?);
    checkpoint(&client).await?;
    let second = peer::drain(setting, DATABASE, ("reference_2", "outboxd_none"), &end).await?;
    report.reference.push(shape.rows as f64 / second.as_secs_f64());
    for slot in ["outboxd_none", "reference_1", "reference_2"] {
        client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await?;
    }

    report.update = Some(run(setting, &update, &client, shape).await?);
    client.execute("SELECT pg_drop_replication_slot('outboxd_update')", &[]).await?;
    report.marking = Some(marking::alone(setting, &client, DATABASE).await?);
    Ok(())
}

/// Rows shaped as the seed's order events are.
async fn load(client: &Client, shape: Shape) -> Result<()> {
    let Shape { rows, per_transaction } = shape;
    say(&format!("loading {rows} rows in transactions of {per_transaction}"));
    let insert = client
        .prepare(&format!(
            "INSERT INTO {TABLE} (aggregate_type, aggregate_id, event_type, payload)
             SELECT 'order', gen_random_uuid(), 'OrderCreated', jsonb_build_object(
                'order_id', gen_random_uuid(), 'order_number', 'ORD-' || n, 'user_id', gen_random_uuid(),
                'total', n % 1000 + 0.99, 'shipping_address', jsonb_build_object('line1', '123 Main St',
                    'city', 'Mumbai', 'state', 'Maharashtra', 'pincode', '400001'))
             FROM generate_series($1::bigint, $2::bigint) n"
        ))
        .await?;
    let mut first = 1;
    while first <= rows {
        let last = rows.min(first + per_transaction - 1);
        client.execute(&insert, &[&first, &last]).await?;
        first = last + 1;
    }
    client.batch_execute(&format!("ANALYZE {TABLE}")).await?;
    Ok(())
}

pub(crate) async fn checkpoint(client: &Client) -> Result<()> {
    Ok(client.batch_execute("CHECKPOINT").await?)
}

async fn run(setting: &Setting, source: &Source<'_>, client: &Client, shape: Shape) -> Result<Drain> {
    checkpoint(client).await?;
    say(&format!("outboxd drains, mark = \"{}\"", source.mark));
    let kafka = Processor::of(setting.kafka.pid(0)?);
    let kafka_before = kafka.time()?;
    let started = Instant::now();
    let daemon = setting.daemon(source)?;
    streaming(&daemon).await?;
    let streaming = Instant::now();
    let walsender = walsender(client, source).await?;
    // What it had done before is the reading of a few log records.
    let walsender_before = walsender.time()?;

    let rows = shape.rows as f64;
    let (mut tenth, mut nine_tenths) = (None, None);
    let counter = if source.mark == "none" { "outboxd_events_published_total{" } else { "outboxd_rows_marked_total{" };
    let done = loop {
        let done = metric(&daemon, counter).await?;
        let now = Instant::now();
        if done >= rows * 0.1 && tenth.is_none() {
            tenth = Some((now, done));
        }
        if done >= rows * 0.9 && nine_tenths.is_none() {
            nine_tenths = Some((now, done));
        }
        if done >= rows {
            break now;
        }
        if started.elapsed() > PATIENCE {
            bail!("{done} of {rows} rows within {PATIENCE:?}:\n{}", daemon.lines().join("\n"));
        }
        tokio::time::sleep(LOOK).await;
    };
    let millions = rows / 1e6;
    let (tenth, nine_tenths) = tenth.zip(nine_tenths).context("no rows")?;
    let drain = Drain {
        rate: rows / (done - streaming).as_secs_f64(),
        wall_rate: rows / (done - started).as_secs_f64(),
        steady_rate: (nine_tenths.1 - tenth.1) / (nine_tenths.0 - tenth.0).as_secs_f64(),
        processor_per_million: daemon.cpu_time()?.as_secs_f64() / millions,
        walsender_per_million: (walsender.time()? - walsender_before).as_secs_f64() / millions,
        kafka_per_million: (kafka.time()? - kafka_before).as_secs_f64() / millions,
        peak_mib: daemon.peak_resident()? as f64 / 1_048_576.0,
        threads: thread_times(daemon.pid()?)?,
        transactions: metric(&daemon, "outboxd_kafka_transactions_total{outcome=\"committed\"").await?,
    };
    daemon.term()?;
    ensure!(daemon.wait_exit(PATIENCE).await? == 0, "{}", daemon.lines().join("\n"));
    // The numbers are worth nothing if the records are not there.
    let records = reader::count_committed(&setting.kafka.brokers(), &[source.topic]).await?;
    ensure!(records == u64::try_from(shape.rows)?, "{records} records of {} rows", shape.rows);
    say(&format!("  {:.0} rows/s", drain.rate));
    Ok(drain)
}

async fn walsender(client: &Client, source: &Source<'_>) -> Result<Processor> {
    let slot = format!("outboxd_{}", source.name);
    let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let pid: Option<i32> = client.query_one(query, &[&slot]).await?.get(0);
    Ok(Processor::of(u32::try_from(pid.context("nobody reads the slot")?)?))
}

/// The sum of all samples whose line starts like this.
async fn metric(daemon: &Daemon, start: &str) -> Result<f64> {
    let (_, text) = daemon.http_get("/metrics").await?;
    let samples = text.lines().filter(|line| line.starts_with(start));
    Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
