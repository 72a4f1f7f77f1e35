//! Servers that are promoted, restored or replaced: numbers 40 to 42, 72.

use anyhow::Result;
use testbed::{Daemon, Postgres, Proxy, Version};

use crate::recover::recover;
use crate::scene::{
    Host, PATIENCE, Scene, create_publication, halts, halts_again, stop, streams_again, wait_code, wait_ready,
    wait_true,
};

/// A daemon that reaches its server through a proxy, which can lead it to another one.
pub(crate) async fn behind_a_proxy(scene: &Scene) -> Result<(Proxy, Daemon)> {
    let proxy = Proxy::start(scene.postgres.port()?)?;
    let url = format!("postgres://outboxd@{}/{}", proxy.address(), scene.database);
    let daemon = scene.daemon_at(&url)?;
    wait_ready(&daemon).await;
    Ok((proxy, daemon))
}

#[tokio::test]
async fn a_promoted_standby_without_the_slot_halts() -> Result<()> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    let (proxy, daemon) = behind_a_proxy(&scene).await?;
    let standby = scene.postgres.standby(&[]).await?;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    scene.postgres.stop_immediate().await?;
    standby.promote().await?;
    proxy.retarget(standby.port()?);
    halts(&daemon, "slot-missing").await?;
    Ok(())
}

#[tokio::test]
async fn a_failover_slot_carries_the_source_over_to_the_standby() -> Result<()> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V17)).await?.with("failover = true");
    let standby = scene.postgres.failover_standby().await?;
    scene.postgres.wait_for_standby(true).await?;
    let (proxy, _daemon) = behind_a_proxy(&scene).await?;
    scene.insert(5).await?;
    scene.oracle().await?.assert_clean();
    let there = standby.client("postgres").await?;
    let slot = scene.slot();
    let synced = format!(
        "SELECT coalesce(bool_or(synced AND NOT temporary), false) FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    wait_true(&there, &synced).await;
    scene.insert(5).await?;
    scene.oracle().await?.assert_clean();
    scene.postgres.stop_immediate().await?;
    standby.promote().await?;
    // With the name of a standby that is gone, the slot would wait for ever.
    standby.wait_for_standby(false).await?;
    proxy.retarget(standby.port()?);
    scene.client = standby.client(&scene.database).await?;
    scene.insert(5).await?;
    scene.assert_exactly(15).await
}

/// A standby that has the slot, and has stopped to receive before the last rows were published. The primary
/// did not wait for it, since `synchronized_standby_slots` is empty.
pub(crate) async fn promoted_without_the_last_rows() -> Result<(Scene, Daemon)> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V17)).await?.with("failover = true");
    let standby = scene.postgres.failover_standby().await?;
    let (proxy, daemon) = behind_a_proxy(&scene).await?;
    scene.insert(5).await?;
    scene.oracle().await?.assert_clean();
    scene.wait_caught_up().await?;
    let there = standby.client("postgres").await?;
    let (slot, end) = (scene.slot(), end_of_log(&scene).await?);
    wait_true(
        &there,
        &format!(
            "SELECT coalesce(bool_or(synced AND NOT temporary), false) AND pg_last_wal_replay_lsn() >= '{end}' \
             FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ),
    )
    .await;
    there.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await?;
    there.batch_execute("SELECT pg_reload_conf()").await?;
    wait_true(&there, "SELECT count(*) = 0 FROM pg_stat_wal_receiver").await;
    scene.insert(4).await?;
    scene.oracle().await?.assert_clean();
    scene.postgres.stop_immediate().await?;
    standby.promote().await?;
    proxy.retarget(standby.port()?);
    scene.client = standby.client(&scene.database).await?;
    scene.postgres = Host::Own(standby);
    halts(&daemon, "history-diverged").await?;
    drop(daemon);
    // The halted daemon knows the proxy's address, which is gone: the next daemon has the new primary's.
    let daemon = scene.daemon()?;
    halts(&daemon, "history-diverged").await?;
    Ok((scene, daemon))
}

async fn end_of_log(scene: &Scene) -> Result<String> {
    Ok(scene.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0))
}

#[tokio::test]
async fn a_promoted_standby_that_lacks_what_was_published_halts() -> Result<()> {
    let (scene, _daemon) = promoted_without_the_last_rows().await?;
    let rows = scene.client.query_one("SELECT count(*) FROM order_outbox", &[]).await?;
    assert_eq!(rows.get::<_, i64>(0), 5, "the standby has what it was not to have");
    Ok(())
}

