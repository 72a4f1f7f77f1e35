//! The runbook of `docs/errors.md`, followed to the letter: each halt, the way back that its section names, and what the
//! oracle finds then. `recover.rs` has the halts that are not here.

mod interrupted;

use anyhow::{Context, Result, ensure};
use testbed::{Daemon, Expect, Postgres, Version, reader, unique};
use tokio_postgres::Client;

use crate::{
    matrix::restored::{behind_a_proxy, promoted_without_the_last_rows, restored},
    recover::{difference, goes_on, recover},
    scene::{Host, Scene, TABLE, create_publication, halts, halts_again, stop, streams_again, wait_code, wait_true},
};

#[tokio::test]
async fn after_slot_lost_republish_unmarked_loses_and_repeats_nothing() -> Result<()> {
    let postgres = Postgres::builder(Version::V15)
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("wal_keep_size", "0")
        .setting("min_wal_size", "32MB");
    let mut scene = Scene::on_own_postgres(postgres).await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.lose_slot().await?;
    halts_again(&daemon, "slot-lost").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly_whatever_the_order(9).await
}

#[tokio::test]
async fn after_position_invalid_from_slot_loses_and_repeats_nothing_where_all_was_confirmed() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.write_position(b"garbage".to_vec()).await?;
    halts_again(&daemon, "position-invalid").await?;
    recover(&scene, "from-slot").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn after_position_lost_republish_unmarked_loses_and_repeats_nothing_where_all_was_marked() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.kafka.delete_topic(&scene.position_topic).await?;
    halts_again(&daemon, "position-lost").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly_whatever_the_order(9).await
}

/// Postgres cannot stream what was committed without a publication. These rows come from the table.
#[tokio::test]
async fn after_a_publication_was_dropped_and_made_again_republish_unmarked_loses_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.drop_publication().await?;
    scene.insert(4).await?;
    halts_again(&daemon, "publication-changed").await?;
    create_publication(&scene.client, &scene.slot()).await?;
    halts_again(&daemon, "publication-changed").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly_whatever_the_order(9).await
}

/// With `mark = "none"` the table does not tell what is published. The way back is `from-now`, and a person inserts the
/// rows after the last events again.
#[tokio::test]
async fn after_slot_missing_without_marks_from_now_and_inserting_again_lose_and_repeat_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?.with("mark = \"none\"\nbackfill = \"none\"");
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    scene.wait_records(3).await;
    scene.wait_caught_up().await?;
    stop(&daemon).await?;
    let owed = scene.insert(4).await?;
    scene.drop_slot().await?;
    halts_again(&daemon, "slot-missing").await?;
    let arguments = ["recover", "--source", &scene.source, "--strategy", "republish-unmarked", "--yes"];
    let (code, said, refused) = scene.command(&arguments).await?;
    assert_eq!(code, 2, "{said}{refused}");
    recover(&scene, "from-now").await?;
    goes_on(&mut scene, &daemon).await?;
    let seen = reader::read_committed(&scene.kafka.brokers(), &[&scene.topic]).await?;
    let seen: Vec<_> = seen.iter().filter_map(|record| record.header_str("event_id")).collect();
    ensure!(owed.iter().all(|id| !seen.contains(&id.to_string().as_str())), "they are in the topic");
    scene.client.batch_execute("CREATE TEMP TABLE gone (LIKE order_outbox)").await?;
    scene.client.execute("INSERT INTO gone SELECT * FROM order_outbox WHERE id = ANY ($1)", &[&owed]).await?;
    scene.client.execute("DELETE FROM order_outbox WHERE id = ANY ($1)", &[&owed]).await?;
    scene.client.batch_execute("INSERT INTO order_outbox SELECT * FROM gone").await?;
    scene.wait_records(9).await;
    let audit = scene.audit(Expect::UnmarkedTables(TABLE)).await?;
    assert_eq!(difference(&audit), (0, 0), "{audit}");
    Ok(())
}

#[tokio::test]
async fn after_a_second_partition_another_position_topic_and_from_slot_lose_and_repeat_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.kafka.add_partitions(&scene.position_topic, 2).await?;
    halts_again(&daemon, "position-invalid").await?;
    drop(daemon);
    scene.position_topic = unique("positions");
    let daemon = scene.daemon()?;
    halts(&daemon, "position-lost").await?;
    recover(&scene, "from-slot").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

