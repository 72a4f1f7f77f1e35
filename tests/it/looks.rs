//! What the guarantees stand on is looked at: at each start, and again and again while rows stream.

use anyhow::{Result, ensure};
use testbed::{Daemon, Version, eventually, workload};

use crate::scene::{
    PATIENCE, QUICK, Scene, halts, halts_again, insert_one, insert_one_into, metric, role_with, stop, streams_again,
    tail, wait_code, wait_ready, wait_true,
};

/// How many lines of the daemon have these words.
fn times_said(daemon: &Daemon, words: &str) -> usize {
    daemon.lines().iter().filter(|line| line.contains(words)).count()
}

/// Waits until there are more of them.
async fn wait_said(daemon: &Daemon, words: &str, before: usize) {
    eventually(PATIENCE, || async {
        ensure!(times_said(daemon, words) > before, "{}", tail(daemon));
        Ok(())
    })
    .await;
}

/// Where the log ends.
async fn log_end(scene: &Scene) -> Result<String> {
    Ok(scene.client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0))
}

/// Whether the slot is confirmed at most this far.
async fn is_confirmed_at_most(scene: &Scene, lsn: &str) -> Result<bool> {
    let query = "SELECT confirmed_flush_lsn <= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
    Ok(scene.client.query_one(query, &[&lsn, &scene.slot()]).await?.get(0))
}

/// The other table keeps the source busy, so it is never idle.
#[tokio::test]
async fn a_busy_source_confirms_nothing_behind_a_table_that_left_the_publication() -> Result<()> {
    let scene = Scene::shared().await?.with("tables = [\"order_outbox\", \"other_outbox\"]");
    let mut scene = scene.with("[source.timeouts]\nstatus = \"200ms\"");
    workload::create_outbox(&scene.client, "other_outbox").await?;
    scene.client.batch_execute("GRANT ALL ON other_outbox TO PUBLIC").await?;
    scene.alter_publication("ADD TABLE other_outbox").await?;
    let daemon = scene.published(2).await?;
    let load = scene.load();
    insert_one_into(&scene, &scene.client, "other_outbox").await?;
    scene.wait_marked("other_outbox").await;
    scene.alter_publication("DROP TABLE other_outbox").await?;
    let before = log_end(&scene).await?;
    insert_one_into(&scene, &scene.client, "other_outbox").await?;
    let line = halts(&daemon, "publication-changed").await?;
    load.stop().await?;
    ensure!(line.contains("other_outbox"), "{line}");
    let confirmed = is_confirmed_at_most(&scene, &before).await?;
    assert!(confirmed, "confirmed behind {before}, from where on rows were passed over\n{}", tail(&daemon));
    Ok(())
}

/// The last look of a source that stops comes when everything is published and marked.
#[tokio::test]
async fn everything_is_confirmed_when_a_source_has_stopped() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(2).await?;
    for _ in 0..3 {
        let id = insert_one(&scene, &scene.client).await?;
        let is_marked = format!("SELECT published_at IS NOT NULL FROM order_outbox WHERE id = '{id}'");
        wait_true(&scene.client, &is_marked).await;
        stop(&daemon).await?;
        streams_again(&daemon).await?;
        scene.insert(1).await?;
        scene.wait_marked("order_outbox").await;
        let redelivered = metric(&daemon, "outboxd_rows_redelivered_total").await?;
        assert!(redelivered.abs() < 0.1, "{redelivered} rows come again after a stop\n{}", tail(&daemon));
    }
    scene.assert_exactly(8).await
}

#[tokio::test]
async fn a_table_that_left_its_published_schema_and_came_back_halts() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let publication = scene.slot();
    let by_schema = format!(
        "DROP PUBLICATION {publication}; CREATE PUBLICATION {publication} FOR TABLES IN SCHEMA public
                             WITH (publish = 'insert', publish_via_partition_root = true); CREATE SCHEMA other"
    );
    scene.client.batch_execute(&by_schema).await?;
    let daemon = scene.published(2).await?;
    scene.wait_caught_up().await?;
    stop(&daemon).await?;
    // What loses no row is no change.
    let harmless = "ALTER TABLE order_outbox RENAME TO renamed; ALTER TABLE renamed RENAME TO order_outbox;
                    GRANT SELECT ON order_outbox TO PUBLIC; VACUUM FULL order_outbox";
    for statement in harmless.split(';') {
        scene.client.batch_execute(statement).await?;
    }
    streams_again(&daemon).await?;
    stop(&daemon).await?;
    scene.client.batch_execute("ALTER TABLE order_outbox SET SCHEMA other").await?;
    insert_one_into(&scene, &scene.client, "other.order_outbox").await?;
    scene.client.batch_execute("ALTER TABLE other.order_outbox SET SCHEMA public").await?;
    halts_again(&daemon, "publication-changed").await?;
    let line = wait_code(&daemon, "publication-changed").await?;
    ensure!(line.contains("order_outbox") && line.contains("schema"), "{line}");
    Ok(())
}

