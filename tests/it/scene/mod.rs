//! A database with an outbox, topics, and the daemon between them: what most tests begin with.

mod daemon;
mod positions;
mod sql;

use std::{ops::Deref, time::Duration};

use anyhow::{Result, bail};
use testbed::{
    Audit, Daemon, Expect, Kafka, Load, Postgres, Version, eventually, kafka, oracle, postgres, reader, unique,
    workload,
};
use tokio_postgres::Client;
use uuid::Uuid;

pub(crate) use self::{
    daemon::{
        Metrics, halts, halts_again, is_ready, metric, start, stop, streams_again, tail, times_led, wait_code,
        wait_ready, wait_state,
    },
    sql::{create_publication, insert_one, insert_one_into, role_with, wait_true},
};

/// Longest wait for anything that should take seconds at most; machines are shared and slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The longest that a producer of the test's own waits for Kafka.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The one table of most scenes.
pub(crate) const TABLE: &[&str] = &["order_outbox"];

/// Lines for `[[source]]`: the source advances, reports and tries again after a short time.
pub(crate) const QUICK: &str = "[source.timeouts]\nidle_advance = \"200ms\"\nstatus = \"200ms\"\nbackoff_max = \"1s\"";

/// A server of the test's own, which it may stop, or one that all tests share.
pub(crate) enum Host<T: 'static> {
    Own(T),
    Shared(&'static T),
}

impl<T> Deref for Host<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Own(server) => server,
            Self::Shared(server) => server,
        }
    }
}

/// One source: table `order_outbox` in a database of its own, published to `<topic>.events`.
pub(crate) struct Scene {
    pub postgres: Host<Postgres>,
    pub kafka: Host<Kafka>,
    pub database: String,
    pub client: Client,
    /// The source's name, unique in the cluster.
    pub source: String,
    /// The aggregate type of the rows, of which the topic's name is made.
    pub aggregate: String,
    pub topic: String,
    pub position_topic: String,
    /// Lines for `[[source]]`.
    pub source_lines: String,
    /// Lines for `[kafka]`.
    pub kafka_lines: String,
}

impl Scene {
    /// On servers that all tests share.
    pub(crate) async fn shared() -> Result<Self> {
        Self::on_major(Version::V15).await
    }

    /// On a shared server of this major, and the shared broker.
    pub(crate) async fn on_major(version: Version) -> Result<Self> {
        Self::on(Host::Shared(Postgres::shared(version).await?), Host::Shared(Kafka::shared().await?)).await
    }

    /// On a server of the test's own, beside the shared broker.
    pub(crate) async fn on_own_postgres(postgres: postgres::Builder) -> Result<Self> {
        Self::on(Host::Own(postgres.start().await?), Host::Shared(Kafka::shared().await?)).await
    }

    /// On brokers of the test's own, beside a shared server.
    pub(crate) async fn on_own_kafka(kafka: kafka::Builder) -> Result<Self> {
        Self::on_kafka(Host::Own(kafka.start().await?)).await
    }

    /// On these brokers, beside a shared server.
    pub(crate) async fn on_kafka(kafka: Host<Kafka>) -> Result<Self> {
        Self::on(Host::Shared(Postgres::shared(Version::V15).await?), kafka).await
    }

    /// On these servers.
    pub(crate) async fn on(postgres: Host<Postgres>, kafka: Host<Kafka>) -> Result<Self> {
        let database = postgres.fresh_database("shop").await?;
        Self::within(postgres, kafka, database).await
    }

    /// In a database that is there already.
    pub(crate) async fn within(postgres: Host<Postgres>, kafka: Host<Kafka>, database: String) -> Result<Self> {
        let client = postgres.client(&database).await?;
        workload::create_outbox(&client, "order_outbox").await?;
        let source = unique("s");
        let aggregate = unique("order");
        let topic = format!("{aggregate}.events");
        kafka.create_topic(&topic, 3, &[]).await?;
        create_publication(&client, &format!("outboxd_{source}")).await?;
        let position_topic = format!("positions.{source}");
        let (source_lines, kafka_lines) = (String::new(), String::new());
        Ok(Self {
            postgres,
            kafka,
            database,
            client,
            source,
            aggregate,
            topic,
            position_topic,
            source_lines,
            kafka_lines,
        })
    }

