//! A split transaction that is resumed under another configuration: number 76.

use anyhow::{Context, Result};
use testbed::{Audit, Daemon, Expect, reader, workload};

use crate::scene::{Scene, halts, streams_again, wait_code};

/// A transaction of 600 rows. Each fifth is in a table that is published and does not belong to the source, the others
/// are in the two tables of the source. Row 401 goes to a topic that does not exist yet, and six rows before it cannot
/// become records.
async fn split(scene: &Scene) -> Result<()> {
    let late = late_aggregate(scene);
    let (aggregate, poison) = (&scene.aggregate, "not a topic!");
    let insert = |table: &str, which: &str| {
        format!(
            "IF {which} THEN INSERT INTO {table} (aggregate_type, aggregate_id, event_type, payload) \
             VALUES (kind, md5((n % 7)::text)::uuid, 'Bulk', jsonb_build_object('seq', n)); END IF;"
        )
    };
    let body = format!(
        "DO $$ DECLARE kind text; BEGIN FOR n IN 1..600 LOOP \
         kind := CASE WHEN n = 401 THEN '{late}' WHEN n % 50 = 7 AND n < 300 THEN '{poison}' ELSE '{aggregate}' END; \
         {} {} {} END LOOP; END $$",
        insert("ledger", "n % 5 = 0"),
        insert("order_outbox", "n % 5 <> 0 AND n % 2 = 0"),
        insert("refund_outbox", "n % 5 <> 0 AND n % 2 = 1"),
    );
    Ok(scene.client.batch_execute(&body).await?)
}

fn late_aggregate(scene: &Scene) -> String {
    format!("{}late", scene.aggregate)
}

fn letters(scene: &Scene) -> String {
    format!("{}.letters", scene.aggregate)
}

async fn three_tables() -> Result<Scene> {
    let scene = Scene::shared().await?;
    for table in ["refund_outbox", "ledger"] {
        workload::create_outbox(&scene.client, table).await?;
    }
    scene.alter_publication("ADD TABLE refund_outbox, ledger").await?;
    scene.kafka.create_topic(&letters(&scene), 1, &[]).await?;
    Ok(scene)
}

fn lines(scene: &Scene, tables: &str, on_poison: &str) -> String {
    format!(
        "tables = [{tables}]\non_poison = \"{on_poison}\"\ndead_letter_topic = \"{}\"\n\
         [source.limits]\nbatch_rows = 50\n[source.timeouts]\nbackoff_max = \"1s\"\n",
        letters(scene)
    )
}

/// A daemon that was killed at row 401 and has published what came before it.
async fn killed_within(scene: &Scene) -> Result<Daemon> {
    let daemon = scene.streaming().await?;
    split(scene).await?;
    wait_code(&daemon, "topic-missing").await?;
    daemon.kill9()?;
    let positions = reader::read_committed(&scene.kafka.brokers(), &[&scene.position_topic]).await?;
    let last = positions.last().and_then(|record| record.value.as_deref()).context("no position")?;
    let last: serde_json::Value = serde_json::from_slice(last)?;
    let rows = last["split"]["rows"].as_u64().with_context(|| format!("the position is not within: {last}"))?;
    assert!((300..401).contains(&rows), "{last}");
    Ok(daemon)
}

/// Holds the rows of the tables against the three topics: the usual one, the late one and the dead letters.
async fn all_once(scene: &Scene, tables: &[&str], records: usize) -> Result<Audit> {
    for table in tables {
        scene.wait_marked(table).await;
    }
    let topics = [scene.topic.clone(), format!("{}.events", late_aggregate(scene)), letters(scene)];
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let (brokers, expect) = (scene.kafka.brokers(), Expect::Tables(tables));
    let audit = testbed::oracle::audit(&scene.client, expect, &brokers, &topics).await?;
    assert_eq!(audit.records, records, "{audit}");
    let dead = reader::count_committed(&brokers, &[&letters(scene)]).await?;
    assert_eq!(dead, 6);
    Ok(audit)
}

#[tokio::test]
async fn a_split_transaction_is_resumed_at_its_row_under_another_order_of_tables_and_another_poison_policy()
-> Result<()> {
    let mut scene = three_tables().await?;
    scene.source_lines = lines(&scene, "\"order_outbox\", \"refund_outbox\"", "dead-letter");
    drop(killed_within(&scene).await?);
    // The rows that were set aside come again, and are not judged again.
    scene.source_lines = lines(&scene, "\"refund_outbox\", \"order_outbox\"", "stop");
    scene.kafka.create_topic(&format!("{}.events", late_aggregate(&scene)), 1, &[]).await?;
    let _daemon = scene.streaming().await?;
    all_once(&scene, &["order_outbox", "refund_outbox"], 480).await?.assert_clean();
    Ok(())
}

/// Before a table joins, the old slot publishes what is left of the transaction.
#[tokio::test]
async fn a_table_joins_a_source_that_was_killed_within_a_transaction_of_that_table() -> Result<()> {
    let mut scene = three_tables().await?;
    scene.source_lines = lines(&scene, "\"order_outbox\", \"refund_outbox\"", "dead-letter");
    drop(killed_within(&scene).await?);
    scene.kafka.create_topic(&format!("{}.events", late_aggregate(&scene)), 1, &[]).await?;

    // With the table in `tables` alone, the source halts: its rows were passed over so far.
    scene.source_lines = lines(&scene, "\"order_outbox\", \"refund_outbox\", \"ledger\"", "dead-letter");
    let daemon = scene.daemon()?;
    halts(&daemon, "publication-changed").await?;

    let (code, said, log) = scene.command(&["setup", "--add-table", "ledger"]).await?;
    assert_eq!(code, 0, "{said}{log}");
    streams_again(&daemon).await?;
    let audit = all_once(&scene, &["order_outbox", "refund_outbox", "ledger"], 600).await?;
    audit.whatever_the_order().assert_clean();
    Ok(())
}
