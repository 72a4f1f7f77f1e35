//! One source, a leader and a standby, a steady load, and a consumer that tells when each row
//! arrives.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use testbed::{
    Audit, Daemon, Expect, Kafka, Postgres, Version, oracle,
    reader::{Follower, From},
    workload,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_postgres::Client;
use uuid::Uuid;

use super::watch::{is_ready, wait_state};

pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

const DATABASE: &str = "takeover";
const TABLE: &str = "order_outbox";
const TOPIC: &str = "takeover.events";

/// Sessions that write.
const WRITERS: u32 = 4;

/// What the pair is made of.
pub(crate) struct Plan<'a> {
    pub(crate) outboxd: &'a Path,
    pub(crate) brokers: usize,
    /// `wal_sender_timeout` of the daemon's role.
    pub(crate) wal_sender_timeout: &'a str,
    /// `status` of `[source.timeouts]`.
    pub(crate) status: &'a str,
}

pub(crate) struct Pair {
    postgres: Postgres,
    kafka: Kafka,
    client: Client,
    pub(crate) leader: Daemon,
    pub(crate) standby: Daemon,
}

impl Pair {
    /// Starts the servers, and two daemons, of which one leads.
    pub(crate) async fn start(plan: &Plan<'_>) -> Result<Self> {
        let replicas = plan.brokers.to_string();
        let kafka = Kafka::builder(plan.brokers)
            .separate_controller()
            .setting("min.insync.replicas", if plan.brokers > 2 { "2" } else { "1" })
            .setting("default.replication.factor", &replicas);
        let postgres = Postgres::builder(Version::V15).durable(true).start();
        let (postgres, kafka) = tokio::try_join!(postgres, kafka.start())?;
        postgres.create_database(DATABASE).await?;
        let client = postgres.client(DATABASE).await?;
        workload::create_outbox(&client, TABLE).await?;
        let role = testbed::postgres::ROLE;
        client
            .batch_execute(&format!(
                "CREATE PUBLICATION outboxd_takeover FOR TABLE {TABLE} \
                 WITH (publish = 'insert', publish_via_partition_root = true); \
                 ALTER ROLE {role} SET wal_sender_timeout = '{}'",
                plan.wal_sender_timeout
            ))
            .await?;
        kafka.create_topic(TOPIC, 3, &[]).await?;
        let config = config(&postgres.url(DATABASE), &kafka.brokers(), plan.status);
        let start = || Daemon::builder(plan.outboxd)?.args(&["run", "--config", "{config}"]).config(&config).start();
        let leader = start()?;
        wait_state(&leader, "streaming", PATIENCE).await?;
        let standby = start()?;
        wait_state(&standby, "standby", PATIENCE).await?;
        Ok(Self { postgres, kafka, client, leader, standby })
    }

    /// Notes that leader and standby have changed places.
    pub(crate) fn swap(&mut self) {
        std::mem::swap(&mut self.leader, &mut self.standby);
    }

    /// Waits until the standby leads.
    pub(crate) async fn standby_ready(&self) -> Result<Instant> {
        let started = Instant::now();
        while !is_ready(&self.standby).await {
            anyhow::ensure!(
                started.elapsed() < PATIENCE,
                "no takeover within {PATIENCE:?}:\n{}",
                super::watch::tail(&self.standby)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Instant::now())
    }

    /// Begins to write single rows, `rate` of them a second.
    pub(crate) async fn load(&self, rate: u32) -> Result<Load> {
        let begun: Begun = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let client = self.postgres.client(DATABASE).await?;
            let pause = Duration::from_secs(1) * WRITERS / rate;
            writers.spawn(write(client, pause, Arc::clone(&begun), stopped.clone()));
        }
        let mut follower = Follower::start(&self.kafka.brokers(), &[TOPIC], From::End).await?;
        let (sender, arrived) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((record, at)) = follower.next(PATIENCE).await {
                let begun = record.header_str("event_id").and_then(|id| lock(&begun).remove(id));
                if begun.is_some_and(|begun| sender.send((begun, at)).is_err()) {
                    return;
                }
            }
        });
        Ok(Load { stop, writers, arrived })
    }

    /// Lets everything come to rest, and compares the table with the topic.
    pub(crate) async fn audit(&self) -> Result<Audit> {
        let unmarked = format!("SELECT count(*) FROM {TABLE} WHERE published_at IS NULL");
        let started = Instant::now();
        while self.client.query_one(&unmarked, &[]).await?.get::<_, i64>(0) > 0 {
            anyhow::ensure!(started.elapsed() < PATIENCE, "rows stay unmarked");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        oracle::audit(&self.client, Expect::Tables(&[TABLE]), &self.kafka.brokers(), &[TOPIC]).await
    }
}

/// When the transaction of each row began. A row leaves the map when its record has arrived.
type Begun = Arc<Mutex<HashMap<String, Instant>>>;

fn lock(begun: &Begun) -> MutexGuard<'_, HashMap<String, Instant>> {
    begun.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writers at work, and the records that arrive.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    writers: JoinSet<Result<()>>,
    arrived: mpsc::UnboundedReceiver<(Instant, Instant)>,
}

impl Load {
    /// Waits for the first record of a row that was inserted after this moment, and returns when it
    /// arrived.
    pub(crate) async fn first_of_after(&mut self, moment: Instant) -> Result<Instant> {
        let first = async {
            while let Some((begun, arrived)) = self.arrived.recv().await {
                if begun >= moment {
                    return Ok(arrived);
                }
            }
            anyhow::bail!("the consumer has ended")
        };
        tokio::time::timeout(PATIENCE, first).await.context("no record of a row from after the takeover")?
    }

    /// Stops the writers after the transactions that are under way.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(writer) = self.writers.join_next().await {
            writer??;
        }
        Ok(())
    }
}

async fn write(client: Client, pause: Duration, begun: Begun, stopped: watch::Receiver<bool>) -> Result<()> {
    let insert = client
        .prepare(&format!(
            "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, event_type, payload) \
             VALUES ($1, 'order', $2, 'OrderCreated', jsonb_build_object('seq', $3::bigint, 'total', 1500.00))"
        ))
        .await?;
    let keys: [Uuid; 10] = std::array::from_fn(|_| Uuid::new_v4());
    let mut pace = tokio::time::interval(pause);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for seq in 0_i64.. {
        pace.tick().await;
        if *stopped.borrow() {
            break;
        }
        let id = Uuid::new_v4();
        lock(&begun).insert(id.to_string(), Instant::now());
        client.execute(&insert, &[&id, &keys[fastrand::usize(..keys.len())], &seq]).await?;
    }
    Ok(())
}

fn config(url: &str, brokers: &str, status: &str) -> String {
    format!(
        "[[source]]\nname = \"takeover\"\nurl = \"{url}\"\ntables = [\"{TABLE}\"]\ntopic = \"{TOPIC}\"\n\
         [source.timeouts]\nstatus = \"{status}\"\n\
         [kafka]\nbrokers = \"{brokers}\"\nposition_topic = \"takeover.positions\"\n\
         [http]\nlisten = \"{{http}}\"\n[log]\nformat = \"json\"\nlevel = \"info,outboxd=debug\"\n"
    )
}
