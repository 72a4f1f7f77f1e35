//! Stand-ins for the Product and Payment services: stock and a bank, with requests that may be
//! repeated and undone.
//!
//! An undo may come before what it undoes, when a saga gives up on a request that is still under
//! way. It leaves a row in `closed`, and the late request is refused.

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{delete, post},
};
use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::{GenericClient, Transaction};
use uuid::Uuid;

use crate::{
    catalogue::{DECLINED, PRODUCTS, SOLD_OUT, sku},
    crash, db,
    places::{Database, Places},
    web::{self, Failure, Reply},
};

type App = State<Arc<Partners>>;

struct Partners {
    pool: Pool,
}

/// What to reserve.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reservation {
    pub order_id: Uuid,
    pub items: Vec<Item>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Item {
    pub sku: String,
    pub quantity: i32,
}

/// What to pay.
#[derive(Debug, Serialize, Deserialize)]
pub struct Payment {
    pub order_id: Uuid,
    /// As text, so that no digit is lost.
    pub amount: String,
    pub method: String,
}

/// Fills the shelves.
pub async fn fill(client: &impl GenericClient, pieces: i32) -> Result<()> {
    for product in 1..=PRODUCTS {
        let pieces = if product == SOLD_OUT { 0 } else { pieces };
        client.execute("INSERT INTO stock VALUES ($1, $2, $2)", &[&sku(product), &pieces]).await?;
    }
    Ok(())
}

/// Serves until the process ends.
pub async fn run(places: &Places) -> Result<()> {
    let pool = db::pool(places, Database::Partners)?;
    let router = Router::new()
        .route("/reservations", post(reserve))
        .route("/reservations/{order}", delete(release))
        .route("/payments", post(pay))
        .route("/payments/{order}", delete(refund))
        .with_state(Arc::new(Partners { pool }));
    web::serve(&places.partners, router).await
}

/// One request of an order at a time, so that an undo and a late request cannot pass each other.
async fn lock(transaction: &Transaction<'_>, order: Uuid) -> Result<(), Failure> {
    let text = order.to_string();
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&text]).await?;
    Ok(())
}

async fn refuse_closed(transaction: &Transaction<'_>, order: Uuid, what: &str) -> Result<(), Failure> {
    let query = "SELECT FROM closed WHERE order_id = $1 AND what = $2";
    match transaction.query_opt(query, &[&order, &what]).await? {
        Some(_) => Err(Failure::Conflict("it was undone before it came".to_owned())),
        None => Ok(()),
    }
}

async fn close(transaction: &Transaction<'_>, order: Uuid, what: &str) -> Result<(), Failure> {
    transaction.execute("INSERT INTO closed VALUES ($1, $2) ON CONFLICT DO NOTHING", &[&order, &what]).await?;
    Ok(())
}

async fn reserve(State(app): App, Json(wanted): Json<Reservation>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    lock(&transaction, wanted.order_id).await?;
    refuse_closed(&transaction, wanted.order_id, "reservation").await?;
    let there = "SELECT FROM reservations WHERE order_id = $1 LIMIT 1";
    if transaction.query_opt(there, &[&wanted.order_id]).await?.is_some() {
        return Ok(Reply::ok(json!({ "reserved": true })));
    }
    // Shelves are locked in one order, so that two reservations cannot wait for each other.
    let mut items = wanted.items;
    items.sort_by(|a, b| a.sku.cmp(&b.sku));
    for item in &items {
        let take = "UPDATE stock SET on_hand = on_hand - $2 WHERE sku = $1 AND on_hand >= $2";
        if transaction.execute(take, &[&item.sku, &item.quantity]).await? == 0 {
            return Err(Failure::Conflict(format!("{} is sold out", item.sku)));
        }
        let keep = "INSERT INTO reservations (order_id, sku, quantity) VALUES ($1, $2, $3)";
        transaction.execute(keep, &[&wanted.order_id, &item.sku, &item.quantity]).await?;
    }
    transaction.commit().await?;
    crash::point("partners.reserve.committed");
    Ok(Reply::created(json!({ "reserved": true })))
}

async fn release(State(app): App, Path(order): Path<Uuid>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    lock(&transaction, order).await?;
    close(&transaction, order, "reservation").await?;
    transaction
        .execute(
            "UPDATE stock s SET on_hand = s.on_hand + r.quantity FROM reservations r
             WHERE r.order_id = $1 AND NOT r.released AND r.sku = s.sku",
            &[&order],
        )
        .await?;
    transaction.execute("UPDATE reservations SET released = true WHERE order_id = $1", &[&order]).await?;
    transaction.commit().await?;
    crash::point("partners.release.committed");
    Ok(Reply::ok(json!({ "released": true })))
}

async fn pay(State(app): App, Json(payment): Json<Payment>) -> Result<Reply, Failure> {
    if payment.method == DECLINED {
        return Err(Failure::Refused("the bank declines this card".to_owned()));
    }
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    lock(&transaction, payment.order_id).await?;
    refuse_closed(&transaction, payment.order_id, "payment").await?;
    transaction
        .execute(
            "INSERT INTO payments (order_id, amount) VALUES ($1, $2::text::numeric) ON CONFLICT DO NOTHING",
            &[&payment.order_id, &payment.amount],
        )
        .await?;
    let row = transaction.query_one("SELECT id FROM payments WHERE order_id = $1", &[&payment.order_id]).await?;
    let id: Uuid = row.get(0);
    transaction.commit().await?;
    crash::point("partners.pay.committed");
    Ok(Reply::created(json!({ "payment_id": id })))
}

async fn refund(State(app): App, Path(order): Path<Uuid>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    lock(&transaction, order).await?;
    close(&transaction, order, "payment").await?;
    transaction.execute("UPDATE payments SET refunded = true WHERE order_id = $1", &[&order]).await?;
    transaction.commit().await?;
    crash::point("partners.refund.committed");
    Ok(Reply::ok(json!({ "refunded": true })))
}
