//! `outboxd verify` on real servers: clean where all is well, also under load; and each kind of difference is found, with
//! records that a plain producer put there.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rdkafka::{
    config::ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value;
use testbed::{eventually, workload};
use uuid::Uuid;

use crate::scene::{PATIENCE, Scene, stop, wait_ready};

/// Exit code and the whole answer.
async fn verify(scene: &Scene, arguments: &[&str]) -> Result<(i32, Value)> {
    let arguments: Vec<&str> = ["verify", "--json"].into_iter().chain(arguments.iter().copied()).collect();
    let (code, out, err) = scene.command(&arguments).await?;
    ensure!(code == 0 || code == 1, "exit code {code}: {out}{err}");
    ensure!(err.is_empty(), "nobody looks, and yet: {err}");
    let outcome: Value = serde_json::from_str(&out)?;
    ensure!(outcome["clean"] == (code == 0), "exit code {code}: {out}");
    Ok((code, outcome))
}

/// The one source's report.
async fn report(scene: &Scene, arguments: &[&str]) -> Result<(i32, Value)> {
    let (code, outcome) = verify(scene, arguments).await?;
    Ok((code, outcome["sources"][0].clone()))
}

/// Missing, duplicated, out of order, unmarked, unknown.
fn differences(report: &Value) -> [Option<u64>; 5] {
    ["missing", "duplicated", "out_of_order", "unmarked", "unknown"].map(|kind| report[kind].as_u64())
}

const CLEAN: [Option<u64>; 5] = [Some(0); 5];

/// A row that was published, as far as the table tells, `age` ago.
async fn row(scene: &Scene, table: &str, key: Uuid, age: &str) -> Result<Uuid> {
    let id = Uuid::new_v4();
    let insert = format!(
        "INSERT INTO {table} (id, aggregate_type, aggregate_id, event_type, payload, created_at, published_at) \
         VALUES ($1, $2, $3, 'Changed', '{{}}', (now() AT TIME ZONE 'UTC') - $4::text::interval, now())"
    );
    scene.client.execute(&insert, &[&id, &scene.aggregate, &key, &age]).await?;
    Ok(id)
}

fn producer(scene: &Scene, transactional_id: Option<&str>) -> Result<BaseProducer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", scene.kafka.brokers()).set("partitioner", "murmur2_random");
    if let Some(id) = transactional_id {
        config.set("transactional.id", id);
    }
    Ok(config.create()?)
}

fn send(producer: &BaseProducer, topic: &str, id: &str, key: Uuid, age: Duration) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let key = key.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "event_id", value: Some(id) });
    let record = BaseRecord::to(topic).key(&key).payload("{}").headers(headers);
    let record = record.timestamp(i64::try_from((now.saturating_sub(age)).as_millis())?);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(PATIENCE)?)
}

/// The record of a row.
fn publish(scene: &Scene, id: &str, key: Uuid, age: Duration) -> Result<()> {
    send(&producer(scene, None)?, &scene.topic, id, key, age)
}

/// A row and its record, both from just now.
async fn event(scene: &Scene, key: Uuid) -> Result<Uuid> {
    let id = row(scene, "order_outbox", key, "0s").await?;
    publish(scene, &id.to_string(), key, Duration::ZERO)?;
    Ok(id)
}

#[tokio::test]
async fn after_a_load_with_kills_everything_is_clean_also_when_it_is_sorted_on_disk() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let load = scene.load();
    for round in 0..8_u64 {
        tokio::time::sleep(Duration::from_millis(100 + round * 60)).await;
        daemon.kill9()?;
        daemon.start_again()?;
    }
    let loaded = load.stop().await?;
    wait_ready(&daemon).await;
    let rows = loaded.ids.len() as u64;
    ensure!(rows > 100, "{rows} rows prove little");
    // The last rows may still be on their way: that is not a difference.
    let (code, whole) = report(&scene, &["--wait", "60s"]).await?;
    assert_eq!((code, differences(&whole)), (0, CLEAN), "{whole:#}");
    assert_eq!((whole["rows"].as_u64(), whole["records"].as_u64()), (Some(rows), Some(rows)), "{whole:#}");
    // Some thirty entries at a time, so there are runs to merge.
    let (code, pieces) = report(&scene, &["--memory", "5KiB"]).await?;
    assert_eq!((code, differences(&pieces)), (0, CLEAN), "{pieces:#}");
    assert_eq!((pieces["rows"].as_u64(), pieces["records"].as_u64()), (Some(rows), Some(rows)), "{pieces:#}");
    // Nothing was taken, fenced or moved.
    scene.oracle().await?.assert_clean();
    assert!(!daemon.lines().iter().any(|line| line.contains("kafka-fenced")), "verify fenced the daemon");
    scene.wait_caught_up().await
}

