//! Producers of an instance that another has replaced, and their requests that arrive late: number 79.

use anyhow::{Result, ensure};
use rdkafka::{
    config::ClientConfig,
    error::RDKafkaErrorCode,
    producer::{BaseProducer, Producer as _},
};
use testbed::{
    Kafka,
    kafka::wire::{END_TXN, Point, end_txn_error},
};

use crate::{
    kafka::begin,
    scene::{Host, PATIENCE, SOON, Scene, role_with, start, stop, wait_ready, wait_state},
};

#[tokio::test]
async fn a_commit_of_a_stopped_instance_that_arrives_after_the_takeover_is_refused() -> Result<()> {
    let scene = Scene::on_kafka(Host::Shared(Kafka::shared_wired().await?)).await?;
    let mut scene = scene.with("[source.timeouts]\nstatus = \"200ms\"\nidle_advance = \"1h\"");
    let role = role_with(&scene, &["wal_sender_timeout = '1s'"]).await?;
    let url = scene.postgres.role_url(&role, &scene.database);
    let first = start(&scene.config_through(&url, &scene.kafka.wire()?.brokers()))?;
    wait_ready(&first).await;
    let second = scene.daemon_at(&url)?;
    wait_state(&second, "standby").await;
    scene.insert(3).await?;
    scene.wait_marked("order_outbox").await;
    let commit = scene.kafka.wire()?.trap(END_TXN, &scene.source, Point::Request);
    scene.insert(5).await?;
    let commit = commit.caught(PATIENCE).await?;
    // Stopped in the middle of a commit, which is on its way.
    first.pause()?;
    wait_ready(&second).await;
    scene.insert(4).await?;
    scene.wait_marked("order_outbox").await;
    let version = commit.version;
    let error = end_txn_error(version, &commit.deliver().await?)?;
    ensure!(error != 0, "the zombie's commit was accepted");
    first.resume()?;
    wait_state(&first, "standby").await;
    scene.insert(4).await?;
    scene.assert_exactly(16).await
}

#[tokio::test]
async fn a_zombie_with_more_producers_than_its_successor_is_fenced_with_all_of_them() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    // A version that publishes with three producers in turn has these two as well; this version publishes with the
    // first alone.
    let zombies: Vec<BaseProducer> = (1..3)
        .map(|number| {
            let mut config = ClientConfig::new();
            config.set("transactional.id", format!("outboxd-{}-{number}", scene.source));
            Ok(config.set("bootstrap.servers", scene.kafka.brokers()).create()?)
        })
        .collect::<Result<_>>()?;
    let topic = scene.topic.clone();
    let zombies = tokio::task::spawn_blocking(move || {
        for zombie in &zombies {
            zombie.init_transactions(SOON)?;
            begin(zombie, &topic);
        }
        anyhow::Ok(zombies)
    })
    .await??;
    daemon.start_again()?;
    scene.insert(3).await?;
    scene.wait_marked("order_outbox").await;
    tokio::task::spawn_blocking(move || {
        for zombie in zombies {
            let error = zombie.commit_transaction(SOON).err().and_then(|error| error.rdkafka_error_code());
            let fenced =
                [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
            ensure!(error.is_some_and(|error| fenced.contains(&error)), "the zombie's commit ended with {error:?}");
        }
        Ok(())
    })
    .await??;
    scene.assert_exactly(6).await
}
