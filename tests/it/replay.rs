//! `outboxd replay`: chosen rows are published again, once for each request, whoever dies wherever.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use testbed::{
    Daemon, Kafka, eventually,
    kafka::wire::{END_TXN, Point, end_txn_error},
    reader::{self, Record},
    unique, workload,
};
use uuid::Uuid;

use crate::scene::{Host, PATIENCE, QUICK, Scene, stop};

/// The header that names the request.
const HEADER: &str = "outboxd_replay";

/// Lines with which a request makes many small transactions.
const SMALL: &str = "[source.limits]\nbatch_rows = 10";

/// A `replay` that runs.
fn start(config: &str, arguments: &[&str]) -> Result<Daemon> {
    let command = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&["replay", "--config", "{config}"]);
    command.args(arguments).config(&config.replace("{http}", "off")).start()
}

fn text_of(running: &Daemon) -> String {
    running.lines().join("\n")
}

/// Runs it, which has to succeed; what it said.
async fn replay(scene: &Scene, arguments: &[&str]) -> Result<String> {
    let (status, output, errors) = scene.command(&[&["replay"], arguments].concat()).await?;
    ensure!(status == 0, "{status}: {output}{errors}");
    Ok(output + &errors)
}

/// Runs it, which has to end with this exit code and name this error code; what it said.
async fn refused(scene: &Scene, arguments: &[&str], exit: i32, code: &str) -> Result<String> {
    let (status, output, errors) = scene.command(&[&["replay"], arguments].concat()).await?;
    ensure!(status == exit && errors.contains(&format!("error[{code}]")), "{status}: {output}{errors}");
    Ok(errors)
}

/// The records of a topic: those of the daemon, and those of requests.
async fn records_of(scene: &Scene, topic: &str) -> Result<(Vec<Record>, Vec<Record>)> {
    let records = reader::read_committed(&scene.kafka.brokers(), &[topic]).await?;
    Ok(records.into_iter().partition(|record| record.header(HEADER).is_none()))
}

/// The ids of the records that a request published, each of which it published once.
async fn replayed(scene: &Scene, topic: &str, request: &str) -> Result<BTreeSet<String>> {
    let (_, again) = records_of(scene, topic).await?;
    let of_request: Vec<_> = again.iter().filter(|record| record.header_str(HEADER) == Some(request)).collect();
    let ids: BTreeSet<_> = of_request.iter().filter_map(|record| record.header_str("event_id")).collect();
    assert_eq!(ids.len(), of_request.len(), "{request} published a row twice");
    Ok(ids.into_iter().map(str::to_owned).collect())
}

/// Waits until a request that runs has published so many rows.
async fn wait_replayed(scene: &Scene, running: &Daemon, request: &str, rows: usize) {
    eventually(PATIENCE, || async {
        let found = replayed(scene, &scene.topic, request).await?.len();
        ensure!(found >= rows, "{found} of {rows} rows; it said:\n{}", text_of(running));
        Ok(())
    })
    .await;
}

