//! `run --until-idle`: the daemon for tests and batch jobs.

use anyhow::Result;

use crate::scene::{Scene, stop};

const UNTIL_IDLE: &[&str] = &["run", "--until-idle"];

#[tokio::test]
async fn it_publishes_what_there_is_and_ends_with_0() -> Result<()> {
    let mut scene = Scene::shared().await?;
    // The first run sets the source up and backfills, the second one streams, the third has nothing to do.
    for rows in [3, 5, 0] {
        if rows > 0 {
            scene.insert(rows).await?;
        }
        let (code, _, log) = scene.command(UNTIL_IDLE).await?;
        assert_eq!(code, 0, "{log}");
        let audit = scene.audit(testbed::Expect::Tables(crate::scene::TABLE)).await?;
        audit.whatever_the_order().assert_clean();
        let unmarked = "SELECT count(*) FROM order_outbox WHERE published_at IS NULL";
        assert_eq!(scene.client.query_one(unmarked, &[]).await?.get::<_, i64>(0), 0, "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn beside_a_daemon_it_ends_with_1_and_beside_a_row_that_is_invalid_with_3() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(1).await?;
    let (code, _, log) = scene.command(UNTIL_IDLE).await?;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("slot-in-use"), "{log}");
    stop(&daemon).await?;
    scene.insert(2).await?;
    scene
        .client
        .execute(
            "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload)
             VALUES ('a/b', gen_random_uuid(), 'Bad', '{}')",
            &[],
        )
        .await?;
    let (code, _, log) = scene.command(UNTIL_IDLE).await?;
    assert_eq!(code, 3, "{log}");
    assert!(log.contains("row-invalid"), "{log}");
    scene.wait_records(3).await;
    Ok(())
}
