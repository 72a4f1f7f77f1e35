//! Sessions that the server ends, or that an administrator ends there.

use anyhow::{Result, bail, ensure};
use testbed::{Version, eventually};

use crate::scene::{PATIENCE, Scene, times_led, wait_ready, wait_true};

/// A backfill is one long transaction, whatever the role's `transaction_timeout` (Postgres 17) says of others.
#[tokio::test]
async fn a_backfill_outlasts_the_transaction_timeout_of_its_role() -> Result<()> {
    let mut scene = Scene::on_major(Version::V17).await?.with("[source.limits]\nbackfill_chunk_rows = 10");
    let database = &scene.database;
    scene
        .client
        .batch_execute(&format!("ALTER ROLE outboxd IN DATABASE {database} SET transaction_timeout = '2s'"))
        .await?;
    // Up to 250 rows are marked in one transaction, and the whole takes longer than one may.
    scene
        .client
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END'; \
             CREATE TRIGGER slow BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await?;
    scene.insert(3000).await?;
    let daemon = scene.daemon()?;
    let lasts = "SELECT coalesce(max(now() - xact_start) > interval '3s', false) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = 'outboxd backfill'";
    wait_true(&scene.client, lasts).await;
    wait_ready(&daemon).await;
    ensure!(!daemon.lines().iter().any(|line| line.contains("retry_in")), "it began anew");
    scene.assert_exactly_whatever_the_order(3000).await
}

/// The monitor's session is for numbers alone: when it ends, the relay goes on, and the numbers come back.
#[tokio::test]
async fn a_monitor_whose_session_is_ended_opens_another_and_holds_nothing_up() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let monitor = "SELECT pid FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'outboxd monitor'";
    let other_than = async |known: Option<i32>| -> i32 {
        eventually(PATIENCE, || async {
            match scene.client.query(monitor, &[]).await?.first().map(|row| row.get(0)) {
                Some(pid) if Some(pid) != known => Ok(pid),
                found => bail!("found {found:?}"),
            }
        })
        .await
    };
    let first = other_than(None).await;
    scene.client.query("SELECT pg_terminate_backend($1)", &[&first]).await?;
    other_than(Some(first)).await;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    assert_eq!(times_led(&daemon), 1, "the relay began anew");
    Ok(())
}