/// The ids of the rows of a table for which this is true.
async fn ids(scene: &Scene, table: &str, condition: &str) -> Result<BTreeSet<String>> {
    let rows = scene.client.query(&format!("SELECT id::text FROM {table} WHERE {condition}"), &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Rows that are published and marked, with nobody there any more.
async fn published(mut scene: Scene, transactions: u32, rows: u32) -> Result<Scene> {
    let daemon = scene.streaming().await?;
    for _ in 0..transactions {
        scene.insert(rows).await?;
    }
    scene.oracle().await?.assert_clean();
    stop(&daemon).await?;
    Ok(scene)
}

/// Another topic for rows that are published again.
async fn other_topic(scene: &Scene, configs: &[(&str, &str)]) -> Result<String> {
    let topic = unique("again");
    scene.kafka.create_topic(&topic, 3, configs).await?;
    Ok(topic)
}

#[tokio::test]
async fn rows_are_published_again_as_they_were_with_the_name_of_the_request() -> Result<()> {
    let scene = published(Scene::shared().await?, 4, 5).await?;
    let marks = "SELECT string_agg(published_at::text, ' ' ORDER BY id) FROM order_outbox";
    let before: String = scene.client.query_one(marks, &[]).await?.get(0);
    let said = replay(&scene, &["--all", "--request", "first"]).await?;
    ensure!(said.contains("request first is finished: 20 rows"), "{said}");
    let (once, again) = records_of(&scene, &scene.topic).await?;
    assert_eq!((once.len(), again.len()), (20, 20));
    let by_id = |records: Vec<Record>| -> BTreeMap<String, Record> {
        records.into_iter().map(|record| (record.header_str("event_id").unwrap().to_owned(), record)).collect()
    };
    let (once, again) = (by_id(once), by_id(again));
    for (id, record) in &once {
        let (mut first, mut second) = (record.clone(), again[id].clone());
        assert_eq!(second.headers.pop().unwrap(), (HEADER.to_owned(), Some(b"first".to_vec())));
        (first.offset, second.offset) = (0, 0);
        assert_eq!(first, second);
    }
    assert_eq!(scene.client.query_one(marks, &[]).await?.get::<_, String>(0), before, "the marks are as they were");
    Ok(())
}

#[tokio::test]
async fn a_finished_request_publishes_nothing_and_its_name_is_no_other_request_s() -> Result<()> {
    let scene = published(Scene::shared().await?, 1, 7).await?;
    replay(&scene, &["--type", "OrderCreated", "--request", "once"]).await?;
    let said = replay(&scene, &["--type", "OrderCreated", "--request", "once"]).await?;
    ensure!(said.contains("was finished before, with 7 rows"), "{said}");
    for other in [&["--all"][..], &["--type", "Other"], &["--type", "OrderCreated", "--to", &scene.topic]] {
        refused(&scene, &[other, &["--request", "once"]].concat(), 2, "replay-refused").await?;
    }
    assert_eq!(scene.records().await?, 14);
    // Two requests without a name are two requests, and each says its own.
    for records in [21, 28] {
        let said = replay(&scene, &["--all"]).await?;
        let name = said.split("request ").nth(1).and_then(|rest| rest.split(':').next()).context("no name")?;
        ensure!(Uuid::parse_str(name).is_ok(), "{said}");
        assert_eq!(scene.records().await?, records);
        assert_eq!(replayed(&scene, &scene.topic, name).await?.len(), 7);
    }
    Ok(())
}

#[tokio::test]
async fn each_filter_chooses_exactly_its_rows_and_a_dry_run_publishes_none() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
        SELECT $1, md5((n / 4)::text)::uuid, 'Type' || n % 3, jsonb_build_object('seq', n),
               timestamp '2026-01-01' + n * interval '1 hour' FROM generate_series(0, 23) n";
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    scene.wait_marked("order_outbox").await;
    stop(&daemon).await?;
    let all: Vec<String> = ids(&scene, "order_outbox", "true").await?.into_iter().collect();
    let key: String = scene.client.query_one("SELECT aggregate_id::text FROM order_outbox LIMIT 1", &[]).await?.get(0);
    let between = "created_at >= '2026-01-01 03:00' AND created_at < '2026-01-01 09:00'";
    let cases: [(&[&str], String); 6] = [
        (&["--id", &all[3], "--id", &all[5], "--id", "no uuid"], format!("id IN ('{}', '{}')", all[3], all[5])),
        (&["--key", &key], format!("aggregate_id = '{key}'")),
        (&["--type", "Type1", "--type", "Type2"], "event_type <> 'Type0'".to_owned()),
        (&["--since", "2026-01-01T03:00:00Z", "--until", "2026-01-01T09:00:00Z"], between.to_owned()),
        (&["--type", "Type1", "--until", "2026-01-01T11:00:00+02:00"], {
            "event_type = 'Type1' AND created_at < '2026-01-01 09:00'".to_owned()
        }),
        (&["--type", "None"], "false".to_owned()),
    ];
    for (number, (arguments, condition)) in cases.iter().enumerate() {
        let wanted = ids(&scene, "order_outbox", condition).await?;
        let before = scene.records().await?;
        let said = replay(&scene, &[arguments, &["--dry-run"][..]].concat()).await?;
        ensure!(said.contains(&format!("{} rows would be published", wanted.len())), "{arguments:?}: {said}");
        let shown = said.lines().filter(|line| line.starts_with("{\"source\"")).count();
        assert_eq!(shown, wanted.len().min(5), "{said}");
        assert_eq!(scene.records().await?, before, "a dry run publishes nothing");
        let request = format!("case-{number}");
        replay(&scene, &[arguments, &["--request", &request][..]].concat()).await?;
        assert_eq!(replayed(&scene, &scene.topic, &request).await?, wanted, "{arguments:?}");
    }
    refused(&scene, &[], 2, "config-invalid").await?;
    refused(&scene, &["--all", "--type", "Type1"], 2, "config-invalid").await?;
    refused(&scene, &["--all", "--to", &scene.position_topic], 2, "config-invalid").await?;
    Ok(())
}

#[tokio::test]
async fn another_topic_gets_the_rows_and_the_usual_one_none() -> Result<()> {
    let scene = published(Scene::shared().await?, 3, 5).await?;
    let topic = other_topic(&scene, &[]).await?;
    replay(&scene, &["--all", "--to", &topic, "--request", "there"]).await?;
    assert_eq!(replayed(&scene, &topic, "there").await?, ids(&scene, "order_outbox", "true").await?);
    assert_eq!(scene.records().await?, 15);
    Ok(())
}

/// Rows of one moment in two tables, so that the order within a moment counts, too.
#[tokio::test]
async fn a_request_that_is_killed_and_killed_again_publishes_each_row_once() -> Result<()> {
    let scene = Scene::shared().await?.with("tables = [\"order_outbox\", \"more_outbox\"]").with(SMALL);
    workload::create_outbox(&scene.client, "more_outbox").await?;
    scene.client.batch_execute("GRANT ALL ON more_outbox TO PUBLIC").await?;
    scene.alter_publication("ADD TABLE more_outbox").await?;
    let daemon = scene.streaming().await?;
    for table in ["order_outbox", "more_outbox"] {
        workload::bulk(&scene.client, table, &scene.aggregate, 400, 20).await?;
        scene.wait_marked(table).await;
    }
    scene
        .client
        .batch_execute("UPDATE more_outbox SET created_at = (SELECT min(created_at) FROM order_outbox)")
        .await?;
    let request = ["--all", "--request", "often", "--rate", "10"];
    for killed_at in [3, 8, 15] {
        let running = start(&scene.config(), &request)?;
        wait_replayed(&scene, &running, "often", killed_at).await;
        running.kill9()?;
    }
    let said = replay(&scene, &["--all", "--request", "often"]).await?;
    ensure!(said.contains("were published before") && said.contains("finished: 800 rows"), "{said}");
    let mut wanted = ids(&scene, "order_outbox", "true").await?;
    wanted.extend(ids(&scene, "more_outbox", "true").await?);
    assert_eq!(replayed(&scene, &scene.topic, "often").await?, wanted);
    stop(&daemon).await
}

/// Ids that are text, in a collation of their own, and rows without a creation time.
#[tokio::test]
async fn a_signal_ends_a_request_after_its_batch_and_it_goes_on_by_its_name() -> Result<()> {
    let scene = Scene::shared().await?.with(SMALL);
    scene.client.batch_execute("ALTER TABLE order_outbox ALTER id TYPE text").await?;
    let daemon = scene.streaming().await?;
    let insert = "INSERT INTO order_outbox (id, aggregate_type, aggregate_id, event_type, payload, created_at)
        SELECT CASE n % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'B' ELSE 'ä''\\' END || n, $1, md5((n % 5)::text)::uuid, 'Typed',
               jsonb_build_object('seq', n), CASE WHEN n % 2 = 0 THEN timestamp '2026-01-01' END
        FROM generate_series(0, 599) n";
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    scene.wait_marked("order_outbox").await;
    stop(&daemon).await?;
    for (signal, rows) in [(Daemon::int as fn(&Daemon) -> Result<()>, 3), (Daemon::term, 9)] {
        let running = start(&scene.config(), &["--all", "--request", "told", "--rate", "10"])?;
        wait_replayed(&scene, &running, "told", rows).await;
        signal(&running)?;
        assert_eq!(running.wait_exit(PATIENCE).await?, 1);
        let said = text_of(&running);
        ensure!(said.contains("interrupted") && said.contains("--request told"), "{said}");
    }
    replay(&scene, &["--all", "--request", "told"]).await?;
    assert_eq!(replayed(&scene, &scene.topic, "told").await?, ids(&scene, "order_outbox", "true").await?);
    Ok(())
}

#[tokio::test]
async fn of_two_processes_of_one_request_the_later_one_carries_it_on() -> Result<()> {
    let scene = published(Scene::shared().await?.with(SMALL), 40, 5).await?;
    let arguments = ["--all", "--request", "shared", "--rate", "10"];
    let first = start(&scene.config(), &arguments)?;
    wait_replayed(&scene, &first, "shared", 3).await;
    let said = replay(&scene, &["--all", "--request", "shared"]).await?;
    ensure!(said.contains("finished: 200 rows"), "{said}");
    assert_eq!(first.wait_exit(PATIENCE).await?, 1, "{}", text_of(&first));
    let said = text_of(&first);
    ensure!(said.contains("kafka-fenced") && said.contains("another process carries request shared on"), "{said}");
    assert_eq!(replayed(&scene, &scene.topic, "shared").await?, ids(&scene, "order_outbox", "true").await?);
    Ok(())
}

/// The daemon goes on, and what it has not published is not the request's.
#[tokio::test]
async fn a_request_disturbs_no_daemon_and_leaves_it_what_is_not_published() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK).with(SMALL);
    let daemon = scene.published(100).await?;
    let load = scene.load_at(20);
    for request in ["one", "two"] {
        replay(&scene, &["--all", "--request", request, "--rate", "500"]).await?;
    }
    load.stop().await?;
    scene.wait_caught_up().await?;
    let rows = ids(&scene, "order_outbox", "true").await?;
    let (once, again) = records_of(&scene, &scene.topic).await?;
    let of_daemon: BTreeSet<_> = once.iter().filter_map(|record| record.header_str("event_id")).collect();
    assert_eq!((of_daemon.len(), once.len()), (rows.len(), rows.len()), "the daemon published each row once");
    for request in ["one", "two"] {
        let ids = replayed(&scene, &scene.topic, request).await?;
        assert!(ids.len() >= 100 && ids.is_subset(&rows), "{}", ids.len());
    }
    assert!(!again.is_empty() && !daemon.lines().iter().any(|line| line.contains("kafka-fenced")));
    stop(&daemon).await?;
    let waiting: BTreeSet<_> = scene.insert(5).await?.iter().map(ToString::to_string).collect();
    replay(&scene, &["--all", "--request", "three"]).await?;
    assert!(replayed(&scene, &scene.topic, "three").await?.is_disjoint(&waiting));
    daemon.start_again()?;
    scene.wait_marked("order_outbox").await;
    let (_, output, errors) = scene.command(&["verify", "--wait", "5s"]).await?;
    ensure!(output.contains("clean"), "what was published again is no difference: {output}{errors}");
    Ok(())
}

