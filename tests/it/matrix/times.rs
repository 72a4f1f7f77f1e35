//! Times that the brokers refuse, and dead letters that lose nothing: numbers 107 to 109.

use std::time::SystemTime;

use anyhow::Result;
use testbed::reader::{self, Record};

use crate::scene::{QUICK, Scene, halts, halts_again, tail, wait_true};

const HOUR_MS: i64 = 3_600_000;

/// Inserts rows of one transaction each, whose `created_at` is this far from now.
async fn insert_at(scene: &Scene, offset: &str, rows: usize) -> Result<()> {
    let insert = format!(
        "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at) \
         VALUES ($1, gen_random_uuid(), '{offset}', '{{\"seq\": 1}}', (now() AT TIME ZONE 'UTC') + interval '{offset}')"
    );
    for _ in 0..rows {
        scene.client.execute(&insert, &[&scene.aggregate]).await?;
    }
    Ok(())
}

/// The time of a header, in milliseconds since 1970.
fn event_time(record: &Record) -> Option<i64> {
    let time = humantime::parse_rfc3339(record.header_str("outboxd_event_time")?).ok()?;
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?)
}

async fn published(scene: &Scene) -> Result<Vec<Record>> {
    reader::read_committed(&scene.kafka.brokers(), &[&scene.topic]).await
}

#[tokio::test]
async fn a_clock_that_is_ahead_is_no_fault_of_its_rows() -> Result<()> {
    let scene = Scene::shared().await?.with("mark = \"delete\"");
    insert_at(&scene, "9 hours", 5).await?;
    let daemon = scene.streaming().await?;
    insert_at(&scene, "9 hours", 10).await?;
    insert_at(&scene, "70 years", 1).await?;
    insert_at(&scene, "-9 hours", 4).await?;
    wait_true(&scene.client, "SELECT count(*) = 0 FROM order_outbox").await;
    let (records, now) = (published(&scene).await?, now()?);
    assert_eq!(records.len(), 20, "{}", tail(&daemon));
    for record in &records {
        let (at, kind) = (record.timestamp.unwrap_or_default(), record.header_str("event_type").unwrap_or_default());
        let (shown, expected) = match kind {
            "-9 hours" => (Some(at), -9 * HOUR_MS),
            "9 hours" => (event_time(record), 9 * HOUR_MS),
            _ => continue,
        };
        let shown = shown.unwrap_or_default();
        assert!((shown - now - expected).abs() < HOUR_MS / 2, "{kind}: {shown} at {now}");
        assert!(kind == "-9 hours" || (at - now).abs() < HOUR_MS / 2, "{kind}: {at} at {now}");
        assert_eq!(record.header("outboxd_event_time").is_some(), kind == "9 hours");
    }
    Ok(())
}

/// The topic takes nothing that is older than an hour. The rows come by the backfill and by the stream.
#[tokio::test]
async fn rows_older_than_their_topic_takes_are_published_with_another_time() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let aggregate = format!("{}.young", scene.aggregate);
    scene.topic = format!("{aggregate}.events");
    scene.aggregate = aggregate;
    scene.kafka.create_topic(&scene.topic, 3, &[("message.timestamp.before.max.ms", "3600000")]).await?;
    for offset in ["-90 days", "-3 hours", "-2 hours", "-10 minutes"] {
        insert_at(&scene, offset, 10).await?;
    }
    let (status, output, _) = scene.command(&["check"]).await?;
    assert!(status == 0 && output.contains("refuses times more than 1h old"), "{output}");
    let daemon = scene.streaming().await?;
    for offset in ["-30 days", "-70 minutes", "-10 minutes"] {
        insert_at(&scene, offset, 10).await?;
    }
    scene.wait_marked("order_outbox").await;
    let (records, now) = (published(&scene).await?, now()?);
    assert_eq!(records.len(), 70, "{}", tail(&daemon));
    for record in &records {
        let at = record.timestamp.unwrap_or_default();
        assert!(now - at < HOUR_MS, "{at} at {now}");
        let kind = record.header_str("event_type").unwrap_or_default();
        if kind == "-90 days" {
            assert!(event_time(record).is_some_and(|time| now - time > 89 * 24 * HOUR_MS), "{record:?}");
        }
        if kind == "-10 minutes" {
            assert_eq!((event_time(record), (now - at) / HOUR_MS), (None, 0), "{record:?}");
            assert!(now - at > 9 * 60_000, "the record has lost its own time: {record:?}");
        }
    }
    Ok(())
}

