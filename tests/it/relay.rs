//! The main job, without faults: rows reach Kafka once, in order, together, and are marked.

use anyhow::{Result, ensure};
use testbed::{Expect, Load, Postgres, Version, eventually, reader, workload};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::scene::{Metrics, PATIENCE, Scene, metric, stop, streams_again, wait_code};

#[tokio::test]
async fn single_rows_reach_the_topic_once_and_are_marked() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let _daemon = scene.streaming().await?;
    for _ in 0..50 {
        scene.insert(1).await?;
    }
    scene.oracle().await?.assert_clean();
    scene.wait_caught_up().await
}

#[tokio::test]
async fn a_record_is_what_the_seed_documents() -> Result<()> {
    let scene = Scene::shared().await?;
    let _daemon = scene.streaming().await?;
    let (id, aggregate) = (Uuid::new_v4(), Uuid::new_v4());
    let payload = r#"{"total": 1500.00, "order_id": "uuid", "order_number": "ORD-123456"}"#;
    scene
        .client
        .execute(
            "INSERT INTO order_outbox (id, aggregate_type, aggregate_id, event_type, payload, created_at) \
             VALUES ($1, $2, $3, 'OrderCreated', $4::text::jsonb, '2024-01-15 10:30:00')",
            &[&id, &scene.aggregate, &aggregate, &payload],
        )
        .await?;
    scene.wait_records(1).await;
    let records = reader::read_committed(&scene.kafka.brokers(), &[&scene.topic]).await?;
    let record = &records[0];
    let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(text(&record.key), Some(aggregate.to_string()));
    assert_eq!(
        text(&record.value).as_deref(),
        Some(
            format!(
                r#"{{"event_id":"{id}","event_type":"OrderCreated","timestamp":"2024-01-15T10:30:00Z","data":{payload}}}"#
            )
            // jsonb sorts keys by length, then by name.
            .replace(payload, r#"{"total": 1500.00, "order_id": "uuid", "order_number": "ORD-123456"}"#)
            .as_str()
        )
    );
    let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    assert_eq!(
        headers,
        [
            ("event_id", Some(id.to_string())),
            ("event_type", Some("OrderCreated".to_owned())),
            ("aggregate_type", Some(scene.aggregate.clone())),
            ("aggregate_id", Some(aggregate.to_string())),
            ("content-type", Some("application/json".to_owned())),
        ]
    );
    Ok(())
}

#[tokio::test]
async fn concurrent_transactions_with_rollbacks_and_savepoints_keep_order_and_unity() -> Result<()> {
    let scene = Scene::shared().await?;
    let _daemon = scene.streaming().await?;
    let url = scene.postgres.superuser_url(&scene.database);
    let load = Load::builder(&url, "order_outbox", &scene.aggregate).writers(6).max_rows(20).transactions(150).start();
    let loaded = load.finished().await?;
    assert!(loaded.rolled_back > 0, "the load has no rollbacks to prove anything with");
    scene.assert_exactly(loaded.ids.len()).await
}

#[tokio::test]
async fn rows_of_several_tables_in_one_transaction_come_together() -> Result<()> {
    let mut scene = Scene::shared().await?.with("tables = [\"order_outbox\", \"user_outbox\"]");
    workload::create_outbox(&scene.client, "user_outbox").await?;
    scene.alter_publication("ADD TABLE user_outbox").await?;
    let _daemon = scene.streaming().await?;
    let aggregate = scene.aggregate.clone();
    for seq in 1..=20_i64 {
        let transaction = scene.client.transaction().await?;
        for (row, table) in ["order_outbox", "user_outbox", "order_outbox"].into_iter().enumerate() {
            let payload = format!(r#"{{"seq": {seq}, "tx": "t{seq}", "row": {}, "rows": 3}}"#, row + 1);
            let insert = format!(
                "INSERT INTO {table} (aggregate_type, aggregate_id, event_type, payload) \
                 VALUES ($1, gen_random_uuid(), 'Changed', $2::text::jsonb)"
            );
            transaction.execute(&insert, &[&aggregate, &payload]).await?;
        }
        transaction.commit().await?;
    }
    scene.wait_marked("user_outbox").await;
    scene.wait_marked("order_outbox").await;
    let audit = scene.audit(Expect::Tables(&["order_outbox", "user_outbox"])).await?;
    audit.assert_clean();
    assert_eq!(audit.records, 60);
    Ok(())
}

#[tokio::test]
async fn a_transaction_of_100_000_rows_is_split_and_complete() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 100_000, 1_000).await?;
    scene.assert_exactly(100_000).await?;
    let transactions = metric(&daemon, "outboxd_kafka_transactions_total{outcome=\"committed\"").await?;
    assert!(transactions >= 10.0, "{transactions} Kafka transactions cannot hold 100,000 rows of 10,000 at most");
    Ok(())
}

