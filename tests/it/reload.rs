//! SIGHUP: the daemon reads its configuration again while rows stream.

use anyhow::{Result, ensure};
use testbed::{Daemon, Postgres, Version};

use crate::scene::{PATIENCE, QUICK, Scene, metric, start, stop, tail, times_led, wait_code, wait_ready};

/// What the daemon says each time that it has read its configuration.
const READ: &str = "the configuration was read again";

/// What it says of keys that need a restart.
const RESTART: &str = "need a restart";

/// Gives the daemon another configuration, and waits until it says what came of it.
async fn reload(daemon: &Daemon, config: &str) -> Result<String> {
    let before = daemon.lines().len();
    daemon.rewrite_config(config)?;
    daemon.hup()?;
    daemon.wait_for_line_after(before, |line| line.contains(READ), PATIENCE).await
}

/// The configuration of the scene with its log at this level.
fn at_level(scene: &Scene, level: &str) -> String {
    scene.config().replace("info,outboxd=debug", level)
}

#[tokio::test]
async fn the_log_level_changes_and_the_stream_goes_on() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = start(&at_level(&scene, "info"))?;
    wait_ready(&daemon).await;
    let is_debug = |line: &str| line.contains("\"level\":\"DEBUG\"");
    ensure!(!daemon.lines().iter().any(|line| is_debug(line)), "it logs at debug: {}", tail(&daemon));
    let line = reload(&daemon, &at_level(&scene, "debug")).await?;
    ensure!(line.contains("\"changed\":\"log.level\""), "{line}");
    daemon.wait_for_line(is_debug, PATIENCE).await?;
    let line = reload(&daemon, &at_level(&scene, "debug")).await?;
    ensure!(line.contains("nothing has changed"), "{line}");
    scene.insert(3).await?;
    scene.assert_exactly(3).await?;
    assert_eq!(times_led(&daemon), 1, "a log level needs no other session");
    stop(&daemon).await
}

#[tokio::test]
async fn limits_change_while_rows_stream_and_each_is_published_once() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.streaming().await?;
    let load = scene.load_at(100);
    for (round, rows) in [7, 5000, 20].into_iter().enumerate() {
        scene.wait_records(500 * (round as u64 + 1)).await;
        let limits = format!("{}\n[source.limits]\nbatch_rows = {rows}\n[kafka]", "status = \"300ms\"");
        let config = scene.config().replace("status = \"200ms\"\n", "").replacen("[kafka]", &limits, 1);
        let line = reload(&daemon, &config).await?;
        ensure!(line.contains(&format!("{}.limits.batch_rows", scene.source)), "{line}");
        ensure!(line.contains(&format!("{}.timeouts.status", scene.source)) == (round == 0), "{line}");
        let led = round + 2;
        testbed::eventually(PATIENCE, || async {
            ensure!(times_led(&daemon) == led, "it streamed {} times", times_led(&daemon));
            Ok(())
        })
        .await;
    }
    scene.wait_records(2500).await;
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    let failed =
        daemon.lines().into_iter().find(|line| line.contains("\"level\":\"ERROR\"") || line.contains("retry_in"));
    ensure!(failed.is_none(), "{failed:?}");
    // What came together is now in more transactions than before, since each holds 20 rows at most.
    let committed = format!("outboxd_kafka_transactions_total{{outcome=\"committed\",source=\"{}\"", scene.source);
    let before = metric(&daemon, &committed).await?;
    scene.insert(200).await?;
    scene.oracle().await?.assert_clean();
    let transactions = metric(&daemon, &committed).await? - before;
    ensure!(transactions >= 10.0, "200 rows were in {transactions} transactions");
    stop(&daemon).await
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let broken = scene.config().replace("info,outboxd=debug", "error").replace("[http]", "[htp]");
    let line = reload(&daemon, &broken).await?;
    for part in ["config-unknown-key", "did you mean \\\"http\\\"?", "nothing changes", "\"hint\":"] {
        ensure!(line.contains(part), "{part:?} is not in {line}");
    }
    scene.insert(3).await?;
    scene.assert_exactly(3).await?;
    assert_eq!(times_led(&daemon), 1);
    stop(&daemon).await?;
    ensure!(daemon.lines().iter().any(|line| line.contains("\"message\":\"drained\"")), "the level has changed");
    Ok(())
}

#[tokio::test]
async fn a_key_that_needs_a_restart_is_named_and_the_others_change() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let config = scene.config().replace(
        "[kafka]",
        "topic = \"elsewhere\"\n[source.limits]\nlinger = \"1ms\"\n[kafka]\ndelivery = \"at-least-once\"",
    );
    let line = reload(&daemon, &config).await?;
    ensure!(line.contains(&format!("\"changed\":\"{}.limits.linger\"", scene.source)), "{line}");
    let line = daemon.wait_for_line(|line| line.contains(RESTART), PATIENCE).await?;
    ensure!(line.contains(&format!("\"keys\":\"kafka.delivery, {}.topic\"", scene.source)), "{line}");
    scene.insert(3).await?;
    scene.assert_exactly(3).await?;
    stop(&daemon).await
}

#[tokio::test]
async fn a_password_that_the_file_holds_changes_with_the_file() -> Result<()> {
    let postgres = Postgres::builder(Version::V15).hba("host all vera 127.0.0.1/32 scram-sha-256");
    let mut scene = Scene::on_own_postgres(postgres).await?.with("backfill = \"none\"");
    scene
        .client
        .batch_execute("CREATE ROLE vera LOGIN REPLICATION PASSWORD 'new'; GRANT ALL ON order_outbox TO vera")
        .await?;
    let url = scene.postgres.role_url("vera", &scene.database);
    let config = |password: &str| {
        let config = scene.config_through(&url, &scene.kafka.brokers());
        config
            .replace("[kafka]", &format!("password = \"{password}\"\n[source.timeouts]\nbackoff_max = \"1h\"\n[kafka]"))
    };
    let (old, new) = (config("old"), config("new"));
    let daemon = start(&old)?;
    wait_code(&daemon, "postgres-auth-failed").await?;
    let line = reload(&daemon, &new).await?;
    ensure!(line.contains(&format!("\"changed\":\"{}.password\"", scene.source)), "{line}");
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.assert_exactly(3).await?;
    let shown = daemon.lines().into_iter().find(|line| line.contains("\"old\"") || line.contains("\"new\""));
    ensure!(shown.is_none(), "a password is in the log: {shown:?}");
    stop(&daemon).await
}
