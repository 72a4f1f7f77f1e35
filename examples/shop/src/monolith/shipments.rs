//! Assign, dispatch, track, attempts, deliver, return.
//!
//! While orders are written here, a step of a shipment changes its order in the same transaction.
//! Once they are written by the Order service, the step becomes an event instead.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Transaction};
use uuid::Uuid;

use super::{Monolith, orders};
use crate::{
    api::{Attempt, Reason},
    catalogue, db, ids,
    outbox::{self, Event},
    web::{Failure, Reply},
};

type App = State<Arc<Monolith>>;

/// Makes the shipment of an order, unless it has one. It says nothing to anybody.
pub(super) async fn create(transaction: &Transaction<'_>, order: i32) -> Result<(), Failure> {
    let row = transaction
        .query_one(
            "SELECT o.order_number, a.address_line1, a.city, a.state, a.pincode
             FROM orders o JOIN addresses a ON a.id = o.shipping_address_id WHERE o.id = $1",
            &[&order],
        )
        .await?;
    let place = Place { line1: row.get(1), city: row.get(2), state: row.get(3), pincode: row.get(4) };
    insert(transaction, order, row.get(0), &place).await?;
    Ok(())
}

/// Where a parcel goes.
pub(super) struct Place {
    pub(super) line1: String,
    pub(super) city: String,
    pub(super) state: String,
    pub(super) pincode: String,
}

/// Inserts a shipment, unless the order has one. Returns its id and whether a carrier takes it.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    order: i32,
    number: &str,
    place: &Place,
) -> Result<Option<(i32, bool)>, Failure> {
    // The row of the order stands for the unique constraint that the table lacks.
    transaction.query("SELECT FROM orders WHERE id = $1 FOR UPDATE", &[&order]).await?;
    if transaction.query_opt("SELECT FROM shipments WHERE order_id = $1", &[&order]).await?.is_some() {
        return Ok(None);
    }
    let carrier = catalogue::carrier_for(&place.pincode);
    let (name, status) = carrier.map_or(("none", "RETURNED"), |carrier| (carrier.name, "PENDING"));
    let row = transaction
        .query_one(
            "INSERT INTO shipments (order_id, tracking_number, carrier, status, shipping_address_line1, shipping_city,
                 shipping_state, shipping_pincode, estimated_delivery, weight, dimensions)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, CURRENT_DATE + 3, 1.50, '30x20x10') RETURNING id",
            &[
                &order,
                &ids::tracking_number(number),
                &name,
                &status,
                &place.line1,
                &place.city,
                &place.state,
                &place.pincode,
            ],
        )
        .await?;
    Ok(Some((row.get(0), carrier.is_some())))
}

/// Puts an event of a shipment into the outbox.
pub(super) async fn tell(
    transaction: &impl GenericClient,
    shipment: i32,
    event_type: &str,
    more: &Value,
) -> Result<(), Failure> {
    let row = transaction
        .query_one(
            "SELECT uuid_of('shipment', s.id), jsonb_build_object('shipment_id', uuid_of('shipment', s.id),
                 'order_id', uuid_of('order', s.order_id), 'order_number', o.order_number,
                 'tracking_number', s.tracking_number, 'carrier', s.carrier, 'status', s.status) || $2
             FROM shipments s JOIN orders o ON o.id = s.order_id WHERE s.id = $1",
            &[&shipment, more],
        )
        .await?;
    let (aggregate_id, payload): (Uuid, Value) = (row.get(0), row.get(1));
    let event = Event { aggregate_type: "shipment", aggregate_id, event_type, payload: &payload };
    outbox::publish(transaction, "shipment_outbox", &event).await?;
    Ok(())
}

const SHOWN: &str =
    "SELECT jsonb_build_object('id', s.id, 'order_id', s.order_id, 'tracking_number', s.tracking_number,
        'carrier', s.carrier, 'status', s.status, 'estimated_delivery', s.estimated_delivery, 'attempts', coalesce(
            (SELECT jsonb_agg(jsonb_build_object('attempt_number', d.attempt_number, 'status', d.status)
                ORDER BY d.attempt_number)
             FROM delivery_attempts d WHERE d.shipment_id = s.id), '[]'))::text
    FROM shipments s";

async fn one(client: &impl GenericClient, condition: &str, id: i32) -> Result<Reply, Failure> {
    let row = client.query_opt(&format!("{SHOWN} WHERE {condition} = $1"), &[&id]).await?;
    Ok(Reply::ok(row.ok_or(Failure::NotFound("shipment"))?.get::<_, String>(0)))
}

pub(super) async fn show(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::serial(&**client, "shipment", &id).await?;
    one(&**client, "s.id", id).await
}

pub(super) async fn by_order(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::serial(&**client, "order", &id).await?;
    one(&**client, "s.order_id", id).await
}

pub(super) async fn track(State(app): App, Path(number): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let row = client.query_opt(&format!("{SHOWN} WHERE s.tracking_number = $1"), &[&number]).await?;
    Ok(Reply::ok(row.ok_or(Failure::NotFound("shipment"))?.get::<_, String>(0)))
}

