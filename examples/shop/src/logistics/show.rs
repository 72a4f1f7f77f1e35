//! What clients read of a parcel.

use std::sync::Arc;

use axum::extract::{Path, State};
use tokio_postgres::{GenericClient, types::ToSql};

use super::Logistics;
use crate::{
    ids,
    web::{Failure, Reply},
};

type App = State<Arc<Logistics>>;

async fn find(client: &impl GenericClient, column: &str, value: &(dyn ToSql + Sync)) -> Result<Reply, Failure> {
    let query = format!(
        "SELECT (to_jsonb(s) - 'carrier_id' || jsonb_build_object('carrier', s.carrier_name,
             'events', coalesce((SELECT jsonb_agg(to_jsonb(e) - 'shipment_id' ORDER BY e.created_at)
                 FROM shipment_events e WHERE e.shipment_id = s.id), '[]'),
             'attempts', coalesce((SELECT jsonb_agg(to_jsonb(d) - 'shipment_id' ORDER BY d.attempt_number)
                 FROM delivery_attempts d WHERE d.shipment_id = s.id), '[]')))::text
         FROM shipments s WHERE s.{column} = $1"
    );
    let row = client.query_opt(&query, &[value]).await?;
    Ok(Reply::ok(row.ok_or(Failure::NotFound("shipment"))?.get::<_, String>(0)))
}

pub(super) async fn one(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::uuid(&**client, "shipment", &id).await?;
    find(&**client, "id", &id).await
}

pub(super) async fn by_order(State(app): App, Path(order): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let order = ids::uuid(&**client, "order", &order).await?;
    find(&**client, "order_id", &order).await
}

pub(super) async fn track(State(app): App, Path(number): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    find(&**client, "tracking_number", &number).await
}
