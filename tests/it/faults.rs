//! The main job with faults: whatever is killed, cut or restarted, the oracle finds no difference. Where the guarantee
//! cannot be kept, the source halts.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{Kafka, Postgres, Version, eventually, workload};

use crate::scene::{
    Host, PATIENCE, Scene, halts, halts_again, start, stop, streams_again, wait_code, wait_ready, wait_state,
};

#[tokio::test]
async fn fifty_kills_under_load_lose_and_repeat_nothing() -> Result<()> {
    let scene = Scene::shared().await?;
    // The order of a backfill is best effort, so all rows whose order is judged come when there is a slot.
    let daemon = scene.streaming().await?;
    let load = scene.load();
    for round in 0..50_u64 {
        // From "before it has taken the slot" to "in the middle of streaming".
        tokio::time::sleep(Duration::from_millis(20 + round * 37 % 700)).await;
        daemon.kill9()?;
        daemon.start_again()?;
    }
    let loaded = load.stop().await?;
    wait_ready(&daemon).await;
    scene.assert_exactly(loaded.ids.len()).await?;
    scene.wait_caught_up().await
}

#[tokio::test]
async fn a_broker_that_is_killed_and_restarted_under_load() -> Result<()> {
    let scene = Scene::on_own_kafka(Kafka::builder(1)).await?;
    let daemon = scene.streaming().await?;
    let load = scene.load();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        scene.kafka.kill9(0)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        scene.kafka.restart(0).await?;
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    ensure!(daemon.is_running()?, "the daemon did not survive");
    Ok(())
}

#[tokio::test]
async fn walsenders_that_are_terminated_under_load() -> Result<()> {
    let scene = Scene::shared().await?;
    let _daemon = scene.streaming().await?;
    let load = scene.load();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        scene.terminate_walsender().await?;
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_fast_restart_of_postgres_is_not_held_up_and_loses_nothing() -> Result<()> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    let _daemon = scene.streaming().await?;
    scene.insert(10).await?;
    let took = scene.postgres.stop_fast().await?;
    ensure!(took < Duration::from_secs(10), "the daemon held up a fast shutdown for {took:?}");
    scene.start_postgres_again().await?;
    scene.insert(10).await?;
    scene.assert_exactly(20).await
}

#[tokio::test]
async fn an_immediate_restart_of_postgres_under_load() -> Result<()> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    let _daemon = scene.streaming().await?;
    let load = scene.load();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        scene.postgres.stop_immediate().await?;
        scene.postgres.start_again().await?;
    }
    load.stop().await?;
    scene.client = scene.postgres.client(&scene.database).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn postgres_can_stop_while_kafka_is_away() -> Result<()> {
    let (postgres, kafka) = (Postgres::start(Version::V15).await?, Kafka::builder(1).never_fenced().start().await?);
    let scene = Scene::on(Host::Own(postgres), Host::Own(kafka)).await?;
    let _daemon = scene.streaming().await?;
    scene.kafka.pause(0)?;
    let url = scene.postgres.superuser_url(&scene.database);
    let load = testbed::Load::builder(&url, "order_outbox", &scene.aggregate).writers(1).transactions(20).start();
    load.finished().await?;
    let took = scene.postgres.stop_fast().await?;
    scene.kafka.resume(0)?;
    ensure!(took < Duration::from_secs(25), "the daemon held up a fast shutdown for {took:?}");
    Ok(())
}

#[tokio::test]
async fn sigterm_in_the_middle_of_a_transaction_drains_and_resumes() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let load = scene.load();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop(&daemon).await?;
        streams_again(&daemon).await?;
    }
    load.stop().await?;
    // And in a transaction that is being split.
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 50_000, 100).await?;
    stop(&daemon).await?;
    daemon.start_again()?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn of_two_instances_one_leads_and_the_other_takes_over() -> Result<()> {
    let scene = Scene::shared().await?;
    let first = scene.streaming().await?;
    let second = scene.daemon()?;
    wait_state(&second, "standby").await;
    let load = scene.load();
    let (mut leader, mut standby) = (first, second);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        leader.kill9()?;
        wait_ready(&standby).await;
        leader.start_again()?;
        wait_state(&leader, "standby").await;
        std::mem::swap(&mut leader, &mut standby);
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn two_instances_that_start_at_once_set_up_once() -> Result<()> {
    let scene = Scene::shared().await?;
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 2_000, 50).await?;
    let (_first, _second) = (scene.daemon()?, scene.daemon()?);
    // The order of a backfill is best effort, so rows whose order is judged come when it is over.
    scene.wait_marked("order_outbox").await;
    let load = scene.load();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_backfill_that_is_killed_three_times() -> Result<()> {
    let scene = Scene::shared().await?.with("[source.limits]\nbackfill_chunk_rows = 500");
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 20_000, 100).await?;
    let daemon = scene.daemon()?;
    let marked = "SELECT count(*) FROM order_outbox WHERE published_at IS NOT NULL";
    for kill in 1..=3_i64 {
        eventually(PATIENCE, || async {
            let rows: i64 = scene.client.query_one(marked, &[]).await?.get(0);
            ensure!(rows >= kill * 3_000, "{rows} rows are marked");
            Ok(())
        })
        .await;
        daemon.kill9()?;
        let left: i64 = 20_000 - scene.client.query_one(marked, &[]).await?.get::<_, i64>(0);
        ensure!(left > 0, "the backfill was over before kill {kill}");
        daemon.start_again()?;
    }
    scene.assert_exactly(20_000).await
}