/// A setting of the database, and the new name of a column, change how a filter prints, and not what it lets through.
#[tokio::test]
async fn a_row_filter_that_prints_otherwise_is_the_same_filter() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute("ALTER TABLE order_outbox ADD COLUMN region text NOT NULL DEFAULT 'north'").await?;
    scene.alter_publication("SET TABLE order_outbox WHERE (region <> 'nowhere')").await?;
    let daemon = scene.published(2).await?;
    stop(&daemon).await?;
    scene.client.batch_execute("ALTER TABLE order_outbox RENAME region TO area").await?;
    let database = &scene.database;
    scene.client.batch_execute(&format!("ALTER DATABASE {database} SET quote_all_identifiers = on")).await?;
    scene.client.batch_execute(&format!("ALTER DATABASE {database} SET search_path = pg_catalog, public")).await?;
    streams_again(&daemon).await?;
    scene.insert(2).await?;
    scene.assert_exactly(4).await?;
    // Another filter is another one, though it was put back in the meantime.
    stop(&daemon).await?;
    scene.alter_publication("SET TABLE public.order_outbox WHERE (area <> 'elsewhere')").await?;
    scene.alter_publication("SET TABLE public.order_outbox WHERE (area <> 'nowhere')").await?;
    halts_again(&daemon, "publication-changed").await
}

/// At PREPARE nobody knows whether a transaction will commit.
#[tokio::test]
async fn a_slot_that_decodes_prepared_transactions_early_is_refused() -> Result<()> {
    let scene = Scene::shared().await?;
    let create = "SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, true)";
    scene.client.query_one(create, &[&scene.slot()]).await?;
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "config-invalid").await?;
    ensure!(line.contains("PREPARE"), "{line}");
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 2);
    for command in [["status"], ["setup"], ["check"]] {
        let (_, out, err) = scene.command(&command).await?;
        ensure!(format!("{out}{err}").contains("PREPARE"), "{command:?}: {out}{err}");
    }
    scene.drop_slot().await
}

/// A row that is hidden looks like one that is gone, and would count as marked.
#[tokio::test]
async fn row_security_that_hides_rows_is_refused_at_a_start_and_while_rows_stream() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let role = role_with(&scene, &[]).await?;
    scene.client.batch_execute("ALTER TABLE order_outbox ENABLE ROW LEVEL SECURITY").await?;
    let daemon = scene.daemon_as(&role)?;
    let line = wait_code(&daemon, "postgres-denied").await?;
    ensure!(line.contains("row security") && line.contains("order_outbox"), "{line}");
    scene.client.batch_execute("ALTER TABLE order_outbox DISABLE ROW LEVEL SECURITY").await?;
    wait_ready(&daemon).await;
    scene.insert(2).await?;
    scene.oracle().await?.assert_clean();
    let before = times_said(&daemon, "row security");
    scene.client.batch_execute("ALTER TABLE order_outbox ENABLE ROW LEVEL SECURITY").await?;
    wait_said(&daemon, "row security", before).await;
    scene.client.batch_execute("ALTER TABLE order_outbox DISABLE ROW LEVEL SECURITY").await?;
    scene.insert(2).await?;
    scene.assert_exactly(4).await
}

/// Rows of such a partition are not in the log at all.
#[tokio::test]
async fn a_partition_whose_rows_are_not_in_the_log_is_refused_at_a_start_and_while_rows_stream() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute(crate::unsent::PARTITIONED).await?;
    scene.alter_publication("ADD TABLE order_outbox").await?;
    scene.client.batch_execute("ALTER TABLE half SET UNLOGGED").await?;
    let (status, output, _) = scene.command(&["check"]).await?;
    assert!(status == 1 && output.contains("half"), "{output}");
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "table-missing").await?;
    ensure!(line.contains("half") && line.contains("not in the log"), "{line}");
    scene.client.batch_execute("ALTER TABLE half SET LOGGED").await?;
    wait_ready(&daemon).await;
    for _ in 0..3 {
        scene.insert(1).await?;
    }
    scene.oracle().await?.assert_clean();
    let before = times_said(&daemon, "not in the log");
    scene.client.batch_execute("ALTER TABLE half SET UNLOGGED").await?;
    wait_said(&daemon, "not in the log", before).await;
    scene.client.batch_execute("ALTER TABLE half SET LOGGED").await?;
    for _ in 0..3 {
        scene.insert(1).await?;
    }
    scene.assert_exactly(6).await
}

