//! Marks that are HOT updates, on the table of `migrations/0001_outbox_table_hot.sql`.

use std::time::Duration;

use anyhow::{Result, ensure};
use outboxd::{
    Lsn,
    config::{Mark, Source},
    postgres::catalog::{
        mark_cost::{MarkCost, mark_cost},
        marks::{Id, MarkStatement},
        monitor::Monitor,
        server, tables,
    },
    setup::{Plan, facts},
};
use testbed::{Version, eventually, workload};
use tokio_postgres::Client;

use crate::{
    catalog::{SEED, given, table},
    scene::{PATIENCE, Scene},
};

const HOT: &str = include_str!("../../migrations/0001_outbox_table_hot.sql");

/// The seed's table without its partial index.
const BARE: &str = "CREATE TABLE order_outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_type varchar(100) NOT NULL,
    aggregate_id uuid NOT NULL, event_type varchar(100) NOT NULL, payload jsonb NOT NULL, created_at timestamp DEFAULT now(),
    published_at timestamp)";

/// As many ids as the daemon gives to one statement.
const BATCH: usize = 2_000;

const ROWS: i64 = 50_000;

/// Marks a backlog by the daemon's statement on one connection, and prints what it cost.
async fn mark_a_backlog(what: &str, client: &Client, source: &Source) -> MarkCost {
    workload::bulk(client, "order_outbox", "order", ROWS, 100).await.unwrap();
    client.batch_execute("ANALYZE order_outbox; CHECKPOINT").await.unwrap();
    let ids =
        client.query("SELECT id::text FROM order_outbox WHERE published_at IS NULL ORDER BY ctid", &[]).await.unwrap();
    let ids: Vec<Id<'_>> = ids.iter().map(|row| Id(row.get(0))).collect();
    let tables = tables::resolve_all(client, source).await.unwrap();
    let statements = MarkStatement::prepare_all(client, &tables, source).await.unwrap();
    let (began, worked) = (log_end(client).await, work(client).await);
    for batch in ids.chunks(BATCH) {
        let marked = statements[0].execute(client, batch).await.unwrap().rows;
        assert_eq!(marked, batch.len() as u64);
    }
    let worked = work(client).await.saturating_sub(worked).as_nanos() / ids.len() as u128;
    let log = log_end(client).await.bytes_since(began) / ids.len() as u64;
    let cost = cost_so_far(client).await;
    println!("{what}: {} % HOT, {log} bytes of log and {worked} ns of work for each", cost.hot_percent().unwrap());
    cost
}

async fn log_end(client: &Client) -> Lsn {
    server::current_lsn(client).await.unwrap()
}

/// Processor time of the session's process. It is zero where the kernel does not show it, or the server is elsewhere.
async fn work(client: &Client) -> Duration {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let spent = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(spent.split(' ').next().and_then(|spent| spent.parse().ok()).unwrap_or(0))
}

async fn cost_so_far(client: &Client) -> MarkCost {
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    mark_cost(client, &table(client, "order_outbox").await, "published_at").await.unwrap()
}

/// `cargo test --test it hot::the_fuller -- --nocapture` prints the table of `docs/operating/marks.md`.
#[tokio::test(flavor = "multi_thread")]
async fn the_fuller_the_pages_the_fewer_marks_of_a_backlog_are_hot() {
    let mut shares = Vec::new();
    for fillfactor in [100, 80, 70, 60, 50] {
        let (client, source) =
            given(Version::V15, &format!("{BARE} WITH (fillfactor = {fillfactor})"), &["order_outbox"]).await;
        let cost = mark_a_backlog(&format!("fillfactor {fillfactor}"), &client, &source).await;
        shares.push(cost.hot_percent().unwrap());
    }
    assert!(shares.is_sorted() && shares[0] < 10 && shares[3] < 90 && shares[4] >= 99, "{shares:?}");
    let (client, source) = given(Version::V15, SEED, &["order_outbox"]).await;
    let cost = mark_a_backlog("the partial index", &client, &source).await;
    assert_eq!((cost.hot, cost.entries), (0, 1));
    assert!(!cost.is_least());
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_on_the_hot_table_are_hot_on_every_major_and_waiting_rows_are_found_by_its_index() {
    for version in Version::ALL {
        let (client, source) = given(version, HOT, &["order_outbox"]).await;
        let facts = facts::read(&client, &source, "outboxd").await.unwrap();
        let steps = format!("{:?}", Plan::for_postgres(&facts, &source).unwrap().steps);
        assert!(!steps.contains("CREATE TABLE") && !steps.contains("CREATE INDEX"), "{steps}");
        let cost = mark_a_backlog(&format!("Postgres {}", version.major()), &client, &source).await;
        assert!(cost.is_least() && cost.hot_percent() >= Some(99), "{version:?}: {cost:?}");
        if version.major() < 16 {
            continue;
        }
        // VACUUM takes the marked rows out of the index, so that they are not read again.
        client.batch_execute("VACUUM ANALYZE order_outbox").await.unwrap();
        workload::bulk(&client, "order_outbox", "order", 10, 1).await.unwrap();
        let tables = tables::resolve_all(&client, &source).await.unwrap();
        let monitor = Monitor::new(&source.slot, &tables, &source.mapping.columns, Mark::Update);
        client.batch_execute("SET enable_seqscan = on").await.unwrap();
        assert_eq!(monitor.read(&client).await.unwrap().backlog.unwrap().rows, 10);
        client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'idx_order_outbox_published_at'";
        let scans: i64 = client.query_one(scans, &[]).await.unwrap().get(0);
        assert!(scans > 0, "{version:?}: the whole table was read");
    }
}

#[tokio::test]
async fn the_daemon_marks_by_hot_updates_and_check_says_so() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let (status, output, _) = scene.command(&["check"]).await?;
    assert!(
        status == 0
            && output.contains("order_outbox_created_at_idx covers published_at; each mark writes 1 index entries"),
        "{output}"
    );
    assert!(output.contains("hint: where marks limit the rate, see docs/operating/marks.md"), "{output}");
    // docs/operating/marks.md has these statements for a table that exists.
    scene.insert(100).await?;
    scene.client.batch_execute("DROP INDEX CONCURRENTLY order_outbox_created_at_idx").await?;
    scene.client.batch_execute("ALTER TABLE order_outbox SET (fillfactor = 50)").await?;
    scene.client.batch_execute("VACUUM FULL order_outbox").await?;
    let _daemon = scene.streaming().await?;
    for _ in 0..50 {
        scene.insert(40).await?;
    }
    scene.oracle().await?.assert_clean();
    // The daemon's sessions report their statistics with a delay.
    eventually(PATIENCE, || async {
        let cost = cost_so_far(&scene.client).await;
        ensure!(cost.updates == 2_100, "{cost:?}");
        ensure!(cost.hot_percent() >= Some(99), "{cost:?}");
        Ok(())
    })
    .await;
    let (status, output, _) = scene.command(&["check"]).await?;
    assert!(status == 0 && output.contains("marks are HOT updates: fillfactor 50"), "{output}");
    assert!(output.contains("updates so far were HOT"), "{output}");
    Ok(())
}