/// `recover` refuses here. The way back is by hand: a source of another name.
#[tokio::test]
async fn after_position_regressed_a_source_of_another_name_loses_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    let old = scene.positions().await?;
    let old =
        old.iter().find(|value| String::from_utf8_lossy(value).contains("\"streaming\"")).context("no position")?;
    scene.write_position(old.clone()).await?;
    scene.insert(4).await?;
    halts_again(&daemon, "position-regressed").await?;
    let arguments = ["recover", "--source", &scene.source, "--strategy", "republish-unmarked", "--yes", "--force"];
    let (code, said, refused) = scene.command(&arguments).await?;
    assert_ne!(code, 0, "{said}");
    assert!(refused.contains("position-regressed"), "{refused}");
    drop(daemon);

    let publication = scene.slot();
    scene.drop_slot().await?;
    scene.client.batch_execute(&format!("DROP PUBLICATION IF EXISTS {publication}")).await?;
    scene.source = unique("s");
    let admin = scene.postgres.superuser_url(&scene.database);
    let (code, said, err) = scene.command(&["setup", "--admin-url", &admin]).await?;
    assert_eq!(code, 0, "{said}{err}");
    let (code, said, err) = scene.command(&["check"]).await?;
    assert_eq!(code, 0, "{said}{err}");
    let _daemon = scene.streaming().await?;
    scene.insert(2).await?;
    scene.assert_exactly_whatever_the_order(9).await
}

