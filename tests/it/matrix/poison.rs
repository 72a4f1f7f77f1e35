//! Rows that cannot become records, and what came before them: numbers 88 to 92, 112.

use anyhow::Result;
use testbed::{Kafka, reader};

use crate::scene::{QUICK, Scene, halts, halts_again, insert_one, stop, tail, wait_code};

/// A row whose topic Kafka does not allow.
const POISON: &str = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                      VALUES ('not a topic!', gen_random_uuid(), 'Odd', '{\"seq\": 1}')";

/// How many rows are marked.
async fn marked(scene: &Scene) -> Result<i64> {
    let query = "SELECT count(*) FROM order_outbox WHERE published_at IS NOT NULL";
    Ok(scene.client.query_one(query, &[]).await?.get(0))
}

/// Sets poison aside from now on, in a topic of its own.
async fn setting_aside(scene: Scene) -> Result<Scene> {
    let letters = format!("{}.letters", scene.aggregate);
    scene.kafka.create_topic(&letters, 1, &[]).await?;
    // Keys of `[[source]]` stand before its tables.
    let lines = format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{letters}\"\n{}", scene.source_lines);
    Ok(Scene { source_lines: lines, ..scene })
}

#[tokio::test]
async fn what_came_before_a_poisoned_row_is_published_and_marked_before_the_halt() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    stop(&daemon).await?;
    for _ in 0..200 {
        scene.insert(1).await?;
    }
    // A good row of the poisoned transaction waits with it.
    let with_poison = format!("BEGIN; {}; {POISON}; COMMIT", POISON.replace("not a topic!", &scene.aggregate));
    scene.client.batch_execute(&with_poison).await?;
    scene.insert(1).await?;
    daemon.start_again()?;
    let line = halts(&daemon, "row-invalid").await?;
    let query = "SELECT id::text FROM order_outbox WHERE aggregate_type = 'not a topic!'";
    let id: String = scene.client.query_one(query, &[]).await?.get(0);
    assert!(line.contains(&id) && line.contains("public.order_outbox"), "{line}");
    for _ in 0..2 {
        assert_eq!((scene.records().await?, marked(&scene).await?), (200, 200), "{}", tail(&daemon));
        halts_again(&daemon, "row-invalid").await?;
    }
    let scene = setting_aside(scene).await?;
    let _daemon = scene.streaming().await?;
    scene.wait_marked("order_outbox").await;
    assert_eq!(scene.records().await?, 202);
    Ok(())
}

#[tokio::test]
async fn the_parts_before_a_poisoned_row_of_a_large_transaction_stay_published() -> Result<()> {
    let scene = Scene::shared().await?.with("[source.limits]\nbatch_rows = 100");
    let daemon = scene.streaming().await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                  SELECT CASE n WHEN 550 THEN 'not a topic!' ELSE $1 END, gen_random_uuid(), 'Bulk', \
                         jsonb_build_object('seq', n) FROM generate_series(1, 1000) n";
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    halts(&daemon, "row-invalid").await?;
    for _ in 0..2 {
        assert_eq!((scene.records().await?, marked(&scene).await?), (500, 500), "{}", tail(&daemon));
        halts_again(&daemon, "row-invalid").await?;
    }
    let scene = setting_aside(scene).await?;
    let _daemon = scene.streaming().await?;
    scene.wait_marked("order_outbox").await;
    assert_eq!(scene.records().await?, 999);
    Ok(())
}

#[tokio::test]
async fn what_came_before_a_dropped_column_is_published_and_marked() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.streaming().await?;
    stop(&daemon).await?;
    for _ in 0..20 {
        scene.insert(1).await?;
    }
    let change =
        "ALTER TABLE order_outbox ADD COLUMN kind text NOT NULL DEFAULT 'OrderCreated', DROP COLUMN aggregate_id";
    scene.client.batch_execute(change).await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, event_type, payload) VALUES ($1, 'Odd', '{\"seq\": 1}')";
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    daemon.start_again()?;
    wait_code(&daemon, "column-invalid").await?;
    assert_eq!((scene.records().await?, marked(&scene).await?), (20, 20), "{}", tail(&daemon));
    Ok(())
}

#[tokio::test]
async fn what_came_before_a_poisoned_row_of_a_backfill_is_published_and_marked() -> Result<()> {
    let mut scene = Scene::shared().await?.with("backfill_order_by = \"created_at\"");
    for _ in 0..20 {
        scene.insert(1).await?;
    }
    scene.client.batch_execute(POISON).await?;
    let daemon = scene.daemon()?;
    halts(&daemon, "row-invalid").await?;
    for _ in 0..2 {
        assert_eq!((scene.records().await?, marked(&scene).await?), (20, 20), "{}", tail(&daemon));
        halts_again(&daemon, "row-invalid").await?;
    }
    let scene = setting_aside(scene).await?;
    let _daemon = scene.streaming().await?;
    scene.wait_marked("order_outbox").await;
    assert_eq!(scene.records().await?, 20);
    Ok(())
}

