//! The ways back from a halt. Each test breaks a source, sees the halt, recovers and starts the daemon again.
//! Then it finds what the message of `recover` promised.

use anyhow::Result;
use testbed::{Audit, Daemon, Expect};

use crate::scene::{Scene, TABLE, halts_again, stop, streams_again};

/// Recovers, after it has seen that `recover` does nothing without `--yes`. Gives back what the command said.
pub(crate) async fn recover(scene: &Scene, strategy: &str) -> Result<String> {
    let arguments = ["recover", "--source", &scene.source, "--strategy", strategy];
    let (code, said, refused) = scene.command(&arguments).await?;
    assert_eq!(code, 2, "{said}{refused}");
    assert!(refused.contains("--yes") && said.contains("LOSES") && said.contains("REPEATS"), "{said}{refused}");
    let (code, said, err) = scene.command(&[&arguments[..], &["--yes"]].concat()).await?;
    assert_eq!(code, 0, "{said}{err}");
    Ok(said)
}

/// After the recovery: the daemon streams, and publishes what comes.
pub(crate) async fn goes_on(scene: &mut Scene, daemon: &Daemon) -> Result<()> {
    streams_again(daemon).await?;
    let before = scene.audit(Expect::UnmarkedTables(TABLE)).await?.records;
    scene.insert(2).await?;
    scene.wait_records(before as u64 + 2).await;
    // The next start goes on as well.
    stop(daemon).await?;
    streams_again(daemon).await
}

/// Missing and repeated rows.
pub(crate) fn difference(audit: &Audit) -> (usize, usize) {
    assert_eq!((audit.unknown, audit.out_of_order, audit.torn), (0, 0, 0), "{audit}");
    (audit.missing, audit.duplicates)
}

#[tokio::test]
async fn a_dropped_slot_and_republish_unmarked_lose_and_repeat_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.drop_slot().await?;
    scene.insert(5).await?;
    halts_again(&daemon, "slot-missing").await?;
    let said = recover(&scene, "republish-unmarked").await?;
    assert!(said.contains("slot-missing") && said.contains("9 now"), "{said}");
    let (_, status, _) = scene.command(&["status"]).await?;
    assert!(status.contains("with republish-unmarked after slot-missing"), "{status}");
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly(14).await
}

#[tokio::test]
async fn what_was_published_and_not_marked_is_repeated_as_it_was_said() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.client.batch_execute("UPDATE order_outbox SET published_at = NULL").await?;
    scene.drop_slot().await?;
    halts_again(&daemon, "slot-missing").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.wait_marked("order_outbox").await;
    let audit = scene.audit(Expect::Tables(TABLE)).await?;
    assert_eq!(difference(&audit), (0, 3), "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_lost_position_and_from_slot_lose_and_repeat_nothing_where_all_was_confirmed() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.kafka.delete_topic(&scene.position_topic).await?;
    halts_again(&daemon, "position-lost").await?;
    recover(&scene, "from-slot").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn an_advanced_slot_and_from_slot_lose_exactly_what_it_passed() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.advance_slot().await?;
    scene.insert(5).await?;
    halts_again(&daemon, "slot-ahead").await?;
    let said = recover(&scene, "from-slot").await?;
    assert!(said.contains("LOSES every row committed after"), "{said}");
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.audit(Expect::UnmarkedTables(TABLE)).await?;
    assert_eq!(difference(&audit), (4, 0), "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_came_back_and_from_slot_lose_exactly_what_the_publication_did_not_carry() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.alter_publication("DROP TABLE order_outbox").await?;
    scene.insert(4).await?;
    scene.alter_publication("ADD TABLE order_outbox").await?;
    scene.insert(5).await?;
    halts_again(&daemon, "publication-changed").await?;
    recover(&scene, "from-slot").await?;
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.audit(Expect::UnmarkedTables(TABLE)).await?;
    assert_eq!(difference(&audit), (4, 0), "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_came_back_and_republish_unmarked_lose_and_repeat_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.alter_publication("DROP TABLE order_outbox").await?;
    scene.insert(4).await?;
    scene.alter_publication("ADD TABLE order_outbox").await?;
    halts_again(&daemon, "publication-changed").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn from_now_loses_exactly_what_was_not_published_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.drop_slot().await?;
    halts_again(&daemon, "slot-missing").await?;
    recover(&scene, "from-now").await?;
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.audit(Expect::UnmarkedTables(TABLE)).await?;
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
    stop(&daemon).await?;
    let arguments = ["recover", "--source", &source, "--strategy", "from-now", "--yes"];
    let (code, said, refused) = scene.command(&arguments).await?;
    assert_eq!(code, 2, "{said}{refused}");
    assert!(refused.contains("nothing to recover"), "{refused}");
    streams_again(&daemon).await?;
    scene.insert(2).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}
