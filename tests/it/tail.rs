//! `outboxd tail`: what would be sent, as it commits, without Kafka and without a mark.

mod process;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use testbed::{Postgres, Version, eventually, reader};
use tokio::time::timeout;

use self::process::{BEGINS, Tail};
use crate::scene::{PATIENCE, QUICK, Scene, stop, wait_true};

/// A configuration with which nobody could reach Kafka.
fn without_kafka(scene: &Scene) -> String {
    scene.config_through(&scene.postgres.url(&scene.database), "no broker/at all")
}

/// Slots of this scene's database, that of its source among them.
async fn slots(scene: &Scene) -> Result<Vec<(String, bool, Option<String>)>> {
    let sql = "SELECT slot_name::text, temporary, confirmed_flush_lsn::text FROM pg_replication_slots \
               WHERE database = current_database() ORDER BY temporary, slot_name";
    let rows = scene.client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

async fn unmarked(scene: &Scene) -> Result<i64> {
    let sql = "SELECT count(*) FROM order_outbox WHERE published_at IS NULL";
    Ok(scene.client.query_one(sql, &[]).await?.get(0))
}

async fn insert(scene: &Scene, aggregate_type: &str, event_type: &str, payload: &str) -> Result<String> {
    let sql = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
               VALUES ($1, gen_random_uuid(), $2, $3::text::jsonb) RETURNING aggregate_id::text";
    Ok(scene.client.query_one(sql, &[&aggregate_type, &event_type, &payload]).await?.get(0))
}

/// The end of the line that shows this record, from its topic on.
fn shown(record: &reader::Record) -> String {
    let text = |bytes: &Option<Vec<u8>>| json!(bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes))).to_string();
    let header = |(name, value): &(String, Option<Vec<u8>>)| format!("{}:{}", json!(name), text(value));
    let headers: Vec<_> = record.headers.iter().map(header).collect();
    // A dead letter has the time of its sending.
    let timestamp = match record.header("outboxd_error_code") {
        Some(_) => Value::Null,
        None => json!(record.timestamp),
    };
    format!(
        "\"topic\":{},\"key\":{},\"timestamp\":{timestamp},\"headers\":{{{}}},\"encoding\":\"json\",\"value\":{}}}",
        json!(record.topic),
        text(&record.key),
        headers.join(","),
        String::from_utf8_lossy(record.value.as_deref().unwrap_or_default())
    )
}

#[tokio::test]
async fn what_it_shows_is_what_the_daemon_publishes_byte_for_byte() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let letters = format!("{}.letters", scene.aggregate);
    scene.kafka.create_topic(&letters, 1, &[]).await?;
    scene = scene.with(&format!(
        "on_poison = \"dead-letter\"\ndead_letter_topic = \"{letters}\"\n[source.headers]\nkind = \"event_type\""
    ));
    let daemon = scene.streaming().await?;
    let mut tail = Tail::start(&without_kafka(&scene), &[]).await?;
    scene.insert(3).await?;
    insert(&scene, &scene.aggregate, "Größe", "{\"n\": 12345678901234567890.1200, \"s\": \"a\\nb\\u0001\"}").await?;
    insert(&scene, "not a topic!", "Odd", "{\"n\": 1}").await?;
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.push(tail.line().await?);
    }
    scene.wait_marked("order_outbox").await;
    let records = reader::read_committed(&scene.kafka.brokers(), &[&scene.topic, &letters]).await?;
    assert_eq!(records.len(), 5);
    for record in &records {
        let (expected, source) = (shown(record), format!("{{\"source\":\"{}\",", scene.source));
        let is_it = |line: &&String| line.starts_with(&source) && line.ends_with(&expected);
        let found = lines.iter().filter(is_it).count();
        assert_eq!(found, 1, "{expected}\nis not among\n{}", lines.join("\n"));
    }
    assert_eq!(records.iter().filter(|record| record.topic == letters).count(), 1);
    stop(&daemon).await
}

