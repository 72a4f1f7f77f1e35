//! Outbox tables shaped like the seed's, and writers that fill them.
//!
//! Every payload is `{"seq": n, "tx": "t", "row": i, "rows": k}`. `seq` counts the committed rows
//! of one aggregate in commit order. The transaction `tx` has `k` rows, and this is number `i` of
//! them. A key has one writer at a time, since nobody outside can see the commit order between
//! writers.

mod load;

pub use load::{Load, LoadBuilder, Loaded};

use anyhow::Result;
use serde_json::json;
use tokio_postgres::{Client, GenericClient};
use uuid::Uuid;

use crate::artifacts::Progress;

/// Makes a table like the seed's `order_outbox`, column for column, with its partial index.
pub async fn create_outbox(client: &Client, table: &str) -> Result<()> {
    client
        .batch_execute(&format!(
            "CREATE TABLE {table} (
                id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
                aggregate_type  VARCHAR(100) NOT NULL,
                aggregate_id    UUID NOT NULL,
                event_type      VARCHAR(100) NOT NULL,
                payload         JSONB NOT NULL,
                created_at      TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
                published_at    TIMESTAMP NULL
            );
            CREATE INDEX ON {table} (created_at) WHERE published_at IS NULL;"
        ))
        .await?;
    create_witness(client).await
}

/// Makes the table that tells [`Load`] how a commit ended whose answer was lost. [`create_outbox`]
/// makes it, too.
async fn create_witness(client: &Client) -> Result<()> {
    Ok(client.batch_execute("CREATE TABLE IF NOT EXISTS testbed_witness (tx UUID PRIMARY KEY)").await?)
}

/// Inserts `rows` rows of one aggregate in one transaction. Their `seq` goes on from what the table
/// has. Returns their ids in order.
pub async fn insert(
    client: &mut Client,
    table: &str,
    aggregate_type: &str,
    aggregate_id: Uuid,
    rows: u32,
) -> Result<Vec<Uuid>> {
    let transaction = client.transaction().await?;
    let first = last_seq(&transaction, table, aggregate_id).await? + 1;
    let tx = Transaction { id: Uuid::new_v4(), rows };
    let batch: Vec<Row> = (0..rows)
        .map(|row| Row { id: Uuid::new_v4(), aggregate_id, seq: first + i64::from(row), row: row + 1 })
        .collect();
    insert_rows(&transaction, table, aggregate_type, tx, &batch).await?;
    transaction.commit().await?;
    Ok(batch.into_iter().map(|row| row.id).collect())
}

/// Inserts `rows` rows in one `INSERT … SELECT generate_series`, over `keys` aggregates that no
/// other writer uses.
pub async fn bulk(client: &Client, table: &str, aggregate_type: &str, rows: i64, keys: i64) -> Result<u64> {
    let _progress = Progress::start(&format!("inserting {rows} rows into {table}"));
    let (tx, space) = (Uuid::new_v4().to_string(), fastrand::u32(..).to_string());
    let inserted = client
        .execute(
            &format!(
                "INSERT INTO {table} (aggregate_type, aggregate_id, event_type, payload)
                 SELECT $1::text, md5($5::text || ':' || n % $4)::uuid, 'OrderCreated',
                        jsonb_build_object('seq', n / $4 + 1, 'tx', $3::text, 'row', n + 1, 'rows', $2::bigint,
                            'order_number', 'ORD-' || n, 'total', n % 1000 + 0.99, 'currency', 'EUR')
                 FROM generate_series(0::bigint, $2::bigint - 1) n"
            ),
            &[&aggregate_type, &rows, &tx, &keys, &space],
        )
        .await?;
    Ok(inserted)
}

pub(crate) struct Row {
    id: Uuid,
    aggregate_id: Uuid,
    seq: i64,
    row: u32,
}

/// What every row says about its transaction.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    id: Uuid,
    rows: u32,
}

async fn insert_rows(
    client: &impl GenericClient,
    table: &str,
    aggregate_type: &str,
    tx: Transaction,
    batch: &[Row],
) -> Result<()> {
    let ids: Vec<Uuid> = batch.iter().map(|row| row.id).collect();
    let aggregates: Vec<Uuid> = batch.iter().map(|row| row.aggregate_id).collect();
    let payloads: Vec<serde_json::Value> = batch
        .iter()
        .map(|row| json!({"seq": row.seq, "tx": tx.id.to_string(), "row": row.row, "rows": tx.rows, "total": 12.5}))
        .collect();
    client
        .execute(
            &format!(
                "INSERT INTO {table} (id, aggregate_type, aggregate_id, event_type, payload)
                 SELECT id, $1::text, aggregate_id, 'OrderCreated', payload
                 FROM unnest($2::uuid[], $3::uuid[], $4::jsonb[]) WITH ORDINALITY AS r (id, aggregate_id, payload, n)
                 ORDER BY n"
            ),
            &[&aggregate_type, &ids, &aggregates, &payloads],
        )
        .await?;
    Ok(())
}

async fn last_seq(client: &impl GenericClient, table: &str, aggregate_id: Uuid) -> Result<i64> {
    let row = client
        .query_one(
            &format!("SELECT coalesce(max((payload->>'seq')::bigint), 0) FROM {table} WHERE aggregate_id = $1"),
            &[&aggregate_id],
        )
        .await?;
    Ok(row.get(0))
}