/// What came before it is published, and once it is repaired the request goes on behind that.
#[tokio::test]
async fn a_row_that_cannot_be_a_record_is_named_and_nothing_half_is_published() -> Result<()> {
    let scene = published(Scene::shared().await?, 1, 9).await?;
    scene
        .client
        .batch_execute(
            "UPDATE order_outbox SET created_at = timestamp '2026-01-01' + (payload->>'row')::int * interval '1 s';
             UPDATE order_outbox SET aggregate_type = 'not a topic!' WHERE (payload->>'row')::int = 5",
        )
        .await?;
    let [poison] =
        &ids(&scene, "order_outbox", "aggregate_type = 'not a topic!'").await?.into_iter().collect::<Vec<_>>()[..]
    else {
        anyhow::bail!("no row")
    };
    for _ in 0..2 {
        let said = refused(&scene, &["--all", "--request", "odd"], 3, "row-invalid").await?;
        ensure!(
            said.contains(poison) && said.contains("public.order_outbox") && said.contains("--request odd"),
            "{said}"
        );
        assert_eq!(replayed(&scene, &scene.topic, "odd").await?.len(), 4);
    }
    scene.client.execute("UPDATE order_outbox SET aggregate_type = $1", &[&scene.aggregate]).await?;
    replay(&scene, &["--all", "--request", "odd"]).await?;
    assert_eq!(replayed(&scene, &scene.topic, "odd").await?.len(), 9);
    Ok(())
}

