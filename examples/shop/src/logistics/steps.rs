//! The life of a parcel: PENDING → ASSIGNED → DISPATCHED → DELIVERED, or RETURNED.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::json;
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::{Logistics, tell};
use crate::{
    api::{Attempt, Reason},
    db, ids,
    web::{Failure, Reply},
};

type App = State<Arc<Logistics>>;

/// A shipment as it was read, with its agent, who is the one of its last event that has one.
struct Seen {
    id: Uuid,
    status: String,
    version: i32,
    city: String,
    agent: Option<Uuid>,
    agent_name: Option<String>,
}

async fn look(transaction: &Transaction<'_>, id: &str) -> Result<Seen, Failure> {
    let id = ids::uuid(transaction, "shipment", id).await?;
    let row = transaction
        .query_opt(
            "SELECT s.status, s.version, s.city, e.agent_id, e.agent_name FROM shipments s
             LEFT JOIN LATERAL (SELECT agent_id, agent_name FROM shipment_events
                 WHERE shipment_id = s.id AND agent_id IS NOT NULL ORDER BY created_at DESC LIMIT 1) e ON true
             WHERE s.id = $1",
            &[&id],
        )
        .await?
        .ok_or(Failure::NotFound("shipment"))?;
    Ok(Seen {
        id,
        status: row.get(0),
        version: row.get(1),
        city: row.get(2),
        agent: row.get(3),
        agent_name: row.get(4),
    })
}

/// A line of the parcel's own history.
struct Note<'a> {
    event_type: &'a str,
    description: Option<&'a str>,
}

/// Moves the parcel on from what was seen. Somebody else's change in between is worth another
/// attempt.
async fn advance(transaction: &Transaction<'_>, seen: &Seen, to: &str, note: &Note<'_>) -> Result<(), Failure> {
    let update = "UPDATE shipments SET status = $3::text, version = version + 1, updated_at = CURRENT_TIMESTAMP,
                      actual_delivery = CASE WHEN $3::text = 'DELIVERED' THEN CURRENT_TIMESTAMP ELSE actual_delivery END
                  WHERE id = $1 AND version = $2";
    if transaction.execute(update, &[&seen.id, &seen.version, &to]).await? == 0 {
        return Err(Failure::Unavailable("the shipment has just changed".to_owned()));
    }
    transaction
        .execute(
            "INSERT INTO shipment_events (shipment_id, event_type, location, description, agent_id, agent_name)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[&seen.id, &note.event_type, &seen.city, &note.description, &seen.agent, &seen.agent_name],
        )
        .await?;
    Ok(())
}

fn shown(id: Uuid, status: &str) -> Reply {
    Reply::ok(json!({ "id": id, "status": status }))
}

fn cannot(seen: &Seen) -> Failure {
    Failure::Conflict(format!("the shipment is {}", seen.status))
}

/// Gives the parcel to an agent of its carrier who has room.
pub(super) async fn assign(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "shipments").await?;
    let mut seen = look(&transaction, &id).await?;
    match seen.status.as_str() {
        "PENDING" => {}
        "ASSIGNED" => return Ok(shown(seen.id, "ASSIGNED")),
        _ => return Err(cannot(&seen)),
    }
    let agent = transaction
        .query_opt(
            "UPDATE delivery_agents SET current_load = current_load + 1 WHERE id = (
                 SELECT g.id FROM delivery_agents g JOIN shipments s ON s.carrier_id = g.carrier_id
                 WHERE s.id = $1 AND g.is_active AND g.current_load < g.current_capacity
                 ORDER BY g.current_load, g.id LIMIT 1 FOR UPDATE OF g SKIP LOCKED)
             RETURNING id, name",
            &[&seen.id],
        )
        .await?
        .ok_or_else(|| Failure::Unavailable("every agent has a full load".to_owned()))?;
    seen.agent = Some(agent.get(0));
    seen.agent_name = Some(agent.get(1));
    advance(&transaction, &seen, "ASSIGNED", &Note { event_type: "PICKED_UP", description: None }).await?;
    transaction.commit().await?;
    Ok(shown(seen.id, "ASSIGNED"))
}

/// The parcel leaves: ShipmentDispatched.
pub(super) async fn dispatch(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "shipments").await?;
    let seen = look(&transaction, &id).await?;
    match seen.status.as_str() {
        "ASSIGNED" => {}
        "DISPATCHED" => return Ok(shown(seen.id, "DISPATCHED")),
        _ => return Err(cannot(&seen)),
    }
    advance(&transaction, &seen, "DISPATCHED", &Note { event_type: "IN_TRANSIT", description: None }).await?;
    tell(&transaction, seen.id, "ShipmentDispatched", &json!({})).await?;
    transaction.commit().await?;
    Ok(shown(seen.id, "DISPATCHED"))
}

