//! What happens to tables and publications: numbers 51, 52, 54, 74.

use anyhow::Result;
use testbed::Version;

use crate::scene::{QUICK, Scene, halts, halts_again, stop, tail, wait_code};

#[tokio::test]
async fn columns_that_come_go_and_change_their_type_between_rows() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    for change in [
        "ADD COLUMN tenant text NOT NULL DEFAULT 'one'",
        "ALTER COLUMN tenant TYPE varchar(10)",
        "ALTER COLUMN event_type TYPE text",
        "ALTER COLUMN published_at TYPE timestamptz",
        "ALTER COLUMN payload TYPE json",
        "DROP COLUMN tenant",
    ] {
        scene.insert(2).await?;
        scene.client.batch_execute(&format!("ALTER TABLE order_outbox {change}")).await?;
        scene.insert(2).await?;
        scene.wait_marked("order_outbox").await;
    }
    daemon.kill9()?;
    scene.insert(2).await?;
    scene.client.batch_execute("ALTER TABLE order_outbox ADD COLUMN later int").await?;
    scene.insert(2).await?;
    daemon.start_again()?;
    scene.assert_exactly(28).await
}

/// The rows in the log stay without the column whatever becomes of the table, so the way back is a mapping that fits.
#[tokio::test]
async fn rows_without_a_required_column_wait_for_a_mapping_that_fits() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(2).await?;
    scene.wait_caught_up().await?;
    let change =
        "ALTER TABLE order_outbox ADD COLUMN kind text NOT NULL DEFAULT 'OrderCreated', DROP COLUMN event_type";
    scene.client.batch_execute(change).await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, payload) \
                  VALUES ($1, gen_random_uuid(), '{\"seq\": 1}')";
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    let line = wait_code(&daemon, "column-invalid").await?;
    assert!(line.contains("event_type"), "{line}");
    assert!(daemon.is_running()?, "{}", tail(&daemon));
    drop(daemon);
    let scene = scene.with("[source.columns]\nevent_type = \"kind\"");
    let _daemon = scene.streaming().await?;
    scene.assert_exactly(3).await
}

#[tokio::test]
async fn a_publication_that_is_dropped_halts_on_every_major() -> Result<()> {
    for version in Version::ALL {
        let mut scene = Scene::on_major(version).await?.with(QUICK);
        let daemon = scene.published(2).await?;
        scene.drop_publication().await?;
        scene.insert(1).await?;
        halts(&daemon, "publication-changed").await?;
        assert_eq!(scene.records().await?, 2);
    }
    Ok(())
}

#[tokio::test]
async fn a_publication_that_changes_while_the_daemon_is_down_halts() -> Result<()> {
    for change in ["DROP TABLE order_outbox", "SET TABLE order_outbox (id, payload)"] {
        let mut scene = Scene::shared().await?.with(QUICK);
        let daemon = scene.published(2).await?;
        stop(&daemon).await?;
        scene.alter_publication(change).await?;
        scene.insert(1).await?;
        halts_again(&daemon, "publication-changed").await?;
    }
    Ok(())
}

/// Nothing in the stream tells of the new table, which is in no publication.
#[tokio::test]
async fn a_table_that_takes_the_name_of_an_outbox_table_halts() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(2).await?;
    let swap = "BEGIN; CREATE TABLE anew (LIKE order_outbox INCLUDING ALL); ALTER TABLE order_outbox RENAME TO before;
                ALTER TABLE anew RENAME TO order_outbox; COMMIT";
    scene.client.batch_execute(swap).await?;
    scene.insert(1).await?;
    halts(&daemon, "publication-changed").await?;
    Ok(())
}

#[tokio::test]
async fn an_outbox_table_that_leaves_its_published_schema_halts() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let publication = scene.slot();
    let by_schema = format!(
        "DROP PUBLICATION {publication}; CREATE PUBLICATION {publication} FOR TABLES IN SCHEMA public
                             WITH (publish = 'insert', publish_via_partition_root = true)"
    );
    scene.client.batch_execute(&by_schema).await?;
    let daemon = scene.published(2).await?;
    scene.client.batch_execute("CREATE SCHEMA other; ALTER TABLE order_outbox SET SCHEMA other").await?;
    halts(&daemon, "publication-changed").await?;
    Ok(())
}

#[tokio::test]
async fn a_publication_that_is_altered_and_altered_back_halts() -> Result<()> {
    for running in [true, false] {
        let mut scene = Scene::shared().await?.with(QUICK);
        let daemon = scene.published(2).await?;
        if !running {
            stop(&daemon).await?;
        }
        let publication = scene.slot();
        let set = |operations: &str| format!("ALTER PUBLICATION {publication} SET (publish = '{operations}')");
        scene.client.batch_execute(&set("update")).await?;
        scene.insert(1).await?;
        scene.client.batch_execute(&set("insert")).await?;
        if !running {
            daemon.start_again()?;
        }
        halts(&daemon, "publication-changed").await?;
    }
    Ok(())
}