    /// Adds a line to the source, such as `mark = "none"`.
    pub(crate) fn with(mut self, line: &str) -> Self {
        self.source_lines.push_str(line);
        self.source_lines.push('\n');
        self
    }

    /// Adds a line to `[kafka]`.
    pub(crate) fn with_kafka(mut self, line: &str) -> Self {
        self.kafka_lines.push_str(line);
        self.kafka_lines.push('\n');
        self
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> String {
        self.config_through(&self.postgres.url(&self.database), &self.kafka.brokers())
    }

    /// The same with other addresses, of proxies for instance.
    pub(crate) fn config_through(&self, url: &str, brokers: &str) -> String {
        let tables = if self.source_lines.contains("tables =") { "" } else { "tables = [\"order_outbox\"]" };
        format!(
            "[[source]]\nname = \"{}\"\nurl = \"{url}\"\n{tables}\n{}\n\
             [kafka]\nbrokers = \"{brokers}\"\nposition_topic = \"{}\"\n{}\n\
             [http]\nlisten = \"{{http}}\"\n[log]\nformat = \"json\"\nlevel = \"info,outboxd=debug\"\n",
            self.source, self.source_lines, self.position_topic, self.kafka_lines
        )
    }

    /// One configuration for this source and that of another scene.
    pub(crate) fn config_with(&self, other: &Self) -> String {
        let theirs = other.config();
        let theirs = theirs.split_once("\n[kafka]").map_or(theirs.as_str(), |(source, _)| source);
        self.config().replacen("\n[kafka]", &format!("\n{theirs}\n[kafka]"), 1)
    }

    /// Starts a daemon on it.
    pub(crate) fn daemon(&self) -> Result<Daemon> {
        start(&self.config())
    }

    /// Starts a daemon that reaches its server by this URL.
    pub(crate) fn daemon_at(&self, url: &str) -> Result<Daemon> {
        start(&self.config_through(url, &self.kafka.brokers()))
    }

    /// Starts a daemon that logs in as this role.
    pub(crate) fn daemon_as(&self, role: &str) -> Result<Daemon> {
        self.daemon_at(&self.postgres.role_url(role, &self.database))
    }

    /// Runs another command on the same configuration, to its end: exit code, standard output, standard error.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        self.command_at(&self.postgres.url(&self.database), arguments).await
    }

    /// The same on a server that is reached by this URL.
    pub(crate) async fn command_at(&self, url: &str, arguments: &[&str]) -> Result<(i32, String, String)> {
        self.command_on(&self.config_through(url, &self.kafka.brokers()), arguments).await
    }

    /// The same on another configuration.
    pub(crate) async fn command_on(&self, config: &str, arguments: &[&str]) -> Result<(i32, String, String)> {
        let path = std::env::temp_dir().join(format!("outboxd-{}.toml", unique("command")));
        std::fs::write(&path, config.replace("{http}", "off"))?;
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command.args(arguments).arg("--config").arg(&path).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        std::fs::remove_file(&path)?;
        let output = output??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
    }

    /// Starts a daemon and waits until it streams.
    pub(crate) async fn streaming(&self) -> Result<Daemon> {
        let daemon = self.daemon()?;
        wait_ready(&daemon).await;
        Ok(daemon)
    }

    /// A daemon that streams, and has published and marked so many rows.
    pub(crate) async fn published(&mut self, rows: u32) -> Result<Daemon> {
        let daemon = self.streaming().await?;
        self.insert(rows).await?;
        self.oracle().await?.assert_clean();
        Ok(daemon)
    }

