//! The ceiling of `mark = "update"`: the daemon's own UPDATE, alone, on one connection, in a copy of the table.

use crate::drain::checkpoint;
use crate::setting::{Setting, TABLE, say};
use anyhow::{Result, ensure};
use std::time::Instant;
use tokio_postgres::Client;

/// As many ids as the daemon gives to one statement.
const BATCH: usize = 2_000;

/// Rows a second.
pub(crate) async fn alone(setting: &Setting, client: &Client, database: &str) -> Result<f64> {
    say("the marking UPDATE alone, on a copy of the table");
    let copy = format!("{TABLE}_copy");
    client
        .batch_execute(&format!(
            "CREATE TABLE {copy} (LIKE {TABLE} INCLUDING ALL);
             INSERT INTO {copy} SELECT id, aggregate_type, aggregate_id, event_type, payload, created_at FROM {TABLE}
             ORDER BY created_at;
             ANALYZE {copy};"
        ))
        .await?;
    let ids: Vec<String> = client
        .query(&format!("SELECT id::text FROM {copy} ORDER BY ctid"), &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let marker = setting.postgres.client(database).await?;
    // The daemon's session and statement: src/postgres/catalog/marks.rs.
    marker
        .batch_execute(
            "SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off",
        )
        .await?;
    let update = marker
        .prepare(&format!(
            "UPDATE {copy} SET published_at = (now() AT TIME ZONE 'UTC')
             WHERE id = ANY ($1::text[]::uuid[]) AND num_nulls(published_at) = 1"
        ))
        .await?;
    checkpoint(client).await?;
    let started = Instant::now();
    let mut marked = 0;
    for batch in ids.chunks(BATCH) {
        marked += marker.execute(&update, &[&batch]).await?;
    }
    let took = started.elapsed();
    ensure!(marked == ids.len() as u64, "{marked} of {} rows were marked", ids.len());
    client.batch_execute(&format!("DROP TABLE {copy}")).await?;
    Ok(ids.len() as f64 / took.as_secs_f64())
}