#[tokio::test]
async fn a_row_that_the_broker_refuses_is_named_and_its_chunk_is_not_published() -> Result<()> {
    let scene = published(Scene::shared().await?, 5, 4).await?;
    let small = other_topic(&scene, &[("max.message.bytes", "2000")]).await?;
    // Together they are too large for the topic, and each by itself is not.
    replay(&scene, &["--all", "--to", &small, "--request", "crowded"]).await?;
    assert_eq!(replayed(&scene, &small, "crowded").await?.len(), 20);
    let large = "UPDATE order_outbox SET payload = jsonb_build_object('seq', 1, 'x', repeat(md5(random()::text), 200))
                 WHERE id = (SELECT max(id::text)::uuid FROM order_outbox) RETURNING id::text";
    let id: String = scene.client.query_one(large, &[]).await?.get(0);
    let said = refused(&scene, &["--all", "--to", &small, "--request", "large"], 3, "row-too-large").await?;
    ensure!(said.contains(&id) && said.contains("public.order_outbox"), "{said}");
    assert_eq!(replayed(&scene, &small, "large").await?.len(), 0);
    Ok(())
}

/// They are marked as others are, and only their letters tell them apart.
#[tokio::test]
async fn dead_letters_are_published_once_their_rows_are_repaired() -> Result<()> {
    let scene = Scene::shared().await?;
    let letters = format!("{}.letters", scene.aggregate);
    scene.kafka.create_topic(&letters, 1, &[]).await?;
    let mut scene = scene.with(&format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{letters}\""));
    let daemon = scene.streaming().await?;
    let fine = scene.insert(3).await?[0].to_string();
    let odd = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload)
               SELECT 'not a topic!', gen_random_uuid(), 'Odd', jsonb_build_object('seq', n) FROM generate_series(1, 2) n";
    scene.client.batch_execute(odd).await?;
    scene.wait_marked("order_outbox").await;
    stop(&daemon).await?;
    refused(&scene, &["--dead-letter", "--request", "fixed"], 3, "row-invalid").await?;
    let dead = ids(&scene, "order_outbox", "event_type = 'Odd'").await?;
    scene.client.execute("UPDATE order_outbox SET aggregate_type = $1", &[&scene.aggregate]).await?;
    let said = replay(&scene, &["--dead-letter", "--dry-run"]).await?;
    ensure!(said.contains("2 rows would be published"), "{said}");
    replay(&scene, &["--dead-letter", "--request", "fixed"]).await?;
    assert_eq!(replayed(&scene, &scene.topic, "fixed").await?, dead);
    let said = replay(&scene, &["--dead-letter", "--id", &fine]).await?;
    ensure!(said.contains("finished: 0 rows"), "{said}");
    Ok(())
}

