//! A table joins a source that was published before: `outboxd setup --add-table`, number 53 of the matrix.

use anyhow::{Result, ensure};
use testbed::{Daemon, Expect, Load, Version, workload};

use crate::scene::{PATIENCE, Scene, insert_one_into, stop, streams_again, wait_ready, wait_true};

const BOTH: &str = "tables = [\"order_outbox\", \"refund_outbox\"]\n";

async fn scene_with_refunds() -> Result<Scene> {
    let scene = Scene::shared().await?;
    workload::create_outbox(&scene.client, "refund_outbox").await?;
    Ok(scene)
}

/// The command that lets the table join, to its end.
async fn join(scene: &Scene, more: &[&str]) -> Result<(i32, String, String)> {
    let admin = scene.postgres.superuser_url(&scene.database);
    let arguments = ["setup", "--add-table", "refund_outbox", "--admin-url", &admin];
    scene.command(&[&arguments[..], more].concat()).await
}

fn refunds(scene: &Scene) -> Load {
    let url = scene.postgres.superuser_url(&scene.database);
    Load::builder(&url, "refund_outbox", &scene.aggregate).writers(2).per_second(20).start()
}

fn orders(scene: &Scene) -> Load {
    let url = scene.postgres.superuser_url(&scene.database);
    Load::builder(&url, "order_outbox", &scene.aggregate).writers(2).per_second(20).start()
}

/// Both tables against the topic, once every row is marked.
async fn oracle(scene: &Scene) -> Result<()> {
    scene.wait_marked("order_outbox").await;
    scene.wait_marked("refund_outbox").await;
    let audit = scene.audit(Expect::Tables(&["order_outbox", "refund_outbox"])).await?.whatever_the_order();
    audit.assert_clean();
    Ok(())
}

/// A marking session that waits for a lock does not notice that its daemon is dead. With the lock it would go on.
async fn end_blocked_marks(scene: &Scene) -> Result<()> {
    let of = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_true(&scene.client, &format!("SELECT count(pid) > 0 {of}")).await;
    scene.client.batch_execute(&format!("SELECT count(pg_terminate_backend(pid)) {of}")).await?;
    wait_true(&scene.client, &format!("SELECT count(pid) = 0 {of}")).await;
    Ok(())
}

/// Leaves five rows in the topic that are not marked, behind a daemon that is dead.
async fn published_and_not_marked(scene: &mut Scene, daemon: &Daemon) -> Result<()> {
    daemon.pause()?;
    scene.insert(5).await?;
    let locker = scene.postgres.client(&scene.database).await?;
    locker.batch_execute("BEGIN; SELECT FROM order_outbox FOR UPDATE").await?;
    daemon.resume()?;
    scene.wait_records(8).await;
    daemon.kill9()?;
    end_blocked_marks(scene).await?;
    locker.batch_execute("COMMIT").await?;
    let unmarked = "SELECT count(*) FROM order_outbox WHERE published_at IS NULL";
    ensure!(scene.client.query_one(unmarked, &[]).await?.get::<_, i64>(0) == 5, "the rows are marked");
    Ok(())
}

#[tokio::test]
async fn a_table_joins_while_its_writers_are_open_and_marks_are_owed() -> Result<()> {
    let mut scene = scene_with_refunds().await?;
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    scene.wait_marked("order_outbox").await;
    published_and_not_marked(&mut scene, &daemon).await?;
    let (orders, refunds) = (orders(&scene), refunds(&scene));
    // This transaction begins before the change and ends after the command has asked for the slot.
    let open = scene.postgres.client(&scene.database).await?;
    open.batch_execute("BEGIN").await?;
    insert_one_into(&scene, &open, "order_outbox").await?;
    insert_one_into(&scene, &open, "refund_outbox").await?;

    let (code, said, log) = join(&scene, &[]).await?;
    assert_eq!(code, 0, "{said}{log}");
    assert!(said.contains("created  tables of publication") && said.contains("dropped replication slot"), "{said}");
    let (_, status, _) = scene.command(&["status"]).await?;
    assert!(status.contains("with add-table"), "{status}");

    scene.source_lines.push_str(BOTH);
    let daemon = scene.daemon()?;
    let slot = scene.slot();
    let making = format!("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')");
    wait_true(&scene.client, &making).await;
    insert_one_into(&scene, &open, "refund_outbox").await?;
    open.batch_execute("COMMIT").await?;
    wait_ready(&daemon).await;
    orders.stop().await?;
    refunds.stop().await?;
    oracle(&scene).await
}