#[tokio::test]
async fn it_needs_no_kafka_marks_nothing_and_leaves_slot_and_position_as_they_are() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let _daemon = scene.stopped().await?;
    let (before, positions) = (slots(&scene).await?, scene.positions().await?);
    assert_eq!(before.len(), 1);
    for signal in ["-INT", "-TERM"] {
        let mut tail = Tail::start(&without_kafka(&scene), &[]).await?;
        scene.insert(2).await?;
        let lines = tail.lines(2).await?;
        assert!(lines.iter().all(|line| line["topic"] == json!(scene.topic)), "{lines:?}");
        let during = slots(&scene).await?;
        assert_eq!(during.len(), 2, "{during:?}");
        assert_eq!(during[0], before[0], "the source's own slot");
        let name = format!("outboxd_tail_{}_", scene.source);
        assert!(during[1].1 && during[1].0.starts_with(&name), "{during:?}");
        tail.signal(signal).await?;
        assert_eq!(tail.exit().await?, 0, "{}", tail.said());
        assert_eq!(slots(&scene).await?, before, "the temporary slot is gone at the end");
    }
    assert_eq!(unmarked(&scene).await?, 4);
    assert_eq!(scene.positions().await?, positions);
    Ok(())
}

#[tokio::test]
async fn the_server_need_not_keep_its_log_for_it() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    let _tail = Tail::start(&without_kafka(&scene), &[]).await?;
    // Nothing of this is an event.
    scene.client.batch_execute("SELECT pg_logical_emit_message(false, '', repeat('x', 100000))").await?;
    let end: String = scene.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    let moved = format!(
        "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots \
         WHERE temporary AND database = current_database()"
    );
    wait_true(&scene.client, &moved).await;
    Ok(())
}