/// A foreign table has no rows in the log of this server. What wraps it is never called.
#[tokio::test]
async fn a_partition_that_is_a_foreign_table_is_refused_at_a_start_and_while_rows_stream() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let (wrapper, away) = (testbed::unique("wrapper"), testbed::unique("away").replace('-', "_"));
    let attach = format!(
        "CREATE FOREIGN DATA WRAPPER \"{wrapper}\"; CREATE SERVER \"{wrapper}\" FOREIGN DATA WRAPPER \"{wrapper}\";
         CREATE FOREIGN TABLE {away} PARTITION OF order_outbox FOR VALUES FROM ('1990-01-01') TO ('1991-01-01')
         SERVER \"{wrapper}\""
    );
    scene.client.batch_execute(BY_TIME).await?;
    scene.alter_publication("ADD TABLE order_outbox").await?;
    scene.client.batch_execute(&attach).await?;
    let (status, output, _) = scene.command(&["check"]).await?;
    assert!(status == 1 && output.contains(&away) && output.contains("foreign table"), "{output}");
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "table-missing").await?;
    ensure!(line.contains(&away) && line.contains("foreign table"), "{line}");
    let detach = format!("ALTER TABLE order_outbox DETACH PARTITION {away}");
    scene.client.batch_execute(&detach).await?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.assert_exactly(3).await?;
    let before = times_said(&daemon, "foreign table");
    let attach =
        format!("ALTER TABLE order_outbox ATTACH PARTITION {away} FOR VALUES FROM ('1990-01-01') TO ('1991-01-01')");
    scene.client.batch_execute(&attach).await?;
    wait_said(&daemon, "foreign table", before).await;
    scene.client.batch_execute(&detach).await?;
    scene.insert(3).await?;
    scene.assert_exactly(6).await
}

/// Partitions by time, so that the oldest one may lie elsewhere.
const BY_TIME: &str = "
DROP TABLE order_outbox;
CREATE TABLE order_outbox (
    id uuid NOT NULL DEFAULT gen_random_uuid(), aggregate_type varchar(100) NOT NULL, aggregate_id uuid NOT NULL,
    event_type varchar(100) NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
) PARTITION BY RANGE (created_at);
CREATE TABLE order_outbox_now PARTITION OF order_outbox FOR VALUES FROM ('2000-01-01') TO (MAXVALUE);
CREATE INDEX ON order_outbox (id);
GRANT ALL ON order_outbox TO PUBLIC";

/// Every new row would look published.
#[tokio::test]
async fn a_mark_column_that_is_set_at_the_insert_is_refused_before_there_is_a_slot_and_said_afterwards() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute("ALTER TABLE order_outbox ALTER published_at SET DEFAULT now()").await?;
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "column-invalid").await?;
    ensure!(line.contains("published_at") && line.contains("default"), "{line}");
    let slot = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    assert_eq!(scene.client.query_one(slot, &[&scene.slot()]).await?.get::<_, i64>(0), 0);
    scene.client.batch_execute("ALTER TABLE order_outbox ALTER published_at DROP DEFAULT").await?;
    wait_ready(&daemon).await;
    scene.insert(2).await?;
    scene.assert_exactly(2).await?;
    let stamp = "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
                   'BEGIN NEW.published_at := now(); RETURN NEW; END';
                 CREATE TRIGGER stamp BEFORE INSERT ON order_outbox FOR EACH ROW EXECUTE FUNCTION stamp()";
    scene.client.batch_execute(stamp).await?;
    let (_, output, _) = scene.command(&["check"]).await?;
    ensure!(output.contains("trigger stamp"), "{output}");
    insert_one(&scene, &scene.client).await?;
    let line = daemon.wait_for_line(|line| line.contains("came with their mark set"), PATIENCE).await?;
    ensure!(line.contains("WARN"), "{line}");
    stop(&daemon).await?;
    daemon.start_again()?;
    daemon.wait_for_line(|line| line.contains("trigger stamp") && line.contains("WARN"), PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_position_topic_that_may_delete_positions_halts_the_next_start() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(2).await?;
    stop(&daemon).await?;
    scene.kafka.configure_topic(&scene.position_topic, "cleanup.policy", "delete").await?;
    halts_again(&daemon, "position-invalid").await?;
    scene.kafka.configure_topic(&scene.position_topic, "cleanup.policy", "compact").await?;
    streams_again(&daemon).await?;
    scene.insert(2).await?;
    scene.assert_exactly(4).await
}