/// The broker has committed, and the request does not know.
#[tokio::test]
async fn a_commit_of_a_request_whose_answer_is_cut_off_is_not_repeated() -> Result<()> {
    for point in [Point::Answer, Point::Request] {
        let scene = Scene::on_kafka(Host::Shared(Kafka::shared_wired().await?)).await?.with(SMALL);
        let scene = published(scene, 5, 10).await?;
        let wire = scene.kafka.wire()?;
        let id = format!("outboxd-{}-replay-cut", scene.source);
        let trap = wire.trap(END_TXN, &id, point);
        let config = scene.config_through(&scene.postgres.url(&scene.database), &wire.brokers());
        let running = start(&config, &["--all", "--request", "cut"])?;
        trap.caught(PATIENCE).await?.cut().await?;
        assert_eq!(running.wait_exit(PATIENCE).await?, 1, "{}", text_of(&running));
        ensure!(text_of(&running).contains("error[kafka-commit-unknown]"), "{}", text_of(&running));
        replay(&scene, &["--all", "--request", "cut"]).await?;
        assert_eq!(replayed(&scene, &scene.topic, "cut").await?, ids(&scene, "order_outbox", "true").await?);
    }
    Ok(())
}

/// Its process is dead, and another one has carried the request on, when the commit arrives.
#[tokio::test]
async fn a_commit_of_a_killed_request_that_arrives_late_changes_nothing() -> Result<()> {
    let scene = Scene::on_kafka(Host::Shared(Kafka::shared_wired().await?)).await?.with(SMALL);
    let scene = published(scene, 5, 10).await?;
    let wire = scene.kafka.wire()?;
    let trap = wire.trap(END_TXN, &format!("outboxd-{}-replay-late", scene.source), Point::Request);
    let config = scene.config_through(&scene.postgres.url(&scene.database), &wire.brokers());
    let running = start(&config, &["--all", "--request", "late"])?;
    let held = trap.caught(PATIENCE).await?;
    running.kill9()?;
    held.cut().await?;
    replay(&scene, &["--all", "--request", "late"]).await?;
    let error = end_txn_error(held.version, &held.deliver().await?)?;
    ensure!(error != 0, "the late commit was taken");
    assert_eq!(replayed(&scene, &scene.topic, "late").await?, ids(&scene, "order_outbox", "true").await?);
    Ok(())
}