#[tokio::test]
async fn rows_from_before_the_slot_are_backfilled_once() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.limits]\nbackfill_chunk_rows = 100");
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 1_000, 10).await?;
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    scene.assert_exactly(1_003).await?;
    drop(daemon);
    Ok(())
}

#[tokio::test]
async fn a_restart_publishes_nothing_again() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(5).await?;
    for _ in 0..3 {
        stop(&daemon).await?;
        scene.insert(5).await?;
        streams_again(&daemon).await?;
        scene.oracle().await?.assert_clean();
    }
    Ok(())
}

#[tokio::test]
async fn deleting_marks_and_no_marks_publish_once_as_well() -> Result<()> {
    for line in ["mark = \"delete\"", "mark = \"none\"\nbackfill = \"none\""] {
        let mut scene = Scene::shared().await?.with(line);
        let daemon = scene.streaming().await?;
        let mut ids = Vec::new();
        for rows in 1..=20 {
            ids.extend(scene.insert(rows).await?);
        }
        scene.wait_records(ids.len() as u64).await;
        daemon.kill9()?;
        streams_again(&daemon).await?;
        ids.extend(scene.insert(1).await?);
        scene.wait_records(ids.len() as u64).await;
        scene.wait_caught_up().await?;
        scene.audit(Expect::Ids(&ids)).await?.assert_clean();
        let left: i64 = scene.client.query_one("SELECT count(*) FROM order_outbox", &[]).await?.get(0);
        assert_eq!(left, if line.contains("delete") { 0 } else { ids.len() as i64 });
    }
    Ok(())
}

/// On a server that waits for this synchronous standby: a session with `synchronous_commit = on`, which is not the
/// default there, hangs between its commit record and its visibility.
async fn waiting_for(standby: &str) -> Result<Scene> {
    let postgres = Postgres::builder(Version::V15)
        .setting("synchronous_standby_names", standby)
        .setting("synchronous_commit", "local");
    Scene::on_own_postgres(postgres).await
}

/// Inserts rows in a transaction that hangs there.
async fn hanging_insert(scene: &Scene, rows: u32) -> Result<JoinHandle<Result<Vec<Uuid>>>> {
    let mut writer = scene.postgres.client(&scene.database).await?;
    writer.batch_execute("SET synchronous_commit = on").await?;
    let aggregate = scene.aggregate.clone();
    Ok(tokio::spawn(
        async move { workload::insert(&mut writer, "order_outbox", &aggregate, Uuid::new_v4(), rows).await },
    ))
}

/// Lets all sessions go that wait for it.
async fn give_the_standby_up(scene: &Scene) -> Result<()> {
    scene.client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = ''").await?;
    Ok(scene.client.batch_execute("SELECT pg_reload_conf()").await?)
}

/// The server sends a transaction once its commit record is flushed, but others see its rows only after that; with a
/// synchronous standby that does not answer, arbitrarily long after.
#[tokio::test]
async fn a_row_that_is_published_before_it_is_visible_is_marked_all_the_same() -> Result<()> {
    let scene = waiting_for("nobody").await?;
    let _daemon = scene.streaming().await?;
    let insert = hanging_insert(&scene, 3).await?;
    scene.wait_records(3).await;
    let visible: i64 = scene.client.query_one("SELECT count(*) FROM order_outbox", &[]).await?.get(0);
    assert_eq!(visible, 0, "the insert was to hang between its commit record and its visibility");
    give_the_standby_up(&scene).await?;
    insert.await??;
    scene.oracle().await?.assert_clean();
    Ok(())
}

