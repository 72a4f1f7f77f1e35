//! One table under two names: its rows would be published once for each name, so every command refuses it.

use anyhow::Result;
use testbed::workload;

use crate::scene::{PATIENCE, QUICK, Scene, stop, tail, wait_code};

const PARTITIONED: &str = "ALTER TABLE order_outbox RENAME TO shape;
    CREATE TABLE order_outbox (LIKE shape INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY HASH (id);
    DROP TABLE shape;
    CREATE TABLE half PARTITION OF order_outbox FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE other_half PARTITION OF order_outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY HASH (id);
    CREATE TABLE leaf PARTITION OF other_half FOR VALUES WITH (MODULUS 1, REMAINDER 0)";

const CHILD: &str = "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (order_outbox)";

/// What is in the database, `tables`, and what the message says.
const OVERLAPS: [(&str, &str, &str); 5] = [
    ("", r#"["order_outbox", "public.order_outbox"]"#, "`tables` names public.order_outbox twice"),
    (PARTITIONED, r#"["order_outbox", "half"]"#, "public.half is a part of public.order_outbox"),
    (PARTITIONED, r#"["leaf", "order_outbox"]"#, "public.leaf is a part of public.order_outbox"),
    (PARTITIONED, r#"["half", "other_half", "leaf"]"#, "public.leaf is a part of public.other_half"),
    (CHILD, r#"["order_outbox", "child"]"#, "public.child is a part of public.order_outbox"),
];

async fn given(before: &str, tables: &str) -> Result<Scene> {
    let scene = Scene::shared().await?.with(&format!("tables = {tables}")).with(QUICK);
    scene.client.batch_execute(before).await?;
    Ok(scene)
}

#[tokio::test]
async fn one_table_under_two_names_is_refused_by_every_command_and_nothing_is_made() -> Result<()> {
    for (before, tables, says) in OVERLAPS {
        println!("{tables}");
        let mut scene = given(before, tables).await?;
        scene.insert(3).await?;
        for command in [&["setup"][..], &["setup", "--dry-run"], &["verify"]] {
            let (status, _, error) = scene.command(command).await?;
            assert!(status == 2 && error.contains("config-invalid") && error.contains(says), "{command:?}: {error}");
        }
        let (status, output, error) = scene.command(&["check"]).await?;
        assert!(status == 1 && output.contains("[config-invalid]") && output.contains(says), "{output}{error}");
        let daemon = scene.daemon()?;
        assert_eq!(daemon.wait_exit(PATIENCE).await?, 2, "{}", tail(&daemon));
        let line = wait_code(&daemon, "config-invalid").await?;
        assert!(line.contains(says), "{line}");
        assert_eq!(scene.records().await?, 0);
        let slot = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
        assert_eq!(scene.client.query_one(slot, &[&scene.slot()]).await?.get::<_, i64>(0), 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_source_that_streams_and_gets_a_second_name_of_its_table_is_refused_at_the_next_start() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.source_lines.insert_str(0, "tables = [\"order_outbox\", \"public.order_outbox\"]\n");
    let daemon = scene.daemon()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 2, "{}", tail(&daemon));
    wait_code(&daemon, "config-invalid").await?;
    for command in [&["status"][..], &["verify"], &["setup", "--add-table", "public.order_outbox"]] {
        let (status, output, error) = scene.command(command).await?;
        let is_failure = status == 2 || command[0] == "status";
        let is_said = format!("{output}{error}").contains("config-invalid");
        assert!(is_failure && is_said, "{command:?}: {status} {output}{error}");
    }
    assert_eq!(scene.records().await?, 3);
    Ok(())
}

/// Neither name has a table yet, so only the places where they would be made are the same.
#[tokio::test]
async fn one_missing_table_under_two_names_is_not_made() -> Result<()> {
    let scene = Scene::shared().await?.with(r#"tables = ["later", "public.later"]"#).with("auto_setup = true");
    let (status, _, error) = scene.command(&["setup"]).await?;
    assert!(status == 2 && error.contains("`tables` names public.later twice"), "{error}");
    let daemon = scene.daemon()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 2, "{}", tail(&daemon));
    let made = scene.client.query_one("SELECT to_regclass('later') IS NULL", &[]).await?;
    assert!(made.get::<_, bool>(0), "the table was made");
    Ok(())
}

#[tokio::test]
async fn a_partition_does_not_join_a_source_of_its_root() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute(PARTITIONED).await?;
    scene.client.batch_execute(&format!("ALTER PUBLICATION {} ADD TABLE order_outbox", scene.slot())).await?;
    let daemon = scene.published(3).await?;
    scene.wait_caught_up().await?;
    stop(&daemon).await?;
    let before = scene.records().await?;
    let (status, _, error) = scene.command(&["setup", "--add-table", "half"]).await?;
    assert!(status == 2 && error.contains("public.half is a part of public.order_outbox"), "{error}");
    workload::insert(&mut scene.client, "order_outbox", &scene.aggregate, uuid::Uuid::new_v4(), 2).await?;
    let daemon = scene.streaming().await?;
    scene.oracle().await?.assert_clean();
    assert_eq!(scene.records().await?, before + 2);
    stop(&daemon).await
}