/// Copies the outbox to another server, as a dump would.
async fn copy_rows(from: &Client, to: &Client) -> Result<()> {
    let rows = from.query("SELECT to_jsonb(o)::text FROM order_outbox o ORDER BY created_at", &[]).await?;
    for row in rows {
        let insert =
            "INSERT INTO order_outbox SELECT * FROM jsonb_populate_record(NULL::order_outbox, $1::text::jsonb)";
        to.execute(insert, &[&row.get::<_, String>(0)]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn after_a_move_to_another_cluster_republish_unmarked_loses_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    drop(scene.stopped().await?);
    scene.insert(4).await?;
    let other = Scene::on_major(Version::V16).await?;
    other.postgres.create_database(&scene.database).await?;
    let there = other.postgres.client(&scene.database).await?;
    testbed::workload::create_outbox(&there, "order_outbox").await?;
    copy_rows(&scene.client, &there).await?;
    let slot = scene.slot();
    create_publication(&there, &slot).await?;
    // The other server has a slot of this name, or the daemon would halt because the slot is missing.
    there.query_one("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
    scene.client = there;
    scene.postgres = other.postgres;
    let daemon = scene.daemon()?;
    halts(&daemon, "system-changed").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly_whatever_the_order(9).await
}

/// Postgres 15 has no failover slots. The promoted standby has the rows, and no slot.
#[tokio::test]
async fn after_a_promotion_without_the_slot_republish_unmarked_loses_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    let (proxy, daemon) = behind_a_proxy(&scene).await?;
    let standby = scene.postgres.standby(&[]).await?;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    scene.wait_caught_up().await?;
    stop(&daemon).await?;
    scene.insert(4).await?;
    let end: String = scene.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
    let there = standby.client(&scene.database).await?;
    wait_true(&there, &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).await;
    scene.postgres.stop_immediate().await?;
    standby.promote().await?;
    proxy.retarget(standby.port()?);
    scene.client = there;
    scene.postgres = Host::Own(standby);
    halts_again(&daemon, "slot-missing").await?;
    let line = wait_code(&daemon, "slot-missing").await?;
    assert!(line.contains("outboxd recover"), "{line}");
    recover(&scene, "republish-unmarked").await?;
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly_whatever_the_order(9).await
}

/// What consumers saw and the database lost stays in the topic; nothing else is lost or repeated.
async fn only_phantoms(scene: &Scene, phantoms: usize) -> Result<()> {
    let audit = scene.oracle_whatever_the_order().await?;
    assert_eq!((audit.missing, audit.duplicates, audit.torn, audit.unmarked), (0, 0, 0, 0), "{audit}");
    assert_eq!(audit.unknown, phantoms, "{audit}");
    Ok(())
}

/// As [`goes_on`], where the topic holds more than the table.
async fn goes_on_beside_phantoms(scene: &mut Scene, daemon: &Daemon) -> Result<()> {
    streams_again(daemon).await?;
    scene.insert(2).await?;
    scene.wait_marked("order_outbox").await;
    stop(daemon).await?;
    streams_again(daemon).await?;
    scene.insert(2).await?;
    Ok(())
}

#[tokio::test]
async fn after_a_promotion_that_lost_published_rows_republish_unmarked_loses_and_repeats_nothing_else() -> Result<()> {
    let (mut scene, daemon) = promoted_without_the_last_rows().await?;
    scene.insert(3).await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on_beside_phantoms(&mut scene, &daemon).await?;
    only_phantoms(&scene, 4).await
}

#[tokio::test]
async fn after_an_older_disk_republish_unmarked_loses_and_repeats_nothing_else() -> Result<()> {
    let (mut scene, daemon) = restored().await?;
    halts_again(&daemon, "history-diverged").await?;
    recover(&scene, "republish-unmarked").await?;
    goes_on_beside_phantoms(&mut scene, &daemon).await?;
    only_phantoms(&scene, 5).await
}

#[tokio::test]
async fn after_an_older_disk_whose_log_has_grown_recover_needs_force_and_loses_and_repeats_nothing_else() -> Result<()>
{
    let (mut scene, daemon) = restored().await?;
    for _ in 0..40 {
        scene.insert(5).await?;
    }
    halts_again(&daemon, "history-diverged").await?;
    let arguments = ["recover", "--source", &scene.source, "--strategy", "republish-unmarked", "--yes"];
    let (code, said, refused) = scene.command(&arguments).await?;
    assert_eq!(code, 2, "{said}{refused}");
    assert!(refused.contains("--force"), "{refused}");
    let (code, said, err) = scene.command(&[&arguments[..], &["--force"]].concat()).await?;
    assert_eq!(code, 0, "{said}{err}");
    goes_on_beside_phantoms(&mut scene, &daemon).await?;
    only_phantoms(&scene, 5).await
}

/// The blocks of SQL of a page, without their indentation.
fn sql_blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().map(str::trim_start);
    while lines.any(|line| line == "```sql") {
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

/// Each block runs as it stands where things are as its section says. Only the ids are put in.
#[tokio::test]
async fn the_sql_of_the_runbook_runs_as_it_stands() -> Result<()> {
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    let ids = scene.insert(2).await?;
    scene
        .client
        .batch_execute(
            "CREATE TABLE order_outbox_child () INHERITS (order_outbox);
             INSERT INTO order_outbox_child SELECT * FROM ONLY order_outbox LIMIT 1;
             UPDATE order_outbox_child SET id = gen_random_uuid()",
        )
        .await?;
    scene.client.batch_execute("SELECT pg_create_logical_replication_slot('outboxd_order', 'pgoutput')").await?;
    create_publication(&scene.client, "outboxd_order").await?;
    let page = include_str!("../../docs/errors.md");
    let blocks = sql_blocks(page);
    for block in &blocks {
        let block = block.replace('…', &ids[0].to_string());
        scene.client.batch_execute(&block).await.with_context(|| block)?;
    }
    assert_eq!(blocks.len(), page.matches("```sql").count());
    let row = scene
        .client
        .query_one(
            "SELECT (SELECT rolbypassrls FROM pg_roles WHERE rolname = 'outboxd'), to_regclass('order_outbox_child') IS NULL,
                    (SELECT count(*) FROM order_outbox), NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'outboxd_order'),
                    NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'outboxd_order')",
            &[],
        )
        .await?;
    // Of three rows the statements for `mark = "update"` and `mark = "delete"` took one.
    let held: Vec<bool> = [0, 1, 3, 4].map(|column| row.get(column)).into();
    assert_eq!(held, [true; 4], "bypasses row security, no child, no slot, no publication");
    assert_eq!(row.get::<_, i64>(2), 2);
    Ok(())
}
