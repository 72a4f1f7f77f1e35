//! What applications do with their rows and transactions: numbers 46 to 50, 55 to 58, 63, 65, 69 to 71, 77.

use anyhow::Result;
use testbed::{Expect, Kafka, Postgres, Version, reader, workload};
use uuid::Uuid;

use crate::scene::{Host, Scene, insert_one, stop, streams_again};

#[tokio::test]
async fn a_long_transaction_between_others_survives_restarts() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let long = scene.postgres.client(&scene.database).await?;
    long.batch_execute("BEGIN").await?;
    insert_one(&scene, &long).await?;
    scene.insert(3).await?;
    scene.wait_records(3).await;
    daemon.kill9()?;
    insert_one(&scene, &long).await?;
    scene.insert(3).await?;
    daemon.start_again()?;
    scene.wait_records(6).await;
    stop(&daemon).await?;
    insert_one(&scene, &long).await?;
    long.batch_execute("COMMIT").await?;
    daemon.start_again()?;
    scene.assert_exactly(9).await?;
    scene.wait_caught_up().await
}

#[tokio::test]
async fn a_bulk_insert_whose_publication_is_killed_at_some_row() -> Result<()> {
    let scene = Scene::shared().await?.with("[source.limits]\nbatch_rows = 500");
    let daemon = scene.streaming().await?;
    workload::bulk(&scene.client, "order_outbox", &scene.aggregate, 30_000, 300).await?;
    for kill in 1..=3 {
        scene.wait_records(kill * 5_000).await;
        daemon.kill9()?;
        daemon.start_again()?;
    }
    scene.assert_exactly(30_000).await
}

/// The transaction has 200 MB, and the daemon may take 128 MiB. What holds here holds for any size.
#[tokio::test]
async fn a_transaction_larger_than_the_memory_allowed_stays_within_it() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                  SELECT $1, md5((n % 100)::text)::uuid, 'Bulk', \
                         jsonb_build_object('seq', n, 'text', repeat('0123456789', 400)) \
                  FROM generate_series(1, 50000) n";
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    scene.assert_exactly(50_000).await?;
    let peak = daemon.peak_resident()? >> 20;
    assert!(peak <= 128, "{peak} MiB were resident");
    Ok(())
}

#[tokio::test]
async fn prepared_transactions_are_published_when_they_are_committed() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let (kept, dropped) = (testbed::unique("kept"), testbed::unique("dropped"));
    for name in [&kept, &dropped] {
        let session = scene.postgres.client(&scene.database).await?;
        session.batch_execute("BEGIN").await?;
        insert_one(&scene, &session).await?;
        session.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await?;
    }
    scene.insert(2).await?;
    scene.wait_records(2).await;
    daemon.kill9()?;
    streams_again(&daemon).await?;
    scene.client.batch_execute(&format!("COMMIT PREPARED '{kept}'")).await?;
    scene.client.batch_execute(&format!("ROLLBACK PREPARED '{dropped}'")).await?;
    scene.insert(1).await?;
    scene.assert_exactly(4).await?;
    scene.wait_caught_up().await
}

#[tokio::test]
async fn updates_deletes_and_truncates_of_the_application_publish_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let _daemon = scene.streaming().await?;
    let mut ids = scene.insert(5).await?;
    scene.oracle().await?.assert_clean();
    scene.client.batch_execute("UPDATE order_outbox SET event_type = 'Changed', payload = '{\"seq\": 0}'").await?;
    scene.client.execute("DELETE FROM order_outbox WHERE id = $1", &[&ids[0]]).await?;
    ids.extend(scene.insert(2).await?);
    scene.wait_marked("order_outbox").await;
    scene.client.batch_execute("TRUNCATE order_outbox").await?;
    ids.extend(scene.insert(2).await?);
    scene.wait_marked("order_outbox").await;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    scene.wait_caught_up().await
}

/// Puts a partitioned table in the place of the plain one.
async fn partition(scene: &Scene, key: &str, partitions: &str) -> Result<()> {
    let publication = scene.slot();
    let columns = "id uuid NOT NULL DEFAULT gen_random_uuid(), aggregate_type varchar(100) NOT NULL, \
                   aggregate_id uuid NOT NULL, event_type varchar(100) NOT NULL, payload jsonb NOT NULL, \
                   created_at timestamp DEFAULT now(), published_at timestamp";
    scene
        .client
        .batch_execute(&format!(
            "DROP TABLE order_outbox; CREATE TABLE order_outbox ({columns}) PARTITION BY {key}; {partitions}; \
             ALTER PUBLICATION {publication} ADD TABLE order_outbox"
        ))
        .await?;
    Ok(())
}

