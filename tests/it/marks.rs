//! Marks are seen, not assumed: what keeps a mark from being made is said, and nothing is confirmed behind it.

use anyhow::{Result, ensure};
use testbed::{Daemon, Kafka, Postgres, Version, eventually, oracle::Expect, workload};

use crate::{
    matrix::restored::behind_a_proxy,
    scene::{
        Host, PATIENCE, QUICK, Scene, insert_one, insert_one_into, metric, tail, times_led, wait_code, wait_ready,
        wait_state, wait_true,
    },
};

/// Ways to swallow an UPDATE that sets the mark.
const SWALLOWED_UPDATES: [(&str, &str); 5] = [
    ("a rule", "CREATE RULE swallow AS ON UPDATE TO order_outbox DO INSTEAD NOTHING"),
    (
        "a conditional rule",
        "CREATE RULE swallow AS ON UPDATE TO order_outbox WHERE old.published_at IS NULL DO INSTEAD NOTHING",
    ),
    (
        "a trigger that returns NULL",
        "CREATE TRIGGER swallow BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION nothing()",
    ),
    (
        "a trigger that returns OLD",
        "CREATE TRIGGER swallow BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION old()",
    ),
    (
        "a trigger that puts the column back",
        "CREATE TRIGGER swallow BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION back()",
    ),
];

const FUNCTIONS: &str = "
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE FUNCTION old() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
    CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.published_at := OLD.published_at; RETURN NEW; END';
    CREATE FUNCTION soft() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN UPDATE order_outbox SET event_type = ''deleted'' WHERE id = OLD.id; RETURN NULL; END';";