#[tokio::test]
async fn under_load_it_is_clean_again_and_again() -> Result<()> {
    let scene = Scene::shared().await?;
    let _daemon = scene.streaming().await?;
    let load = scene.load();
    let mut before = 0;
    for _ in 0..4 {
        eventually(PATIENCE, || async {
            ensure!(load.committed() > before + 200, "{} rows", load.committed());
            Ok(())
        })
        .await;
        before = load.committed();
        let (code, report) = report(&scene, &["--wait", "60s"]).await?;
        assert_eq!((code, differences(&report)), (0, CLEAN), "{report:#}");
        assert!(report["rows"].as_u64().unwrap() >= before, "{report:#}");
        ensure!(load.committed() > before, "nothing was written meanwhile");
    }
    load.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_duplicate_a_missing_an_unknown_record_and_an_unmarked_row_are_found_by_name() -> Result<()> {
    let scene = Scene::shared().await?;
    let key = Uuid::new_v4();
    let clean = event(&scene, key).await?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (0, CLEAN), "{found:#}");

    let missing = row(&scene, "order_outbox", key, "0s").await?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (1, [Some(1), Some(0), Some(0), Some(0), Some(0)]), "{found:#}");
    let offender = &found["offenders"][0];
    assert_eq!(offender["id"], missing.to_string(), "{found:#}");
    assert_eq!(offender["table"], "public.order_outbox", "{found:#}");
    assert_eq!(offender["place"], scene.topic, "{found:#}");
    publish(&scene, &missing.to_string(), key, Duration::ZERO)?;

    publish(&scene, &clean.to_string(), key, Duration::ZERO)?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (1, [Some(0), Some(1), Some(0), Some(0), Some(0)]), "{found:#}");
    let offender = &found["offenders"][0];
    assert_eq!(offender["id"], clean.to_string(), "{found:#}");
    let place = |value: &Value| value.as_str().is_some_and(|place| place.starts_with(&format!("{}-", scene.topic)));
    assert!(place(&offender["place"]) && place(&offender["after"]), "{found:#}");

    let stranger = Uuid::new_v4().to_string();
    publish(&scene, &stranger, key, Duration::ZERO)?;
    // An id that the column's type cannot even hold, and a record without any.
    publish(&scene, "not a uuid", key, Duration::ZERO)?;
    let bare = producer(&scene, None)?;
    bare.send(BaseRecord::<(), str>::to(&scene.topic).payload("{}")).map_err(|(error, _)| error)?;
    bare.flush(PATIENCE)?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (1, [Some(0), Some(1), Some(0), Some(0), Some(3)]), "{found:#}");
    let ids: Vec<&Value> = found["offenders"].as_array().unwrap().iter().map(|offender| &offender["id"]).collect();
    assert!(ids.contains(&&Value::from(stranger)) && ids.contains(&&Value::Null), "{found:#}");

    scene.client.execute("UPDATE order_outbox SET published_at = NULL WHERE id = $1", &[&clean]).await?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (1, [Some(0), Some(1), Some(0), Some(1), Some(3)]), "{found:#}");
    let (_, text, _) = scene.command(&["verify", "--wait", "0s"]).await?;
    assert!(text.contains(&format!("unmarked: public.order_outbox {clean} at {}-", scene.topic)), "{text}");
    Ok(())
}

