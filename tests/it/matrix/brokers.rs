//! Brokers that are down, full, forgetful or behind: numbers 15, 23, 28, 29, 30, 113.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{Daemon, Kafka, SmallDisk, eventually, kafka::Builder, workload};

use crate::scene::{PATIENCE, Scene, start, wait_true};

/// Brokers of the test's own, and a source that soon gives up a request that they do not answer.
async fn own_kafka(kafka: Builder) -> Result<Scene> {
    Ok(Scene::on_own_kafka(kafka)
        .await?
        .with("[source.timeouts]\nidle_advance = \"1h\"\nbackoff_max = \"1s\"")
        .with_kafka("transaction_timeout = \"10s\"\ndelivery_timeout = \"3s\""))
}

/// Waits until the daemon says that it tries again; from line `after` on.
async fn wait_retry(daemon: &Daemon, after: usize) -> Result<()> {
    daemon.wait_for_line_after(after, |line| line.contains("\"retry_in\""), PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn too_few_replicas_in_sync_are_waited_for() -> Result<()> {
    let kafka = Kafka::builder(3).separate_controller().setting("min.insync.replicas", "2");
    let mut scene = own_kafka(kafka).await?;
    let daemon = scene.streaming().await?;
    let load = scene.load();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = daemon.lines().len();
    scene.kafka.kill9(0)?;
    scene.kafka.kill9(1)?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    load.stop().await?;
    scene.insert(5).await?;
    wait_retry(&daemon, before).await?;
    wait_true(&scene.client, "SELECT count(*) >= 5 FROM order_outbox WHERE published_at IS NULL").await;
    scene.kafka.start_again(0)?;
    scene.kafka.restart(1).await?;
    scene.oracle().await?.assert_clean();
    ensure!(daemon.is_running()?, "the daemon did not survive");
    Ok(())
}

#[tokio::test]
async fn three_brokers_that_restart_in_turn_under_load() -> Result<()> {
    let kafka = Kafka::builder(3).separate_controller().setting("min.insync.replicas", "2");
    let scene = own_kafka(kafka).await?;
    let daemon = scene.streaming().await?;
    let url = scene.postgres.superuser_url(&scene.database);
    let load = testbed::Load::builder(&url, "order_outbox", &scene.aggregate).writers(2).per_second(50).start();
    for broker in 0..3 {
        scene.kafka.stop(broker).await?;
        scene.kafka.restart(broker).await?;
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    ensure!(daemon.is_running()?, "the daemon did not survive");
    Ok(())
}

#[tokio::test]
async fn a_transactional_id_that_expires_while_the_source_idles() -> Result<()> {
    let kafka = Kafka::builder(1)
        .setting("transactional.id.expiration.ms", "1500")
        .setting("transaction.remove.expired.transaction.cleanup.interval.ms", "300");
    let mut scene = own_kafka(kafka).await?;
    let _daemon = scene.streaming().await?;
    for rows in [3, 6] {
        scene.insert(3).await?;
        scene.assert_exactly(rows).await?;
        let id = format!("outboxd-{}-0", scene.source);
        eventually(PATIENCE, || async {
            ensure!(scene.kafka.has_forgotten(&id).await?, "the coordinator still knows {id}");
            Ok(())
        })
        .await;
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_whose_disk_is_full_is_waited_for() -> Result<()> {
    let disk = SmallDisk::mount(96)?;
    let mut scene = own_kafka(Kafka::builder(1).separate_controller().disk(disk.path())).await?;
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    scene.wait_marked("order_outbox").await;
    let taken = disk.fill()?;
    ensure!(taken > 0, "the disk was full before");
    let before = daemon.lines().len();
    // So many rows that a log needs another page.
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 2_000, 50).await?;
    wait_retry(&daemon, before).await?;
    // A broker gives up a log directory to which it cannot write, and ends when that was its last one.
    eventually(PATIENCE, || async {
        ensure!(scene.kafka.has_ended(0)?, "the broker goes on with its disk full");
        Ok(())
    })
    .await;
    wait_true(&scene.client, "SELECT count(*) = 2000 FROM order_outbox WHERE published_at IS NULL").await;
    disk.make_room()?;
    scene.kafka.restart(0).await?;
    scene.assert_exactly(2_003).await
}

#[tokio::test]
async fn a_batch_beyond_what_librdkafka_queues_waits_for_room() -> Result<()> {
    for limit in ["messages\" = \"20", "kbytes\" = \"16"] {
        let scene = Scene::shared().await?.with_kafka(&format!("[kafka.options]\n\"queue.buffering.max.{limit}\""));
        let config = scene.config().replace("outboxd=debug", "outboxd=debug,outboxd::kafka=trace");
        let daemon = start(&config)?;
        crate::scene::wait_ready(&daemon).await;
        workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 3_000, 50).await?;
        daemon.wait_for_line(|line| line.contains("queue is full"), PATIENCE).await?;
        scene.assert_exactly(3_000).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_commits_stand_on_is_said_and_a_new_position_topic_is_on_three_brokers() -> Result<()> {
    let scene = own_kafka(Kafka::builder(3).separate_controller()).await?;
    let topic = scene.topic.clone();
    // Keys of `[[source]]` stand before its tables.
    let lines = format!("topic = \"{topic}\"\n{}", scene.source_lines);
    let scene = Scene { source_lines: lines, ..scene };
    let daemon = scene.streaming().await?;
    let told = |line: &str| line.contains(&topic) && line.contains("replication factor 3, min.insync.replicas = 1");
    daemon.wait_for_line(told, PATIENCE).await?;
    let about = |text: &str, topic: &str| {
        let line = text.lines().find(|line| line.contains(&format!("commits in {topic} ")));
        line.unwrap_or_default().to_owned()
    };
    let (_, text, _) = scene.command(&["check"]).await?;
    let line = about(&text, &topic);
    assert!(line.contains("warning") && line.contains("min.insync.replicas = 1"), "{text}");
    let line = about(&text, &scene.position_topic);
    assert!(line.contains("ok ") && line.contains("replication factor 3, min.insync.replicas = 2"), "{text}");
    assert!(!about(&text, "__transaction_state").is_empty(), "{text}");
    scene.kafka.set_topic(&topic, "min.insync.replicas", "2").await?;
    let (_, text, _) = scene.command(&["check"]).await?;
    assert!(about(&text, &topic).contains("ok "), "{text}");
    scene.kafka.set_topic(&topic, "unclean.leader.election.enable", "true").await?;
    let (_, text, _) = scene.command(&["check"]).await?;
    let line = about(&text, &topic);
    assert!(line.contains("warning") && line.contains("unclean.leader.election.enable = true"), "{text}");
    Ok(())
}
