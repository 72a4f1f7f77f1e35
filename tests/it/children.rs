//! Children by INHERITS: the stream never sends their rows, so a table that has them is refused.

use anyhow::Result;
use testbed::workload;
use uuid::Uuid;

use crate::scene::{QUICK, Scene, wait_code, wait_ready};

const CHILD: &str = "CREATE TABLE order_outbox_child (PRIMARY KEY (id)) INHERITS (order_outbox)";

/// As `docs/errors.md` has it.
const WAY_BACK: &str = "BEGIN; ALTER TABLE order_outbox_child NO INHERIT order_outbox;
    INSERT INTO order_outbox SELECT * FROM order_outbox_child; DROP TABLE order_outbox_child; COMMIT";

async fn insert_into_child(scene: &mut Scene, rows: u32) -> Result<()> {
    workload::insert(&mut scene.client, "order_outbox_child", &scene.aggregate, Uuid::new_v4(), rows).await.map(drop)
}

#[tokio::test]
async fn a_child_that_is_made_while_the_daemon_runs_is_found_and_its_rows_come_by_the_way_back() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.streaming().await?;
    scene.insert(2).await?;
    scene.wait_marked("order_outbox").await;
    scene.client.batch_execute(CHILD).await?;
    insert_into_child(&mut scene, 3).await?;
    let line = wait_code(&daemon, "table-inherited").await?;
    assert!(line.contains("order_outbox_child"), "{line}");
    scene.client.batch_execute(WAY_BACK).await?;
    wait_ready(&daemon).await;
    scene.assert_exactly(5).await
}

#[tokio::test]
async fn a_table_with_a_child_is_refused_by_the_first_start_and_by_check() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute(CHILD).await?;
    scene.insert(2).await?;
    insert_into_child(&mut scene, 3).await?;
    let (status, output, _) = scene.command(&["check"]).await?;
    assert!(status == 1 && output.contains("table-inherited"), "{output}");
    let daemon = scene.daemon()?;
    wait_code(&daemon, "table-inherited").await?;
    assert_eq!(scene.records().await?, 0);
    scene.client.batch_execute(WAY_BACK).await?;
    scene.assert_exactly(5).await
}