#[tokio::test]
async fn records_out_of_order_are_found_by_time_and_strictly_by_a_column() -> Result<()> {
    let scene = Scene::shared().await?;
    scene.client.batch_execute("ALTER TABLE order_outbox ADD COLUMN n bigint GENERATED BY DEFAULT AS IDENTITY").await?;
    let key = Uuid::new_v4();
    let mut ids = Vec::new();
    for age in ["120s", "62s", "60s"] {
        ids.push(row(&scene, "order_outbox", key, age).await?.to_string());
    }
    // The last two come the wrong way round, two seconds apart.
    for id in [&ids[0], &ids[2], &ids[1]] {
        publish(&scene, id, key, Duration::from_secs(60))?;
    }
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (0, CLEAN), "{found:#}");
    assert_eq!(found["inversions_within_tolerance"], 1, "{found:#}");
    let wrong = (1, [Some(0), Some(0), Some(1), Some(0), Some(0)]);
    for strict in [["--order-tolerance", "1s"], ["--order-by", "n"]] {
        let (code, found) = report(&scene, &strict).await?;
        assert_eq!((code, differences(&found)), wrong, "{found:#}");
        let offender = &found["offenders"][0];
        assert_eq!((&offender["kind"], offender["id"].as_str()), (&"out_of_order".into(), Some(ids[1].as_str())));
    }
    // The order between two keys does not matter.
    scene.client.execute("DELETE FROM order_outbox", &[]).await?;
    let (code, _, err) = scene.command(&["verify", "--order-by", "payload"]).await?;
    assert!(code == 2 && err.contains("config-invalid") && err.contains("jsonb"), "{code}: {err}");
    Ok(())
}

#[tokio::test]
async fn since_leaves_out_what_is_older_on_both_sides() -> Result<()> {
    let scene = Scene::shared().await?;
    let key = Uuid::new_v4();
    let hours = Duration::from_secs(2 * 3600);
    // One row was purged long ago, and the topic has let the record of another one go.
    publish(&scene, &Uuid::new_v4().to_string(), key, hours)?;
    row(&scene, "order_outbox", key, "2h").await?;
    event(&scene, key).await?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (1, [Some(1), Some(0), Some(0), Some(0), Some(1)]), "{found:#}");
    let (code, found) = report(&scene, &["--since", "1h"]).await?;
    assert_eq!((code, differences(&found)), (0, CLEAN), "{found:#}");
    assert_eq!((found["rows"].as_u64(), found["records"].as_u64()), (Some(1), Some(1)), "{found:#}");
    let (code, found) = report(&scene, &["--since", "2020-01-01T00:00:00Z", "--wait", "0s"]).await?;
    assert_eq!((code, found["rows"].as_u64()), (1, Some(2)), "{found:#}");

    scene.client.batch_execute("ALTER TABLE order_outbox RENAME created_at TO made_at").await?;
    let (code, _, err) = scene.command(&["verify", "--since", "1h"]).await?;
    assert!(code == 2 && err.contains("--since") && err.contains("created_at"), "{code}: {err}");
    Ok(())
}

#[tokio::test]
async fn several_tables_are_one_source_and_a_row_is_named_by_its_own() -> Result<()> {
    let scene = Scene::shared().await?.with("tables = [\"order_outbox\", \"user_outbox\"]");
    workload::create_outbox(&scene.client, "user_outbox").await?;
    let key = Uuid::new_v4();
    event(&scene, key).await?;
    let user = row(&scene, "user_outbox", key, "0s").await?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, found["rows"].as_u64(), found["missing"].as_u64()), (1, Some(2), Some(1)), "{found:#}");
    assert_eq!(found["offenders"][0]["table"], "public.user_outbox", "{found:#}");
    publish(&scene, &user.to_string(), key, Duration::ZERO)?;
    let (code, found) = report(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (0, CLEAN), "{found:#}");
    Ok(())
}

