//! Published rows leave their table, in batches or with their partition: `outboxd purge`, and
//! `[source.retention]` in `run`.

use anyhow::{Result, ensure};
use testbed::{Daemon, Expect, eventually};

use crate::scene::{PATIENCE, QUICK, Scene, metric, start, stop, tail, wait_ready};

/// A second is enough to keep a row.
const BY_DELETE: &str = "[source.retention]\nkeep = \"1s\"";
const BY_PARTITION: &str = "[source.retention]\nkeep = \"1s\"\nby = \"partition\"\nahead = 2";

/// The table with one partition of long ago.
const PARTITIONED: &str = "
DROP TABLE order_outbox;
CREATE TABLE order_outbox (
    id uuid NOT NULL DEFAULT gen_random_uuid(), aggregate_type varchar(100) NOT NULL, aggregate_id uuid NOT NULL,
    event_type varchar(100) NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz, PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE of_old PARTITION OF order_outbox FOR VALUES FROM ('2000-01-01Z') TO ('2000-01-02Z');
CREATE TABLE of_today PARTITION OF order_outbox FOR VALUES FROM ('2020-01-01Z') TO (MAXVALUE);
CREATE INDEX ON order_outbox (created_at) WHERE published_at IS NULL;
ALTER TABLE order_outbox OWNER TO outboxd; ALTER TABLE of_old OWNER TO outboxd; ALTER TABLE of_today OWNER TO outboxd;
GRANT ALL ON order_outbox TO PUBLIC; GRANT CREATE ON SCHEMA public TO outboxd";

/// Makes it, with the rows from now on on that day.
async fn partitioned(lines: &str) -> Result<Scene> {
    let scene = Scene::shared().await?.with(lines).with(QUICK);
    scene.client.batch_execute(PARTITIONED).await?;
    scene.alter_publication("ADD TABLE order_outbox").await?;
    Ok(scene)
}

async fn it_is_long_ago(scene: &Scene) -> Result<()> {
    Ok(scene.client.batch_execute("ALTER TABLE order_outbox ALTER created_at SET DEFAULT '2000-01-01 12:00Z'").await?)
}

async fn it_is_today(scene: &Scene) -> Result<()> {
    Ok(scene.client.batch_execute("ALTER TABLE order_outbox ALTER created_at SET DEFAULT now()").await?)
}

async fn count(scene: &Scene, sql: &str) -> Result<i64> {
    Ok(scene.client.query_one(&format!("SELECT count(*) FROM {sql}"), &[]).await?.get(0))
}

async fn is_there(scene: &Scene, table: &str) -> Result<bool> {
    Ok(scene.client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await?.get(0))
}

/// Runs `purge`, which has to succeed; its output.
async fn purge(scene: &Scene, arguments: &[&str]) -> Result<String> {
    let (status, output, errors) = scene.command(&[&["purge"], arguments].concat()).await?;
    ensure!(status == 0, "{output}{errors}");
    Ok(output)
}

async fn wait_for(what: &str, daemon: &Daemon, holds: impl AsyncFn() -> Result<bool>) {
    eventually(PATIENCE, || async {
        ensure!(holds().await?, "{what}\n{}", tail(daemon));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn published_rows_are_deleted_and_no_other_one() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(1000).await?;
    stop(&daemon).await?;
    scene.insert(7).await?;
    let output = purge(&scene, &["--older-than", "1ms", "--dry-run"]).await?;
    ensure!(output.contains("would delete 1000 published rows of public.order_outbox"), "{output}");
    assert_eq!(count(&scene, "order_outbox").await?, 1007);
    let output = purge(&scene, &["--older-than", "1h"]).await?;
    ensure!(output.contains(": 0 rows deleted"), "{output}");
    let output = purge(&scene, &["--older-than", "1ms"]).await?;
    ensure!(output.contains("1000 rows deleted"), "{output}");
    assert_eq!(count(&scene, "order_outbox").await?, 7);
    daemon.start_again()?;
    scene.wait_marked("order_outbox").await;
    assert_eq!(scene.records().await?, 1007);
    Ok(())
}

/// Writers go on, rows are locked, and the daemon is killed.
#[tokio::test]
async fn a_daemon_with_a_retention_deletes_what_it_published_and_loses_nothing() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK).with(BY_DELETE);
    let daemon = scene.streaming().await?;
    let load = scene.load();
    let purged = "outboxd_rows_purged_total";
    wait_for("rows are deleted", &daemon, async || Ok(metric(&daemon, purged).await? > 20.0)).await;
    daemon.kill9()?;
    daemon.start_again()?;
    wait_ready(&daemon).await;
    wait_for("rows are deleted again", &daemon, async || Ok(metric(&daemon, purged).await? > 20.0)).await;
    let inserted = load.stop().await?.ids.len() as u64;
    wait_for("the table is empty", &daemon, async || Ok(count(&scene, "order_outbox").await? == 0)).await;
    assert_eq!(scene.records().await?, inserted, "each row is published, and once");
    Ok(())
}

#[tokio::test]
async fn partitions_are_made_ahead_and_dropped_once_they_are_published() -> Result<()> {
    let mut scene = partitioned(BY_PARTITION).await?;
    scene.client.batch_execute("DROP TABLE of_today").await?;
    let daemon = scene.streaming().await?;
    let ahead = "pg_inherits WHERE inhparent = 'order_outbox'::regclass";
    wait_for("partitions are made", &daemon, async || Ok(count(&scene, ahead).await? >= 3)).await;
    let mut ids = scene.insert(20).await?;
    let load = scene.load();
    wait_for("the old partition goes", &daemon, async || Ok(!is_there(&scene, "of_old").await?)).await;
    assert!(metric(&daemon, "outboxd_partitions_dropped_total").await? >= 1.0);
    ids.extend(load.stop().await?.ids);
    scene.wait_caught_up().await?;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    Ok(())
}

/// Whoever dies between the detaching and the drop leaves a note, and nothing is dropped before the
/// source has published it.
#[tokio::test]
async fn a_partition_that_was_detached_is_dropped_by_the_next_one_once_it_is_published() -> Result<()> {
    let mut scene = partitioned("mark = \"none\"\nbackfill = \"none\"").await?;
    let daemon = scene.streaming().await?;
    it_is_long_ago(&scene).await?;
    let mut ids = scene.insert(5).await?;
    scene.wait_caught_up().await?;
    stop(&daemon).await?;
    // Nobody has published these when their partition is detached.
    ids.extend(scene.insert(5).await?);
    let by_partition = ["--by", "partition", "--older-than", "1s"];
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("detached partition public.of_old") && output.contains("keeps public.of_old"), "{output}");
    ensure!(output.contains("everything is published up to"), "{output}");
    it_is_today(&scene).await?;
    ids.extend(scene.insert(5).await?);
    let output = purge(&scene, &by_partition).await?;
    ensure!(is_there(&scene, "of_old").await?, "{output}");
    daemon.start_again()?;
    scene.wait_caught_up().await?;
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("dropped public.of_old") && !is_there(&scene, "of_old").await?, "{output}");
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    Ok(())
}