#[tokio::test]
async fn rows_of_a_partitioned_table_come_once_and_so_do_those_of_a_new_partition() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let halves = "CREATE TABLE p0 PARTITION OF order_outbox (PRIMARY KEY (id)) FOR VALUES WITH (MODULUS 4, REMAINDER 0); \
                  CREATE TABLE p1 PARTITION OF order_outbox (PRIMARY KEY (id)) FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    partition(&scene, "HASH (id)", halves).await?;
    scene.client.batch_execute("CREATE TABLE p2 (LIKE order_outbox INCLUDING ALL)").await?;
    scene
        .client
        .batch_execute("ALTER TABLE order_outbox ATTACH PARTITION p2 FOR VALUES WITH (MODULUS 4, REMAINDER 2)")
        .await?;
    // Transactions of one row: a backfill cannot know the order of rows that one statement put into several partitions.
    for _ in 0..25 {
        scene.insert(1).await?;
    }
    let daemon = scene.streaming().await?;
    for _ in 0..5 {
        scene.insert(5).await?;
    }
    daemon.kill9()?;
    daemon.start_again()?;
    scene.assert_exactly(50).await
}

/// The server sends the move of a row to another partition as DELETE and INSERT.
#[tokio::test]
async fn a_published_row_that_an_update_moves_to_another_partition_is_not_published_again() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let two = "CREATE TABLE p0 PARTITION OF order_outbox FOR VALUES IN ('OrderCreated'); \
               CREATE TABLE p1 PARTITION OF order_outbox DEFAULT; CREATE UNIQUE INDEX ON p0 (id); \
               CREATE UNIQUE INDEX ON p1 (id)";
    partition(&scene, "LIST (event_type)", two).await?;
    let _daemon = scene.published(5).await?;
    scene.client.batch_execute("UPDATE order_outbox SET event_type = 'Moved'").await?;
    scene.insert(5).await?;
    scene.wait_marked("order_outbox").await;
    scene.wait_caught_up().await?;
    scene.assert_exactly(10).await
}

#[tokio::test]
async fn a_mark_that_moves_its_row_to_another_partition_publishes_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let two = "CREATE TABLE p0 PARTITION OF order_outbox FOR VALUES IN (NULL); \
               CREATE TABLE p1 PARTITION OF order_outbox DEFAULT; CREATE UNIQUE INDEX ON p0 (id); \
               CREATE UNIQUE INDEX ON p1 (id)";
    partition(&scene, "LIST (published_at)", two).await?;
    let _daemon = scene.streaming().await?;
    for _ in 0..5 {
        scene.insert(4).await?;
    }
    scene.wait_marked("order_outbox").await;
    scene.wait_caught_up().await?;
    scene.assert_exactly(20).await
}