#[tokio::test]
async fn without_marks_only_what_the_position_is_past_is_published_again() -> Result<()> {
    let mut scene = Scene::shared().await?.with("mark = \"none\"\nbackfill = \"none\"").with(QUICK);
    let daemon = scene.streaming().await?;
    scene.insert(6).await?;
    scene.wait_records(6).await;
    replay(&scene, &["--all", "--request", "none"]).await?;
    assert_eq!(replayed(&scene, &scene.topic, "none").await?.len(), 6);
    stop(&daemon).await?;
    scene.insert(1).await?;
    let said = refused(&scene, &["--all", "--request", "early"], 2, "replay-refused").await?;
    ensure!(said.contains("the daemon has to catch up first"), "{said}");
    assert_eq!(scene.records().await?, 12);
    Ok(())
}

#[tokio::test]
async fn where_published_rows_are_deleted_there_is_nothing_to_publish_again() -> Result<()> {
    let scene = Scene::shared().await?.with("mark = \"delete\"");
    let said = refused(&scene, &["--all"], 2, "replay-refused").await?;
    ensure!(said.contains("a row that is published is gone"), "{said}");
    Ok(())
}

/// The times of the records are refused, and others are found, as the daemon does it.
#[tokio::test]
async fn at_least_once_and_refused_times_change_nothing_of_it() -> Result<()> {
    let scene = Scene::shared().await?.with_kafka("delivery = \"at-least-once\"");
    let scene = published(scene, 2, 5).await?;
    scene.client.batch_execute("UPDATE order_outbox SET created_at = '2001-01-01'").await?;
    let topic = other_topic(&scene, &[("message.timestamp.before.max.ms", "3600000")]).await?;
    replay(&scene, &["--all", "--to", &topic, "--request", "old"]).await?;
    assert_eq!(replayed(&scene, &topic, "old").await?.len(), 10);
    replay(&scene, &["--all", "--to", &topic, "--request", "old"]).await?;
    assert_eq!(replayed(&scene, &topic, "old").await?.len(), 10);
    Ok(())
}