/// Its row comes late into an old partition. Nothing is detached beneath it, and it is published.
#[tokio::test]
async fn a_transaction_that_has_inserted_into_an_old_partition_keeps_it() -> Result<()> {
    let mut scene = partitioned("").await?;
    it_is_long_ago(&scene).await?;
    let daemon = scene.published(5).await?;
    let mut writer = scene.postgres.client(&scene.database).await?;
    let transaction = writer.transaction().await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload)
                  VALUES ($1, gen_random_uuid(), 'Late', '{}')";
    transaction.execute(insert, &[&scene.aggregate]).await?;
    let by_partition = ["--by", "partition", "--older-than", "1s"];
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("keeps public.of_old: transactions use the table"), "{output}");
    transaction.commit().await?;
    scene.wait_caught_up().await?;
    scene.assert_exactly(6).await?;
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("detached partition public.of_old"), "{output}");
    drop(daemon);
    Ok(())
}

/// A row without its mark keeps its partition, before it is detached and after.
#[tokio::test]
async fn a_partition_with_a_row_that_nobody_published_is_kept() -> Result<()> {
    let mut scene = partitioned("").await?;
    it_is_long_ago(&scene).await?;
    let daemon = scene.published(5).await?;
    stop(&daemon).await?;
    scene.insert(1).await?;
    let by_partition = ["--by", "partition", "--older-than", "1s"];
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("keeps public.of_old: it has rows that are not published yet"), "{output}");
    daemon.start_again()?;
    scene.wait_marked("order_outbox").await;
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("detached partition public.of_old"), "{output}");
    let stray = "INSERT INTO of_old (aggregate_type, aggregate_id, event_type, payload)
                 VALUES ('stray', gen_random_uuid(), 'Stray', '{}')";
    scene.client.batch_execute(stray).await?;
    it_is_today(&scene).await?;
    scene.insert(1).await?;
    scene.wait_caught_up().await?;
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("keeps public.of_old: somebody inserted rows into it after it was detached"), "{output}");
    scene.client.batch_execute("DELETE FROM of_old WHERE aggregate_type = 'stray'").await?;
    let output = purge(&scene, &by_partition).await?;
    ensure!(output.contains("dropped public.of_old"), "{output}");
    Ok(())
}