/// Waits until a mark fails, and looks that nothing is confirmed and nobody is told that all is well. Then heals it, and
/// everything is marked and published once.
async fn is_said_and_heals(scene: &Scene, daemon: &Daemon, heal: &str) -> Result<()> {
    // A row that is not confirmed would be marked again, and counted twice.
    scene.wait_caught_up().await?;
    let before: String = scene.client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    let id = insert_one(scene, &scene.client).await?;
    let line = wait_code(daemon, "mark-failed").await?;
    // Of a rule the server itself speaks, and does not know the row.
    let is_named = line.contains("order_outbox") && (line.contains(&id.to_string()) || heal.contains("RULE"));
    ensure!(is_named, "table or row is not named: {line}");
    let is_before = format!(
        "SELECT confirmed_flush_lsn <= '{before}' FROM pg_replication_slots WHERE slot_name = '{}'",
        scene.slot()
    );
    assert!(scene.client.query_one(&is_before, &[]).await?.get::<_, bool>(0), "confirmed though the row is not marked");
    scene.client.batch_execute(heal).await?;
    wait_true(&scene.client, "SELECT count(*) = 0 FROM order_outbox WHERE published_at IS NULL").await;
    assert_eq!(scene.records().await?, 2);
    eventually(PATIENCE, || async {
        let marked = metric(daemon, "outboxd_rows_marked_total").await?;
        ensure!((marked - 2.0).abs() < 0.1, "{marked} marks are counted\n{}", tail(daemon));
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_mark_that_a_rule_or_a_trigger_swallows_is_not_made() -> Result<()> {
    for (what, swallow) in SWALLOWED_UPDATES {
        println!("{what}");
        let mut scene = Scene::shared().await?.with(QUICK);
        let daemon = scene.published(1).await?;
        scene.client.batch_execute(FUNCTIONS).await?;
        scene.client.batch_execute(swallow).await?;
        let kind = if swallow.contains("RULE") { "RULE" } else { "TRIGGER" };
        is_said_and_heals(&scene, &daemon, &format!("DROP {kind} swallow ON order_outbox")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_a_trigger_keeps_from_being_deleted_is_not_marked() -> Result<()> {
    let mut scene = Scene::shared().await?.with("mark = \"delete\"").with(QUICK);
    let daemon = scene.streaming().await?;
    scene.insert(1).await?;
    wait_true(&scene.client, "SELECT count(*) = 0 FROM order_outbox").await;
    scene.client.batch_execute(FUNCTIONS).await?;
    scene
        .client
        .batch_execute("CREATE TRIGGER swallow BEFORE DELETE ON order_outbox FOR EACH ROW EXECUTE FUNCTION soft()")
        .await?;
    is_said_and_heals(&scene, &daemon, "DROP TRIGGER swallow ON order_outbox").await
}

/// The rows of the chunk are published. As long as their marks are swallowed, no start may publish them again.
#[tokio::test]
async fn a_backfill_whose_marks_are_swallowed_repeats_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    scene.client.batch_execute(FUNCTIONS).await?;
    scene
        .client
        .batch_execute("CREATE TRIGGER swallow BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION nothing()")
        .await?;
    scene.insert(20).await?;
    let daemon = scene.daemon()?;
    for _ in 0..3 {
        wait_code(&daemon, "mark-failed").await?;
        assert_eq!(scene.records().await?, 20);
        daemon.kill9()?;
        daemon.start_again()?;
    }
    scene.client.batch_execute("DROP TRIGGER swallow ON order_outbox").await?;
    wait_ready(&daemon).await;
    scene.oracle().await?.assert_clean();
    assert_eq!(scene.records().await?, 20);
    Ok(())
}

/// A serialization failure or a deadlock is no reason to end the session, and with it the publishing of other rows.
#[tokio::test]
async fn a_mark_that_the_server_asks_to_try_again_is_tried_again() -> Result<()> {
    for state in ["40001", "40P01"] {
        let mut scene = Scene::shared().await?.with(QUICK);
        let daemon = scene.published(1).await?;
        let trouble = format!(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN IF nextval(''tries'') <= 3 THEN RAISE EXCEPTION ''not now'' USING ERRCODE = ''{state}''; END IF; RETURN NEW; END';
             CREATE TRIGGER trouble BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION trouble()"
        );
        scene.client.batch_execute(&trouble).await?;
        let led = crate::scene::times_led(&daemon);
        insert_one(&scene, &scene.client).await?;
        scene.oracle().await?.assert_clean();
        assert_eq!(crate::scene::times_led(&daemon), led, "{state} ended the session\n{}", tail(&daemon));
    }
    Ok(())
}

/// An address that leads to several servers, as a proxy's may. On the other one the row is not there, and looks gone.
#[tokio::test]
async fn a_mark_that_would_reach_another_server_is_not_made() -> Result<()> {
    let kafka = Host::Own(Kafka::builder(1).never_fenced().start().await?);
    let mut scene = Scene::on(Host::Own(Postgres::start(Version::V15).await?), kafka).await?.with(QUICK);
    let other = Postgres::start(Version::V15).await?;
    other.create_database(&scene.database).await?;
    workload::create_outbox(&other.client(&scene.database).await?, "order_outbox").await?;
    let (proxy, daemon) = behind_a_proxy(&scene).await?;
    scene.insert(1).await?;
    scene.oracle().await?.assert_clean();
    daemon.kill9()?;
    // Without Kafka the next start gets as far as the slot, and opens the marker's session later.
    scene.kafka.pause(0)?;
    insert_one(&scene, &scene.client).await?;
    daemon.start_again()?;
    let slot = scene.slot();
    wait_true(&scene.client, &format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'")).await;
    proxy.retarget(other.port()?);
    scene.kafka.resume(0)?;
    let line = daemon.wait_for_line(|line| line.contains("the address leads to several servers"), PATIENCE).await?;
    ensure!(line.contains("postgres-unreachable"), "{line}");
    // The next start may have reached the other server as a whole, and found no slot there.
    let _ = daemon.kill9();
    proxy.retarget(scene.postgres.port()?);
    let unmarked = "SELECT count(*) FROM order_outbox WHERE published_at IS NULL";
    assert_eq!(scene.client.query_one(unmarked, &[]).await?.get::<_, i64>(0), 1);
    daemon.start_again()?;
    wait_ready(&daemon).await;
    scene.oracle().await?.assert_clean();
    assert_eq!(scene.records().await?, 2);
    Ok(())
}

/// Some clouds answer a full disk so. Without marks the slot would never move, and the disk never be freed.
#[tokio::test]
async fn marks_are_made_in_a_database_that_is_read_only_by_default() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    let database = &scene.database;
    scene.client.batch_execute(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await?;
    let daemon = scene.streaming().await?;
    insert_one(&scene, &scene.client).await?;
    scene.oracle().await?.assert_clean();
    drop(daemon);
    Ok(())
}

/// What keeps every mark of `order_outbox` from being made, and how it is mended.
const TROUBLES: [(&str, &str, &str); 6] = [
    (
        "a right that is revoked",
        "REVOKE UPDATE ON order_outbox FROM outboxd",
        "GRANT UPDATE ON order_outbox TO outboxd",
    ),
    (
        "a trigger that raises",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not today''; END';
         CREATE TRIGGER trouble BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION no()",
        "DROP TRIGGER trouble ON order_outbox",
    ),
    (
        "a constraint",
        "ALTER TABLE order_outbox ADD CONSTRAINT trouble CHECK (published_at IS NULL) NOT VALID",
        "ALTER TABLE order_outbox DROP CONSTRAINT trouble",
    ),
    (
        "a trigger that swallows",
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER trouble BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION nothing()",
        "DROP TRIGGER trouble ON order_outbox",
    ),
    (
        "a rule that swallows",
        "CREATE RULE trouble AS ON UPDATE TO order_outbox DO INSTEAD NOTHING",
        "DROP RULE trouble ON order_outbox",
    ),
    (
        "a lock",
        "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END';
         CREATE TRIGGER trouble BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION waits();
         SELECT pg_advisory_lock(42)",
        "SELECT pg_advisory_unlock(42)",
    ),
];

/// Two tables in one source, whose role waits for a lock no longer than a moment.
async fn two_tables() -> Result<Scene> {
    let scene = Scene::shared().await?.with("tables = [\"order_outbox\", \"user_outbox\"]");
    workload::create_outbox(&scene.client, "user_outbox").await?;
    scene.alter_publication("ADD TABLE user_outbox").await?;
    Ok(scene)
}

/// What the daemon says of its source.
async fn standing(daemon: &Daemon) -> Result<serde_json::Value> {
    let (_, status) = daemon.http_get("/status").await?;
    Ok(serde_json::from_str::<serde_json::Value>(&status)?["sources"][0].clone())
}

#[tokio::test]
async fn a_table_that_takes_no_marks_holds_up_neither_publishing_nor_the_marks_of_others() -> Result<()> {
    for (what, trouble, mend) in TROUBLES {
        println!("{what}");
        let scene = two_tables().await?.with("[source.timeouts]\nlock = \"200ms\"");
        let daemon = scene.streaming().await?;
        insert_one(&scene, &scene.client).await?;
        scene.oracle().await?.assert_clean();
        scene.client.batch_execute(trouble).await?;
        let led = times_led(&daemon);
        for round in 1..=3 {
            insert_one(&scene, &scene.client).await?;
            insert_one_into(&scene, &scene.client, "user_outbox").await?;
            scene.wait_records(1 + 2 * round).await;
            scene.wait_marked("user_outbox").await;
        }
        let unmarked = "SELECT count(*) FROM order_outbox WHERE published_at IS NULL";
        assert_eq!(scene.client.query_one(unmarked, &[]).await?.get::<_, i64>(0), 3, "{what}");
        let said = daemon.wait_for_line(|line| line.contains("trying again"), PATIENCE).await?;
        ensure!(said.contains("order_outbox"), "the table is not named: {said}");
        let now = standing(&daemon).await?;
        ensure!(now["state"] == "streaming", "{what}: {now}");
        ensure!(what == "a lock" || now["last_error"]["healed_at"].is_null(), "{what}: {now}");
        scene.client.batch_execute(mend).await?;
        scene.wait_marked("order_outbox").await;
        scene.wait_caught_up().await?;
        assert_eq!(times_led(&daemon), led, "{what} ended the session\n{}", tail(&daemon));
        let now = standing(&daemon).await?;
        ensure!(what == "a lock" || now["last_error"]["healed_at"].is_string(), "{what}: {now}");
        scene.audit(Expect::Tables(&["order_outbox", "user_outbox"])).await?.assert_clean();
    }
    Ok(())
}

/// Beyond the bound nothing is published until there are marks again, and the daemon says so.
#[tokio::test]
async fn as_many_rows_as_may_wait_for_a_table_that_takes_no_marks() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.limits]\nbatch_rows = 10\nunmarked_rows = 20");
    let daemon = scene.streaming().await?;
    scene.client.batch_execute("REVOKE UPDATE ON order_outbox FROM outboxd").await?;
    for _ in 0..40 {
        scene.insert(1).await?;
    }
    wait_state(&daemon, "retrying").await;
    let published = scene.records().await?;
    ensure!((10..=20).contains(&published), "{published} rows were published");
    let now = standing(&daemon).await?;
    ensure!(now["last_error"]["code"] == "postgres-denied", "{now}");
    scene.client.batch_execute("GRANT UPDATE ON order_outbox TO outboxd").await?;
    wait_ready(&daemon).await;
    scene.assert_exactly(40).await
}