/// The wait for what came before is bounded, and ends in another attempt, not in the halt.
#[tokio::test]
async fn a_halt_at_a_poisoned_row_waits_until_kafka_is_back() -> Result<()> {
    let timeouts = format!("{QUICK}\nshutdown = \"2s\"");
    let mut scene = Scene::on_own_kafka(Kafka::builder(1).separate_controller().never_fenced()).await?.with(&timeouts);
    let daemon = scene.streaming().await?;
    scene.insert(1).await?;
    scene.wait_marked("order_outbox").await;
    scene.kafka.pause(0)?;
    insert_one(&scene, &scene.client).await?;
    scene.client.batch_execute(POISON).await?;
    wait_code(&daemon, "shutdown-timeout").await?;
    assert!(daemon.is_running()?, "{}", tail(&daemon));
    scene.kafka.resume(0)?;
    halts(&daemon, "row-invalid").await?;
    assert_eq!((scene.records().await?, marked(&scene).await?), (2, 2), "{}", tail(&daemon));
    Ok(())
}

/// Makes a topic whose name leaves no room for `<aggregate>_b.events`: Kafka's metrics do not tell a
/// point from an underscore. Gives the topic's name and the aggregate whose topic collides with it.
async fn collision(scene: &Scene) -> Result<(String, String)> {
    let topic = format!("{}.b.events", scene.aggregate);
    scene.kafka.create_topic(&topic, 1, &[]).await?;
    Ok((topic, format!("{}_b", scene.aggregate)))
}

/// Inserts one row of this aggregate, and gives its id.
async fn insert_of(scene: &Scene, aggregate: &str) -> Result<String> {
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                  VALUES ($1, gen_random_uuid(), 'Odd', '{\"seq\": 1}') RETURNING id::text";
    Ok(scene.client.query_one(insert, &[&aggregate]).await?.get(0))
}

#[tokio::test]
async fn a_topic_whose_name_the_brokers_refuse_halts_at_its_row() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let (topic, aggregate) = collision(&scene).await?;
    let daemon = scene.streaming().await?;
    scene.insert(1).await?;
    let id = insert_of(&scene, &aggregate).await?;
    scene.insert(1).await?;
    let line = halts(&daemon, "row-invalid").await?;
    assert!(line.contains(&id) && line.contains("public.order_outbox"), "{line}");
    assert!(line.contains(&format!("{aggregate}.events")) && line.contains(&topic), "{line}");
    assert_eq!((scene.records().await?, marked(&scene).await?), (1, 1), "{}", tail(&daemon));
    halts_again(&daemon, "row-invalid").await?;
    assert_eq!((scene.records().await?, marked(&scene).await?), (1, 1), "{}", tail(&daemon));
    Ok(())
}

/// One row comes by the backfill, the others by the stream.
#[tokio::test]
async fn rows_whose_topic_the_brokers_refuse_are_set_aside() -> Result<()> {
    let mut scene = setting_aside(Scene::shared().await?).await?;
    let (topic, aggregate) = collision(&scene).await?;
    insert_of(&scene, &aggregate).await?;
    let _daemon = scene.streaming().await?;
    for _ in 0..3 {
        insert_of(&scene, &aggregate).await?;
        scene.insert(1).await?;
    }
    scene.wait_marked("order_outbox").await;
    assert_eq!(scene.records().await?, 3);
    let letters = format!("{}.letters", scene.aggregate);
    let dead = reader::read_committed(&scene.kafka.brokers(), &[&letters]).await?;
    assert_eq!(dead.len(), 4);
    for letter in dead {
        assert_eq!(letter.header_str("outboxd_error_code"), Some("topic-invalid"));
        let error = letter.header_str("outboxd_error").unwrap_or_default();
        assert!(error.contains(&topic), "{error}");
        assert!(letter.value.is_some(), "the letter has lost its payload");
    }
    Ok(())
}

#[tokio::test]
async fn check_tells_of_a_topic_whose_name_the_brokers_refuse() -> Result<()> {
    let scene = Scene::shared().await?;
    let (topic, aggregate) = collision(&scene).await?;
    let scene = scene.with(&format!("topic = \"{aggregate}.events\""));
    let (code, text, _) = scene.command(&["check"]).await?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("row-invalid") && text.contains(&topic), "{text}");
    Ok(())
}

#[tokio::test]
async fn what_came_before_a_row_over_a_lowered_message_bytes_is_published_and_marked() -> Result<()> {
    let mut scene = Scene::shared().await?;
    scene.kafka.set_topic(&scene.topic, "max.message.bytes", "10000000").await?;
    let daemon = scene.streaming().await?;
    stop(&daemon).await?;
    scene.insert(3).await?;
    let large = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                 VALUES ($1, gen_random_uuid(), 'Large', jsonb_build_object('seq', 1, 'x', repeat('x', 3000000)))";
    scene.client.execute(large, &[&scene.aggregate]).await?;
    scene.insert(2).await?;
    let lowered = scene.with("[source.limits]\nmessage_bytes = \"1MiB\"");
    let daemon = lowered.daemon()?;
    let line = halts(&daemon, "message-too-large").await?;
    assert!(line.contains("1048576"), "{line}");
    assert_eq!((lowered.records().await?, marked(&lowered).await?), (3, 3), "{}", tail(&daemon));
    halts_again(&daemon, "message-too-large").await?;
    let raised = Scene { source_lines: String::new(), ..lowered };
    let _daemon = raised.streaming().await?;
    raised.assert_exactly(6).await
}
