//! Records that the broker refuses among thousands that it takes: numbers 115 and 116. The brokers answer slowly, so no
//! transaction could hold all records one by one.

use std::time::Duration;

use anyhow::{Result, bail};
use testbed::{Daemon, Kafka, eventually, kafka, proxy::Direction, reader};

use crate::scene::{PATIENCE, Scene, halts, start, tail, times_led, wait_ready};

/// What one record may hold in the topic of [`Small`].
const LIMIT: &str = "20000";

/// A source whose rows go to a topic that takes small records alone, through brokers that answer slowly.
struct Small {
    scene: Scene,
    aggregate: String,
    topic: String,
    letters: String,
}

impl Small {
    async fn new(kafka: kafka::Builder) -> Result<Self> {
        let scene = Scene::on_own_kafka(kafka.proxied()).await?.with_kafka("delivery_timeout = \"5s\"");
        let aggregate = format!("{}small", scene.aggregate);
        let (topic, letters) = (format!("{aggregate}.events"), format!("{aggregate}.letters"));
        scene.kafka.create_topic(&topic, 1, &[("max.message.bytes", LIMIT)]).await?;
        scene.kafka.create_topic(&letters, 1, &[]).await?;
        Ok(Self { scene, aggregate, topic, letters })
    }

    fn setting_aside(mut self) -> Self {
        let lines = format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{}\"", self.letters);
        self.scene = self.scene.with(&lines);
        self
    }

    /// A daemon that streams, through proxies that hold each answer back.
    async fn streaming(&self) -> Result<Daemon> {
        let scene = &self.scene;
        let url = scene.postgres.url(&scene.database);
        let daemon = start(&scene.config_through(&url, &scene.kafka.proxied_brokers()?))?;
        wait_ready(&daemon).await;
        scene.kafka.proxy(0)?.delay(Direction::ToClient, Duration::from_millis(40));
        Ok(daemon)
    }

    /// One transaction of `rows` rows of `bytes` bytes, of which those whose number `every` divides are too large.
    async fn insert(&self, rows: i32, bytes: i32, every: i32) -> Result<()> {
        let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                      SELECT $1, gen_random_uuid(), 'Sized', jsonb_build_object('seq', n, 'text', \
                             repeat('x', CASE n % $4 WHEN 0 THEN 30000 ELSE $3 END)) FROM generate_series(1, $2) n";
        self.scene.client.execute(insert, &[&self.aggregate, &rows, &bytes, &every]).await?;
        Ok(())
    }

    /// The numbers of the rows in a topic, in its order.
    async fn numbers(&self, topic: &str) -> Result<Vec<i64>> {
        let records = reader::read_committed(&self.scene.kafka.brokers(), &[topic]).await?;
        let number = |record: &reader::Record| {
            let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
            value["data"]["seq"].as_i64().ok_or_else(|| anyhow::anyhow!("no number"))
        };
        records.iter().map(number).collect()
    }

    /// Every row is where it belongs, once and in order.
    async fn assert_all(&self, daemon: &Daemon, rows: i64, every: i64) -> Result<()> {
        let unmarked = "SELECT count(*) FROM order_outbox WHERE published_at IS NULL";
        eventually(PATIENCE, || async {
            match self.scene.client.query_one(unmarked, &[]).await?.get(0) {
                0_i64 => Ok(()),
                rows => bail!("{rows} rows are unmarked\n{}", tail(daemon)),
            }
        })
        .await;
        assert_eq!(self.numbers(&self.topic).await?, (1..=rows).filter(|n| n % every != 0).collect::<Vec<_>>());
        let letters = reader::count_committed(&self.scene.kafka.brokers(), &[&self.letters]).await?;
        assert_eq!(i64::try_from(letters)?, rows / every);
        Ok(())
    }
}

#[tokio::test]
async fn a_refused_row_among_thousands_is_found_although_answers_are_slow() -> Result<()> {
    let small = Small::new(Kafka::builder(1)).await?.setting_aside();
    let daemon = small.streaming().await?;
    small.insert(2_000, 10, 1_800).await?;
    small.assert_all(&daemon, 2_000, 1_800).await
}

#[tokio::test]
async fn many_refused_rows_are_found_without_a_session_for_each() -> Result<()> {
    let small = Small::new(Kafka::builder(1)).await?.setting_aside();
    let daemon = small.streaming().await?;
    small.insert(400, 10, 20).await?;
    small.assert_all(&daemon, 400, 20).await?;
    assert!(times_led(&daemon) <= 8, "{} sessions\n{}", times_led(&daemon), tail(&daemon));
    Ok(())
}

#[tokio::test]
async fn rows_that_are_too_large_only_together_go_in_smaller_parts() -> Result<()> {
    let small = Small::new(Kafka::builder(1)).await?;
    let daemon = small.streaming().await?;
    small.insert(1_000, 1_000, 10_000).await?;
    small.assert_all(&daemon, 1_000, 10_000).await?;
    // The parts stay small, so what follows is not refused again.
    let refusals = || daemon.lines().iter().filter(|line| line.contains("looking for the records at fault")).count();
    let before = refusals();
    small.insert(1_000, 1_000, 10_000).await?;
    small.scene.wait_marked("order_outbox").await;
    assert_eq!(refusals(), before, "{}", tail(&daemon));
    Ok(())
}

#[tokio::test]
async fn a_refused_row_is_found_at_least_once() -> Result<()> {
    let mut small = Small::new(Kafka::builder(1)).await?.setting_aside();
    small.scene = small.scene.with_kafka("delivery = \"at-least-once\"");
    let _daemon = small.streaming().await?;
    small.insert(2_000, 10, 1_800).await?;
    small.scene.wait_marked("order_outbox").await;
    let mut numbers = small.numbers(&small.topic).await?;
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (1..=2_000).filter(|n| n % 1_800 != 0).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_refused_row_among_thousands_halts_its_source_with_its_name() -> Result<()> {
    let small = Small::new(Kafka::builder(1)).await?;
    let daemon = small.streaming().await?;
    small.insert(2_000, 10, 1_800).await?;
    halts(&daemon, "row-too-large").await?;
    let line = daemon.wait_for_line(|line| line.contains("halted: "), PATIENCE).await?;
    let query = "SELECT id::text FROM order_outbox WHERE (payload->>'seq')::int = 1800";
    let id: String = small.scene.client.query_one(query, &[]).await?.get(0);
    assert!(line.contains(&id), "{line}");
    Ok(())
}