    /// A daemon that has published three rows, all confirmed, and was stopped.
    pub(crate) async fn stopped(&mut self) -> Result<Daemon> {
        let daemon = self.published(3).await?;
        self.wait_caught_up().await?;
        stop(&daemon).await?;
        Ok(daemon)
    }

    /// Writers that commit and roll back until they are stopped.
    pub(crate) fn load(&self) -> Load {
        Load::builder(&self.postgres.superuser_url(&self.database), "order_outbox", &self.aggregate).start()
    }

    /// The same at a pace that leaves the machine time for other things: so many transactions a second of each writer.
    pub(crate) fn load_at(&self, per_second: u32) -> Load {
        let url = self.postgres.superuser_url(&self.database);
        Load::builder(&url, "order_outbox", &self.aggregate).per_second(per_second).start()
    }

    /// One transaction of one aggregate.
    pub(crate) async fn insert(&mut self, rows: u32) -> Result<Vec<Uuid>> {
        workload::insert(&mut self.client, "order_outbox", &self.aggregate, Uuid::new_v4(), rows).await
    }

    /// How many committed records the topic has.
    pub(crate) async fn records(&self) -> Result<u64> {
        reader::count_committed(&self.kafka.brokers(), &[&self.topic]).await
    }

    /// Waits until every row is marked, then holds the table against the topic.
    pub(crate) async fn oracle(&self) -> Result<Audit> {
        self.wait_marked("order_outbox").await;
        self.audit(Expect::Tables(TABLE)).await
    }

    /// The same for rows that a backfill took from the table, whose order is best effort.
    pub(crate) async fn oracle_whatever_the_order(&self) -> Result<Audit> {
        Ok(self.oracle().await?.whatever_the_order())
    }

    /// Asserts that the oracle finds no difference, and that the topic has this many records.
    pub(crate) async fn assert_exactly(&self, records: usize) -> Result<()> {
        let audit = self.oracle().await?;
        audit.assert_clean();
        assert_eq!(audit.records, records);
        Ok(())
    }

    /// The same, where the order is best effort.
    pub(crate) async fn assert_exactly_whatever_the_order(&self, records: usize) -> Result<()> {
        let audit = self.oracle_whatever_the_order().await?;
        audit.assert_clean();
        assert_eq!(audit.records, records);
        Ok(())
    }

    /// Holds what is expected against the topic, now.
    pub(crate) async fn audit(&self, expect: Expect<'_>) -> Result<Audit> {
        oracle::audit(&self.client, expect, &self.kafka.brokers(), &[&self.topic]).await
    }

    /// Waits until every row of the table is marked.
    pub(crate) async fn wait_marked(&self, table: &str) {
        let query = format!("SELECT count(*) FROM {table} WHERE published_at IS NULL");
        eventually(PATIENCE, || async {
            match self.client.query_one(&query, &[]).await?.get(0) {
                0_i64 => Ok(()),
                rows => bail!("{rows} rows are unmarked"),
            }
        })
        .await;
    }

    /// Waits until the topic has this many committed records.
    pub(crate) async fn wait_records(&self, records: u64) {
        eventually(PATIENCE, || async {
            match self.records().await? {
                found if found >= records => Ok(()),
                found => bail!("{found} of {records} records"),
            }
        })
        .await;
    }

    /// Waits until the slot is confirmed up to everything that was written before the call.
    pub(crate) async fn wait_caught_up(&self) -> Result<()> {
        let end: String = self.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        let query = "SELECT (confirmed_flush_lsn >= $1::text::pg_lsn) FROM pg_replication_slots WHERE slot_name = $2";
        let slot = self.slot();
        eventually(PATIENCE, || async {
            match self.client.query_one(query, &[&end, &slot]).await?.get(0) {
                true => Ok(()),
                false => bail!("the slot is not confirmed up to {end}"),
            }
        })
        .await;
        Ok(())
    }
}
