//! A database with an outbox, topics, and the daemon between them: what most tests begin with.

use std::{ops::Deref, time::Duration};

use anyhow::{Result, bail};
use testbed::{Audit, Daemon, Expect, Kafka, Load, Postgres, Version, eventually, oracle, reader, unique, workload};
use tokio_postgres::Client;
use uuid::Uuid;

/// Longest wait for anything that should take seconds at most; machines are shared and slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Lines for `[[source]]`: what a running source looks at now and then, and its second attempts, come soon.
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
        Self::on(Host::Shared(Postgres::shared(Version::V15).await?), Host::Shared(Kafka::shared().await?)).await
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
        client
            .batch_execute(&format!(
                "CREATE PUBLICATION outboxd_{source} FOR TABLE order_outbox \
                 WITH (publish = 'insert', publish_via_partition_root = true)"
            ))
            .await?;
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

    /// A line more for the source, such as `mark = "none"`.
    pub(crate) fn with(mut self, line: &str) -> Self {
        self.source_lines.push_str(line);
        self.source_lines.push('\n');
        self
    }

    /// A line more for Kafka.
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

    /// Starts a daemon on it.
    pub(crate) fn daemon(&self) -> Result<Daemon> {
        start(&self.config())
    }

    /// Runs another command on the same configuration, to its end: exit code, standard output, standard error.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        let path = std::env::temp_dir().join(format!("outboxd-{}.toml", unique("command")));
        std::fs::write(&path, self.config().replace("{http}", "off"))?;
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

    /// Writers that commit and roll back until they are stopped.
    pub(crate) fn load(&self) -> Load {
        Load::builder(&self.postgres.superuser_url(&self.database), "order_outbox", &self.aggregate).start()
    }

    /// One transaction of one aggregate.
    pub(crate) async fn insert(&mut self, rows: u32) -> Result<Vec<Uuid>> {
        workload::insert(&mut self.client, "order_outbox", (&self.aggregate, Uuid::new_v4()), rows).await
    }

    /// Waits until every row is marked, then holds the table against the topic.
    pub(crate) async fn oracle(&self) -> Result<Audit> {
        self.wait_marked("order_outbox").await;
        self.audit(Expect::Tables(&["order_outbox"])).await
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
            match reader::count_committed(&self.kafka.brokers(), &[&self.topic]).await? {
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

    /// The slot's name.
    pub(crate) fn slot(&self) -> String {
        format!("outboxd_{}", self.source)
    }
}

/// Starts a daemon with this configuration.
pub(crate) fn start(config: &str) -> Result<Daemon> {
    Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&["run", "--config", "{config}"]).config(config).start()
}

/// Waits until the daemon is ready.
pub(crate) async fn wait_ready(daemon: &Daemon) {
    eventually(PATIENCE, || async {
        match daemon.http_get("/readyz").await {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => bail!("/readyz says {status}: {body}\n{}", tail(daemon)),
            Err(error) => bail!("/readyz: {error:#}\n{}", tail(daemon)),
        }
    })
    .await;
}

/// The daemon's last lines, for a failure's message.
pub(crate) fn tail(daemon: &Daemon) -> String {
    let lines = daemon.lines();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Waits for a log line with this error code.
pub(crate) async fn wait_code(daemon: &Daemon, code: &str) -> Result<String> {
    let wanted = format!("\"code\":\"{code}\"");
    daemon.wait_for_line(|line| line.contains(&wanted), PATIENCE).await
}