#[tokio::test]
async fn a_slot_that_was_dropped_halts_with_code_3() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.drop_slot().await?;
    scene.insert(3).await?;
    halts_again(&daemon, "slot-missing").await?;
    Ok(())
}

#[tokio::test]
async fn a_slot_that_was_made_anew_halts_with_code_3() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.drop_slot().await?;
    scene.insert(3).await?;
    scene.client.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&scene.slot()]).await?;
    halts_again(&daemon, "slot-ahead").await?;
    Ok(())
}

#[tokio::test]
async fn a_position_topic_that_was_deleted_halts_with_code_3() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.kafka.delete_topic(&scene.position_topic).await?;
    halts_again(&daemon, "position-lost").await?;
    Ok(())
}

#[tokio::test]
async fn a_table_that_left_the_publication_halts_with_code_3() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.timeouts]\nidle_advance = \"200ms\"");
    let daemon = scene.published(3).await?;
    scene.alter_publication("DROP TABLE order_outbox").await?;
    scene.insert(1).await?;
    halts(&daemon, "publication-changed").await?;
    Ok(())
}

#[tokio::test]
async fn one_halted_source_leaves_the_others_running() -> Result<()> {
    let mut first = Scene::shared().await?;
    let mut second = Scene::shared().await?;
    second.position_topic = first.position_topic.clone();
    let config = format!(
        "{}\n[[source]]\nname = \"{}\"\nurl = \"{}\"\ntables = [\"order_outbox\"]\n",
        first.config(),
        second.source,
        second.postgres.url(&second.database)
    );
    let daemon = start(&config)?;
    wait_ready(&daemon).await;
    first.insert(2).await?;
    second.insert(2).await?;
    first.oracle().await?.assert_clean();
    second.oracle().await?.assert_clean();
    first.drop_publication().await?;
    first.insert(1).await?;
    wait_code(&daemon, "publication-changed").await?;
    second.insert(2).await?;
    second.oracle().await?.assert_clean();
    let (status, body) = daemon.http_get("/readyz").await?;
    assert_eq!(status, 503, "{body}");
    Ok(())
}

#[tokio::test]
async fn rows_that_somebody_has_locked_are_marked_later_and_hold_up_no_others() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.timeouts]\nlock = \"200ms\"");
    scene.hold_marks().await?;
    let daemon = scene.streaming().await?;
    for rows in [3, 6] {
        scene.insert(3).await?;
        scene.wait_records(rows).await;
        daemon.wait_for_line(|line| line.contains("trying again"), PATIENCE).await?;
    }
    scene.let_marks_go().await?;
    scene.oracle().await?.assert_clean();
    let ended = daemon.lines().into_iter().find(|line| line.contains("retry_in") && line.contains("mark-failed"));
    ensure!(ended.is_none(), "the session ended over a lock: {ended:?}");
    scene.wait_caught_up().await
}

#[tokio::test]
async fn rows_of_a_published_table_that_is_not_configured_are_passed_over() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let publication = scene.slot();
    scene
        .client
        .batch_execute(&format!("CREATE TABLE other (n int); ALTER PUBLICATION {publication} ADD TABLE other"))
        .await?;
    let _daemon = scene.streaming().await?;
    for n in 0..5 {
        scene.client.execute("INSERT INTO other VALUES ($1)", &[&n]).await?;
        scene.insert(2).await?;
    }
    scene.oracle().await?.assert_clean();
    scene.wait_caught_up().await
}

#[tokio::test]
async fn a_table_that_was_made_anew_under_its_name_halts_with_code_3() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let publication = scene.slot();
    scene
        .client
        .batch_execute(&format!(
            "DROP PUBLICATION {publication}; \
             CREATE PUBLICATION {publication} FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root = true)"
        ))
        .await?;
    let daemon = scene.published(2).await?;
    scene.client.batch_execute("DROP TABLE order_outbox").await?;
    workload::create_outbox(&scene.client, "order_outbox").await?;
    scene.insert(2).await?;
    halts(&daemon, "publication-changed").await?;
    Ok(())
}
