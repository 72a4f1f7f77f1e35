//! The ways back from a halt: broken, halted, recovered, started again; then what the message promised.

use anyhow::Result;
use testbed::{Audit, Daemon, Expect};

use crate::scene::{PATIENCE, Scene, wait_code, wait_ready};

/// A source that has published three rows, all confirmed, and was stopped.
pub(crate) async fn stopped(scene: &mut Scene) -> Result<Daemon> {
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    scene.wait_caught_up().await?;
    daemon.term()?;
    daemon.wait_exit(PATIENCE).await?;
    Ok(daemon)
}

/// The daemon, started again, halts with this code.
pub(crate) async fn halts(daemon: &Daemon, code: &str) -> Result<()> {
    daemon.start_again()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 3);
    wait_code(daemon, code).await?;
    Ok(())
}

/// Recovers, having seen that nothing is done without `--yes`; gives back what was said.
pub(crate) async fn recover(scene: &Scene, strategy: &str) -> Result<String> {
    let arguments = ["recover", "--source", &scene.source, "--strategy", strategy];
    let (code, said, refused) = scene.command(&arguments).await?;
    assert_eq!(code, 2, "{said}{refused}");
    assert!(refused.contains("--yes") && said.contains("LOSES") && said.contains("REPEATS"), "{said}{refused}");
    let (code, said, err) = scene.command(&[&arguments[..], &["--yes"]].concat()).await?;
    assert_eq!(code, 0, "{said}{err}");
    Ok(said)
}

pub(crate) async fn drop_slot(scene: &Scene) -> Result<()> {
    scene.client.execute("SELECT pg_drop_replication_slot($1)", &[&scene.slot()]).await?;
    Ok(())
}

/// After the recovery: the daemon streams, and publishes what comes.
pub(crate) async fn goes_on(scene: &mut Scene, daemon: &Daemon) -> Result<()> {
    daemon.start_again()?;
    wait_ready(daemon).await;
    let before = scene.audit(Expect::UnmarkedTables(&["order_outbox"])).await?.records;
    scene.insert(2).await?;
    scene.wait_records(before as u64 + 2).await;
    // And it is no halt in disguise: the next start goes on as well.
    daemon.term()?;
    daemon.wait_exit(PATIENCE).await?;
    daemon.start_again()?;
    wait_ready(daemon).await;
    Ok(())
}

/// Missing and repeated rows.
pub(crate) fn difference(audit: &Audit) -> (usize, usize) {
    assert_eq!((audit.unknown, audit.out_of_order, audit.torn), (0, 0, 0), "{audit}");
    (audit.missing, audit.duplicates)
}

#[tokio::test]
async fn a_dropped_slot_and_republish_unmarked_lose_and_repeat_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = stopped(&mut scene).await?;
    scene.insert(4).await?;
    drop_slot(&scene).await?;
    scene.insert(5).await?;
    halts(&daemon, "slot-missing").await?;
    let said = recover(&scene, "republish-unmarked").await?;
    assert!(said.contains("slot-missing") && said.contains("9 now"), "{said}");
    let (_, status, _) = scene.command(&["status"]).await?;
    assert!(status.contains("with republish-unmarked after slot-missing"), "{status}");
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.oracle().await?;
    audit.assert_clean();
    assert_eq!(audit.records, 14);
    Ok(())
}

#[tokio::test]
async fn what_was_published_and_not_marked_is_repeated_as_it_was_said() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = stopped(&mut scene).await?;
    scene.client.batch_execute("UPDATE order_outbox SET published_at = NULL").await?;
    drop_slot(&scene).await?;
    halts(&daemon, "slot-missing").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.wait_marked("order_outbox").await;
    let audit = scene.audit(Expect::Tables(&["order_outbox"])).await?;
    assert_eq!(difference(&audit), (0, 3), "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_lost_position_and_from_slot_lose_and_repeat_nothing_where_all_was_confirmed() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = stopped(&mut scene).await?;
    scene.insert(4).await?;
    scene.kafka.delete_topic(&scene.position_topic).await?;
    halts(&daemon, "position-lost").await?;
    recover(&scene, "from-slot").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn an_advanced_slot_and_from_slot_lose_exactly_what_it_passed() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = stopped(&mut scene).await?;
    scene.insert(4).await?;
    let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())";
    scene.client.query(advance, &[&scene.slot()]).await?;
    scene.insert(5).await?;
    halts(&daemon, "slot-ahead").await?;
    let said = recover(&scene, "from-slot").await?;
    assert!(said.contains("LOSES every row committed after"), "{said}");
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.audit(Expect::UnmarkedTables(&["order_outbox"])).await?;
    assert_eq!(difference(&audit), (4, 0), "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_came_back_and_from_slot_lose_exactly_what_the_publication_did_not_carry() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = stopped(&mut scene).await?;
    let publication = scene.slot();
    scene.client.batch_execute(&format!("ALTER PUBLICATION {publication} DROP TABLE order_outbox")).await?;
    scene.insert(4).await?;
    scene.client.batch_execute(&format!("ALTER PUBLICATION {publication} ADD TABLE order_outbox")).await?;
    scene.insert(5).await?;
    halts(&daemon, "publication-changed").await?;
    recover(&scene, "from-slot").await?;
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.audit(Expect::UnmarkedTables(&["order_outbox"])).await?;
    assert_eq!(difference(&audit), (4, 0), "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_came_back_and_republish_unmarked_lose_and_repeat_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = stopped(&mut scene).await?;
    let publication = scene.slot();
    scene.client.batch_execute(&format!("ALTER PUBLICATION {publication} DROP TABLE order_outbox")).await?;
    scene.insert(4).await?;
    scene.client.batch_execute(&format!("ALTER PUBLICATION {publication} ADD TABLE order_outbox")).await?;
    halts(&daemon, "publication-changed").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn from_now_loses_exactly_what_was_not_published_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = stopped(&mut scene).await?;
    scene.insert(4).await?;
    drop_slot(&scene).await?;
    halts(&daemon, "slot-missing").await?;
    recover(&scene, "from-now").await?;
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.audit(Expect::UnmarkedTables(&["order_outbox"])).await?;
    assert_eq!(difference(&audit), (4, 0), "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_healthy_source_is_refused_live_or_stopped_and_goes_on() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let source = scene.source.clone();
    for strategy in ["republish-unmarked", "from-slot", "from-now"] {
        let arguments = ["recover", "--source", &source, "--strategy", strategy, "--yes", "--force"];
        let (code, said, refused) = scene.command(&arguments).await?;
        assert_eq!(code, 2, "{said}{refused}");
        assert!(refused.contains("recover-refused") && refused.contains("streams from slot"), "{refused}");
    }
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    assert!(!daemon.lines().iter().any(|line| line.contains("kafka-fenced")), "the daemon was fenced");
    scene.wait_caught_up().await?;
    daemon.term()?;
    daemon.wait_exit(PATIENCE).await?;
    let arguments = ["recover", "--source", &source, "--strategy", "from-now", "--yes"];
    let (code, said, refused) = scene.command(&arguments).await?;
    assert_eq!(code, 2, "{said}{refused}");
    assert!(refused.contains("nothing to recover"), "{refused}");
    daemon.start_again()?;
    wait_ready(&daemon).await;
    scene.insert(2).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}
