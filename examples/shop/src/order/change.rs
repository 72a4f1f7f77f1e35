//! The status of an order: who may change it to what, the history, and the event.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Transaction};
use uuid::Uuid;

use super::Orders;
use crate::{
    db, ids,
    web::{Failure, Reply},
};

type App = State<Arc<Orders>>;

/// A line of the history.
pub(super) struct Change<'a> {
    pub(super) from: Option<&'a str>,
    pub(super) to: &'a str,
    /// `system`, `user`, `logistics`
    pub(super) by: &'a str,
    pub(super) reason: Option<&'a str>,
}

/// Adds the line.
pub(super) async fn record(
    transaction: &impl GenericClient,
    order: Uuid,
    change: &Change<'_>,
) -> Result<(), tokio_postgres::Error> {
    let insert = "INSERT INTO order_status_history (order_id, from_status, to_status, changed_by, reason)
                  VALUES ($1, $2, $3, $4, $5)";
    transaction.execute(insert, &[&order, &change.from, &change.to, &change.by, &change.reason]).await?;
    Ok(())
}

/// An order as it was read. A change names the version, so two changes cannot both be made from
/// one reading.
pub(super) struct Seen {
    pub(super) status: String,
    version: i32,
}

pub(super) async fn look(client: &impl GenericClient, order: Uuid) -> Result<Seen, Failure> {
    let row = client.query_opt("SELECT status, version FROM orders WHERE id = $1", &[&order]).await?;
    let row = row.ok_or(Failure::NotFound("order"))?;
    Ok(Seen { status: row.get(0), version: row.get(1) })
}

/// Moves the order on from what was seen, with its history. Somebody else's change in between is a
/// conflict, which is worth another attempt.
pub(super) async fn advance(
    transaction: &Transaction<'_>,
    order: Uuid,
    seen: &Seen,
    (to, by, reason): (&str, &str, Option<&str>),
) -> Result<(), Failure> {
    let update = "UPDATE orders SET status = $3, version = version + 1, updated_at = CURRENT_TIMESTAMP
                  WHERE id = $1 AND version = $2";
    if transaction.execute(update, &[&order, &seen.version, &to]).await? == 0 {
        return Err(Failure::Unavailable("the order has just changed".to_owned()));
    }
    record(transaction, order, &Change { from: Some(&seen.status), to, by, reason }).await?;
    Ok(())
}

/// An order of a user, and the news that the user is gone, come one after the other.
pub(super) async fn lock_user(transaction: &Transaction<'_>, user: Uuid) -> Result<(), tokio_postgres::Error> {
    let text = user.to_string();
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&text]).await?;
    Ok(())
}

/// Puts an event into the outbox: what the guide's OrderCreated has, and what a parcel needs.
pub(super) async fn tell(
    transaction: &impl GenericClient,
    order: Uuid,
    event_type: &str,
) -> Result<(), tokio_postgres::Error> {
    transaction
        .execute(
            "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload)
             SELECT 'order', o.id, $2, jsonb_build_object('order_id', o.id, 'order_number', o.order_number,
                 'user_id', o.user_id, 'total', o.total, 'shipping_address', o.shipping_address,
                 'recipient_name', o.customer_name, 'recipient_phone', o.customer_phone,
                 'items', (SELECT sum(i.quantity) FROM order_items i WHERE i.order_id = o.id))
             FROM orders o WHERE o.id = $1",
            &[&order, &event_type],
        )
        .await?;
    Ok(())
}

/// CREATED → CONFIRMED, with OrderConfirmed. The saga does this; so may a person, for an order that
/// came paid from the monolith.
pub(super) async fn confirm_in(transaction: &Transaction<'_>, order: Uuid, by: &str) -> Result<(), Failure> {
    let seen = look(transaction, order).await?;
    match seen.status.as_str() {
        "CREATED" => {}
        "CONFIRMED" => return Ok(()),
        other => return Err(Failure::Conflict(format!("the order is {other}"))),
    }
    advance(transaction, order, &seen, ("CONFIRMED", by, None)).await?;
    Ok(tell(transaction, order, "OrderConfirmed").await?)
}

