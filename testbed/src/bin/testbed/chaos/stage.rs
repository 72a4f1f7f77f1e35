//! The servers, the networks and the daemons.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Result;
use testbed::{Daemon, Kafka, Postgres, Proxy, Version};

use super::{servers::Servers, watch::wait_state};
use crate::sources::{SOURCES, Source};

/// Instances of the daemon.
pub(crate) const DAEMONS: usize = 3;

/// Kafka brokers.
pub(crate) const BROKERS: usize = 3;

/// Partitions of each topic at first.
const PARTITIONS: usize = 3;

/// Partitions of each topic at most.
pub(crate) const MAX_PARTITIONS: usize = 8;

/// Longest wait for anything. Machines are shared and slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) struct Stage {
    pub(crate) servers: Servers,
    /// Whether a standby can take the primary's place.
    pub(crate) has_standby: bool,
    pub(crate) kafka: Kafka,
    /// One proxy between each daemon and Postgres.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) daemons: Vec<Daemon>,
    partitions: [AtomicUsize; SOURCES.len()],
}

impl Stage {
    pub(crate) async fn start(outboxd: &Path, version: Version, has_standby: bool) -> Result<Self> {
        let postgres = Postgres::builder(version)
            // With such frequent checkpoints a crash forgets only a little of what the slots had
            // confirmed.
            .setting("checkpoint_timeout", "30s")
            .setting("max_connections", "200")
            .start();
        let kafka = Kafka::builder(BROKERS)
            .separate_controller()
            .proxied()
            .setting("min.insync.replicas", "2")
            .setting("default.replication.factor", "3");
        let (postgres, kafka) = tokio::try_join!(postgres, kafka.start())?;
        let admin = postgres.client("postgres").await?;
        // A daemon that is stopped or cut off loses its session after two seconds.
        admin.batch_execute(&format!("ALTER ROLE {} SET wal_sender_timeout = '2s'", testbed::postgres::ROLE)).await?;
        for source in &SOURCES {
            source.create(&postgres).await?;
            kafka.create_topic(source.topic, i32::try_from(PARTITIONS)?, &[]).await?;
        }
        let brokers = kafka.proxied_brokers()?;
        let (mut proxies, mut daemons) = (Vec::new(), Vec::new());
        for _ in 0..DAEMONS {
            let proxy = Proxy::start(postgres.port()?)?;
            let config = config(&proxy.address(), &brokers, has_standby);
            daemons.push(Daemon::builder(outboxd)?.args(&["run", "--config", "{config}"]).config(&config).start()?);
            proxies.push(proxy);
            // The first daemon leads all sources until the first faults.
            if daemons.len() == 1 {
                wait_state(&daemons[0], "streaming", PATIENCE).await?;
            }
        }
        let servers = Servers::new(postgres)?;
        if has_standby {
            servers.add_standby().await?;
        }
        let partitions = std::array::from_fn(|_| AtomicUsize::new(PARTITIONS));
        Ok(Self { servers, has_standby, kafka, proxies, daemons, partitions })
    }

    /// Ends all network faults.
    pub(crate) fn heal(&self) -> Result<()> {
        self.proxies.iter().for_each(Proxy::heal);
        for broker in 0..BROKERS {
            self.kafka.proxy(broker)?.heal();
        }
        Ok(())
    }

    /// Adds a partition to the topic of this source, unless it has many. Returns whether it did.
    pub(crate) async fn raise_partitions(&self, source: usize) -> Result<bool> {
        let total = self.partitions[source].load(Ordering::Relaxed) + 1;
        if total > MAX_PARTITIONS {
            return Ok(false);
        }
        self.kafka.add_partitions(SOURCES[source].topic, total).await?;
        self.partitions[source].store(total, Ordering::Relaxed);
        Ok(true)
    }

    /// Copies every log to this folder.
    pub(crate) fn keep_logs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for (number, daemon) in self.daemons.iter().enumerate() {
            std::fs::write(folder.join(format!("daemon-{number}.log")), daemon.lines().join("\n"))?;
        }
        for broker in 0..BROKERS {
            std::fs::copy(self.kafka.log_path(broker)?, folder.join(format!("broker-{broker}.log")))?;
        }
        std::fs::copy(self.servers.primary().log_path()?, folder.join("postgres.log"))?;
        Ok(())
    }
}

/// The configuration of a daemon. Kafka's bounds are shorter than the longest faults, so that
/// commits become unknown and transactions time out.
fn config(postgres: &str, brokers: &str, failover: bool) -> String {
    let sources: String = SOURCES.iter().map(|source| section(source, postgres, failover)).collect();
    format!(
        "{sources}[kafka]\nbrokers = \"{brokers}\"\nposition_topic = \"outboxd.chaos.positions\"\n\
         transaction_timeout = \"10s\"\ndelivery_timeout = \"4s\"\n\n\
         [http]\nlisten = \"{{http}}\"\n[log]\nformat = \"json\"\nlevel = \"info,outboxd=debug\"\n"
    )
}

/// The section of one source. All timeouts are short, so that much happens in little time. Batches
/// are small, so that large transactions are split.
fn section(source: &Source, postgres: &str, failover: bool) -> String {
    let Source { name, database, table, .. } = source;
    format!(
        "[[source]]\nname = \"{name}\"\nurl = \"postgres://outboxd@{postgres}/{database}\"\ntables = [\"{table}\"]\n\
         failover = {failover}\n[source.limits]\nbatch_rows = 1000\n\
         [source.timeouts]\nstatus = \"300ms\"\nconnect = \"3s\"\nstatement = \"10s\"\nlock = \"2s\"\n\
         idle_advance = \"1s\"\nbackoff_max = \"2s\"\n\n"
    )
}