#[tokio::test]
async fn a_table_joins_although_the_command_is_killed_at_each_of_its_steps() -> Result<()> {
    let mut scene = scene_with_refunds().await?;
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    scene.wait_marked("order_outbox").await;
    published_and_not_marked(&mut scene, &daemon).await?;
    let (orders, refunds) = (orders(&scene), refunds(&scene));
    let admin = scene.postgres.superuser_url(&scene.database);
    let arguments = ["setup", "--config", "{config}", "--add-table", "refund_outbox", "--admin-url", &admin];
    let steps = [
        "draining what was committed so far",
        "\"message\":\"streaming\"",
        "everything that is published is marked",
        "writing the position",
        "dropping the slot",
    ];
    let mut killed = 0;
    for step in steps {
        let config = scene.config().replace("{http}", "off");
        let command = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&arguments).config(&config).start()?;
        command.wait_for_line(|line| line.contains(step), PATIENCE).await?;
        // The last step may be done before the signal comes.
        killed += usize::from(command.kill9().is_ok());
        if step == steps[1] {
            // So far the source goes on as it was.
            streams_again(&daemon).await?;
            daemon.kill9()?;
        }
    }
    assert!(killed > 2, "{killed} were killed");
    let (code, said, log) = join(&scene, &[]).await?;
    assert_eq!(code, 0, "{said}{log}");
    scene.source_lines.push_str(BOTH);
    let daemon = scene.streaming().await?;
    orders.stop().await?;
    refunds.stop().await?;
    oracle(&scene).await?;
    // And the next time there is nothing left to do.
    stop(&daemon).await?;
    let (code, said, log) = join(&scene, &[]).await?;
    assert_eq!(code, 0, "{said}{log}");
    assert!(said.contains("exists   replication slot") && !said.contains("created"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_table_joins_only_a_source_that_is_stopped_and_whose_marks_tell_what_is_published() -> Result<()> {
    let mut scene = scene_with_refunds().await?;
    let daemon = scene.streaming().await?;
    let (code, said, err) = join(&scene, &[]).await?;
    assert_eq!(code, 1, "{said}{err}");
    assert!(err.contains("error[slot-in-use]") && err.contains("stop every daemon"), "{err}");
    stop(&daemon).await?;

    // The command leaves what its role may not do, and the source is as it was.
    let (code, said, err) = scene.command(&["setup", "--add-table", "refund_outbox"]).await?;
    assert_eq!(code, 1, "{said}{err}");
    assert!(said.contains("left     tables of publication") && said.contains("ADD TABLE"), "{said}");
    assert!(said.contains("slot and position are as they were"), "{said}");
    let (code, said, err) = join(&scene, &["--dry-run"]).await?;
    assert_eq!(code, 0, "{said}{err}");
    assert!(said.contains("missing  tables of publication") && said.contains("joining: refund_outbox"), "{said}");
    streams_again(&daemon).await?;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    stop(&daemon).await?;

    scene.source_lines = "mark = \"none\"\nbackfill = \"none\"\n".to_owned();
    let (code, said, err) = join(&scene, &[]).await?;
    assert_eq!(code, 2, "{said}{err}");
    assert!(err.contains("error[setup-refused]") && err.contains("source of its own"), "{err}");
    Ok(())
}

/// The command makes the table and its rights as well. The old rows are those that the table still has.
#[tokio::test]
async fn a_table_that_does_not_exist_joins_a_source_that_deletes_what_is_published() -> Result<()> {
    let mut scene = Scene::on_major(Version::V18).await?.with("mark = \"delete\"");
    let daemon = scene.streaming().await?;
    daemon.pause()?;
    let mut ids = scene.insert(5).await?;
    let locker = scene.postgres.client(&scene.database).await?;
    locker.batch_execute("BEGIN; SELECT FROM order_outbox FOR UPDATE").await?;
    daemon.resume()?;
    scene.wait_records(5).await;
    daemon.kill9()?;
    end_blocked_marks(&scene).await?;
    locker.batch_execute("COMMIT").await?;
    ids.extend(scene.insert(4).await?);
    let (code, said, log) = join(&scene, &[]).await?;
    assert_eq!(code, 0, "{said}{log}");
    assert!(said.contains("created  table public.refund_outbox"), "{said}");
    // By then everything that was committed before the command is published, and nothing twice.
    assert_eq!(scene.records().await?, 9);
    ids.extend(scene.insert(3).await?);
    ids.push(insert_one_into(&scene, &scene.client, "refund_outbox").await?);
    scene.source_lines.push_str(BOTH);
    let _daemon = scene.streaming().await?;
    ids.extend(scene.insert(2).await?);
    ids.push(insert_one_into(&scene, &scene.client, "refund_outbox").await?);
    let nothing_left = "SELECT count(*) = 0 FROM (SELECT FROM order_outbox UNION ALL SELECT FROM refund_outbox) o";
    wait_true(&scene.client, nothing_left).await;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    Ok(())
}

/// A slot may be ahead of the marks: a standby was promoted that lacked them, or somebody took them back.
#[tokio::test]
async fn a_published_row_without_its_mark_keeps_a_table_from_joining() -> Result<()> {
    let mut scene = scene_with_refunds().await?;
    let daemon = scene.published(5).await?;
    stop(&daemon).await?;
    let lost =
        "UPDATE order_outbox SET published_at = NULL WHERE id = (SELECT id FROM order_outbox LIMIT 1) RETURNING id";
    let id: uuid::Uuid = scene.client.query_one(lost, &[]).await?.get(0);
    let (code, said, log) = join(&scene, &[]).await?;
    let text = format!("{said}{log}");
    assert_eq!(code, 2, "{text}");
    ensure!(text.contains("setup-refused") && text.contains(&id.to_string()), "{text}");
    assert_eq!(scene.records().await?, 5);
    scene.client.batch_execute("UPDATE order_outbox SET published_at = now() WHERE published_at IS NULL").await?;
    let (code, said, log) = join(&scene, &[]).await?;
    assert_eq!(code, 0, "{said}{log}");
    scene.source_lines.push_str(BOTH);
    let daemon = scene.streaming().await?;
    insert_one_into(&scene, &scene.client, "refund_outbox").await?;
    oracle(&scene).await?;
    drop(daemon);
    Ok(())
}