#[tokio::test]
async fn failover_on_postgres_15_ends_with_exit_code_2_and_makes_no_slot() -> Result<()> {
    let scene = Scene::shared().await?.with("failover = true");
    let daemon = scene.daemon()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 2);
    let line = wait_code(&daemon, "config-invalid").await?;
    assert!(line.contains("needs Postgres 17"), "{line}");
    let slots = scene.client.query("SELECT FROM pg_replication_slots WHERE slot_name = $1", &[&scene.slot()]).await?;
    assert!(slots.is_empty());
    // And without it the same source is set up to its end.
    let scene = Scene { source_lines: String::new(), ..scene };
    scene.streaming().await?;
    Ok(())
}

#[tokio::test]
async fn another_cluster_at_the_same_address_halts() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let (proxy, daemon) = behind_a_proxy(&scene).await?;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    stop(&daemon).await?;
    // The same names, table and slot, on another server.
    let other = Scene::on_major(Version::V16).await?;
    let (database, slot) = (&scene.database, scene.slot());
    other.postgres.create_database(database).await?;
    let there = other.postgres.client(database).await?;
    testbed::workload::create_outbox(&there, "order_outbox").await?;
    create_publication(&there, &slot).await?;
    there.query_one("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
    proxy.retarget(other.postgres.port()?);
    halts_again(&daemon, "system-changed").await
}

/// The same source on a server of its own: another cluster behind the same configuration.
async fn elsewhere(scene: &Scene) -> Result<Scene> {
    let other = Scene::on_major(Version::V16).await?;
    create_publication(&other.client, &scene.slot()).await?;
    Ok(Scene {
        source: scene.source.clone(),
        aggregate: scene.aggregate.clone(),
        topic: scene.topic.clone(),
        position_topic: scene.position_topic.clone(),
        ..other
    })
}

/// Neither cluster takes over from the other by itself, whichever phase the position is in.
#[tokio::test]
async fn another_cluster_behind_the_same_configuration_is_told_and_the_first_one_publishes_nothing_again() -> Result<()>
{
    let mut first = Scene::shared().await?;
    let daemon = first.stopped().await?;
    let mut second = elsewhere(&first).await?;
    second.insert(2).await?;
    let there = second.daemon()?;
    halts(&there, "system-changed").await?;
    let (_, status, _) = second.command(&["status"]).await?;
    assert!(status.contains("system-changed") && !status.contains("slot-missing"), "{status}");
    for arguments in [&["setup"][..], &["setup", "--add-table", "order_outbox"]] {
        let (code, said, refused) = second.command(arguments).await?;
        assert!(code != 0 && refused.contains("system-changed"), "{code} {said}{refused}");
    }
    let said = recover(&second, "republish-unmarked").await?;
    assert!(said.contains("system-changed") && said.contains("belongs to system"), "{said}");
    first.insert(3).await?;
    halts_again(&daemon, "system-changed").await?;
    streams_again(&there).await?;
    second.wait_records(5).await;
    halts_again(&daemon, "system-changed").await?;
    first.drop_slot().await?;
    halts_again(&daemon, "system-changed").await?;
    assert_eq!(second.records().await?, 5);
    Ok(())
}

/// A server whose disk was put back to an earlier moment, slot included, after more was published.
pub(crate) async fn restored() -> Result<(Scene, Daemon)> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.postgres.stop_fast().await?;
    let disk = scene.postgres.copy_disk()?;
    scene.start_postgres_again().await?;
    daemon.start_again()?;
    scene.insert(5).await?;
    scene.oracle().await?.assert_clean();
    stop(&daemon).await?;
    scene.postgres.stop_fast().await?;
    scene.postgres.restore_disk(&disk)?;
    scene.start_postgres_again().await?;
    Ok((scene, daemon))
}

#[tokio::test]
async fn an_older_disk_whose_log_ends_before_the_position_halts() -> Result<()> {
    let (_scene, daemon) = restored().await?;
    halts_again(&daemon, "history-diverged").await
}

#[tokio::test]
async fn an_older_disk_whose_log_has_grown_past_the_position_halts_and_marks_nothing() -> Result<()> {
    let (mut scene, daemon) = restored().await?;
    for _ in 0..40 {
        scene.insert(5).await?;
    }
    halts_again(&daemon, "history-diverged").await?;
    let marked = "SELECT count(*) FROM order_outbox WHERE published_at IS NOT NULL";
    assert_eq!(scene.client.query_one(marked, &[]).await?.get::<_, i64>(0), 3, "rows that nobody published are marked");
    Ok(())
}
