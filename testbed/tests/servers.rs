//! The servers start, stop, die and come back with their data.

use std::time::Duration;

use anyhow::Result;
use rdkafka::{
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use testbed::{Kafka, Postgres, Version, reader};

#[tokio::test]
async fn postgres_keeps_its_data_through_every_way_to_stop() -> Result<()> {
    let server = Postgres::start(Version::V15).await?;
    server.create_database("shop").await?;
    server.client("shop").await?.batch_execute("CREATE TABLE t (n int)").await?;
    let insert = async |n: i32| -> Result<()> {
        server.client("shop").await?.execute("INSERT INTO t VALUES ($1)", &[&n]).await?;
        Ok(())
    };

    insert(1).await?;
    server.stop_fast().await?;
    server.start_again().await?;
    insert(2).await?;
    server.stop_immediate().await?;
    server.start_again().await?;
    insert(3).await?;
    server.kill9()?;
    server.start_again().await?;

    let rows = server.client("shop").await?.query_one("SELECT count(*) FROM t", &[]).await?;
    assert_eq!(rows.get::<_, i64>(0), 3);
    Ok(())
}

#[tokio::test]
async fn a_paused_postgres_answers_nobody_until_it_is_resumed() -> Result<()> {
    let server = Postgres::start(Version::V15).await?;
    let client = server.client("postgres").await?;
    server.pause()?;
    let asked = tokio::time::timeout(Duration::from_millis(300), client.simple_query("SELECT 1")).await;
    assert!(asked.is_err(), "a paused backend answered");
    server.resume()?;
    client.simple_query("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn kafka_keeps_committed_records_through_stop_and_kill() -> Result<()> {
    let kafka = Kafka::start().await?;
    let topic = kafka.fresh_topic("orders", 2).await?;
    let produce = async |value: &'static str, commit: bool| -> Result<()> {
        let (brokers, topic) = (kafka.brokers(), topic.clone());
        tokio::task::spawn_blocking(move || write(&brokers, &topic, value, commit)).await?
    };

    produce("first", true).await?;
    kafka.stop(0).await?;
    kafka.restart(0).await?;
    produce("aborted", false).await?;
    // Killed between the answer to the abort and its markers, a broker that is its own controller skips them when it
    // comes back (Kafka 4.4: "Couldn't find leader endpoint … likely deleted"), and the next commit of the same
    // producer makes the aborted record visible. The reader returns when the markers are there.
    assert_eq!(reader::count_committed(&kafka.brokers(), &[&topic]).await?, 1);
    kafka.kill9(0)?;
    kafka.restart(0).await?;
    produce("second", true).await?;

    let records = reader::read_committed(&kafka.brokers(), &[&topic]).await?;
    let mut values: Vec<_> =
        records.iter().map(|r| String::from_utf8_lossy(r.value.as_deref().unwrap_or(b""))).collect();
    values.sort();
    assert_eq!(values, ["first", "second"]);
    assert_eq!(reader::count_committed(&kafka.brokers(), &[&topic]).await?, 2);
    Ok(())
}

fn write(brokers: &str, topic: &str, value: &str, commit: bool) -> Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("transactional.id", "writer").create()?;
    let within = Duration::from_secs(20);
    producer.init_transactions(within)?;
    producer.begin_transaction()?;
    producer.send(BaseRecord::to(topic).key("k").payload(value)).map_err(|(error, _)| error)?;
    producer.flush(within)?;
    if commit {
        producer.commit_transaction(within)?;
    } else {
        producer.abort_transaction(within)?;
    }
    Ok(())
}

#[tokio::test]
async fn three_brokers_stay_whole_when_one_dies_and_clients_stay_behind_their_proxies() -> Result<()> {
    let kafka = Kafka::builder(3).proxied().start().await?;
    let topic = kafka.fresh_topic("orders", 3).await?;
    let (brokers, name) = (kafka.proxied_brokers()?, topic.clone());
    tokio::task::spawn_blocking(move || write(&brokers, &name, "all", true)).await??;
    for i in 0..3 {
        kafka.proxy(i)?.refuse(true);
        kafka.proxy(i)?.cut();
    }
    let unreachable: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.proxied_brokers()?)
        .set("transactional.id", "writer")
        .create()?;
    let refused = tokio::task::spawn_blocking(move || unreachable.init_transactions(Duration::from_secs(1)));
    assert!(refused.await?.is_err(), "a client found a way around the proxies");

    kafka.kill9(2)?;
    let (brokers, name) = (kafka.brokers(), topic.clone());
    tokio::task::spawn_blocking(move || write(&brokers, &name, "two", true)).await??;
    kafka.restart(2).await?;
    assert_eq!(reader::count_committed(&kafka.brokers(), &[&topic]).await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_broker_with_a_live_controller_finishes_an_abort_after_its_death() -> Result<()> {
    let kafka = Kafka::builder(1).separate_controller().start().await?;
    let topic = kafka.fresh_topic("orders", 1).await?;
    let produce = async |value: &'static str, commit: bool| -> Result<()> {
        let (brokers, topic) = (kafka.brokers(), topic.clone());
        tokio::task::spawn_blocking(move || write(&brokers, &topic, value, commit)).await?
    };
    produce("aborted", false).await?;
    kafka.kill9(0)?;
    kafka.restart(0).await?;
    produce("committed", true).await?;
    assert_eq!(reader::count_committed(&kafka.brokers(), &[&topic]).await?, 1);
    Ok(())
}
