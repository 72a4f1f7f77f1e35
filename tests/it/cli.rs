//! What a person meets who gets something wrong: a message with a code and a next step; and what heals is retried.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{Daemon, Kafka, Postgres, Version};

use crate::scene::{Host, PATIENCE, Scene, start, wait_code, wait_ready};

/// Whether it is still there after a while: a thing that heals must not end the daemon.
async fn still_runs(daemon: &Daemon) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(daemon.is_running()?, "it gave up: {:?}", daemon.lines());
    Ok(())
}

#[tokio::test]
async fn a_misspelt_key_names_the_line_and_the_nearest_key() -> Result<()> {
    let scene = Scene::shared().await?.with("topc = \"{aggregate_type}.events\"");
    let daemon = scene.daemon()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 2);
    let text = daemon.lines().join("\n");
    for part in ["config-unknown-key", "config.toml:5", "topc", "did you mean \"topic\"?"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn an_unreachable_kafka_is_retried() -> Result<()> {
    let scene = Scene::shared().await?;
    let nobody = testbed::ports::free()?;
    let config = scene.config_through(&scene.postgres.url(&scene.database), &format!("127.0.0.1:{nobody}"));
    let daemon = start(&config)?;
    let line = wait_code(&daemon, "kafka-unreachable").await?;
    assert!(line.contains("hint"), "{line}");
    still_runs(&daemon).await
}

#[tokio::test]
async fn a_wrong_password_is_retried_until_it_is_right() -> Result<()> {
    let postgres = Postgres::builder(Version::V15).hba("host all vera 127.0.0.1/32 scram-sha-256").start().await?;
    let mut scene = Scene::on(Host::Own(postgres), Host::Shared(Kafka::shared().await?)).await?;
    scene
        .client
        .batch_execute("CREATE ROLE vera LOGIN REPLICATION PASSWORD 'other'; GRANT ALL ON order_outbox TO vera")
        .await?;
    let url = scene.postgres.role_url("vera:secret", &scene.database);
    let daemon = start(&scene.config_through(&url, &scene.kafka.brokers()))?;
    let line = wait_code(&daemon, "postgres-auth-failed").await?;
    assert!(!line.contains("secret"), "the password is in the log: {line}");
    still_runs(&daemon).await?;
    scene.client.batch_execute("ALTER ROLE vera PASSWORD 'secret'").await?;
    wait_ready(&daemon).await;
    scene.insert(2).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_missing_table_is_waited_for() -> Result<()> {
    let scene = Scene::shared().await?;
    scene.client.batch_execute("ALTER TABLE order_outbox RENAME TO order_outbox_later").await?;
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "table-missing").await?;
    assert!(line.contains("order_outbox"), "{line}");
    still_runs(&daemon).await?;
    scene.client.batch_execute("ALTER TABLE order_outbox_later RENAME TO order_outbox").await?;
    wait_ready(&daemon).await;
    Ok(())
}

#[tokio::test]
async fn a_server_without_logical_wal_halts_with_the_setting_to_change() -> Result<()> {
    let postgres = Postgres::builder(Version::V15).setting("wal_level", "replica").start().await?;
    let scene = Scene::on(Host::Own(postgres), Host::Shared(Kafka::shared().await?)).await?;
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "wal-level").await?;
    assert!(line.contains("wal_level = logical"), "{line}");
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 3);
    Ok(())
}

#[tokio::test]
async fn help_shows_an_example_for_each_command() -> Result<()> {
    for command in ["run", "check", "setup"] {
        let help = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&[command, "--help"]).start()?;
        assert_eq!(help.wait_exit(PATIENCE).await?, 0);
        let text = help.lines().join("\n");
        assert!(text.contains(&format!("outboxd {command} ")), "no example for {command} in:\n{text}");
    }
    Ok(())
}
