//! `--look`: what the daemon's looks at Postgres cost, however many marked rows the table holds.
//!
//! The worst case comes first: all rows were marked a moment ago and nothing has been vacuumed, so
//! the partial index of unmarked rows is full of dead entries. The clock is the kernel's, of the
//! server process that serves the monitor's session.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::{
    report::Report,
    setting::{Setting, Source, TABLE, say, streaming},
    table::Table,
};
use crate::host::Processor;

/// Marked rows of the large table. The small one has a thousandth of them.
pub(crate) const ROWS: i64 = 10_000_000;

/// Rows that one statement makes and marks.
const CHUNK: i64 = 250_000;

/// Rows inserted each second while the looks are measured.
const RATE: u64 = 50;

pub(crate) async fn measure(setting: &Setting, rows: i64, watched: Duration, report: &mut Report) -> Result<()> {
    let mut table = Table::new(&["marked rows", "ms of the server per second", "% of a core"]);
    for rows in [(rows / 1_000).max(1), rows] {
        let source = Source::new(&format!("look{rows}"), &format!("look{rows}"), "update");
        let client = setting.database(&source.database).await?;
        client.batch_execute(&format!("ALTER TABLE {TABLE} SET (autovacuum_enabled = off)")).await?;
        say(&format!("marking {rows} rows"));
        mark(&client, rows).await?;
        setting.prepare(&client, &source).await?;
        for (state, statement) in [("just marked", None), ("vacuumed", Some("VACUUM ANALYZE"))] {
            if let Some(statement) = statement {
                client.batch_execute(&format!("{statement} {TABLE}")).await?;
            }
            let share = watch(setting, &client, &source, watched).await?;
            report.figure(&format!("look_{rows}_{}_share", state.replace(' ', "_")), share);
            let cells = [rows.to_string(), format!("{:.2}", share * 1e3), format!("{:.2}", share * 1e2)];
            table.row(state, &cells);
        }
        setting.remove(&source).await?;
    }
    report.section("Looks at Postgres", table.text());
    Ok(())
}

/// Rows as the daemon leaves them: each was inserted unmarked, and marked later.
async fn mark(client: &Client, rows: i64) -> Result<()> {
    client.batch_execute("SET synchronous_commit = off").await?;
    let insert = format!(
        "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, event_type, payload, created_at)
         SELECT gen_random_uuid(), 'order', gen_random_uuid(), 'OrderCreated', '{{}}', now()
         FROM generate_series($1::bigint, $2::bigint)"
    );
    let mut first = 1;
    while first <= rows {
        let last = rows.min(first + CHUNK - 1);
        client.execute(&insert, &[&first, &last]).await?;
        client.execute(&format!("UPDATE {TABLE} SET published_at = now() WHERE published_at IS NULL"), &[]).await?;
        first = last + 1;
    }
    client.batch_execute("RESET synchronous_commit").await?;
    Ok(())
}

/// The share of a core that the monitor's server process takes from the daemon's start on, while some
/// rows flow.
async fn watch(setting: &Setting, client: &Client, source: &Source, watched: Duration) -> Result<f64> {
    let began = Instant::now();
    let daemon = setting.daemon(std::slice::from_ref(source))?;
    streaming(&daemon).await?;
    let query =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%monitor'";
    let pid: i32 = client.query_one(query, &[]).await.context("the monitor's session")?.get(0);
    // The session's first look, which counts for the first time, is in its time.
    let processor = Processor::of(u32::try_from(pid)?)?;
    let insert = format!(
        "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, event_type, payload, created_at)
         VALUES (gen_random_uuid(), 'order', gen_random_uuid(), 'OrderCreated', '{{}}', now())"
    );
    let mut tick = interval(Duration::from_millis(1_000 / RATE));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while began.elapsed() < watched {
        tick.tick().await;
        client.execute(&insert, &[]).await?;
    }
    let share = processor.time()?.as_secs_f64() / began.elapsed().as_secs_f64();
    daemon.term()?;
    daemon.wait_exit(Duration::from_secs(60)).await?;
    Ok(share)
}