#[tokio::test]
async fn in_a_topic_of_two_sources_each_knows_the_other_s_rows_unless_it_is_audited_alone() -> Result<()> {
    let mut other = Scene::shared().await?;
    let mut scene = Scene::shared().await?;
    other.aggregate = scene.aggregate.clone();
    other.topic = scene.topic.clone();
    let (name, url) = (&other.source, other.postgres.url(&other.database));
    scene = scene.with_kafka(&format!("[[source]]\nname = \"{name}\"\nurl = \"{url}\"\ntables = [\"order_outbox\"]"));
    event(&scene, Uuid::new_v4()).await?;
    event(&other, Uuid::new_v4()).await?;
    let (code, both) = verify(&scene, &["--wait", "1s"]).await?;
    assert_eq!(code, 0, "{both:#}");
    for source in 0..2 {
        let report = &both["sources"][source];
        assert_eq!((report["rows"].as_u64(), report["records"].as_u64()), (Some(1), Some(1)), "{both:#}");
    }
    let (code, alone) = verify(&scene, &["--wait", "1s", "--source", &scene.source]).await?;
    assert_eq!((code, alone["sources"].as_array().unwrap().len()), (0, 1), "{alone:#}");
    let report = &alone["sources"][0];
    assert_eq!((report["records"].as_u64(), &report["unknown"]), (Some(1), &Value::Null), "{alone:#}");
    assert!(report["notes"].to_string().contains(&other.source), "{alone:#}");

    publish(&scene, &Uuid::new_v4().to_string(), Uuid::new_v4(), Duration::ZERO)?;
    let (code, both) = verify(&scene, &["--wait", "1s"]).await?;
    assert_eq!((code, both["sources"][0]["unknown"].as_u64()), (1, Some(1)), "{both:#}");
    Ok(())
}

#[tokio::test]
async fn dead_letters_are_counted_apart_and_not_missed() -> Result<()> {
    let mut scene = Scene::shared().await?.with("on_poison = \"dead-letter\"");
    let letters = format!("{}.dead-letter", scene.topic);
    scene.kafka.create_topic(&letters, 1, &[]).await?;
    let _daemon = scene.streaming().await?;
    scene.insert(3).await?;
    let poison = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at) \
                  VALUES ($1, gen_random_uuid(), 'Changed', '{}', 'infinity') RETURNING id";
    let id: Uuid = scene.client.query_one(poison, &[&scene.aggregate]).await?.get(0);
    scene.wait_marked("order_outbox").await;
    let (code, found) = report(&scene, &[]).await?;
    assert_eq!((code, differences(&found)), (0, CLEAN), "{found:#}");
    assert_eq!((&found["dead_lettered"], &found["rows"], &found["records"]), (&1.into(), &4.into(), &4.into()));
    let offender = &found["offenders"][0];
    assert_eq!((&offender["kind"], &offender["id"]), (&"dead_lettered".into(), &id.to_string().into()), "{found:#}");
    assert_eq!(offender["place"], format!("{letters}-0@0"), "{found:#}");
    Ok(())
}

#[tokio::test]
async fn where_rows_are_deleted_it_says_what_cannot_be_judged_and_finds_the_rest() -> Result<()> {
    let mut scene = Scene::shared().await?.with("mark = \"delete\"");
    let daemon = scene.streaming().await?;
    scene.insert(5).await?;
    scene.wait_records(5).await;
    let topic = ["--also-read", &scene.topic, "--wait", "60s"];
    let (code, found) = report(&scene, &topic).await?;
    assert_eq!((code, found["records"].as_u64(), found["rows"].as_u64()), (0, Some(5), Some(0)), "{found:#}");
    assert_eq!((&found["unknown"], &found["unmarked"]), (&Value::Null, &0.into()), "{found:#}");
    assert!(found["notes"][0].as_str().unwrap().contains("deleted"), "{found:#}");

    let (code, _, err) = scene.command(&["verify", "--also-read", "no.template.of.ours"]).await?;
    assert!(code == 2 && err.contains("no.template.of.ours"), "{code}: {err}");

    stop(&daemon).await?;
    // A record of which there are two, and a row that should be gone.
    let (twice, key) = (Uuid::new_v4().to_string(), Uuid::new_v4());
    publish(&scene, &twice, key, Duration::ZERO)?;
    publish(&scene, &twice, key, Duration::ZERO)?;
    event(&scene, key).await?;
    let (code, found) = report(&scene, &["--also-read", &scene.topic, "--wait", "1s"]).await?;
    assert_eq!((code, differences(&found)), (1, [Some(0), Some(1), Some(0), Some(1), None]), "{found:#}");
    Ok(())
}

