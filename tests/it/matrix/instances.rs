//! Several instances of one source: numbers 8, 9 and 11. One leads and the others stand by, whoever is killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::{Daemon, eventually};

use crate::scene::{PATIENCE, Scene, is_ready, role_with, start, times_led, wait_ready, wait_state, wait_true};

const INSTANCES: usize = 3;

/// Enough that every instance is hit in every way.
const ROUNDS: usize = 20;

/// One instance that leads, others that stand by, and their role. An instance that is stopped loses its session after
/// this time.
async fn instances(scene: &Scene, wal_sender_timeout: &str) -> Result<(Vec<Daemon>, String)> {
    let role = role_with(scene, &[&format!("wal_sender_timeout = '{wal_sender_timeout}'")]).await?;
    let leader = scene.daemon_as(&role)?;
    wait_ready(&leader).await;
    let mut daemons = vec![leader];
    for _ in 1..INSTANCES {
        let standby = scene.daemon_as(&role)?;
        wait_state(&standby, "standby").await;
        daemons.push(standby);
    }
    Ok((daemons, role))
}

async fn scene() -> Result<Scene> {
    Ok(Scene::shared().await?.with("[source.timeouts]\nstatus = \"200ms\"\nbackoff_max = \"1s\""))
}

#[tokio::test]
async fn standbys_are_live_and_not_ready_and_hold_two_sessions_each() -> Result<()> {
    let scene = scene().await?;
    let (daemons, role) = instances(&scene, "5s").await?;
    for standby in &daemons[1..] {
        assert_eq!(standby.http_get("/livez").await?.0, 200);
        assert_eq!(standby.http_get("/readyz").await?.0, 503);
    }
    let sessions = |application: &str| {
        format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND application_name = '{application}'")
    };
    for (application, wanted) in [
        ("outboxd catalog", INSTANCES as i64),
        ("outboxd monitor", INSTANCES as i64),
        ("outboxd marker", 2),
        ("outboxd", 1),
    ] {
        wait_true(&scene.client, &format!("SELECT ({}) = {wanted}", sessions(application))).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_instance_on_the_same_address_stands_by_and_serves_there_after_the_first() -> Result<()> {
    let mut scene = scene().await?;
    let first = scene.daemon()?;
    wait_ready(&first).await;
    let shared = scene.config().replace("{http}", &first.http_address());
    let second = start(&shared)?;
    second.wait_for_line(|line| line.contains("serves nothing until the address is free"), PATIENCE).await?;
    second.wait_for_line(|line| line.contains("slot-in-use") || line.contains("standing by"), PATIENCE).await?;
    ensure!(is_ready(&first).await && second.is_running()?, "the second one disturbed the first");
    first.kill9()?;
    // What answers at the first one's address is the second one now.
    wait_ready(&first).await;
    let warned = second.lines().iter().filter(|line| line.contains("serves nothing")).count();
    ensure!(warned == 1, "it warned {warned} times");
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    ensure!(times_led(&second) == 1, "the second one did not lead");
    Ok(())
}

/// A seed of one's own: `OUTBOXD_KILLER_SEED`.
fn killer() -> Result<fastrand::Rng> {
    let seed = match std::env::var("OUTBOXD_KILLER_SEED") {
        Ok(seed) => seed.parse().context("OUTBOXD_KILLER_SEED")?,
        Err(_) => 20_241,
    };
    Ok(fastrand::Rng::with_seed(seed))
}

#[tokio::test]
async fn three_instances_under_a_random_killer() -> Result<()> {
    let scene = scene().await?;
    let (daemons, _) = instances(&scene, "1s").await?;
    let load = scene.load();
    let mut random = killer()?;
    let (mut stopped, mut hits) = ([false; INSTANCES], [0; 3]);
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(random.u64(50..700))).await;
        let mut victim = random.usize(..INSTANCES);
        if round % 4 == 3 {
            for (daemon, stopped) in daemons.iter().zip(&mut stopped).filter(|(_, stopped)| **stopped) {
                daemon.resume()?;
                *stopped = false;
            }
            victim = leader(&daemons).await;
        }
        let daemon = &daemons[victim];
        if std::mem::take(&mut stopped[victim]) {
            daemon.resume()?;
            continue;
        }
        let hit = random.usize(..hits.len());
        hits[hit] += 1;
        match hit {
            0 => {
                daemon.kill9()?;
                daemon.start_again()?;
            }
            1 => {
                daemon.pause()?;
                stopped[victim] = true;
            }
            _ => {
                daemon.term()?;
                // A daemon that has just begun does not handle the signal yet, and ends by it.
                daemon.wait_status(PATIENCE).await?;
                daemon.start_again()?;
            }
        }
    }
    for (daemon, stopped) in daemons.iter().zip(stopped) {
        if stopped {
            daemon.resume()?;
        }
    }
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    scene.wait_caught_up().await?;
    ensure!(hits.iter().all(|&times| times > 1), "the killer was lazy: {hits:?}");
    let led = daemons.iter().filter(|daemon| times_led(daemon) > 0).count();
    let times: usize = daemons.iter().map(times_led).sum();
    ensure!(led > 1 && times > 3, "{led} instances led, {times} times");
    ensure!(daemons.iter().all(|daemon| daemon.is_running().unwrap_or(false)), "an instance ended by itself");
    Ok(())
}

