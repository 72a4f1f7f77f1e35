//! A failover slot whose position a standby has before the marks: number 83.

use anyhow::{Context, Result, ensure};
use testbed::{Daemon, Postgres, Proxy, Version, eventually};

use super::restored::behind_a_proxy;
use crate::scene::{Host, PATIENCE, QUICK, Scene, wait_true};

/// A primary with a standby that synchronises the slot, and for which the primary waits.
struct Pair {
    scene: Scene,
    standby: Postgres,
    proxy: Proxy,
    daemon: Daemon,
}

async fn pair() -> Result<Pair> {
    let scene = Scene::on_own_postgres(Postgres::builder(Version::V18)).await?.with("failover = true").with(QUICK);
    let standby = scene.postgres.failover_standby().await?;
    scene.postgres.wait_for_standby(true).await?;
    let (proxy, daemon) = behind_a_proxy(&scene).await?;
    Ok(Pair { scene, standby, proxy, daemon })
}

impl Pair {
    /// Publishes three rows, and lets the standby receive nothing any more before their marks are made. The primary's
    /// slot is confirmed as far as it will be, and the standby has synchronised what it can.
    async fn rows_whose_marks_the_standby_lacks(&mut self) -> Result<()> {
        let Self { scene, standby, .. } = self;
        scene.insert(3).await?;
        scene.oracle().await?.assert_clean();
        // The first synchronisation needs a slot that moves.
        let there = standby.client("postgres").await?;
        let slot = scene.slot();
        let synced =
            format!("SELECT bool_or(synced AND NOT temporary) FROM pg_replication_slots WHERE slot_name = '{slot}'");
        wait_true(&there, &format!("SELECT coalesce(({synced}), false)")).await;
        scene.hold_marks().await?;
        scene.insert(3).await?;
        scene.wait_records(6).await;
        let end: String = scene.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
        wait_true(&there, &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).await;
        let receiver: i32 = there.query_one("SELECT pid FROM pg_stat_wal_receiver", &[]).await?.get(0);
        signal(receiver, "STOP").await?;
        scene.let_marks_go().await?;
        scene.wait_marked("order_outbox").await;
        // The daemon has told where it stands since the marks were made, and the standby has heard of it.
        let marked: String = scene.client.query_one("SELECT clock_timestamp()::text", &[]).await?.get(0);
        let told = format!(
            "SELECT bool_or(reply_time > '{marked}'::timestamptz + interval '1 s') FROM pg_stat_replication WHERE application_name = 'outboxd'"
        );
        wait_true(&scene.client, &format!("SELECT coalesce(({told}), false)")).await;
        let confirmed =
            format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
        let confirmed: String = scene.client.query_one(&confirmed, &[]).await?.get(0);
        let has_it =
            format!("SELECT confirmed_flush_lsn >= '{confirmed}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
        wait_true(&there, &has_it).await;
        Ok(())
    }

    /// The primary dies, and the standby takes its place.
    async fn fail_over(&mut self) -> Result<()> {
        self.scene.postgres.stop_immediate().await?;
        let there = self.standby.client("postgres").await?;
        self.standby.wait_for_standby(false).await?;
        let receiver = there.query_opt("SELECT pid FROM pg_stat_wal_receiver", &[]).await?;
        let receiver = receiver.and_then(|row| row.get::<_, Option<i32>>(0)).context("the receiver is gone")?;
        let (promoted, let_go) = tokio::join!(self.standby.promote(), let_go_to_end(receiver));
        promoted.and(let_go)?;
        self.proxy.retarget(self.standby.port()?);
        self.scene.client = self.standby.client(&self.scene.database).await?;
        Ok(())
    }
}

/// Lets a stopped receiver go on once it was told to end, so that it ends and reads nothing more.
async fn let_go_to_end(receiver: i32) -> Result<()> {
    eventually(PATIENCE, || async {
        let status = std::fs::read_to_string(format!("/proc/{receiver}/status"))?;
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).context("no ShdPnd")?;
        let pending = u64::from_str_radix(pending.trim(), 16)?;
        ensure!(pending & 1 << (15 - 1) != 0, "SIGTERM is not pending: {pending:x}");
        Ok(())
    })
    .await;
    signal(receiver, "CONT").await
}

async fn signal(pid: i32, signal: &str) -> Result<()> {
    let status = tokio::process::Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().await?;
    status.success().then_some(()).with_context(|| format!("kill -{signal} {pid}"))
}

#[tokio::test]
async fn a_failover_before_the_standby_has_the_marks_leaves_no_row_unmarked() -> Result<()> {
    let mut pair = pair().await?;
    pair.rows_whose_marks_the_standby_lacks().await?;
    pair.fail_over().await?;
    let Pair { mut scene, standby, proxy: _proxy, daemon: _daemon } = pair;
    scene.insert(2).await?;
    scene.postgres = Host::Own(standby);
    scene.wait_marked("order_outbox").await;
    scene.assert_exactly(8).await
}
