//! What clients read. An order's details are composed: the order from here, the parcel from
//! Logistics, and the answer without it when Logistics is down or slow.

use std::{sync::Arc, time::Duration};

use axum::extract::{Path, State};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Orders;
use crate::{
    ids,
    web::{Failure, Reply},
};

type App = State<Arc<Orders>>;

/// How long Logistics may take before the answer goes out without it.
const SHIPMENT_WITHIN: Duration = Duration::from_millis(300);

/// The order with its customer, who is a copy, and its parcel, if Logistics answers in time.
/// `shipment_status` is `ok`, `none` or `unavailable`.
pub(super) async fn details(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let order = ids::uuid(&**client, "order", &id).await?;
    let row = client
        .query_opt(
            "SELECT to_jsonb(o)::text, (SELECT outcome FROM saga WHERE order_id = o.id AND kind = 'create')
             FROM orders o WHERE o.id = $1",
            &[&order],
        )
        .await?
        .ok_or(Failure::NotFound("order"))?;
    let (own, outcome): (String, Option<String>) = (row.get(0), row.get(1));
    drop(client);
    let (shipment, status) = shipment(&app, order).await;
    // The order's own text goes in as it came from Postgres, so that a price keeps its digits.
    let rest = json!({ "saga": outcome, "shipment": shipment, "shipment_status": status }).to_string();
    let (open, close) = (own.strip_suffix('}').unwrap_or(&own), rest.strip_prefix('{').unwrap_or(&rest));
    Ok(Reply::ok(format!("{open},{close}")))
}

async fn shipment(app: &Orders, order: Uuid) -> (Value, &'static str) {
    let url = format!("http://{}/shipments/by-order/{order}", app.facade);
    match app.http.get(&url, SHIPMENT_WITHIN).await {
        Ok(answer) if answer.status == 200 => (answer.json(), "ok"),
        Ok(answer) if answer.status == 404 => (Value::Null, "none"),
        Ok(answer) => {
            tracing::warn!("logistics answers with {}", answer.status);
            (Value::Null, "unavailable")
        }
        Err(error) => {
            tracing::warn!("logistics: {error:#}");
            (Value::Null, "unavailable")
        }
    }
}

/// The orders of a user, the newest first.
pub(super) async fn of_user(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let user = match ids::uuid(&**client, "user", &id).await {
        Ok(user) => user,
        // A serial number of a user who has never ordered is not known here.
        Err(Failure::NotFound(_)) => return Ok(Reply::ok("[]")),
        Err(other) => return Err(other),
    };
    let row = client
        .query_one(
            "SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'order_number', order_number, 'status', status,
                 'total', total) ORDER BY created_at DESC), '[]')::text
             FROM orders WHERE user_id = $1",
            &[&user],
        )
        .await?;
    Ok(Reply::ok(row.get::<_, String>(0)))
}

/// Every change of an order's status.
pub(super) async fn history(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let order = ids::uuid(&**client, "order", &id).await?;
    let row = client
        .query_one(
            "SELECT coalesce(jsonb_agg(to_jsonb(h) - 'id' - 'order_id' ORDER BY h.created_at), '[]')::text
             FROM order_status_history h WHERE order_id = $1",
            &[&order],
        )
        .await?;
    Ok(Reply::ok(row.get::<_, String>(0)))
}