/// The daemon's marks wait for commits that wait for the daemon. The daemon says so, and does not wait in silence.
#[tokio::test]
async fn a_daemon_that_is_taken_for_a_synchronous_standby_says_so_and_goes_on_once_it_is_not() -> Result<()> {
    let scene = waiting_for("*").await?;
    let daemon = scene.streaming().await?;
    let insert = hanging_insert(&scene, 3).await?;
    let line = wait_code(&daemon, "mark-failed").await?;
    assert!(line.contains("synchronous_standby_names"), "{line}");
    give_the_standby_up(&scene).await?;
    insert.await??;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn at_least_once_delivers_everything_too() -> Result<()> {
    let mut scene = Scene::shared().await?.with_kafka("delivery = \"at-least-once\"");
    let _daemon = scene.streaming().await?;
    for rows in 1..=10 {
        scene.insert(rows).await?;
    }
    // Without a crash nothing is published twice.
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn an_idle_source_lets_go_of_the_log_that_others_write() -> Result<()> {
    let scene = Scene::shared().await?.with("[source.timeouts]\nidle_advance = \"200ms\"\nstatus = \"200ms\"");
    let _daemon = scene.streaming().await?;
    scene.client.batch_execute("CREATE TABLE other (n int); INSERT INTO other SELECT generate_series(1, 1000)").await?;
    scene.wait_caught_up().await
}

#[tokio::test]
async fn every_major_of_postgres_is_served() -> Result<()> {
    for version in [Version::V16, Version::V17, Version::V18] {
        let mut scene = Scene::on_major(version).await?;
        workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 200, 10).await?;
        let daemon = scene.streaming().await?;
        for _ in 0..10 {
            scene.insert(3).await?;
        }
        daemon.kill9()?;
        daemon.start_again()?;
        scene.insert(1).await?;
        scene.oracle().await?.assert_clean();
    }
    Ok(())
}

#[tokio::test]
async fn the_lag_is_exposed_and_falls_to_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(7).await?;
    eventually(PATIENCE, || async {
        let metrics = Metrics::of(&daemon).await?;
        let published = metrics.value("outboxd_events_published_total")?;
        let marked = metrics.value("outboxd_rows_marked_total")?;
        let lag = metrics.value("outboxd_replication_lag_seconds")?;
        let unpublished = metrics.value("outboxd_unpublished_rows")?;
        anyhow::ensure!(
            (published, marked, lag, unpublished) == (7.0, 7.0, 0.0, 0.0),
            "published {published}, marked {marked}, lag {lag}, unpublished {unpublished}"
        );
        Ok(())
    })
    .await;
    Ok(())
}

/// Creating a slot goes through three states, each of which waits for the transactions that run when it is reached. One
/// that begins after the second and hangs between its commit record and its visibility is in the exported snapshot.
#[tokio::test]
async fn a_row_of_the_snapshot_that_nobody_sees_yet_is_waited_for_and_marked() -> Result<()> {
    let scene = waiting_for("nobody").await?;
    let (first, second, hanging) = (
        scene.postgres.client(&scene.database).await?,
        scene.postgres.client(&scene.database).await?,
        scene.postgres.client(&scene.database).await?,
    );
    let begin = "BEGIN; SELECT pg_current_xact_id()";
    let waits_for_transactions = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted \
                                  AND transactionid = $1::text::xid)";
    first.batch_execute(begin).await?;
    let daemon = scene.daemon()?;
    wait_for(&scene, waits_for_transactions, &xid(&first).await?).await;
    second.batch_execute(begin).await?;
    first.batch_execute("ROLLBACK").await?;
    wait_for(&scene, waits_for_transactions, &xid(&second).await?).await;

    hanging.batch_execute("SET synchronous_commit = on").await?;
    let pid: i32 = hanging.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let insert = format!(
        "INSERT INTO order_outbox (id, aggregate_type, aggregate_id, event_type, payload) \
         VALUES (gen_random_uuid(), '{}', gen_random_uuid(), 'OrderCreated', '{{\"seq\": 1}}')",
        scene.aggregate
    );
    let insert = tokio::spawn(async move { hanging.batch_execute(&insert).await });
    let hangs = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1::text::int AND wait_event = 'SyncRep')";
    wait_for(&scene, hangs, &pid.to_string()).await;
    second.batch_execute("ROLLBACK").await?;

    daemon.wait_for_line(|line| line.contains("not visible yet"), PATIENCE).await?;
    give_the_standby_up(&scene).await?;
    insert.await??;
    scene.assert_exactly(1).await
}

async fn xid(session: &Client) -> Result<String> {
    Ok(session.query_one("SELECT (pg_current_xact_id()::xid)::text", &[]).await?.get(0))
}

async fn wait_for(scene: &Scene, condition: &str, parameter: &str) {
    eventually(PATIENCE, || async {
        let holds: bool = scene.client.query_one(condition, &[&parameter]).await?.get(0);
        ensure!(holds, "not yet: {condition}");
        Ok(())
    })
    .await;
}