/// One makes the rounds at a time, and the partitions are made once.
#[tokio::test]
async fn two_instances_and_a_command_make_and_drop_partitions_once() -> Result<()> {
    let scene = partitioned(BY_PARTITION).await?;
    scene.client.batch_execute("DROP TABLE of_today").await?;
    let daemons = [scene.streaming().await?, scene.daemon()?];
    let load = scene.load();
    let output = purge(&scene, &["--by", "partition", "--older-than", "1s"]).await?;
    wait_for(&output, &daemons[0], async || Ok(!is_there(&scene, "of_old").await?)).await;
    daemons[0].kill9()?;
    wait_ready(&daemons[1]).await;
    scene
        .client
        .batch_execute(
            "CREATE TABLE of_old PARTITION OF order_outbox FOR VALUES FROM ('2000-01-01Z') TO ('2000-01-02Z');
             ALTER TABLE of_old OWNER TO outboxd",
        )
        .await?;
    wait_for("the standby goes on", &daemons[1], async || Ok(!is_there(&scene, "of_old").await?)).await;
    let ids = load.stop().await?.ids;
    scene.wait_caught_up().await?;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    assert!(!daemons[1].lines().iter().any(|line| line.contains("already exists")), "{}", tail(&daemons[1]));
    Ok(())
}

/// What can never work is said, with its code, and holds nothing up.
#[tokio::test]
async fn what_retention_cannot_do_is_said() -> Result<()> {
    let mut scene = partitioned("").await?;
    it_is_long_ago(&scene).await?;
    let daemon = scene.published(1).await?;
    let by_partition = ["purge", "--by", "partition", "--older-than", "1s"];
    let (status, _, errors) = scene.command(&[&by_partition[..], &["--partition", "10ms"]].concat()).await?;
    ensure!(status == 2 && errors.contains("--partition"), "{errors}");
    scene
        .client
        .batch_execute("CREATE TABLE refers (id uuid, at timestamptz, FOREIGN KEY (id, at) REFERENCES order_outbox)")
        .await?;
    let (status, output, errors) = scene.command(&by_partition).await?;
    ensure!(status == 1 && errors.contains("retention-failed") && errors.contains("refers"), "{output}{errors}");
    scene.client.batch_execute("DROP TABLE refers; CREATE TABLE of_rest PARTITION OF order_outbox DEFAULT").await?;
    let (status, output, _) = scene.command(&["check"]).await?;
    ensure!(status == 0, "{output}");
    let output = purge(&scene, &by_partition[1..]).await?;
    ensure!(output.contains("detached partition public.of_old"), "{output}");
    let (status, _, errors) = scene.command(&["purge"]).await?;
    ensure!(status == 2 && errors.contains("--older-than"), "{errors}");
    drop(daemon);
    let plain = Scene::shared().await?;
    let (status, _, errors) = plain.command(&by_partition).await?;
    ensure!(status == 1 && errors.contains("not partitioned by range"), "{errors}");
    let plain = plain.with(BY_PARTITION);
    let (status, output, _) = plain.command(&["check"]).await?;
    ensure!(
        status == 1 && output.contains("retention of public.order_outbox") && output.contains("not partitioned"),
        "{output}"
    );
    let unmarked = Scene::shared().await?.with("mark = \"none\"\nbackfill = \"none\"");
    let (status, _, errors) = unmarked.command(&["purge", "--older-than", "1s"]).await?;
    ensure!(status == 2 && errors.contains("rows without marks"), "{errors}");
    Ok(())
}

/// As long as rows are not published, they stay, and there is a partition for each moment.
#[tokio::test]
async fn a_source_that_does_not_stream_makes_partitions_and_lets_nothing_go() -> Result<()> {
    let scene = partitioned(BY_PARTITION).await?;
    scene.client.batch_execute("DROP TABLE of_today").await?;
    let daemon = start(&scene.config_through(&scene.postgres.url(&scene.database), "127.0.0.1:1"))?;
    let ahead = "pg_inherits WHERE inhparent = 'order_outbox'::regclass";
    wait_for("partitions are made", &daemon, async || Ok(count(&scene, ahead).await? >= 4)).await;
    assert!(is_there(&scene, "of_old").await?);
    Ok(())
}