pub(super) async fn confirm(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "orders").await?;
    let order = ids::uuid(&transaction, "order", &id).await?;
    let row = transaction.query_opt("SELECT payment_status FROM orders WHERE id = $1", &[&order]).await?;
    let paid: Option<String> = row.ok_or(Failure::NotFound("order"))?.get(0);
    if paid.as_deref() != Some("PAID") {
        return Err(Failure::Conflict("the order is not paid".to_owned()));
    }
    confirm_in(&transaction, order, "user").await?;
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": order, "status": "CONFIRMED" })))
}

/// Completes an order whose parcel has arrived.
pub(super) async fn complete(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "orders").await?;
    let order = ids::uuid(&transaction, "order", &id).await?;
    let seen = look(&transaction, order).await?;
    match seen.status.as_str() {
        "SHIPPED" => {}
        "COMPLETED" => return Ok(Reply::ok(json!({ "id": order, "status": "COMPLETED" }))),
        other => return Err(Failure::Conflict(format!("the order is {other}"))),
    }
    complete_in(&transaction, order, &seen, "user").await?;
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": order, "status": "COMPLETED" })))
}

pub(super) async fn complete_in(
    transaction: &Transaction<'_>,
    order: Uuid,
    seen: &Seen,
    by: &str,
) -> Result<(), Failure> {
    advance(transaction, order, seen, ("COMPLETED", by, None)).await?;
    Ok(tell(transaction, order, "OrderCompleted").await?)
}

/// Cancels an order. Before it is confirmed, its saga turns round. Afterwards the parcel decides:
/// Logistics is asked to give it back, and ShipmentReturned does the rest.
pub(super) async fn cancel(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "orders").await?;
    let order = ids::uuid(&transaction, "order", &id).await?;
    let turned = turn_round(&transaction, order, "the customer has cancelled").await?;
    let status = look(&transaction, order).await?.status;
    transaction.commit().await?;
    drop(client);
    if turned {
        app.wake.notify_one();
        return Ok(Reply(202, json!({ "id": order, "status": "CANCELLING" }).to_string()));
    }
    match status.as_str() {
        "CANCELLED" | "RETURNED" => Ok(Reply::ok(json!({ "id": order, "status": status }))),
        "CONFIRMED" => recall(&app, order).await,
        _ => Err(Failure::Conflict(format!("the order is {status}"))),
    }
}

/// Makes the saga of an order that is not confirmed go back. Returns whether it does now.
pub(super) async fn turn_round(
    transaction: &Transaction<'_>,
    order: Uuid,
    reason: &str,
) -> Result<bool, tokio_postgres::Error> {
    let turn = "UPDATE saga SET state = 'REFUND', reason = $2, lease_until = NULL, updated_at = now()
                WHERE order_id = $1 AND kind = 'create' AND outcome IS NULL
                  AND state IN ('RESERVE', 'PAY', 'CONFIRM', 'REFUND', 'RELEASE', 'CANCEL')";
    Ok(transaction.execute(turn, &[&order, &reason]).await? == 1)
}

async fn recall(app: &Orders, order: Uuid) -> Result<Reply, Failure> {
    let within = std::time::Duration::from_secs(3);
    let base = format!("http://{}/shipments", app.facade);
    let unavailable = |error: anyhow::Error| Failure::Unavailable(format!("logistics: {error:#}"));
    let found = app.http.get(&format!("{base}/by-order/{order}"), within).await.map_err(unavailable)?;
    if found.status != 200 {
        return Err(Failure::Unavailable("the parcel is not known yet".to_owned()));
    }
    let shipment = found.json();
    // One that came back already is a cancellation that is asked for again.
    if !matches!(shipment["status"].as_str(), Some("PENDING" | "ASSIGNED" | "RETURNED")) {
        return Err(Failure::Conflict("the parcel has left".to_owned()));
    }
    let id = shipment["id"].as_str().map_or_else(|| shipment["id"].to_string(), str::to_owned);
    let why: Value = json!({ "reason": "the customer has cancelled", "before_dispatch": true });
    let url = format!("{base}/{id}/return");
    let answer = app.http.json(axum::http::Method::POST, &url, &why, within).await.map_err(unavailable)?;
    match answer.status {
        200 => Ok(Reply(202, json!({ "id": order, "status": "CANCELLING" }).to_string())),
        409 => Err(Failure::Conflict("the parcel has left".to_owned())),
        status => Err(Failure::Unavailable(format!("logistics answers with {status}"))),
    }
}