#[tokio::test]
async fn a_row_that_would_stop_the_source_is_shown_with_its_error_and_the_next_one_follows() -> Result<()> {
    let scene = Scene::shared().await?;
    let mut tail = Tail::start(&without_kafka(&scene), &[]).await?;
    insert(&scene, "a/b", "Odd", "{}").await?;
    insert(&scene, &scene.aggregate, "Even", "{}").await?;
    let lines = tail.lines(2).await?;
    assert_eq!((&lines[0]["error"], &lines[0]["topic"]), (&json!("row-invalid"), &json!("a/b.events")));
    assert!(lines[0]["message"].as_str().unwrap_or_default().contains("topic-invalid"), "{}", lines[0]);
    assert_eq!(lines[1]["headers"]["event_type"], json!("Even"));
    Ok(())
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_although_nothing_commits() -> Result<()> {
    let scene = Scene::shared().await?;
    let mut tail = Tail::start(&without_kafka(&scene), &[]).await?;
    insert(&scene, &scene.aggregate, "First", "{}").await?;
    tail.line().await?;
    tail.out = None;
    assert_eq!(tail.exit().await?, 0, "{}", tail.said());
    assert!(!tail.said().contains("error"), "{}", tail.said());
    assert!(slots(&scene).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn only_what_was_asked_for_is_shown_and_no_more_of_it_than_the_limit() -> Result<()> {
    let scene = Scene::shared().await?;
    let mut tail = Tail::start(&without_kafka(&scene), &["--type", "Paid", "--limit", "2"]).await?;
    let mut keys = Vec::new();
    for event_type in ["Created", "Paid", "Paid", "Paid", "Shipped"] {
        keys.push(insert(&scene, &scene.aggregate, event_type, "{}").await?);
    }
    let lines = tail.lines(2).await?;
    assert_eq!([&lines[0]["key"], &lines[1]["key"]], [&json!(keys[1]), &json!(keys[2])]);
    assert_eq!(tail.exit().await?, 0);

    let other = format!("{}x", scene.aggregate);
    insert(&scene, &other, "Paid", "{}").await?;
    let counted = async |arguments: &[&str]| {
        let (code, out, log) = scene.command(&[&["tail", "--unpublished"], arguments].concat()).await?;
        ensure!(code == 0, "{log}");
        anyhow::Ok(out.lines().count())
    };
    assert_eq!(counted(&[]).await?, 6);
    assert_eq!(counted(&["--topic", &scene.topic]).await?, 5);
    assert_eq!(counted(&["--topic", &format!("{other}.events")]).await?, 1);
    assert_eq!(counted(&["--key", &keys[0], "--key", &keys[4]]).await?, 2);
    assert_eq!(counted(&["--key", &keys[0], "--type", "Paid"]).await?, 0);
    assert_eq!(counted(&["--limit", "4"]).await?, 4);
    Ok(())
}

#[tokio::test]
async fn the_rows_that_wait_are_shown_oldest_first_and_nothing_is_marked() -> Result<()> {
    let scene = Scene::shared().await?;
    let sql = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at, published_at) \
               SELECT $1, gen_random_uuid(), 'T' || n, jsonb_build_object('n', n), '2024-01-01'::timestamp - n * '1 h'::interval, \
                      CASE WHEN n % 2 = 0 THEN now() END FROM generate_series(1, 6) n";
    scene.client.execute(sql, &[&scene.aggregate]).await?;
    let (code, out, log) = scene.command(&["tail", "--unpublished"]).await?;
    assert_eq!((code, log.as_str()), (0, ""));
    let lines = out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let types: Vec<_> = lines.iter().map(|line| line["headers"]["event_type"].clone()).collect();
    assert_eq!(types, [json!("T5"), json!("T3"), json!("T1")]);
    assert_eq!((&lines[0]["lsn"], &lines[0]["value"]["data"]), (&Value::Null, &json!({"n": 5})));
    assert_eq!(unmarked(&scene).await?, 3);
    assert!(slots(&scene).await?.is_empty());

    let (_, out, _) = scene.command(&["tail", "--unpublished", "--format", "text"]).await?;
    assert!(out.starts_with(&format!("{}  ", scene.topic)) && !out.contains('\u{1b}'), "{out}");
    Ok(())
}

#[tokio::test]
async fn which_rows_wait_is_what_the_mark_says() -> Result<()> {
    let mut scene = Scene::shared().await?.with("mark = \"delete\"");
    scene.insert(2).await?;
    let (code, out, log) = scene.command(&["tail", "--unpublished"]).await?;
    assert_eq!((code, out.lines().count()), (0, 2), "{log}");
    scene.source_lines = "mark = \"none\"\nbackfill = \"none\"\n".to_owned();
    let (code, out, log) = scene.command(&["tail", "--unpublished"]).await?;
    assert_eq!((code, out.as_str()), (2, ""), "{log}");
    assert!(log.contains("config-invalid") && log.contains("mark = \"none\""), "{log}");
    Ok(())
}

#[tokio::test]
async fn several_sources_are_shown_at_once_unless_one_is_named() -> Result<()> {
    let (first, second) = (Scene::shared().await?, Scene::shared().await?);
    let config = first.config_with(&second);
    let mut both = Tail::start(&config, &[]).await?;
    both.wait_said(&format!("{}: {BEGINS}", first.source)).await;
    both.wait_said(&format!("{}: {BEGINS}", second.source)).await;
    for scene in [&first, &second] {
        insert(scene, &scene.aggregate, "Created", "{}").await?;
        let line = &both.lines(1).await?[0];
        assert_eq!((&line["source"], &line["topic"]), (&json!(scene.source), &json!(scene.topic)));
    }
    for (arguments, sources) in [(&[][..], vec![&first, &second]), (&["--source", &second.source], vec![&second])] {
        let mut waiting = Tail::spawn(&config, &[&["--unpublished"], arguments].concat())?;
        for (line, scene) in waiting.lines(sources.len()).await?.iter().zip(&sources) {
            assert_eq!(line["source"], json!(scene.source));
        }
        assert_eq!(waiting.exit().await?, 0);
        assert!(waiting.line().await.is_err(), "it printed more");
    }
    let (code, _, log) = first.command(&["tail", "--source", "nobody"]).await?;
    assert_eq!(code, 2, "{log}");
    assert!(log.contains(&first.source), "{log}");
    Ok(())
}

/// Inserts so many rows of 4 kB in one transaction.
async fn insert_large(scene: &Scene, rows: i32) -> Result<()> {
    let sql = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
               SELECT $1, gen_random_uuid(), 'Large', jsonb_build_object('n', n, 'text', repeat('x', 4000)) \
               FROM generate_series(1, $2::int) n";
    scene.client.execute(sql, &[&scene.aggregate, &rows]).await?;
    Ok(())
}

/// When the walsender last heard from it, by the server's clock.
const HEARD: &str = "SELECT extract(epoch FROM r.reply_time)::float8 FROM pg_stat_replication r \
                     JOIN pg_replication_slots s ON s.active_pid = r.pid \
                     WHERE s.temporary AND s.database = current_database()";

#[tokio::test]
async fn a_large_transaction_waits_for_a_slow_reader_in_little_memory_and_on_one_connection() -> Result<()> {
    const ROWS: i32 = 20_000;
    let scene = Scene::shared().await?.with(QUICK);
    let set = format!("ALTER DATABASE {} SET wal_sender_timeout = '1s'", scene.database);
    scene.client.batch_execute(&set).await?;
    let mut tail = Tail::start(&without_kafka(&scene), &[]).await?;
    insert_large(&scene, ROWS).await?;
    // Nobody reads for longer than the walsender would wait.
    let began: f64 = scene.client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[]).await?.get(0);
    eventually(PATIENCE, || async {
        let heard: Option<f64> = scene.client.query_opt(HEARD, &[]).await?.and_then(|row| row.get(0));
        match heard {
            Some(heard) if heard > began + 3.0 => Ok(()),
            heard => bail!("last heard at {heard:?}, begun at {began}"),
        }
    })
    .await;
    for number in 1..=ROWS {
        let line: Value = serde_json::from_str(&tail.line().await?)?;
        assert_eq!(line["value"]["data"]["n"], json!(number));
    }
    assert_eq!(tail.said().matches(BEGINS).count(), 1, "{}", tail.said());
    let peak = tail.peak()?;
    assert!(peak < 64 << 20, "it held {peak} bytes of more than 80 MB");
    Ok(())
}

#[tokio::test]
async fn a_server_that_shuts_down_does_not_wait_for_a_reader_that_stands_still() -> Result<()> {
    let scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    let tail = Tail::start(&without_kafka(&scene), &[]).await?;
    insert_large(&scene, 2_000).await?;
    let took = timeout(PATIENCE, scene.postgres.stop_fast()).await??;
    assert!(took < Duration::from_secs(20), "{took:?}");
    tail.wait_said("connecting again").await;
    Ok(())
}

#[tokio::test]
async fn a_signal_ends_it_while_its_reader_stands_still() -> Result<()> {
    let scene = Scene::shared().await?;
    insert_large(&scene, 2_000).await?;
    let mut tail = Tail::spawn(&without_kafka(&scene), &["--unpublished"])?;
    // There are more rows behind this one than a pipe holds.
    tail.line().await?;
    tail.signal("-INT").await?;
    assert_eq!(tail.exit().await?, 0, "{}", tail.said());
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_lost_is_made_anew_and_the_gap_is_told() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    let mut tail = Tail::start(&without_kafka(&scene), &[]).await?;
    let terminate = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                     WHERE temporary AND database = current_database()";
    scene.client.query_one(terminate, &[]).await?;
    tail.wait_said("what commits until then is not shown").await;
    eventually(PATIENCE, || async {
        ensure!(tail.said().matches(BEGINS).count() == 2, "{}", tail.said());
        Ok(())
    })
    .await;
    insert(&scene, &scene.aggregate, "Later", "{}").await?;
    assert_eq!(tail.lines(1).await?[0]["headers"]["event_type"], json!("Later"));
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_holds_it_up_is_named_and_what_it_commits_is_not_shown() -> Result<()> {
    // Nobody else's transaction is open on it.
    let scene = Scene::on_own_postgres(Postgres::builder(Version::V15)).await?;
    scene.client.batch_execute("BEGIN").await?;
    insert(&scene, &scene.aggregate, "Before", "{}").await?;
    let pid: i32 = scene.client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let mut tail = Tail::spawn(&without_kafka(&scene), &[])?;
    tail.wait_said("waits: the slot is made once").await;
    assert!(tail.said().contains(&pid.to_string()), "{}", tail.said());
    scene.client.batch_execute("COMMIT").await?;
    tail.wait_said(BEGINS).await;
    insert(&scene, &scene.aggregate, "After", "{}").await?;
    assert_eq!(tail.lines(1).await?[0]["headers"]["event_type"], json!("After"));
    Ok(())
}

#[tokio::test]
async fn what_is_missing_ends_it_with_its_code_and_the_next_step() -> Result<()> {
    let scene = Scene::shared().await?;
    scene.drop_publication().await?;
    let (code, out, log) = scene.command(&["tail"]).await?;
    assert_eq!((code, out.as_str()), (1, ""), "{log}");
    for part in ["error[publication-missing]", &scene.source, "outboxd setup"] {
        assert!(log.contains(part), "{part:?} is not in:\n{log}");
    }
    let postgres = Postgres::builder(Version::V15).setting("max_replication_slots", "1");
    let scene = Scene::on_own_postgres(postgres).await?;
    scene.client.query_one("SELECT pg_create_physical_replication_slot('taken')", &[]).await?;
    let (code, _, log) = scene.command(&["tail"]).await?;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("error[postgres-exhausted]") && log.contains("max_replication_slots"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_publication_that_is_dropped_meanwhile_ends_it_on_every_major() -> Result<()> {
    for version in [Version::V15, Version::V18] {
        let scene = Scene::on_major(version).await?;
        let mut tail = Tail::start(&without_kafka(&scene), &[]).await?;
        scene.drop_publication().await?;
        insert(&scene, &scene.aggregate, "Unseen", "{}").await?;
        assert_eq!(tail.exit().await?, 1, "{}", tail.said());
        tail.wait_said("error[publication-missing]").await;
    }
    Ok(())
}
