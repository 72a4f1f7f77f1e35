//! The daemon's clock jumps: number 12.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use testbed::{Clock, Daemon, eventually};

use crate::scene::{PATIENCE, Scene, metric, wait_ready};

const HOURS: i64 = 3 * 3600;

fn by_this_clock(scene: &Scene, clock: &Clock) -> Result<Daemon> {
    let mut daemon = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&["run", "--config", "{config}"]);
    for (name, value) in clock.environment() {
        daemon = daemon.env(name, &value);
    }
    daemon.config(&scene.config()).start()
}

/// How far ahead of ours the clock was when this line was logged, in seconds.
fn ahead(line: &str) -> Option<i64> {
    let (_, rest) = line.split_once("\"timestamp\":\"")?;
    let logged = humantime::parse_rfc3339(rest.split('"').next()?).ok()?;
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs()).ok();
    i64::try_from(since(logged)?).ok()?.checked_sub_unsigned(since(SystemTime::now())?)
}

/// The lag is neither negative nor beyond reason. The daemon tells a row's age by this clock and Postgres' own, so the
/// age is wrong by the difference of the two clocks, and by no more.
async fn ensure_sane_lag(daemon: &Daemon, jump: i64) -> Result<()> {
    let seconds = metric(daemon, "outboxd_replication_lag_seconds").await?;
    ensure!(
        seconds.is_nan() || (0.0..=jump.max(0) as f64 + 90.0).contains(&seconds),
        "a lag of {seconds} s, {jump} s ahead"
    );
    let bytes = metric(daemon, "outboxd_replication_lag_bytes").await?;
    ensure!(bytes.is_nan() || (0.0..=1e9).contains(&bytes), "a lag of {bytes} bytes");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_jumps_by_hours_changes_nothing() -> Result<()> {
    let (mut scene, clock) = (Scene::shared().await?, Clock::new()?);
    let daemon = by_this_clock(&scene, &clock)?;
    wait_ready(&daemon).await;
    let load = scene.load();
    for jump in [HOURS, -HOURS, 0] {
        clock.set(jump)?;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // The daemon may not have reported since the jump.
            ensure_sane_lag(&daemon, HOURS).await?;
        }
        // It goes on without a new session,
        let ids = scene.insert(3).await?;
        let marked = "SELECT count(*) FROM order_outbox WHERE id = ANY($1) AND published_at IS NOT NULL";
        eventually(PATIENCE, || async {
            let rows: i64 = scene.client.query_one(marked, &[&ids]).await?.get(0);
            ensure!(rows == 3, "{rows} rows are marked {jump} s ahead");
            Ok(())
        })
        .await;
        // and with one, whose log says what time it is.
        let before = daemon.lines().len();
        scene.terminate_walsender().await?;
        let streams =
            |line: &str| line.contains("\"streaming\"") && ahead(line).is_some_and(|s| (s - jump).abs() < 600);
        daemon.wait_for_line_after(before, streams, PATIENCE).await?;
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    ensure_sane_lag(&daemon, 0).await?;
    eventually(PATIENCE, || async {
        let seconds = metric(&daemon, "outboxd_replication_lag_seconds").await?;
        ensure!(seconds == 0.0, "all is published, and the lag is {seconds} s");
        Ok(())
    })
    .await;
    Ok(())
}
