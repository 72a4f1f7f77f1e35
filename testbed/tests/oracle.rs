//! The oracle finds nothing where all is well, and each kind of fault where it was made.

use std::time::Duration;

use anyhow::Result;
use rdkafka::{
    config::ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use testbed::{
    Audit, Expect, Kafka, Load, Postgres, Version, eventually, oracle,
    reader::{Follower, From},
    workload,
};
use tokio_postgres::Client;
use uuid::Uuid;

const WITHIN: Duration = Duration::from_secs(20);

struct Event {
    id: String,
    key: String,
    payload: String,
}

/// A table with rows, a topic, and a relay that does as it is told.
struct Scene {
    client: Client,
    url: String,
    kafka: &'static Kafka,
    topic: String,
}

impl Scene {
    async fn new() -> Result<Self> {
        let postgres = Postgres::shared(Version::V15).await?;
        let database = postgres.fresh_database("oracle").await?;
        let client = postgres.client(&database).await?;
        workload::create_outbox(&client, "order_outbox").await?;
        let kafka = Kafka::shared().await?;
        let topic = kafka.fresh_topic("order.events", 3).await?;
        Ok(Self { client, url: postgres.url(&database), kafka, topic })
    }

    async fn events(&self) -> Result<Vec<Event>> {
        let query = "SELECT id::text, aggregate_id::text, payload::text FROM order_outbox
                     ORDER BY (payload->>'seq')::int, id";
        let rows = self.client.query(query, &[]).await?;
        Ok(rows.iter().map(|r| Event { id: r.get(0), key: r.get(1), payload: r.get(2) }).collect())
    }

    async fn publish(&self, events: Vec<Event>, commit: bool) -> Result<()> {
        let (brokers, topic) = (self.kafka.brokers(), self.topic.clone());
        tokio::task::spawn_blocking(move || {
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .set("transactional.id", topic.clone())
                .set("partitioner", "murmur2_random")
                .create()?;
            producer.init_transactions(WITHIN)?;
            producer.begin_transaction()?;
            for Event { id, key, payload } in &events {
                let headers = OwnedHeaders::new().insert(Header { key: "event_id", value: Some(id) });
                producer
                    .send(BaseRecord::to(&topic).key(key).payload(payload).headers(headers))
                    .map_err(|(error, _)| error)?;
            }
            producer.flush(WITHIN)?;
            if commit {
                producer.commit_transaction(WITHIN)?;
            } else {
                producer.abort_transaction(WITHIN)?;
            }
            Ok(())
        })
        .await?
    }

    async fn mark_all(&self) -> Result<()> {
        Ok(self.client.batch_execute("UPDATE order_outbox SET published_at = now()").await?)
    }

    async fn audit(&self) -> Result<Audit> {
        oracle::audit(&self.client, Expect::Tables(&["order_outbox"]), &self.kafka.brokers(), &[&self.topic]).await
    }
}

#[tokio::test]
async fn a_faithful_relay_is_clean() -> Result<()> {
    let scene = Scene::new().await?;
    let loaded = Load::builder(&scene.url, "order_outbox", "order").transactions(50).start().finished().await?;
    workload::bulk(&scene.client, "order_outbox", "order", 1_000, 7).await?;
    assert!(loaded.rolled_back > 0 && loaded.transactions == 200);
    let events = scene.events().await?;
    assert_eq!(events.len(), loaded.ids.len() + 1_000);

    scene.publish(vec![Event { id: "x".into(), key: "k".into(), payload: "{}".into() }], false).await?;
    scene.publish(events, true).await?;
    scene.mark_all().await?;
    scene.audit().await?.assert_clean();

    scene.client.batch_execute("DELETE FROM order_outbox").await?;
    assert_eq!(scene.audit().await?.unknown, loaded.ids.len() + 1_000);
    Ok(())
}

#[tokio::test]
async fn each_fault_is_found_and_named() -> Result<()> {
    let scene = Scene::new().await?;
    let mut writer = Postgres::shared(Version::V15).await?.client(scene.url.rsplit('/').next().unwrap_or("")).await?;
    let ids = workload::insert(&mut writer, "order_outbox", "order", Uuid::new_v4(), 5).await?;
    let mut events = scene.events().await?;
    assert_eq!(
        events.iter().map(|e| e.id.clone()).collect::<Vec<_>>(),
        ids.iter().map(Uuid::to_string).collect::<Vec<_>>()
    );

    // Row 1 twice, row 3 before row 2, row 5 never, and one that nobody wrote.
    events.pop();
    events.swap(1, 2);
    let (id, key, payload) = (events[0].id.clone(), events[0].key.clone(), events[0].payload.clone());
    events.push(Event { id, key, payload });
    events.push(Event { id: Uuid::new_v4().to_string(), key: "k".into(), payload: "{}".into() });
    scene.publish(events, true).await?;

    let audit = scene.audit().await?;
    let counts =
        [audit.duplicates, audit.missing, audit.unknown, audit.out_of_order, audit.torn, audit.unmarked, audit.records];
    assert_eq!(counts, [1, 1, 1, 1, 1, 5, 6], "{audit}");
    assert!(audit.to_string().contains("missing: order_outbox"), "{audit}");

    let by_ids = oracle::audit(&scene.client, Expect::Ids(&ids), &scene.kafka.brokers(), &[&scene.topic]).await?;
    assert_eq!([by_ids.duplicates, by_ids.missing, by_ids.unknown, by_ids.out_of_order], [1, 1, 1, 1], "{by_ids}");
    Ok(())
}

#[tokio::test]
async fn a_follower_sees_commits_as_they_come() -> Result<()> {
    let scene = Scene::new().await?;
    let mut follower = Follower::start(&scene.kafka.brokers(), &[&scene.topic], From::End).await?;
    let event = |id: &str| vec![Event { id: id.into(), key: "k".into(), payload: "{}".into() }];
    scene.publish(event("aborted"), false).await?;
    scene.publish(event("committed"), true).await?;
    let (record, _) = follower.next(WITHIN).await?;
    assert_eq!(record.header_str("event_id"), Some("committed"));
    assert!(follower.try_next().is_none());
    Ok(())
}

#[tokio::test]
async fn writers_survive_their_server_and_know_what_was_committed() -> Result<()> {
    let server = Postgres::start(Version::V15).await?;
    let client = server.client("postgres").await?;
    workload::create_outbox(&client, "order_outbox").await?;
    let load = Load::builder(&server.url("postgres"), "order_outbox", "order").start();
    for _ in 0..3 {
        let before = load.committed();
        eventually(WITHIN, async || if load.committed() > before + 100 { Ok(()) } else { Err("no progress") }).await;
        server.kill9()?;
        server.start_again().await?;
    }
    let loaded = load.stop().await?;
    let client = server.client("postgres").await?;
    let rows: i64 = client.query_one("SELECT count(*) FROM order_outbox", &[]).await?.get(0);
    assert_eq!(rows as usize, loaded.ids.len());
    Ok(())
}
