//! Retention by partitions that are dropped, as `docs/operating/retention.md` has it.

use anyhow::Result;
use testbed::{Daemon, Expect, eventually};
use tokio_postgres::IsolationLevel;

use crate::scene::{PATIENCE, Scene};

/// The table, and the partitions of yesterday and today.
const TABLE: &str = "
DROP TABLE order_outbox;
CREATE TABLE order_outbox (
    id uuid NOT NULL DEFAULT gen_random_uuid(), aggregate_type varchar(100) NOT NULL, aggregate_id uuid NOT NULL,
    event_type varchar(100) NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE before PARTITION OF order_outbox FOR VALUES FROM (MINVALUE) TO ('2000-01-01Z');
CREATE TABLE yesterday PARTITION OF order_outbox FOR VALUES FROM ('2000-01-01Z') TO ('2000-01-02Z');
CREATE TABLE today PARTITION OF order_outbox FOR VALUES FROM ('2000-01-02Z') TO ('2000-01-03Z');";

const TOMORROW: &str = "
CREATE TABLE tomorrow (LIKE order_outbox INCLUDING ALL);
ALTER TABLE order_outbox ATTACH PARTITION tomorrow FOR VALUES FROM ('2000-01-03Z') TO ('2000-01-04Z');";

/// Streams from that table.
async fn partitioned() -> Result<(Scene, Daemon)> {
    let scene = Scene::shared().await?.with("mark = \"none\"\nbackfill = \"none\"");
    scene.client.batch_execute(TABLE).await?;
    scene.client.batch_execute(&format!("ALTER PUBLICATION {} ADD TABLE order_outbox", scene.slot())).await?;
    let daemon = scene.streaming().await?;
    Ok((scene, daemon))
}

/// Sets the day of the rows that are inserted from now on.
async fn it_is(scene: &Scene, day: &str) -> Result<()> {
    let default = format!("ALTER TABLE order_outbox ALTER created_at SET DEFAULT '{day} 12:00Z'");
    Ok(scene.client.batch_execute(&default).await?)
}

/// Waits until the slot is confirmed behind everything that is in the log now, then drops the partition.
async fn drop_partition(scene: &Scene, name: &str) -> Result<()> {
    scene.wait_caught_up().await?;
    let detach = format!("ALTER TABLE order_outbox DETACH PARTITION {name}");
    scene.client.batch_execute(&detach).await?;
    scene.wait_caught_up().await?;
    Ok(scene.client.batch_execute(&format!("DROP TABLE {name}")).await?)
}

#[tokio::test]
async fn partitions_are_attached_and_dropped_under_load_and_nothing_is_lost() -> Result<()> {
    let (mut scene, daemon) = partitioned().await?;
    it_is(&scene, "2000-01-01").await?;
    let mut ids = scene.insert(50).await?;
    it_is(&scene, "2000-01-02").await?;
    let load = scene.load();
    scene.client.batch_execute(TOMORROW).await?;
    drop_partition(&scene, "yesterday").await?;
    it_is(&scene, "2000-01-03").await?;
    let enough = load.committed() + 20;
    eventually(PATIENCE, || async {
        anyhow::ensure!(load.committed() > enough, "the load goes on");
        Ok(())
    })
    .await;
    daemon.kill9()?;
    daemon.start_again()?;
    ids.extend(load.stop().await?.ids);
    scene.wait_caught_up().await?;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    let left: i64 = scene.client.query_one("SELECT count(*) FROM tomorrow", &[]).await?.get(0);
    assert!(left > 0);
    Ok(())
}

/// The stream comes from the log, not from the table: what is dropped too early is gone for recovery and audits alone.
#[tokio::test]
async fn rows_of_a_partition_that_is_dropped_before_they_are_read_are_published() -> Result<()> {
    let (mut scene, daemon) = partitioned().await?;
    it_is(&scene, "2000-01-01").await?;
    daemon.kill9()?;
    let ids = scene.insert(50).await?;
    scene.client.batch_execute("DROP TABLE yesterday").await?;
    daemon.start_again()?;
    scene.wait_caught_up().await?;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    Ok(())
}

/// Why retention detaches with a lock: this is what Postgres does otherwise.
#[tokio::test]
async fn a_row_of_a_snapshot_from_before_its_partition_is_detached_concurrently_is_never_sent() -> Result<()> {
    let (mut scene, _daemon) = partitioned().await?;
    it_is(&scene, "2000-01-01").await?;
    let mut writer = scene.postgres.client(&scene.database).await?;
    let transaction = writer.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await?;
    transaction.batch_execute("SELECT FROM order_outbox").await?;
    let other = scene.postgres.client(&scene.database).await?;
    let detaching = tokio::spawn(async move {
        other.batch_execute("ALTER TABLE order_outbox DETACH PARTITION yesterday CONCURRENTLY").await
    });
    eventually(PATIENCE, || async {
        let pending = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'yesterday'::regclass";
        let row = scene.client.query_one(pending, &[]).await?;
        anyhow::ensure!(row.get::<_, bool>(0), "the detaching has begun");
        Ok(())
    })
    .await;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
                  VALUES ($1, gen_random_uuid(), 'Late', '{}', '2000-01-01 12:00Z')";
    transaction.execute(insert, &[&scene.aggregate]).await?;
    transaction.commit().await?;
    detaching.await??;
    it_is(&scene, "2000-01-02").await?;
    let ids = scene.insert(1).await?;
    scene.wait_caught_up().await?;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    Ok(())
}
