//! Networks between the daemon and Postgres: numbers 66 to 68, 118 and 124.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::{Daemon, Pooler, Proxy, proxy::Direction};

use crate::scene::{Scene, halts, role_with, wait_ready, wait_true};

/// A daemon that reaches Postgres through a proxy, as a role whose walsender gives up a client that
/// is silent for so long.
async fn behind_a_proxy(scene: &Scene, patience: &str) -> Result<(Proxy, Daemon, String)> {
    let proxy = Proxy::start(scene.postgres.port()?)?;
    let role = role_with(scene, &[&format!("wal_sender_timeout = '{patience}'")]).await?;
    let url = format!("postgres://{role}@{}/{}", proxy.address(), scene.database);
    let daemon = scene.daemon_at(&url)?;
    wait_ready(&daemon).await;
    Ok((proxy, daemon, role))
}

const QUICK: &str = "[source.timeouts]\nstatus = \"200ms\"\nbackoff_max = \"1s\"\nstatement = \"5s\"";

#[tokio::test]
async fn every_byte_in_a_segment_of_its_own() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let (proxy, _daemon, _) = behind_a_proxy(&scene, "2s").await?;
    proxy.slice(Direction::Both, Some(1));
    for rows in 1..=10 {
        scene.insert(rows).await?;
    }
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_network_that_swallows_one_direction() -> Result<()> {
    for direction in [Direction::ToServer, Direction::ToClient] {
        let scene = Scene::shared().await?.with(QUICK);
        let (proxy, _daemon, role) = behind_a_proxy(&scene, "2s").await?;
        let load = scene.load();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let walsender: i32 = scene
            .client
            .query_one("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", &[&scene.slot()])
            .await?
            .get::<_, Option<i32>>(0)
            .context("nobody streams")?;
        proxy.blackhole(direction);
        // Postgres gives the session up.
        let gone =
            format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {walsender} AND usename = '{role}')");
        if direction == Direction::ToServer {
            wait_true(&scene.client, &gone).await;
        } else {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        proxy.heal();
        load.stop().await?;
        scene.oracle().await?.assert_clean();
    }
    Ok(())
}

#[tokio::test]
async fn a_network_of_one_kilobyte_a_second() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let (proxy, _daemon, _) = behind_a_proxy(&scene, "10s").await?;
    proxy.bandwidth(Direction::Both, Some(1024));
    for _ in 0..3 {
        scene.insert(3).await?;
    }
    scene.oracle().await?.assert_clean();
    Ok(())
}

/// Opening the stream takes longer than the walsender waits for a sign of life.
#[tokio::test]
async fn a_stream_that_is_opened_over_a_slow_network_is_kept() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let (proxy, _daemon, _) = behind_a_proxy(&scene, "2s").await?;
    proxy.bandwidth(Direction::Both, Some(2048));
    proxy.cut();
    for _ in 0..3 {
        scene.insert(3).await?;
    }
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_pooler_in_the_server_s_place_is_told_as_such() -> Result<()> {
    let scene = Scene::shared().await?;
    let pooler = Pooler::start(&scene.postgres).await?;
    let url = pooler.url(&scene.database);
    let daemon = scene.daemon_at(&url)?;
    let line = halts(&daemon, "postgres-pooler").await?;
    ensure!(line.contains("the server's own host and port"), "{line}");
    let (code, out, err) = scene.command_at(&url, &["check"]).await?;
    ensure!(code == 1 && format!("{out}{err}").contains("postgres-pooler"), "{code}: {out}{err}");
    Ok(())
}
