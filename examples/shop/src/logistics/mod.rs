//! The Logistics service: assign, dispatch, track, attempts, deliver, return. Shipments are made
//! from OrderConfirmed.

mod apply;
mod make;
mod show;
mod steps;

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    routing::{get, post},
};
use deadpool_postgres::Pool;
use serde_json::Value;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use crate::{
    db, outbox,
    places::{Database, Places},
    web,
};

/// What the handlers share.
pub(crate) struct Logistics {
    pool: Pool,
}

/// Serves until the process ends.
pub async fn run(places: &Places) -> Result<()> {
    let pool = db::pool(places, Database::Logistics)?;
    db::await_tables(&pool).await;
    apply::spawn(places, &pool);
    make::spawn(places, &pool);
    let router = Router::new()
        .route("/shipments/{id}", get(show::one))
        .route("/shipments/by-order/{order}", get(show::by_order))
        .route("/track/{number}", get(show::track))
        .route("/shipments/{id}/assign", post(steps::assign))
        .route("/shipments/{id}/dispatch", post(steps::dispatch))
        .route("/shipments/{id}/attempts", post(steps::attempt))
        .route("/shipments/{id}/deliver", post(steps::deliver))
        .route("/shipments/{id}/return", post(steps::give_back))
        .with_state(Arc::new(Logistics { pool }));
    web::serve(&places.logistics, router).await
}

/// Puts an event of a shipment into the outbox.
async fn tell(
    transaction: &impl GenericClient,
    shipment: Uuid,
    event_type: &str,
    more: &Value,
) -> Result<(), tokio_postgres::Error> {
    let row = transaction
        .query_one(
            "SELECT jsonb_build_object('shipment_id', id, 'order_id', order_id, 'order_number', order_number,
                 'tracking_number', tracking_number, 'carrier', carrier_name, 'status', status) || $2
             FROM shipments WHERE id = $1",
            &[&shipment, more],
        )
        .await?;
    let payload: Value = row.get(0);
    let event = outbox::Event { aggregate_type: "shipment", aggregate_id: shipment, event_type, payload: &payload };
    outbox::publish(transaction, "logistics_outbox", &event).await
}
