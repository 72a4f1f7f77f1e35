//! Rows that never become events: those that are passed over are counted, and a publication that would send none is
//! refused at every start.

use anyhow::{Result, ensure};
use testbed::eventually;

use crate::scene::{PATIENCE, QUICK, Scene, halts, insert_one, metric, stop, tail, wait_code, wait_ready};

pub(crate) const PARTITIONED: &str = "ALTER TABLE order_outbox RENAME TO shape;
    CREATE TABLE order_outbox (LIKE shape INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY HASH (id);
    DROP TABLE shape;
    CREATE TABLE half PARTITION OF order_outbox FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE other_half PARTITION OF order_outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1)";

#[tokio::test]
async fn rows_that_are_passed_over_are_counted() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute("CREATE TABLE other (n int)").await?;
    scene.alter_publication("ADD TABLE other").await?;
    let daemon = scene.published(2).await?;
    let passed_over = "outboxd_rows_passed_over_total";
    assert!(metric(&daemon, passed_over).await?.abs() < 0.1, "rows that are published count");
    scene.client.batch_execute("INSERT INTO other VALUES (1), (2)").await?;
    scene.client.batch_execute("ALTER TABLE order_outbox ALTER published_at SET DEFAULT now()").await?;
    for _ in 0..3 {
        insert_one(&scene, &scene.client).await?;
    }
    eventually(PATIENCE, || async {
        let rows = metric(&daemon, passed_over).await?;
        ensure!((rows - 5.0).abs() < 0.1, "{rows} rows are counted\n{}", tail(&daemon));
        Ok(())
    })
    .await;
    assert_eq!(scene.records().await?, 2);
    Ok(())
}

/// The daemon says it, makes no slot, and begins once it is repaired: nothing is lost.
async fn is_refused_until(mut scene: Scene, says: &str, repair: &str) -> Result<()> {
    scene.insert(3).await?;
    let (status, output, _) = scene.command(&["check"]).await?;
    assert!(status == 1 && output.contains(says), "{output}");
    let (_, output, error) = scene.command(&["setup"]).await?;
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "publication-missing").await?;
    assert!(line.contains(says), "{line}");
    let slot = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    assert_eq!(scene.client.query_one(slot, &[&scene.slot()]).await?.get::<_, i64>(0), 0, "setup: {output}{error}");
    scene.alter_publication(repair).await?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.assert_exactly_whatever_the_order(6).await
}

#[tokio::test]
async fn a_publication_without_insert_is_refused_before_there_is_a_slot() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    scene.alter_publication("SET (publish = 'update')").await?;
    is_refused_until(scene, "it publishes 'update', and no INSERT", "SET (publish = 'insert')").await
}

#[tokio::test]
async fn a_root_that_is_published_under_its_partitions_names_is_refused_before_there_is_a_slot() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute(PARTITIONED).await?;
    scene.alter_publication("ADD TABLE order_outbox").await?;
    scene.alter_publication("SET (publish_via_partition_root = false)").await?;
    let repair = "SET (publish_via_partition_root = true)";
    is_refused_until(scene, "would arrive under the names of its partitions", repair).await
}

/// Without a backfill, too, the slot waits until the publication can send rows.
#[tokio::test]
async fn a_source_without_a_backfill_waits_for_a_publication_with_insert() -> Result<()> {
    let mut scene = Scene::shared().await?.with("backfill = \"none\"").with(QUICK);
    scene.alter_publication("SET (publish = 'truncate')").await?;
    let daemon = scene.daemon()?;
    wait_code(&daemon, "publication-missing").await?;
    scene.insert(2).await?;
    assert_eq!(scene.records().await?, 0);
    scene.alter_publication("SET (publish = 'insert')").await?;
    wait_ready(&daemon).await;
    // The rows from before the slot are left alone, as `backfill = "none"` says.
    scene.insert(2).await?;
    scene.wait_records(2).await;
    stop(&daemon).await
}

/// Rows were published through another publication: that is a halt, as ever.
#[tokio::test]
async fn a_publication_that_loses_its_insert_halts() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(2).await?;
    scene.wait_caught_up().await?;
    daemon.kill9()?;
    scene.alter_publication("SET (publish = 'update')").await?;
    daemon.start_again()?;
    let line = halts(&daemon, "publication-changed").await?;
    assert!(line.contains("and now publishes 'update'"), "{line}");
    Ok(())
}
