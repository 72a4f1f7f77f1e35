//! Rights that the brokers deny, by Kafka's own authorizer: number 25.

use anyhow::{Result, ensure};
use testbed::{
    Daemon, Kafka, eventually,
    kafka::rights::{Resource, Right},
};

use crate::scene::{PATIENCE, Scene, insert_one, start, tail, wait_ready};

const USER: &str = "outboxd";

const LOGIN: &str = r#"[kafka.options]
"security.protocol" = "sasl_plaintext"
"sasl.mechanisms" = "PLAIN"
"sasl.username" = "outboxd"
"sasl.password" = "secret""#;

/// A daemon that may do what `docs/operating/privileges.md` says that it must, and nothing else.
async fn with_the_documented_rights() -> Result<(Scene, Daemon)> {
    let scene = Scene::on_own_kafka(Kafka::builder(1).authorized(USER, "secret")).await?;
    let scene = scene.with("[source.timeouts]\nbackoff_max = \"1s\"").with_kafka(LOGIN);
    let position = [Right::Read, Right::Write, Right::Describe, Right::DescribeConfigs, Right::Create];
    let kafka = &scene.kafka;
    kafka.allow(USER, Resource::Topic(&scene.topic), &[Right::Write, Right::Describe]).await?;
    kafka.allow(USER, Resource::Topic(&scene.position_topic), &position).await?;
    let ids = format!("outboxd-{}-", scene.source);
    kafka.allow(USER, Resource::TransactionalIds(&ids), &[Right::Write, Right::Describe]).await?;
    let daemon = start(&scene.config_through(&scene.postgres.url(&scene.database), &kafka.proxied_brokers()?))?;
    wait_ready(&daemon).await;
    Ok((scene, daemon))
}

/// Inserts rows until the daemon says that it was denied something; a denial takes effect a little after its answer.
async fn insert_until_denied(scene: &Scene, daemon: &Daemon) {
    let before = daemon.lines().len();
    eventually(PATIENCE, || async {
        insert_one(scene, &scene.client).await?;
        let denied = daemon.lines().iter().skip(before).any(|line| line.contains("\"code\":\"kafka-denied\""));
        ensure!(denied, "not denied:\n{}", tail(daemon));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_right_to_publish_that_is_denied_is_waited_for() -> Result<()> {
    let (scene, daemon) = with_the_documented_rights().await?;
    insert_one(&scene, &scene.client).await?;
    scene.oracle().await?.assert_clean();
    let ids = format!("outboxd-{}-", scene.source);
    let resources =
        [Resource::Topic(&scene.topic), Resource::Topic(&scene.position_topic), Resource::TransactionalIds(&ids)];
    for resource in resources {
        scene.kafka.deny(USER, resource, Right::Write).await?;
        insert_until_denied(&scene, &daemon).await;
        scene.kafka.no_longer_deny(USER, resource, Right::Write).await?;
        scene.oracle().await?.assert_clean();
    }
    Ok(())
}

#[tokio::test]
async fn a_right_to_read_the_position_that_is_denied_is_waited_for() -> Result<()> {
    let (scene, daemon) = with_the_documented_rights().await?;
    for right in [Right::Read, Right::Describe] {
        daemon.kill9()?;
        let resource = Resource::Topic(&scene.position_topic);
        scene.kafka.deny(USER, resource, right).await?;
        insert_one(&scene, &scene.client).await?;
        let before = daemon.lines().len();
        daemon.start_again()?;
        let denied = |line: &str| line.contains("\"code\":\"kafka-denied\"");
        daemon.wait_for_line_after(before, denied, PATIENCE).await?;
        scene.kafka.no_longer_deny(USER, resource, right).await?;
        wait_ready(&daemon).await;
        scene.oracle().await?.assert_clean();
    }
    Ok(())
}
