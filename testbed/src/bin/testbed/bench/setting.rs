//! The servers, and daemons with one source on them.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use testbed::{Daemon, Kafka, Postgres, Version, workload};
use tokio_postgres::Client;

use crate::daemon_binary;

/// Longest wait for a daemon to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) const EXACTLY_ONCE: &str = "exactly-once";

pub(crate) const TABLE: &str = "order_outbox";

/// What a run is made with.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The daemon; by default the outboxd beside this program
    #[arg(long)]
    outboxd: Option<PathBuf>,
    /// Postgres' major: 15, 16, 17 or 18
    #[arg(long, default_value = "15")]
    pub(crate) postgres: Version,
    #[command(flatten)]
    pub(crate) via: Via,
    /// Further lines of the daemon's [source.limits], for experiments: `batch_rows = 2000`
    #[arg(long)]
    limit: Vec<String>,
    /// Further lines of the daemon's [kafka.options]: `"linger.ms" = 5`
    #[arg(long)]
    kafka_option: Vec<String>,
}

impl Options {
    /// The lines of the configuration that a plain run does not have.
    pub(crate) fn experiments(&self) -> Vec<&str> {
        self.limit.iter().chain(&self.kafka_option).map(String::as_str).collect()
    }
}

/// How rows come to the daemon and leave it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Via {
    /// Partitions of a topic
    #[arg(long, default_value_t = 6)]
    pub(crate) partitions: i32,
    /// The records' `compression.type`
    #[arg(long, default_value = "lz4")]
    pub(crate) compression: Codec,
    /// Reach Postgres through its Unix socket
    #[arg(long)]
    pub(crate) unix_socket: bool,
}

/// What librdkafka compresses with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Codec {
    None,
    Lz4,
    Snappy,
    Gzip,
    Zstd,
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partitions, compression, unix_socket } = self;
        let socket = if *unix_socket { "a Unix socket" } else { "TCP" };
        let plural = if *partitions == 1 { "" } else { "s" };
        write!(f, "{socket}, {partitions} partition{plural}, {compression}")
    }
}

pub(crate) struct Setting {
    pub(crate) version: Version,
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
    outboxd: PathBuf,
    pub(crate) via: Via,
    limits: String,
    kafka_options: String,
}

impl Setting {
    pub(crate) async fn start(options: &Options) -> Result<Self> {
        let outboxd = daemon_binary(options.outboxd.clone())?;
        say("starting Postgres and Kafka");
        let postgres = Postgres::builder(options.postgres)
            .durable(true)
            .setting("shared_buffers", "256MB")
            // No checkpoint except ours comes during a measurement.
            .setting("max_wal_size", "16GB")
            .setting("checkpoint_timeout", "1h")
            .setting("autovacuum", "off")
            .start();
        // The later flag wins. The tests use only the compiler C1, for a fast start. Here C1 alone
        // would make the broker the bottleneck.
        let kafka = Kafka::builder(1).jvm("-XX:TieredStopAtLevel=4").jvm("-Xmx1g").start();
        let (postgres, kafka) = tokio::try_join!(postgres, kafka)?;
        Ok(Self {
            version: options.postgres,
            postgres,
            kafka,
            outboxd,
            via: options.via,
            limits: options.limit.join("\n"),
            kafka_options: options.kafka_option.join("\n"),
        })
    }

    /// Makes a database with the seed's outbox.
    pub(crate) async fn database(&self, name: &str) -> Result<Client> {
        self.postgres.create_database(name).await?;
        let client = self.postgres.client(name).await?;
        workload::create_outbox(&client, TABLE).await?;
        Ok(client)
    }

    /// The configuration of these sources. The first one says how all of them deliver. `{http}`
    /// stands for the HTTP address.
    pub(crate) fn config(&self, sources: &[Source]) -> String {
        let mut text = String::new();
        let first = sources.first();
        for source in sources {
            let Source { name, mark, backfill, .. } = source;
            text.push_str(&format!(
                "[[source]]\nname = \"{name}\"\nurl = \"{}\"\ntables = [\"{TABLE}\"]\ntopic = \"{}\"\n\
                 mark = \"{mark}\"\nbackfill = \"{backfill}\"\n[source.limits]\n{}\n",
                self.url(source),
                source.topic(),
                self.limits
            ));
        }
        text + &format!(
            "[kafka]\nbrokers = \"{}\"\nposition_topic = \"positions\"\ndelivery = \"{}\"\n\
             [kafka.options]\n\"compression.type\" = \"{}\"\n{}\n[http]\nlisten = \"{{http}}\"\n[log]\nformat = \"json\"\nlevel = \"info\"\n",
            self.kafka.brokers(),
            first.map_or(EXACTLY_ONCE, |source| source.delivery),
            first.map_or(self.via, |source| self.via(source)).compression,
            self.kafka_options
        )
    }

