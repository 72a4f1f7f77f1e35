//! The lag is true in every state: it grows by a second each second while rows wait, whatever keeps
//! them, and what nobody can know is told as unknown.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{Daemon, Kafka, Postgres, Version, eventually};
use tokio::time::{Instant, sleep};

use crate::scene::{Metrics, PATIENCE, QUICK, Scene, metric, start, stop, tail, wait_ready, wait_state};

const LAG: &str = "outboxd_replication_lag_seconds";

/// The monitor looks every 5 s, and a machine that is busy answers late.
const TOLERANCE: f64 = 15.0;

/// Waits until the lag is at least that of a row that was committed at `committed`, then sees it grow
/// in step with the clock.
async fn grows(daemon: &Daemon, committed: Instant, state: &str) -> Result<()> {
    eventually(PATIENCE, || async {
        let age = committed.elapsed().as_secs_f64();
        let lag = metric(daemon, LAG).await?;
        ensure!(lag > 0.0 && (age - 1.0..age + TOLERANCE).contains(&lag), "a lag of {lag} s after {age} s");
        Ok(())
    })
    .await;
    wait_state(daemon, state).await;
    let (before, first) = (Instant::now(), metric(daemon, LAG).await?);
    sleep(Duration::from_secs(3)).await;
    let (second, passed) = (metric(daemon, LAG).await?, before.elapsed().as_secs_f64());
    // A look in between may have learned more of the row's age, but not that it is younger.
    ensure!(second - first >= passed - 1.0, "{first} s, and {second} s after {passed} s\n{}", tail(daemon));
    Ok(())
}

async fn falls(daemon: &Daemon) {
    eventually(PATIENCE, || async {
        let lag = metric(daemon, LAG).await?;
        ensure!(lag == 0.0, "all is published, and the lag is {lag} s");
        Ok(())
    })
    .await;
}

async fn while_kafka_is_away(mark: &str) -> Result<()> {
    let lines = format!("mark = \"{mark}\"\nbackfill = \"none\"\n{QUICK}");
    let scene = Scene::on_own_kafka(Kafka::builder(1).never_fenced()).await?.with(&lines);
    let mut scene = scene.with_kafka("delivery_timeout = \"2s\"");
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    scene.wait_records(3).await;
    falls(&daemon).await;
    scene.kafka.pause(0)?;
    scene.insert(3).await?;
    let committed = Instant::now();
    grows(&daemon, committed, "retrying").await?;
    let metrics = Metrics::of(&daemon).await?;
    assert_eq!(metrics.value("outboxd_monitor_up")?, 1.0);
    assert!(metrics.value("outboxd_slot_retained_bytes")? > 0.0);
    let unmarked = metrics.value("outboxd_unpublished_rows")?;
    assert!(if mark == "none" { unmarked.is_nan() } else { unmarked == 3.0 }, "{unmarked} rows");
    scene.kafka.resume(0)?;
    scene.wait_records(6).await;
    falls(&daemon).await;
    wait_ready(&daemon).await;
    stop(&daemon).await
}

#[tokio::test]
async fn it_grows_while_kafka_is_away() -> Result<()> {
    while_kafka_is_away("update").await
}

#[tokio::test]
async fn it_grows_without_marks_too() -> Result<()> {
    while_kafka_is_away("none").await
}