/// Waits until one leads.
async fn leader(daemons: &[Daemon]) -> usize {
    eventually(PATIENCE, || async {
        for (number, daemon) in daemons.iter().enumerate() {
            if is_ready(daemon).await {
                return Ok(number);
            }
        }
        anyhow::bail!("nobody leads")
    })
    .await
}

/// Who marked what: the server process that ran the UPDATE, and when.
const MARK_LOG: &str = "CREATE TABLE mark_log (id uuid, pid int, at timestamptz DEFAULT clock_timestamp());
     CREATE FUNCTION log_mark() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
     $$ BEGIN INSERT INTO mark_log VALUES (NEW.id, pg_backend_pid()); RETURN NEW; END $$;
     CREATE TRIGGER log_mark BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION log_mark()";

#[tokio::test]
async fn a_zombie_publishes_marks_and_confirms_nothing_that_came_after_it() -> Result<()> {
    let mut scene = scene().await?;
    scene.client.batch_execute(MARK_LOG).await?;
    let (daemons, role) = instances(&scene, "3s").await?;
    let (zombie, standbys) = daemons.split_first().context("no daemon")?;
    let load = scene.load();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let query =
        "SELECT array_agg(pid) FROM pg_stat_activity WHERE usename = $1 AND application_name = 'outboxd marker'";
    let markers: Vec<i32> = scene.client.query_one(query, &[&role]).await?.get(0);
    zombie.pause()?;
    leader(standbys).await;
    load.stop().await?;
    scene.wait_marked("order_outbox").await;
    let after = scene.insert(50).await?;
    scene.wait_marked("order_outbox").await;
    let led = times_led(zombie);
    let (published, woken) = (scene.records().await?, now(&scene).await?);
    zombie.resume()?;
    zombie.wait_for_line(|line| line.contains("retry_in") || line.contains("kafka-fenced"), PATIENCE).await?;
    wait_state(zombie, "standby").await;
    assert_eq!(scene.records().await?, published, "it published");
    let query = "SELECT count(*) FROM mark_log WHERE pid = ANY($1) AND (at > $2::text::timestamptz OR id = ANY($3))";
    let marks: i64 = scene.client.query_one(query, &[&markers, &woken, &after]).await?.get(0);
    assert_eq!(marks, 0, "it marked");
    assert_eq!(times_led(zombie), led, "whoever does not have the slot cannot confirm");
    scene.insert(5).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

async fn now(scene: &Scene) -> Result<String> {
    Ok(scene.client.query_one("SELECT clock_timestamp()::text", &[]).await?.get(0))
}