/// A source whose topic takes records of up to 10,000 bytes, and whose dead letters may have `letters` bytes.
async fn small_topic(letters: &str) -> Result<(Scene, String)> {
    let mut scene = Scene::shared().await?;
    let aggregate = format!("{}.small", scene.aggregate);
    scene.topic = format!("{aggregate}.events");
    scene.aggregate = aggregate;
    scene.kafka.create_topic(&scene.topic, 1, &[("max.message.bytes", "10000")]).await?;
    let topic = format!("{}.letters", scene.aggregate);
    scene.kafka.create_topic(&topic, 1, &[("max.message.bytes", letters)]).await?;
    let lines = format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{topic}\"\nmark = \"delete\"\n{QUICK}");
    Ok((scene.with(&lines), topic))
}

/// Inserts a row that Kafka cannot compress below this size.
async fn insert_large(scene: &Scene, bytes: usize) -> Result<()> {
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at) \
                  SELECT $1, gen_random_uuid(), 'Large', \
                         jsonb_build_object('seq', 1, 'x', string_agg(md5(random()::text), '')), now() + '9 hours' \
                  FROM generate_series(1, $2::int)";
    scene.client.execute(insert, &[&scene.aggregate, &i32::try_from(bytes / 32)?]).await?;
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_keeps_its_payload_and_has_the_time_of_sending() -> Result<()> {
    let (mut scene, letters) = small_topic("1000000").await?;
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    insert_large(&scene, 40_000).await?;
    scene.insert(3).await?;
    wait_true(&scene.client, "SELECT count(*) = 0 FROM order_outbox").await;
    assert_eq!(published(&scene).await?.len(), 6, "{}", tail(&daemon));
    let (dead, now) = (reader::read_committed(&scene.kafka.brokers(), &[&letters]).await?, now()?);
    let [letter] = &dead[..] else { panic!("{} dead letters", dead.len()) };
    assert!(letter.value.as_ref().is_some_and(|value| value.len() > 20_000), "the letter has lost its payload");
    assert!((letter.timestamp.unwrap_or_default() - now).abs() < HOUR_MS / 2, "{letter:?}");
    assert_eq!(letter.header_str("outboxd_error_code"), Some("too-large"));
    assert!(event_time(letter).is_some_and(|time| time - now > 8 * HOUR_MS), "{letter:?}");
    Ok(())
}

#[tokio::test]
async fn a_row_is_not_deleted_while_its_content_is_nowhere_else() -> Result<()> {
    let (mut scene, letters) = small_topic("10000").await?;
    let daemon = scene.streaming().await?;
    scene.insert(3).await?;
    insert_large(&scene, 40_000).await?;
    let line = halts(&daemon, "dead-letter-refused").await?;
    assert!(line.contains(&letters) && line.contains("public.order_outbox"), "{line}");
    halts_again(&daemon, "dead-letter-refused").await?;
    let left: i64 = scene.client.query_one("SELECT count(*) FROM order_outbox", &[]).await?.get(0);
    assert_eq!((left, published(&scene).await?.len()), (1, 3));
    assert_eq!(reader::count_committed(&scene.kafka.brokers(), &[&letters]).await?, 0);
    scene.kafka.set_topic(&letters, "max.message.bytes", "1000000").await?;
    daemon.start_again()?;
    wait_true(&scene.client, "SELECT count(*) = 0 FROM order_outbox").await;
    let dead = reader::read_committed(&scene.kafka.brokers(), &[&letters]).await?;
    assert!(dead.len() == 1 && dead[0].value.is_some(), "{dead:?}");
    Ok(())
}

#[tokio::test]
async fn creation_times_in_local_time_or_ahead_of_the_clock_are_warned_of() -> Result<()> {
    let scene = Scene::shared().await?;
    let (code, text, _) = scene.command(&["check"]).await?;
    assert!(code == 0 && !text.contains("TimeZone") && !text.contains("ahead of"), "{text}");
    let zone = format!("ALTER DATABASE {} SET TimeZone = 'Europe/London'", scene.database);
    scene.client.batch_execute(&zone).await?;
    let (code, text, _) = scene.command(&["check"]).await?;
    assert!(code == 0 && text.contains("TimeZone Europe/London"), "{text}");
    let ahead = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at) \
                 VALUES ($1, gen_random_uuid(), 'Odd', '{}', (now() AT TIME ZONE 'UTC') + interval '9 hours')";
    scene.client.execute(ahead, &[&scene.aggregate]).await?;
    let (code, text, _) = scene.command(&["check"]).await?;
    assert!(code == 0 && text.contains("ahead of the server's clock"), "{text}");
    Ok(())
}
