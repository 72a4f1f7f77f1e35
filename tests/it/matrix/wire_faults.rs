//! Commits whose request or answer is lost, late or overtaken on the way, one frame at a time: numbers 14, 16, 17.

use anyhow::{Result, ensure};
use testbed::kafka::wire::{END_TXN, Point, end_txn_error};
use testbed::{Daemon, Kafka, Postgres, Version, kafka::Builder};

use crate::scene::{Host, PATIENCE, Scene, start, wait_code, wait_ready};

/// A daemon that reaches the brokers through proxies that know Kafka's frames, and has published three rows. No
/// transaction but those of rows follows, as there are no idle advances.
async fn on_the_wire(kafka: Builder) -> Result<(Scene, Daemon)> {
    let kafka = Host::Own(kafka.wired().start().await?);
    let postgres = Host::Shared(Postgres::shared(Version::V15).await?);
    let mut scene = Scene::on(postgres, kafka).await?.with("[source.timeouts]\nidle_advance = \"1h\"");
    let brokers = scene.kafka.wire()?.brokers();
    let daemon = start(&scene.config_through(&scene.postgres.url(&scene.database), &brokers))?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.wait_marked("order_outbox").await;
    Ok((scene, daemon))
}

/// The oracle, and that there are this many records.
async fn assert_exactly(scene: &Scene, records: usize) -> Result<()> {
    let audit = scene.oracle().await?;
    audit.assert_clean();
    assert_eq!(audit.records, records);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_the_broker_did_and_whose_answer_is_cut_off_is_not_repeated() -> Result<()> {
    let (mut scene, daemon) = on_the_wire(Kafka::builder(1)).await?;
    let answer = scene.kafka.wire()?.trap(END_TXN, Point::Answer);
    scene.insert(5).await?;
    let answer = answer.caught(PATIENCE).await?;
    // The broker has committed, and the daemon does not know.
    scene.wait_records(8).await;
    answer.cut().await?;
    // librdkafka asks again and is told of the success, which does not take the doubt away.
    wait_code(&daemon, "kafka-commit-unknown").await?;
    scene.insert(5).await?;
    assert_exactly(&scene, 13).await
}

#[tokio::test]
async fn a_commit_that_never_reaches_the_broker_is_made_up_for() -> Result<()> {
    let (mut scene, daemon) = on_the_wire(Kafka::builder(1)).await?;
    let request = scene.kafka.wire()?.trap(END_TXN, Point::Request);
    scene.insert(5).await?;
    let request = request.caught(PATIENCE).await?;
    request.cut().await?;
    wait_code(&daemon, "kafka-commit-unknown").await?;
    scene.insert(5).await?;
    assert_exactly(&scene, 13).await
}

#[tokio::test]
async fn a_commit_that_arrives_in_the_next_transaction_is_refused() -> Result<()> {
    let (mut scene, daemon) = on_the_wire(Kafka::builder(1)).await?;
    let wire = scene.kafka.wire()?;
    let late = wire.trap(END_TXN, Point::Request);
    scene.insert(5).await?;
    let late = late.caught(PATIENCE).await?;
    let version = late.version;
    late.cut().await?;
    wait_code(&daemon, "kafka-commit-unknown").await?;
    // librdkafka's second request went through.
    scene.wait_marked("order_outbox").await;
    let next = scene.kafka.wire()?.trap(END_TXN, Point::Request);
    scene.insert(5).await?;
    let next = next.caught(PATIENCE).await?;
    // All but the commit of the next transaction is done, and now the old one's comes.
    let error = end_txn_error(version, &late.deliver().await?)?;
    let committed = testbed::reader::count_committed(&scene.kafka.brokers(), &[&scene.topic]).await?;
    ensure!(
        error != 0 && committed == 8,
        "answered with {error}: {committed} records are committed (version {version})"
    );
    let error = end_txn_error(next.version, &next.deliver().await?)?;
    assert_eq!(error, 0, "the next transaction suffered");
    assert_exactly(&scene, 13).await
}

#[tokio::test]
async fn a_coordinator_that_is_killed_with_the_commit_in_flight() -> Result<()> {
    let (mut scene, _daemon) = on_the_wire(Kafka::builder(3).separate_controller()).await?;
    for (round, point) in [Point::Request, Point::Answer].into_iter().enumerate() {
        let commit = scene.kafka.wire()?.trap(END_TXN, point);
        scene.insert(5).await?;
        let commit = commit.caught(PATIENCE).await?;
        let coordinator = commit.broker;
        scene.kafka.kill9(coordinator)?;
        if point == Point::Answer {
            commit.cut().await?;
        }
        scene.insert(5).await?;
        assert_exactly(&scene, 13 + round * 10).await?;
        scene.kafka.restart(coordinator).await?;
    }
    Ok(())
}