    fn via(&self, source: &Source) -> Via {
        source.via.unwrap_or(self.via)
    }

    fn url(&self, source: &Source) -> String {
        let url = self.postgres.url(&source.database);
        match self.postgres.socket_dir() {
            Ok(directory) if self.via(source).unix_socket => format!("{url}?host={}", directory.display()),
            _ => url,
        }
    }

    /// The program.
    pub(crate) fn outboxd(&self) -> &Path {
        &self.outboxd
    }

    /// Starts a daemon of these sources.
    pub(crate) fn daemon(&self, sources: &[Source]) -> Result<Daemon> {
        let config = self.config(sources);
        Daemon::builder(&self.outboxd)?.args(&["run", "--config", "{config}"]).config(&config).start()
    }

    /// Drops a slot whose reader has just ended, as soon as the reader has released it.
    pub(crate) async fn drop_slot(&self, slot: &str) -> Result<()> {
        let client = self.postgres.client("postgres").await?;
        let query = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1
                     AND NOT active";
        let deadline = Instant::now() + READY_WITHIN;
        while client.query_opt(query, &[&slot]).await?.is_none() {
            anyhow::ensure!(Instant::now() < deadline, "slot {slot} is not let go");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Removes everything of a source: slot, database, the log that the slot kept, topic.
    pub(crate) async fn remove(&self, source: &Source) -> Result<()> {
        self.drop_slot(&source.slot()).await?;
        let client = self.postgres.client("postgres").await?;
        client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", source.database)).await?;
        client.batch_execute("CHECKPOINT").await?;
        self.kafka.delete_topic(&source.topic()).await
    }

    /// Makes what a daemon may not make: the publication, and a topic with several partitions.
    pub(crate) async fn prepare(&self, client: &Client, source: &Source) -> Result<()> {
        let filter = source.filter.as_ref().map_or_else(String::new, |filter| format!(" WHERE ({filter})"));
        let publication = format!(
            "CREATE PUBLICATION {} FOR TABLE {TABLE}{filter}
             WITH (publish = 'insert', publish_via_partition_root = true)",
            source.slot()
        );
        client.batch_execute(&publication).await?;
        self.kafka.create_topic(&source.topic(), self.via(source).partitions, &[]).await
    }

    /// Lets a daemon make slot and position, too, and ends that daemon. What is written from now on
    /// waits for a daemon.
    pub(crate) async fn set_up(&self, client: &Client, source: &Source) -> Result<()> {
        self.prepare(client, source).await?;
        let daemon = self.daemon(std::slice::from_ref(source))?;
        streaming(&daemon).await?;
        daemon.term()?;
        anyhow::ensure!(daemon.wait_exit(READY_WITHIN).await? == 0, "{}", daemon.lines().join("\n"));
        Ok(())
    }
}

/// A source of the daemon. Slot, publication and topic follow from its name.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) database: String,
    pub(crate) mark: &'static str,
    pub(crate) delivery: &'static str,
    pub(crate) backfill: &'static str,
    /// The publication's row filter.
    pub(crate) filter: Option<String>,
    /// As the command line says, if there is nothing here.
    pub(crate) via: Option<Via>,
}

impl Source {
    /// A source that delivers exactly once.
    pub(crate) fn new(database: &str, name: &str, mark: &'static str) -> Self {
        let (name, database) = (name.to_owned(), database.to_owned());
        Self { name, database, mark, delivery: EXACTLY_ONCE, backfill: "none", filter: None, via: None }
    }

    pub(crate) fn topic(&self) -> String {
        format!("{}.events", self.name)
    }

    /// The name of the slot and of the publication.
    pub(crate) fn slot(&self) -> String {
        format!("outboxd_{}", self.name)
    }
}

/// Waits until the daemon says that it streams.
pub(crate) async fn streaming(daemon: &Daemon) -> Result<()> {
    daemon.wait_for_line(|line| line.contains("\"streaming\""), READY_WITHIN).await.map(|_| ())
}

pub(crate) fn say(text: &str) {
    eprintln!("bench: {text}");
}
