//! What happens to topics, transactions and producers beside the daemon: numbers 18 to 22, 26, 27, 80.

use std::time::Duration;

use anyhow::Result;
use rdkafka::{
    config::ClientConfig,
    producer::{BaseProducer, Producer as _},
};
use testbed::Expect;

use crate::{
    kafka::foreign,
    scene::{PATIENCE, SOON, Scene, halts_again, stop, wait_code, wait_ready},
};

#[tokio::test]
async fn a_stranger_with_our_transactional_id_fences_us_and_nothing_is_repeated() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let load = scene.load();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (brokers, id) = (scene.kafka.brokers(), format!("outboxd-{}-0", scene.source));
        tokio::task::spawn_blocking(move || {
            let stranger: BaseProducer =
                ClientConfig::new().set("bootstrap.servers", brokers).set("transactional.id", id).create()?;
            stranger.init_transactions(SOON)
        })
        .await??;
    }
    wait_code(&daemon, "kafka-fenced").await?;
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_foreign_open_transaction_on_the_position_topic_delays_the_start() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    let (brokers, topic) = (scene.kafka.brokers(), scene.position_topic.clone());
    let stranger = tokio::task::spawn_blocking(move || foreign(&brokers, &topic)).await?;
    let before = daemon.lines().len();
    daemon.start_again()?;
    scene.insert(3).await?;
    daemon.wait_for_line_after(before, |line| line.contains("ReadPosition"), PATIENCE).await?;
    let (status, _) = ready_soon(&daemon).await?;
    assert_eq!(status, 503, "it went on without knowing the end of the position topic");
    let told =
        |line: &str| line.contains("waiting: ") && line.contains("with a record of source foreign, has been open");
    daemon.wait_for_line_after(before, told, PATIENCE).await?;
    tokio::task::spawn_blocking(move || stranger.abort_transaction(SOON)).await??;
    scene.assert_exactly(6).await
}

/// `/readyz` once the HTTP server answers.
async fn ready_soon(daemon: &testbed::Daemon) -> Result<(u16, String)> {
    Ok(testbed::eventually(PATIENCE, || daemon.http_get("/readyz")).await)
}

#[tokio::test]
async fn a_foreign_open_transaction_on_the_output_topic_holds_nothing_up() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let (brokers, topic) = (scene.kafka.brokers(), scene.topic.clone());
    let stranger = tokio::task::spawn_blocking(move || foreign(&brokers, &topic)).await?;
    let daemon = scene.streaming().await?;
    scene.insert(5).await?;
    scene.wait_marked("order_outbox").await;
    daemon.kill9()?;
    scene.insert(5).await?;
    daemon.start_again()?;
    scene.wait_marked("order_outbox").await;
    tokio::task::spawn_blocking(move || stranger.abort_transaction(SOON)).await??;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_missing_topic_is_waited_for() -> Result<()> {
    let mut scene = Scene::shared().await?;
    scene.kafka.delete_topic(&scene.topic).await?;
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    wait_code(&daemon, "topic-missing").await?;
    scene.kafka.create_topic(&scene.topic, 3, &[]).await?;
    scene.assert_exactly(3).await
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_made_anew_gets_what_comes_after() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let _daemon = scene.published(3).await?;
    scene.kafka.delete_topic(&scene.topic).await?;
    let ids = scene.insert(4).await?;
    scene.kafka.create_topic(&scene.topic, 3, &[]).await?;
    scene.wait_marked("order_outbox").await;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_position_topic_with_two_partitions_halts() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.kafka.add_partitions(&scene.position_topic, 2).await?;
    halts_again(&daemon, "position-invalid").await
}

#[tokio::test]
async fn a_position_that_is_no_position_halts() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.write_position(b"garbage".to_vec()).await?;
    halts_again(&daemon, "position-invalid").await
}

#[tokio::test]
async fn partitions_that_are_raised_under_load() -> Result<()> {
    let scene = Scene::shared().await?;
    let _daemon = scene.streaming().await?;
    let load = scene.load();
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.kafka.add_partitions(&scene.topic, 6).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn the_delivery_mode_switched_back_and_forth_under_load() -> Result<()> {
    let mut scene = Scene::shared().await?;
    // The order of a backfill is best effort, so the load begins when there is a slot.
    stop(&scene.streaming().await?).await?;
    let load = scene.load();
    for round in 0..4 {
        scene.kafka_lines = if round % 2 == 0 { String::new() } else { "delivery = \"at-least-once\"\n".to_owned() };
        let daemon = scene.streaming().await?;
        tokio::time::sleep(Duration::from_millis(400)).await;
        stop(&daemon).await?;
    }
    load.stop().await?;
    scene.kafka_lines.clear();
    let _daemon = scene.daemon()?;
    // Each change came after a drain, so nothing is published twice.
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_is_stopped_for_longer_than_its_transactions_may_take() -> Result<()> {
    let scene = Scene::shared().await?.with_kafka("transaction_timeout = \"2s\"\ndelivery_timeout = \"1s\"");
    let daemon = scene.streaming().await?;
    let load = scene.load();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        daemon.pause()?;
        // Longer than a transaction may be open.
        tokio::time::sleep(Duration::from_secs(3)).await;
        daemon.resume()?;
    }
    load.stop().await?;
    wait_ready(&daemon).await;
    scene.oracle().await?.assert_clean();
    Ok(())
}

/// 6,000 ids are 400 kB of position.
#[tokio::test]
async fn the_position_of_a_chunk_fits_a_topic_that_takes_little() -> Result<()> {
    let scene = Scene::shared().await?;
    let small = [("cleanup.policy", "compact"), ("max.message.bytes", "20000")];
    scene.kafka.create_topic(&scene.position_topic, 1, &small).await?;
    testbed::workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 6_000, 50).await?;
    let _daemon = scene.streaming().await?;
    scene.assert_exactly_whatever_the_order(6_000).await
}
