//! Commits whose request or answer is lost, late or overtaken on the way, one frame at a time: numbers 14, 16, 17, 31.

use anyhow::{Result, ensure};
use testbed::{
    Daemon, Kafka, eventually,
    kafka::wire::{END_TXN, Point, Trap, end_txn_error},
};

use crate::scene::{Host, PATIENCE, Scene, metric, start, wait_code, wait_ready};

/// A daemon that reaches the brokers through proxies that know Kafka's frames, and has published three rows. No
/// transaction but those of rows follows: the first idle advance is made at once, and is over; the next one is far away.
async fn on_the_wire(kafka: Host<Kafka>) -> Result<(Scene, Daemon)> {
    let scene = Scene::on_kafka(kafka).await?.with("[source.timeouts]\nidle_advance = \"1h\"");
    // A commit that is held must not be given up before the test has looked, however slow the machine is.
    let mut scene = scene.with_kafka("transaction_timeout = \"100s\"\ndelivery_timeout = \"90s\"");
    let brokers = scene.kafka.wire()?.brokers();
    let daemon = start(&scene.config_through(&scene.postgres.url(&scene.database), &brokers))?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.wait_marked("order_outbox").await;
    eventually(PATIENCE, || async {
        let committed = metric(&daemon, "outboxd_kafka_transactions_total{outcome=\"committed\"").await?;
        ensure!(committed == 2.0, "{committed} transactions: one of rows and one idle advance are wanted");
        Ok(())
    })
    .await;
    Ok((scene, daemon))
}

async fn on_the_shared_wire() -> Result<(Scene, Daemon)> {
    on_the_wire(Host::Shared(Kafka::shared_wired().await?)).await
}

/// The next commit of this source.
fn trap(scene: &Scene, point: Point) -> Result<Trap> {
    Ok(scene.kafka.wire()?.trap(END_TXN, &scene.source, point))
}

#[tokio::test]
async fn a_commit_that_the_broker_did_and_whose_answer_is_cut_off_is_not_repeated() -> Result<()> {
    let (mut scene, daemon) = on_the_shared_wire().await?;
    let answer = trap(&scene, Point::Answer)?;
    scene.insert(1).await?;
    let answer = answer.caught(PATIENCE).await?;
    // The broker has committed, and the daemon does not know.
    scene.wait_records(4).await;
    answer.cut().await?;
    // librdkafka asks again and is told of the success, which does not take the doubt away.
    wait_code(&daemon, "kafka-commit-unknown").await?;
    scene.insert(5).await?;
    scene.assert_exactly(9).await
}

#[tokio::test]
async fn a_commit_that_never_reaches_the_broker_is_made_up_for() -> Result<()> {
    let (mut scene, daemon) = on_the_shared_wire().await?;
    let request = trap(&scene, Point::Request)?;
    scene.insert(5).await?;
    let request = request.caught(PATIENCE).await?;
    request.cut().await?;
    wait_code(&daemon, "kafka-commit-unknown").await?;
    scene.insert(5).await?;
    scene.assert_exactly(13).await
}

#[tokio::test]
async fn a_commit_that_arrives_in_the_next_transaction_is_refused() -> Result<()> {
    let (mut scene, daemon) = on_the_shared_wire().await?;
    let late = trap(&scene, Point::Request)?;
    scene.insert(5).await?;
    let late = late.caught(PATIENCE).await?;
    let version = late.version;
    late.cut().await?;
    wait_code(&daemon, "kafka-commit-unknown").await?;
    // librdkafka's second request went through.
    scene.wait_marked("order_outbox").await;
    let next = trap(&scene, Point::Request)?;
    scene.insert(5).await?;
    let next = next.caught(PATIENCE).await?;
    // All but the commit of the next transaction is done, and now the old one's comes.
    let error = end_txn_error(version, &late.deliver().await?)?;
    ensure!(error != 0, "the late commit ended the next transaction (version {version})");
    let error = end_txn_error(next.version, &next.deliver().await?)?;
    assert_eq!(error, 0, "the next transaction suffered");
    scene.assert_exactly(13).await
}

#[tokio::test]
async fn a_commit_that_fails_while_the_next_batch_is_sent() -> Result<()> {
    let (mut scene, daemon) = on_the_shared_wire().await?;
    let commit = trap(&scene, Point::Request)?;
    scene.insert(5).await?;
    let commit = commit.caught(PATIENCE).await?;
    let of_the_first = metric(&daemon, "outboxd_in_flight_bytes").await?;
    scene.insert(20).await?;
    eventually(PATIENCE, || async {
        let now = metric(&daemon, "outboxd_in_flight_bytes").await?;
        ensure!(now > of_the_first, "{now} bytes are in flight");
        Ok(())
    })
    .await;
    commit.cut().await?;
    wait_code(&daemon, "kafka-commit-unknown").await?;
    scene.assert_exactly(28).await
}

/// Three brokers, of which the one is killed that holds this commit.
async fn kill_the_coordinator(point: Point) -> Result<()> {
    let kafka = Kafka::builder(3).separate_controller().wired().start().await?;
    let (mut scene, daemon) = on_the_wire(Host::Own(kafka)).await?;
    let commit = trap(&scene, point)?;
    scene.insert(5).await?;
    let commit = commit.caught(PATIENCE).await?;
    scene.kafka.kill9(commit.broker)?;
    if point == Point::Answer {
        commit.cut().await?;
    }
    wait_code(&daemon, "kafka-commit-unknown").await?;
    scene.insert(5).await?;
    scene.assert_exactly(13).await
}

#[tokio::test]
async fn a_coordinator_that_is_killed_before_it_sees_the_commit() -> Result<()> {
    kill_the_coordinator(Point::Request).await
}

#[tokio::test]
async fn a_coordinator_that_is_killed_before_it_answers_the_commit() -> Result<()> {
    kill_the_coordinator(Point::Answer).await
}
