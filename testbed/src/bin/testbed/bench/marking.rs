//! Measures the ceiling of `mark = "update"`: the daemon's own UPDATE, alone, in a copy of the
//! table.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    drain::checkpoint,
    setting::{Setting, TABLE, say},
};

/// The number of ids that the daemon gives to one statement.
const BATCH: usize = 2_000;

/// Connections that share the ids.
pub(crate) const CONNECTIONS: [usize; 3] = [1, 2, 4];

/// Rows a second with this many connections.
pub(crate) async fn alone(setting: &Setting, client: &Client, database: &str, connections: usize) -> Result<f64> {
    say(&format!("the marking UPDATE alone, {connections} connections, on a copy of the table"));
    let copy = format!("{TABLE}_copy");
    client
        .batch_execute(&format!(
            "CREATE TABLE {copy} (LIKE {TABLE} INCLUDING ALL);
             INSERT INTO {copy} SELECT id, aggregate_type, aggregate_id, event_type, payload, created_at FROM {TABLE}
             ORDER BY created_at;
             ANALYZE {copy};"
        ))
        .await?;
    let ids: Vec<Uuid> = client
        .query(&format!("SELECT id FROM {copy} ORDER BY ctid"), &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let batches: Arc<[Vec<Uuid>]> = ids.chunks(BATCH).map(<[Uuid]>::to_vec).collect();
    let mut sessions = Vec::new();
    for _ in 0..connections {
        sessions.push(Session::open(setting, database, &copy).await?);
    }
    checkpoint(client).await?;

    let started = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut marking = JoinSet::new();
    for session in sessions {
        marking.spawn(session.mark(batches.clone(), next.clone()));
    }
    let mut marked = 0;
    while let Some(session) = marking.join_next().await {
        marked += session??;
    }
    let took = started.elapsed();
    ensure!(marked == ids.len() as u64, "{marked} of {} rows were marked", ids.len());
    client.batch_execute(&format!("DROP TABLE {copy}")).await?;
    Ok(ids.len() as f64 / took.as_secs_f64())
}

/// A session and a statement like the daemon's in src/postgres/catalog/marks.rs.
struct Session {
    client: Client,
    update: tokio_postgres::Statement,
}

impl Session {
    async fn open(setting: &Setting, database: &str, table: &str) -> Result<Self> {
        let client = setting.postgres.client(database).await?;
        client
            .batch_execute(
                "SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off",
            )
            .await?;
        let update = client
            .prepare(&format!(
                "UPDATE {table} SET published_at = (now() AT TIME ZONE 'UTC')
                 WHERE id = ANY ($1::uuid[]) AND num_nulls(published_at) = 1"
            ))
            .await?;
        Ok(Self { client, update })
    }

    /// Marks batches that no other session has taken, one after the other. Returns the number of
    /// marked rows.
    async fn mark(self, batches: Arc<[Vec<Uuid>]>, next: Arc<AtomicUsize>) -> Result<u64> {
        let mut marked = 0;
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            marked += self.client.execute(&self.update, &[batch]).await?;
        }
        Ok(marked)
    }
}
