//! Instances that stop, come back and meet: numbers 7, 9, 73.

use std::time::Duration;

use anyhow::Result;
use testbed::{Daemon, workload};

use crate::scene::{Scene, is_ready, role_with, wait_ready, wait_state, wait_true};

/// Two daemons as a role whose walsender gives up after a second without an answer.
async fn pair(scene: &Scene) -> Result<[Daemon; 2]> {
    let role = role_with(scene, &["wal_sender_timeout = '1s'"]).await?;
    Ok([scene.daemon_as(&role)?, scene.daemon_as(&role)?])
}

const QUICK: &str = "[source.timeouts]\nstatus = \"200ms\"";

#[tokio::test]
async fn a_daemon_that_is_stopped_beyond_every_timeout_goes_on_and_repeats_nothing() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    let [daemon, other] = pair(&scene).await?;
    other.kill9()?;
    wait_ready(&daemon).await;
    let load = scene.load();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        daemon.pause()?;
        let free = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = ";
        wait_true(&scene.client, &format!("{free}'{}'", scene.slot())).await;
        daemon.resume()?;
        wait_true(&scene.client, &format!("SELECT NOT ({free}'{}')", scene.slot())).await;
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_zombie_that_wakes_after_the_takeover_publishes_nothing() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    let [first, second] = pair(&scene).await?;
    while !is_ready(&first).await && !is_ready(&second).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut leader, mut standby) = if is_ready(&first).await { (first, second) } else { (second, first) };
    wait_state(&standby, "standby").await;
    let load = scene.load();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        leader.pause()?;
        wait_ready(&standby).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        leader.resume()?;
        wait_state(&leader, "standby").await;
        std::mem::swap(&mut leader, &mut standby);
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn two_instances_that_are_killed_and_paused_while_they_set_up() -> Result<()> {
    let scene =
        Scene::shared().await?.with("[source.limits]\nbackfill_chunk_rows = 50\n[source.timeouts]\nstatus = \"200ms\"");
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 2_000, 50).await?;
    let [first, second] = pair(&scene).await?;
    let load = scene.load();
    for round in 0..8_u64 {
        tokio::time::sleep(Duration::from_millis(30 + round * 53 % 300)).await;
        first.kill9()?;
        second.pause()?;
        first.start_again()?;
        tokio::time::sleep(Duration::from_millis(30 + round * 71 % 300)).await;
        second.resume()?;
    }
    load.stop().await?;
    // The load began before the slot was there, so a part of its rows was backfilled.
    scene.oracle_whatever_the_order().await?.assert_clean();
    Ok(())
}