#[tokio::test]
async fn a_standby_knows_it_and_says_that_it_stands_by() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let leader = scene.published(3).await?;
    let standby = scene.daemon()?;
    standby.wait_for_line(|line| line.contains("standing by"), PATIENCE).await?;
    falls(&standby).await;
    assert_eq!(metric(&standby, "outboxd_unpublished_rows").await?, 0.0);
    // The slot stays with a leader that does nothing.
    leader.pause()?;
    scene.insert(3).await?;
    let committed = Instant::now();
    let outcome = grows(&standby, committed, "standby").await;
    leader.resume()?;
    outcome?;
    falls(&standby).await;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn without_postgres_it_is_known_only_where_rows_waited() -> Result<()> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?.with(QUICK);
    let daemon = scene.published(3).await?;
    falls(&daemon).await;
    eventually(PATIENCE, || async {
        let up = metric(&daemon, "outboxd_monitor_up").await?;
        ensure!(up == 1.0, "nothing was seen");
        Ok(())
    })
    .await;
    scene.postgres.stop_immediate().await?;
    eventually(PATIENCE, || async {
        let metrics = Metrics::of(&daemon).await?;
        ensure!(metrics.value("outboxd_monitor_up")? == 0.0, "the monitor sees a server that is down");
        for unknown in [LAG, "outboxd_replication_lag_bytes", "outboxd_unpublished_rows", "outboxd_slot_retained_bytes"]
        {
            ensure!(metrics.value(unknown)?.is_nan(), "{unknown} is {}", metrics.value(unknown)?);
        }
        Ok(())
    })
    .await;
    let (_, status) = daemon.http_get("/status").await?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert!(status["sources"][0]["lag_seconds"].is_null() && status["sources"][0]["slot"].is_null(), "{status}");
    let age = metric(&daemon, "outboxd_monitor_age_seconds").await?;
    sleep(Duration::from_secs(2)).await;
    assert!(metric(&daemon, "outboxd_monitor_age_seconds").await? >= age + 1.0);
    scene.postgres.start_again().await?;
    wait_ready(&daemon).await;
    eventually(PATIENCE, || async {
        let (_, status) = daemon.http_get("/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        ensure!(status["sources"][0]["slot"].is_object(), "{status}");
        ensure!(status["sources"][0]["last_error"]["healed_at"].is_string(), "{status}");
        Ok(())
    })
    .await;
    Ok(())
}

/// The halt of a source whose slot is gone, beside one that goes on; and its way back.
#[tokio::test]
async fn it_grows_while_a_source_is_halted_which_goes_on_by_itself_once_a_person_has_acted() -> Result<()> {
    let (mut halted, mut other) = (Scene::shared().await?.with(QUICK), Scene::shared().await?.with(QUICK));
    let daemon = start(&halted.config_with(&other))?;
    wait_ready(&daemon).await;
    halted.insert(3).await?;
    halted.oracle().await?.assert_clean();

    eventually(PATIENCE, || async {
        let slot = "FROM pg_replication_slots WHERE slot_name = $1";
        let (end, drop) = (
            format!("SELECT pg_terminate_backend(active_pid) {slot}"),
            format!("SELECT pg_drop_replication_slot(slot_name) {slot}"),
        );
        halted.client.execute(&end, &[&halted.slot()]).await?;
        halted.client.execute(&drop, &[&halted.slot()]).await?;
        anyhow::Ok(())
    })
    .await;
    let halt = daemon.wait_for_line(|line| line.contains("slot-missing") && line.contains("halted"), PATIENCE).await?;
    assert!(halt.contains(&halted.source), "{halt}");
    halted.insert(2).await?;
    let committed = Instant::now();
    grows(&daemon, committed, "halted").await?;
    // The neighbour goes on.
    other.insert(3).await?;
    other.oracle().await?.assert_clean();

    let (code, out, err) = halted
        .command(&["recover", "--source", &halted.source.clone(), "--strategy", "republish-unmarked", "--yes"])
        .await?;
    assert_eq!(code, 0, "{out}{err}");
    wait_ready(&daemon).await;
    halted.oracle_whatever_the_order().await?.assert_clean();
    let halts = daemon.lines().iter().filter(|line| line.contains("halted: ")).count();
    assert_eq!(halts, 1, "a halt is said once\n{}", tail(&daemon));
    stop(&daemon).await
}

#[tokio::test]
async fn a_source_that_waits_for_a_topic_never_says_that_it_streams() -> Result<()> {
    let kafka = Kafka::builder(1).setting("auto.create.topics.enable", "false");
    let mut scene = Scene::on_own_kafka(kafka).await?.with(QUICK);
    let daemon = scene.published(3).await?;
    scene.aggregate = testbed::unique("other");
    scene.topic = format!("{}.events", scene.aggregate);
    scene.insert(1).await?;
    wait_state(&daemon, "retrying").await;
    let seen = daemon.lines().len();
    let again = daemon.wait_for_line_after(seen, |line| line.contains("topic-missing"), PATIENCE);
    let looks = async {
        loop {
            let (_, body) = daemon.http_get("/status").await?;
            ensure!(body.contains("\"retrying\""), "the status is {body}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        line = again => line.map(drop)?,
        look = looks => return look,
    }
    scene.kafka.create_topic(&scene.topic, 1, &[]).await?;
    wait_ready(&daemon).await;
    scene.wait_records(1).await;
    Ok(())
}