/// Positions that are deleted later are as good as lost now.
#[tokio::test]
async fn a_position_topic_that_may_delete_positions_halts_a_source_that_streams() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(2).await?;
    scene.kafka.configure_topic(&scene.position_topic, "cleanup.policy", "compact,delete").await?;
    let line = halts(&daemon, "position-invalid").await?;
    ensure!(line.contains("cleanup.policy"), "{line}");
    scene.kafka.configure_topic(&scene.position_topic, "cleanup.policy", "compact").await?;
    streams_again(&daemon).await?;
    scene.insert(2).await?;
    scene.assert_exactly(4).await
}

/// What was said at the start is not said again.
#[tokio::test]
async fn an_id_that_loses_its_unique_index_is_told_once_while_rows_stream() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(2).await?;
    assert_eq!(times_said(&daemon, "no unique index"), 0);
    scene.client.batch_execute("ALTER TABLE order_outbox DROP CONSTRAINT order_outbox_pkey").await?;
    let line = daemon.wait_for_line(|line| line.contains("id has no unique index"), PATIENCE).await?;
    ensure!(line.contains("WARN"), "{line}");
    stop(&daemon).await?;
    daemon.start_again()?;
    wait_ready(&daemon).await;
    assert_eq!(times_said(&daemon, "no unique index"), 2, "{}", tail(&daemon));
    scene.insert(2).await?;
    scene.assert_exactly(4).await
}

/// The role that logs in may replicate, and the role that it takes on has the rights on the table.
#[tokio::test]
async fn a_role_that_takes_on_another_one_streams() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let role = role_with(&scene, &[]).await?;
    scene
        .client
        .batch_execute(&format!(
            "CREATE ROLE {role}_owner NOLOGIN; GRANT ALL ON order_outbox TO {role}_owner; GRANT {role}_owner TO {role};
             ALTER ROLE {role} SET role = '{role}_owner'"
        ))
        .await?;
    scene.insert(1).await?;
    let config = scene.config_through(&scene.postgres.role_url(&role, &scene.database), &scene.kafka.brokers());
    let (_, output) = check_with(&config).await?;
    ensure!(!output.contains("lacks REPLICATION"), "{output}");
    let daemon = scene.daemon_as(&role)?;
    wait_ready(&daemon).await;
    scene.insert(2).await?;
    scene.assert_exactly_whatever_the_order(3).await
}

/// `outboxd check` with this configuration: exit code and output.
async fn check_with(config: &str) -> Result<(i32, String)> {
    let path = std::env::temp_dir().join(format!("outboxd-{}.toml", testbed::unique("check")));
    std::fs::write(&path, config.replace("{http}", "off"))?;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outboxd"));
    let output = command.arg("check").arg("--config").arg(&path).kill_on_drop(true).output().await;
    std::fs::remove_file(&path)?;
    let output = output?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Postgres 18 publishes stored generated columns where it is told to.
#[tokio::test]
async fn a_generated_column_that_is_published_serves() -> Result<()> {
    let headers = "[source.headers]\nregion = \"region\"";
    for how in [
        "SET (publish_generated_columns = stored)",
        "SET TABLE order_outbox (id, aggregate_type, aggregate_id, event_type, payload, created_at, published_at, region)",
    ] {
        let mut scene = Scene::on_major(Version::V18).await?.with(QUICK).with(headers);
        let generated =
            "ALTER TABLE order_outbox ADD COLUMN region text GENERATED ALWAYS AS (upper(event_type)) STORED";
        scene.client.batch_execute(generated).await?;
        scene.alter_publication(how).await?;
        scene.insert(1).await?;
        let (_, output, _) = scene.command(&["check"]).await?;
        ensure!(!output.contains("column-invalid"), "{how}: {output}");
        let daemon = scene.streaming().await?;
        scene.insert(2).await?;
        scene.assert_exactly_whatever_the_order(3).await?;
        let records = testbed::reader::read_committed(&scene.kafka.brokers(), &[&scene.topic]).await?;
        assert!(
            records.iter().all(|record| record.header_str("region").is_some_and(|region| region.starts_with("ORDER")))
        );
        drop(daemon);
    }
    Ok(())
}