/// Nobody was at home: DeliveryAttemptFailed. The same attempt again is recorded once.
pub(super) async fn attempt(
    State(app): App,
    Path(id): Path<String>,
    Json(attempt): Json<Attempt>,
) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "shipments").await?;
    let seen = look(&transaction, &id).await?;
    let there = "SELECT FROM delivery_attempts WHERE shipment_id = $1 AND attempt_number = $2";
    if transaction.query_opt(there, &[&seen.id, &attempt.attempt_number]).await?.is_some() {
        return Ok(shown(seen.id, &seen.status));
    }
    if seen.status != "DISPATCHED" {
        return Err(cannot(&seen));
    }
    if !matches!(attempt.status.as_str(), "FAILED" | "RESCHEDULED") {
        return Err(Failure::Invalid("an attempt is FAILED or RESCHEDULED".to_owned()));
    }
    let note = Note { event_type: "DELIVERY_FAILED", description: attempt.reason.as_deref() };
    advance(&transaction, &seen, "DISPATCHED", &note).await?;
    record(&transaction, &seen, &attempt).await?;
    let more = json!({ "attempt_number": attempt.attempt_number, "reason": attempt.reason });
    tell(&transaction, seen.id, "DeliveryAttemptFailed", &more).await?;
    transaction.commit().await?;
    Ok(shown(seen.id, "DISPATCHED"))
}

async fn record(transaction: &Transaction<'_>, seen: &Seen, attempt: &Attempt) -> Result<(), Failure> {
    transaction
        .execute(
            "INSERT INTO delivery_attempts (shipment_id, agent_id, attempt_number, status, failure_reason,
                 scheduled_date, attempted_at)
             VALUES ($1, $2, $3, $4::text, $5, CASE WHEN $4::text = 'SUCCESS' THEN NULL ELSE CURRENT_DATE + 1 END,
                 CURRENT_TIMESTAMP)",
            &[&seen.id, &seen.agent, &attempt.attempt_number, &attempt.status, &attempt.reason],
        )
        .await?;
    Ok(())
}

/// The parcel has arrived: ShipmentDelivered, and the agent has room again.
pub(super) async fn deliver(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "shipments").await?;
    let seen = look(&transaction, &id).await?;
    match seen.status.as_str() {
        "DISPATCHED" => {}
        "DELIVERED" => return Ok(shown(seen.id, "DELIVERED")),
        _ => return Err(cannot(&seen)),
    }
    advance(&transaction, &seen, "DELIVERED", &Note { event_type: "DELIVERED", description: None }).await?;
    let last = "SELECT coalesce(max(attempt_number), 0) FROM delivery_attempts WHERE shipment_id = $1";
    let last: i32 = transaction.query_one(last, &[&seen.id]).await?.get(0);
    let success = Attempt { attempt_number: last + 1, status: "SUCCESS".to_owned(), reason: None };
    record(&transaction, &seen, &success).await?;
    free(&transaction, &seen).await?;
    tell(&transaction, seen.id, "ShipmentDelivered", &json!({})).await?;
    transaction.commit().await?;
    Ok(shown(seen.id, "DELIVERED"))
}

/// The parcel comes back: ShipmentReturned, and the Order service pays the customer back.
pub(super) async fn give_back(
    State(app): App,
    Path(id): Path<String>,
    Json(why): Json<Reason>,
) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "shipments").await?;
    let seen = look(&transaction, &id).await?;
    match seen.status.as_str() {
        "PENDING" | "ASSIGNED" => {}
        "DISPATCHED" if !why.before_dispatch => {}
        "RETURNED" => return Ok(shown(seen.id, "RETURNED")),
        _ => return Err(cannot(&seen)),
    }
    let note = Note { event_type: "RETURNED", description: why.reason.as_deref() };
    advance(&transaction, &seen, "RETURNED", &note).await?;
    free(&transaction, &seen).await?;
    tell(&transaction, seen.id, "ShipmentReturned", &json!({ "reason": why.reason })).await?;
    transaction.commit().await?;
    Ok(shown(seen.id, "RETURNED"))
}

async fn free(transaction: &Transaction<'_>, seen: &Seen) -> Result<(), Failure> {
    let update = "UPDATE delivery_agents SET current_load = current_load - 1 WHERE id = $1 AND current_load > 0";
    transaction.execute(update, &[&seen.agent]).await?;
    Ok(())
}
