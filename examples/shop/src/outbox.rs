//! A row for outboxd, in the transaction of the change that it tells of.

use serde_json::Value;
use tokio_postgres::GenericClient;
use uuid::Uuid;

/// What has happened to what.
#[derive(Debug)]
pub struct Event<'a> {
    /// `user`, `address`, `order`, `shipment`
    pub aggregate_type: &'a str,
    /// The key of the record. What has one key stays in its order.
    pub aggregate_id: Uuid,
    pub event_type: &'a str,
    pub payload: &'a Value,
}

/// Inserts the row.
pub async fn publish(
    transaction: &impl GenericClient,
    table: &str,
    event: &Event<'_>,
) -> Result<(), tokio_postgres::Error> {
    let insert =
        format!("INSERT INTO {table} (aggregate_type, aggregate_id, event_type, payload) VALUES ($1, $2, $3, $4)");
    transaction
        .execute(&insert, &[&event.aggregate_type, &event.aggregate_id, &event.event_type, &event.payload])
        .await?;
    Ok(())
}