#[tokio::test]
async fn an_open_transaction_of_somebody_else_is_named_and_holds_nothing_up() -> Result<()> {
    let scene = Scene::shared().await?;
    let key = Uuid::new_v4();
    event(&scene, key).await?;
    let foreign = producer(&scene, Some(&testbed::unique("foreign")))?;
    foreign.init_transactions(PATIENCE)?;
    foreign.begin_transaction()?;
    send(&foreign, &scene.topic, &Uuid::new_v4().to_string(), key, Duration::ZERO)?;
    event(&scene, key).await?;
    let started = Instant::now();
    let (code, found) = report(&scene, &["--wait", "2s"]).await?;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!((code, differences(&found)), (1, [Some(1), Some(0), Some(0), Some(0), Some(0)]), "{found:#}");
    let notes = found["notes"].to_string();
    assert!(notes.contains("another producer's transaction has been open since offset 1"), "{notes}");
    foreign.abort_transaction(PATIENCE)?;
    let (code, found) = report(&scene, &[]).await?;
    assert_eq!((code, differences(&found)), (0, CLEAN), "{found:#}");
    Ok(())
}

#[tokio::test]
async fn the_object_has_its_documented_keys_and_bad_arguments_end_with_2() -> Result<()> {
    let scene = Scene::shared().await?;
    event(&scene, Uuid::new_v4()).await?;
    row(&scene, "order_outbox", Uuid::new_v4(), "0s").await?;
    let (_, outcome) = verify(&scene, &["--wait", "0s"]).await?;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&outcome), "clean sources");
    let documented = include_str!("../../docs/operating/auditing.md");
    for (value, expected) in [
        (
            &outcome["sources"][0],
            "clean dead_lettered differing duplicated inversions_within_tolerance missing notes offenders out_of_order records rows source \
             unknown unmarked",
        ),
        (&outcome["sources"][0]["offenders"][0], "after id kind place table"),
    ] {
        assert_eq!(keys(value), expected);
        assert!(expected.split(' ').all(|key| documented.contains(&format!("`{key}`"))), "{expected}");
    }
    for wrong in [
        &["--source", "nobody"][..],
        &["--memory", "0"],
        &["--since", "yesterday"],
        &["--temp-dir", "/no/such/directory"],
    ] {
        let arguments: Vec<&str> = ["verify"].into_iter().chain(wrong.iter().copied()).collect();
        let (code, _, err) = scene.command(&arguments).await?;
        assert_eq!(code, 2, "{wrong:?}: {err}");
    }
    let nobody = format!("127.0.0.1:{}", testbed::ports::free()?);
    let (code, out, err) = scene.command(&["verify", "--brokers", &nobody]).await?;
    assert!(code == 1 && out.is_empty() && err.contains("kafka-unreachable"), "{code}: {out}{err}");
    Ok(())
}

#[tokio::test]
async fn what_records_hold_is_compared_where_that_is_asked_for() -> Result<()> {
    for envelope in ["event", "payload", "cloudevents", "cloudevents-structured", "debezium"] {
        let lines = format!("envelope = \"{envelope}\"\ncloudevents_source = \"/orders\"");
        let mut scene = Scene::shared().await?.with(&lines);
        let daemon = scene.streaming().await?;
        scene.insert(20).await?;
        scene.wait_marked("order_outbox").await;
        stop(&daemon).await?;

        let (code, clean) = report(&scene, &["--content"]).await?;
        assert_eq!((code, &clean["differing"], &clean["records"]), (0, &0.into(), &20.into()), "{envelope}: {clean:#}");

        // One payload and one key are not what they were.
        let change = "UPDATE order_outbox SET payload = '{\"seq\": 0}' WHERE id = (SELECT min(id::text)::uuid FROM order_outbox)";
        scene.client.batch_execute(change).await?;
        let change = "UPDATE order_outbox SET aggregate_id = gen_random_uuid() WHERE id = (SELECT max(id::text)::uuid FROM order_outbox)";
        scene.client.batch_execute(change).await?;
        let (code, found) = report(&scene, &["--content"]).await?;
        assert_eq!((code, &found["differing"]), (1, &2.into()), "{envelope}: {found:#}");
        let offender = &found["offenders"][0];
        assert_eq!((&offender["kind"], &offender["table"]), (&"differing".into(), &"public.order_outbox".into()));
        let notes = found["notes"].to_string();
        assert!(notes.contains("changed after its commit"), "{notes}");

        let (code, ids) = report(&scene, &[]).await?;
        assert_eq!((code, &ids["differing"]), (0, &Value::Null), "{envelope}: {ids:#}");
    }
    Ok(())
}
