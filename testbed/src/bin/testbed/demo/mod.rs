//! `make demo`: three databases, one daemon, three topics, and everything that goes wrong on a bad
//! day.
//!
//! Writers commit the migration guide's events. In the meantime the daemon is killed again and
//! again, and the broker is killed and restarted. In the end the demo compares tables and topics.
//! The exit code is 0 only if every row is one record, in order, and marked.

mod screen;
mod servers;
mod shop;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use testbed::{Audit, Daemon, Expect, oracle};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use self::{
    screen::{Screen, Standing},
    servers::Servers,
    shop::Written,
    watch::Consumer,
};
use crate::{daemon_binary, sources::SOURCES};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The daemon; by default the outboxd beside this program
    #[arg(long)]
    outboxd: Option<PathBuf>,
    /// Transactions to commit
    #[arg(long, default_value_t = 20_000)]
    transactions: u64,
    /// Transactions a second
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// How often the daemon is killed
    #[arg(long, default_value_t = 5)]
    kills: u64,
}

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a killed daemon or broker stays down.
const DOWN: Duration = Duration::from_millis(800);

/// Returns whether every row is one record.
pub(crate) async fn run(arguments: Arguments) -> Result<bool> {
    let screen = Screen::new(arguments.transactions);
    screen.say("starting Postgres and Kafka");
    let servers = Servers::start().await?;
    screen.say(&servers.describe());
    let mut clients = Vec::new();
    for source in &SOURCES {
        let client = source.create(servers.postgres()).await.with_context(|| {
            format!("cannot create database {}; one that an earlier demo left must be dropped", source.database)
        })?;
        clients.push(client);
        servers.kafka().create_topic(source.topic, 3, &[]).await?;
        screen.say(&format!("{}: table {} → topic {}", source.database, source.table, source.topic));
    }
    let consumer = Consumer::start(&servers.kafka().brokers()).await?;
    let daemon = start_daemon(arguments.outboxd, &servers)?;
    let demo = Demo { screen, servers, clients, consumer, daemon, written: Arc::default() };
    let outcome = demo.play(arguments.transactions, arguments.rate, arguments.kills).await;
    demo.screen.finish();
    let clean = outcome.inspect_err(|_| {
        let lines = demo.daemon.lines();
        eprintln!("the daemon's last lines:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
    })?;
    let Demo { servers, clients, daemon, .. } = demo;
    drop((daemon, clients));
    servers.clean_up().await?;
    Ok(clean)
}

fn start_daemon(outboxd: Option<PathBuf>, servers: &Servers) -> Result<Daemon> {
    let outboxd = daemon_binary(outboxd)?;
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("config").join("demo.toml");
    let mut builder = Daemon::builder(outboxd)?.args(&["run", "--config", &config.to_string_lossy()]);
    let address = builder.http_address();
    builder = builder.env("OUTBOXD_LISTEN", &address).env("KAFKA_BROKERS", &servers.kafka().brokers());
    for source in &SOURCES {
        // `config/demo.toml` names it so.
        let variable = format!("{}_DB", source.name.to_uppercase());
        builder = builder.env(&variable, &servers.postgres().url(source.database));
    }
    builder.start()
}

/// Everything that takes part.
struct Demo {
    screen: Screen,
    servers: Servers,
    clients: Vec<Client>,
    consumer: Consumer,
    daemon: Daemon,
    written: Arc<Written>,
}

impl Demo {
    /// Plays everything up to the verdict, and returns that.
    async fn play(&self, transactions: u64, rate: f64, kills: u64) -> Result<bool> {
        let started = Instant::now();
        self.wait("the daemon to stream", async || {
            Ok(watch::lag(&self.daemon).await.is_some_and(|lag| lag.streaming == SOURCES.len()))
        })
        .await?;
        self.screen.say(&format!("outboxd streams from all three after {:.1} s", started.elapsed().as_secs_f64()));
        let mut writers = shop::open(self.servers.postgres(), transactions, rate, &self.written);
        self.disturb(&mut writers, transactions, kills).await?;
        self.wait("the writers", async || Ok(self.written.transactions() >= transactions)).await?;
        ended(&mut writers)?;
        self.screen.say(&format!(
            "the writers are done: {} transactions committed with {} rows, {} rolled back",
            self.written.transactions(),
            self.written.rows(),
            self.written.rolled_back()
        ));
        self.wait("the consumer to have every row", async || Ok(self.consumer.records() >= self.written.rows()))
            .await?;
        self.wait("every row to be marked", async || Ok(self.unmarked().await? == 0)).await?;
        self.stop().await?;
        self.screen.finish();
        self.show_records();
        self.audit().await
    }

    /// Kills the daemon at equal distances, and the broker in the middle.
    async fn disturb(&self, writers: &mut JoinSet<Result<()>>, transactions: u64, kills: u64) -> Result<()> {
        let faults = kills + 1;
        for fault in 1..=faults {
            let when = transactions * fault / (faults + 1);
            self.wait("the writers to get on", async || {
                ended(writers)?;
                Ok(self.written.transactions() >= when)
            })
            .await?;
            if fault == faults.div_ceil(2) {
                self.kill_broker().await?;
            } else {
                self.kill_daemon().await?;
            }
        }
        Ok(())
    }

    async fn kill_daemon(&self) -> Result<()> {
        let standing = self.standing().await;
        self.daemon.kill9()?;
        let behind = standing.rows.saturating_sub(standing.records);
        self.screen.say(&format!("kill -9 outboxd, {behind} rows on their way"));
        self.linger(DOWN).await;
        self.daemon.start_again()?;
        self.recovered("outboxd").await
    }

    async fn kill_broker(&self) -> Result<()> {
        let Some(kafka) = self.servers.own_kafka() else {
            self.screen.say("the brokers are not ours: no restart");
            return Ok(());
        };
        kafka.kill9(0)?;
        self.screen.say("kill -9 the Kafka broker");
        self.linger(DOWN).await;
        kafka.start_again(0)?;
        self.recovered("the broker").await
    }

    /// Tells how the lag falls after a fault, as the daemon's own metric shows it.
    async fn recovered(&self, who: &str) -> Result<()> {
        let started = Instant::now();
        let mut lags: Vec<f64> = Vec::new();
        let behind = self.standing().await;
        let behind = behind.rows.saturating_sub(behind.records);
        let rows = self.written.rows();
        self.wait("everything written before the fault to be read", async || {
            let lag = watch::lag(&self.daemon).await;
            if let Some(lag) = lag.filter(|lag| lag.streaming > 0)
                && lags.last().is_none_or(|last| (last - lag.seconds).abs() >= 0.1)
            {
                lags.push(lag.seconds);
            }
            let streaming = lag.is_some_and(|lag| lag.streaming == SOURCES.len());
            Ok(streaming && self.consumer.records() >= rows)
        })
        .await?;
        let lags: Vec<String> = lags.iter().map(|lag| format!("{lag:.1}")).collect();
        self.screen.say(&format!(
            "{who} is back; {behind} rows that waited were read after {:.1} s; lag in s, from /metrics: {}",
            started.elapsed().as_secs_f64(),
            lags.join(" → ")
        ));
        Ok(())
    }

    /// Sends SIGTERM, and requires the exit code of a drained daemon.
    async fn stop(&self) -> Result<()> {
        self.daemon.term()?;
        let code = self.daemon.wait_exit(PATIENCE).await?;
        ensure!(code == 0, "outboxd ended with exit code {code} after SIGTERM");
        self.screen.say("SIGTERM: outboxd has drained and ended with exit code 0");
        Ok(())
    }

    fn show_records(&self) {
        self.screen.print("\nSome records, as a read_committed consumer saw them:\n");
        for record in self.consumer.first_of(&["UserCreated", "OrderCreated", "ShipmentCreated"]) {
            self.screen.print(&watch::print(&record));
        }
    }

    /// Compares tables with topics, source by source.
    async fn audit(&self) -> Result<bool> {
        let mut audits = Vec::new();
        self.screen.print(&format!("\nThe audit: tables against topics\n\n{}", heading()));
        for (source, client) in SOURCES.iter().zip(&self.clients) {
            let brokers = self.servers.kafka().brokers();
            let expect = Expect::Tables(&[source.table]);
            let audit = oracle::audit(client, expect, &brokers, &[source.topic]).await?;
            self.screen.print(&line(source.table, &audit));
            audits.push(audit);
        }
        let total: Audit = audits.into_iter().sum();
        self.screen.print(&line("together", &total));
        for offender in &total.first_offenders {
            self.screen.print(&format!("  {offender}"));
        }
        // The audit reads the tables. What the writers counted is a second witness.
        let complete = total.rows as u64 == self.written.rows();
        if !complete {
            self.screen.print(&format!("the writers committed {} rows, the tables differ", self.written.rows()));
        }
        let clean = complete && total.is_clean() && total.rows == total.records;
        self.screen.print(if clean { "\nexactly once: yes" } else { "\nexactly once: NO" });
        Ok(clean)
    }

    async fn unmarked(&self) -> Result<i64> {
        let mut unmarked = 0;
        for (source, client) in SOURCES.iter().zip(&self.clients) {
            let query = format!("SELECT count(*) FROM {} WHERE published_at IS NULL", source.table);
            unmarked += client.query_one(&query, &[]).await?.get::<_, i64>(0);
        }
        Ok(unmarked)
    }

    async fn standing(&self) -> Standing {
        Standing {
            transactions: self.written.transactions(),
            rows: self.written.rows(),
            records: self.consumer.records(),
            lag: watch::lag(&self.daemon).await,
        }
    }

    /// Looks until `done`, and shows the progress in the meantime.
    async fn wait(&self, what: &str, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !done().await? {
            if started.elapsed() > PATIENCE {
                bail!("waited {PATIENCE:?} for {what}");
            }
            self.screen.show(self.standing().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Lets time pass, and shows the progress.
    async fn linger(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.screen.show(self.standing().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

const COLUMNS: [&str; 8] = ["rows", "records", "duplicates", "missing", "unknown", "out of order", "torn", "unmarked"];

fn heading() -> String {
    COLUMNS.iter().fold(format!("{:<16}", ""), |line, name| line + &format!("  {name:>7}"))
}

fn line(name: &str, audit: &Audit) -> String {
    let Audit { rows, records, duplicates, missing, unknown, out_of_order, torn, unmarked, .. } = audit;
    let counts = [rows, records, duplicates, missing, unknown, out_of_order, torn, unmarked];
    COLUMNS.iter().zip(counts).fold(format!("{name:<16}"), |line, (column, count)| {
        line + &format!("  {count:>width$}", width = column.len().max(7))
    })
}

/// The first error among the writers that have ended.
fn ended(writers: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(writer) = writers.try_join_next() {
        writer?.context("a writer ended")?;
    }
    Ok(())
}