pub(super) async fn assign(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    step(&app, &id, Step::Assign).await
}

pub(super) async fn dispatch(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    step(&app, &id, Step::Dispatch).await
}

pub(super) async fn attempt(
    State(app): App,
    Path(id): Path<String>,
    Json(attempt): Json<Attempt>,
) -> Result<Reply, Failure> {
    step(&app, &id, Step::Attempt(attempt)).await
}

pub(super) async fn deliver(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    step(&app, &id, Step::Deliver).await
}

pub(super) async fn give_back(
    State(app): App,
    Path(id): Path<String>,
    Json(reason): Json<Reason>,
) -> Result<Reply, Failure> {
    step(&app, &id, Step::Return(reason)).await
}

enum Step {
    Assign,
    Dispatch,
    Attempt(Attempt),
    Deliver,
    Return(Reason),
}

impl Step {
    /// The status after it, or `None` where it may not be taken.
    fn from(&self, status: &str) -> Option<&'static str> {
        match (self, status) {
            (Self::Assign, "PENDING" | "ASSIGNED") => Some("ASSIGNED"),
            (Self::Dispatch, "ASSIGNED" | "DISPATCHED") => Some("DISPATCHED"),
            (Self::Attempt(_), "DISPATCHED") => Some("DISPATCHED"),
            (Self::Deliver, "DISPATCHED" | "DELIVERED") => Some("DELIVERED"),
            (Self::Return(_), "PENDING" | "ASSIGNED" | "RETURNED") => Some("RETURNED"),
            (Self::Return(reason), "DISPATCHED") if !reason.before_dispatch => Some("RETURNED"),
            _ => None,
        }
    }

    /// The event, and the status that the order gets.
    fn consequence(&self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Assign => (None, None),
            Self::Dispatch => (Some("ShipmentDispatched"), Some("SHIPPED")),
            Self::Attempt(_) => (Some("DeliveryAttemptFailed"), None),
            Self::Deliver => (Some("ShipmentDelivered"), Some("COMPLETED")),
            Self::Return(_) => (Some("ShipmentReturned"), Some("RETURNED")),
        }
    }
}

async fn step(app: &Monolith, id: &str, step: Step) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "shipments").await?;
    let id = ids::serial(&transaction, "shipment", id).await?;
    let row = transaction.query_opt("SELECT status, order_id FROM shipments WHERE id = $1 FOR UPDATE", &[&id]).await?;
    let row = row.ok_or(Failure::NotFound("shipment"))?;
    let status: &str = row.get(0);
    let Some(to) = step.from(status) else {
        return Err(Failure::Conflict(format!("the shipment is {status}")));
    };
    let news = match &step {
        Step::Attempt(attempt) => record(&transaction, id, attempt).await?,
        _ => status != to,
    };
    if news {
        // `updated_at` also changes for an attempt, so that the image of the shipment goes out.
        transaction
            .execute(
                "UPDATE shipments SET status = $2::text, updated_at = CURRENT_TIMESTAMP,
                     actual_delivery = CASE WHEN $2::text = 'DELIVERED' THEN CURRENT_DATE ELSE actual_delivery END
                 WHERE id = $1",
                &[&id, &to],
            )
            .await?;
        conclude(&transaction, id, row.get(1), &step).await?;
        transaction.commit().await?;
    }
    Ok(Reply::ok(json!({ "id": id, "status": to })))
}

/// A direct call while orders are ours; an event when they are not.
async fn conclude(transaction: &Transaction<'_>, shipment: i32, order: i32, step: &Step) -> Result<(), Failure> {
    let (event, order_status) = step.consequence();
    if db::owns(transaction, "orders").await? {
        if let Some(to) = order_status {
            orders::set_status(transaction, order, to).await?;
        }
    } else if let Some(event) = event {
        let more = match step {
            Step::Attempt(attempt) => json!({ "attempt_number": attempt.attempt_number, "reason": attempt.reason }),
            Step::Return(reason) => json!({ "reason": reason.reason }),
            Step::Assign | Step::Dispatch | Step::Deliver => json!({}),
        };
        tell(transaction, shipment, event, &more).await?;
    }
    Ok(())
}

/// Records an attempt, unless it is there already.
async fn record(transaction: &Transaction<'_>, shipment: i32, attempt: &Attempt) -> Result<bool, Failure> {
    let inserted = transaction
        .execute(
            "INSERT INTO delivery_attempts (shipment_id, attempt_number, status, delivery_agent, notes)
             SELECT $1::int, $2::int, $3, (SELECT name FROM delivery_agents ORDER BY id LIMIT 1), $4
             WHERE NOT EXISTS (SELECT FROM delivery_attempts WHERE shipment_id = $1::int AND attempt_number = $2::int)",
            &[&shipment, &attempt.attempt_number, &attempt.status, &attempt.reason],
        )
        .await?;
    Ok(inserted == 1)
}