#[tokio::test]
async fn a_payload_of_fifty_megabytes_arrives_whole() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let large = format!("{}large", scene.aggregate);
    scene.kafka.create_topic(&format!("{large}.events"), 1, &[("max.message.bytes", "80000000")]).await?;
    let _daemon = scene.streaming().await?;
    scene.insert(1).await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) SELECT $1, \
                  gen_random_uuid(), 'Large', jsonb_build_object('seq', 1, 'text', repeat(md5(random()::text), 1638400))";
    scene.client.execute(insert, &[&large]).await?;
    scene.insert(1).await?;
    scene.wait_marked("order_outbox").await;
    let records = reader::read_committed(&scene.kafka.brokers(), &[&format!("{large}.events"), &scene.topic]).await?;
    let size = records.iter().filter_map(|record| record.value.as_ref()).map(Vec::len).max();
    assert!(size > Some(52_000_000), "the largest record has {size:?} bytes");
    testbed::oracle::audit_records(&scene.client, Expect::Tables(&["order_outbox"]), &records).await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn databases_in_other_encodings_give_utf8_records() -> Result<()> {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let postgres = Postgres::shared(Version::V15).await?;
        let database = testbed::unique("encoded");
        let options = format!("ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        postgres.create_database_with(&database, &options).await?;
        let scene = Scene::within(Host::Shared(postgres), Host::Shared(Kafka::shared().await?), database).await?;
        scene.client.batch_execute("GRANT ALL ON order_outbox TO outboxd").await?;
        // One row for the backfill, one for the stream.
        let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                      VALUES ($1, gen_random_uuid(), 'Crème', '{\"seq\": 1, \"text\": \"naïve café\"}')";
        scene.client.execute(insert, &[&scene.aggregate]).await?;
        let _daemon = scene.streaming().await?;
        scene.client.execute(insert, &[&scene.aggregate]).await?;
        scene.oracle().await?.assert_clean();
        let records = reader::read_committed(&scene.kafka.brokers(), &[&scene.topic]).await?;
        assert_eq!(records.len(), 2);
        for record in records {
            let value = String::from_utf8(record.value.clone().unwrap_or_default())?;
            assert!(value.contains("naïve café"), "{encoding}: {value}");
            assert_eq!(record.header_str("event_type"), Some("Crème"), "{encoding}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_is_deleted_before_its_mark_is_published_and_let_go() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    daemon.pause()?;
    let mut ids = scene.insert(3).await?;
    scene.client.batch_execute("DELETE FROM order_outbox").await?;
    ids.extend(scene.insert(2).await?);
    daemon.resume()?;
    scene.wait_marked("order_outbox").await;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    scene.wait_caught_up().await
}

#[tokio::test]
async fn logical_messages_in_and_outside_of_transactions_are_passed_over() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.timeouts]\nidle_advance = \"200ms\"\nstatus = \"200ms\"");
    let daemon = scene.streaming().await?;
    let emit = "SELECT pg_logical_emit_message(false, 'outboxd', 'x'), pg_logical_emit_message(true, '', 'y')";
    for round in 0..10 {
        scene.client.batch_execute(emit).await?;
        scene.insert(2).await?;
        if round == 5 {
            daemon.kill9()?;
            daemon.start_again()?;
        }
    }
    scene.client.batch_execute(emit).await?;
    scene.oracle().await?.assert_clean();
    scene.wait_caught_up().await
}

#[tokio::test]
async fn a_null_payload_and_an_empty_one_and_a_null_key_are_published() -> Result<()> {
    let scene = Scene::shared().await?;
    scene
        .client
        .batch_execute("ALTER TABLE order_outbox ALTER payload DROP NOT NULL, ALTER aggregate_id DROP NOT NULL")
        .await?;
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) VALUES \
                  ($1, gen_random_uuid(), 'Null', NULL), ($1, gen_random_uuid(), 'JsonNull', 'null'), \
                  ($1, gen_random_uuid(), 'Empty', '{}'), ($1, NULL, 'NoKey', '{\"seq\": 1}')";
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    let _daemon = scene.streaming().await?;
    scene.client.execute(insert, &[&scene.aggregate]).await?;
    scene.assert_exactly(8).await?;
    let records = reader::read_committed(&scene.kafka.brokers(), &[&scene.topic]).await?;
    assert_eq!(records.iter().filter(|record| record.key.is_none()).count(), 2);
    Ok(())
}

/// Without a unique index, which `check` asks for, an id may come twice: two rows, two records, both marked.
#[tokio::test]
async fn two_rows_with_one_id_are_two_records() -> Result<()> {
    let mut scene = Scene::shared().await?;
    scene.client.batch_execute("ALTER TABLE order_outbox DROP CONSTRAINT order_outbox_pkey").await?;
    let daemon = scene.streaming().await?;
    let id = Uuid::new_v4();
    for _ in 0..2 {
        let insert = "INSERT INTO order_outbox (id, aggregate_type, aggregate_id, event_type, payload) \
                      VALUES ($1, $2, gen_random_uuid(), 'Twice', '{}')";
        scene.client.execute(insert, &[&id, &scene.aggregate]).await?;
    }
    scene.insert(1).await?;
    scene.wait_marked("order_outbox").await;
    daemon.kill9()?;
    streams_again(&daemon).await?;
    scene.insert(1).await?;
    scene.wait_marked("order_outbox").await;
    assert_eq!(scene.records().await?, 4);
    Ok(())
}
