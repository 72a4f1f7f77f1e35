//! Create, confirm, cancel, complete, history. An order, its payment and its shipment are one
//! transaction.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
};
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Transaction};

use super::{Monolith, shipments};
use crate::{
    api::NewOrder,
    catalogue::{self, DECLINED, Quote, SOLD_OUT, money},
    db, ids,
    web::{Failure, Reply},
};

type App = State<Arc<Monolith>>;

/// How long an order waits for the row of a user that the User service knows already.
const USER_WITHIN: Duration = Duration::from_secs(5);

/// Makes an order, and at once its payment and its shipment.
pub(super) async fn create(State(app): App, headers: HeaderMap, Json(new): Json<NewOrder>) -> Result<Reply, Failure> {
    let number = ids::order_number(&headers)?;
    let quote = catalogue::quote(&new.items)?;
    await_user(&app, &new).await?;
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "orders").await?;
    if let Some(row) =
        transaction.query_opt("SELECT id, status FROM orders WHERE order_number = $1", &[&number]).await?
    {
        return Ok(Reply::ok(created(row.get(0), &number, row.get(1))));
    }
    let user = ids::serial(&transaction, "user", &new.user_id).await?;
    let shipping = own_address(&transaction, user, &new.shipping_address_id).await?;
    let billing = match &new.billing_address_id {
        Some(id) => own_address(&transaction, user, id).await?,
        None => shipping,
    };
    let (status, payment) = verdict(&transaction, &new, shipping).await?;
    let order =
        insert(&transaction, &Header { number: &number, user, shipping, billing, status, payment }, &new, &quote)
            .await?;
    if status == "CONFIRMED" {
        shipments::create(&transaction, order).await?;
    }
    transaction.commit().await?;
    Ok(Reply::created(created(order, &number, status)))
}

fn created(id: i32, number: &str, status: &str) -> Value {
    json!({ "id": id, "order_number": number, "status": status })
}

/// The monolith calls the User service while users are written there: what the service knows about
/// this customer has to be here before the order is made, or the parcel would go to an old address.
async fn await_user(app: &Monolith, new: &NewOrder) -> Result<(), Failure> {
    let started = tokio::time::Instant::now();
    loop {
        let client = app.pool.get().await?;
        if db::owns(&**client, "users").await? {
            return Ok(());
        }
        let local = addresses(&**client, &new.user_id).await?;
        drop(client);
        let url = format!("http://{}/users/{}", app.facade, new.user_id);
        let answer = app.http.get(&url, USER_WITHIN).await;
        match answer.map(|answer| (answer.status, answer.json())) {
            Ok((200, user)) if local.as_ref() == Some(&essence(&user)) => return Ok(()),
            Ok((404, _)) => return Err(Failure::NotFound("user")),
            _ if started.elapsed() > USER_WITHIN => {
                return Err(Failure::Unavailable("the user has not arrived yet".to_owned()));
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// What an order needs to know about its customer: names, phone, and the addresses by their UUIDs.
fn essence(user: &Value) -> Value {
    let fields = ["id", "address_line1", "address_line2", "city", "state", "pincode"];
    let address = |address: &Value| fields.map(|field| address[field].clone());
    let mut addresses: Vec<_> = user["addresses"].as_array().into_iter().flatten().map(address).collect();
    addresses.sort_by_key(|address| address[0].to_string());
    json!([user["first_name"], user["last_name"], user["phone"], addresses])
}

/// The same of the rows that are here.
async fn addresses(client: &impl GenericClient, user: &str) -> Result<Option<Value>, Failure> {
    let Ok(user) = ids::serial(client, "user", user).await else { return Ok(None) };
    let image: Option<Value> = client.query_one("SELECT user_image($1)", &[&user]).await?.get(0);
    Ok(image.map(|image| essence(&image)))
}

async fn own_address(client: &impl GenericClient, user: i32, id: &str) -> Result<i32, Failure> {
    let address = ids::serial(client, "address", id).await?;
    let query = "SELECT FROM addresses WHERE id = $1 AND user_id = $2";
    client.query_opt(query, &[&address, &user]).await?.ok_or(Failure::NotFound("address"))?;
    Ok(address)
}

/// Stock, bank and carriers are calls of a function here.
async fn verdict(
    client: &impl GenericClient,
    new: &NewOrder,
    address: i32,
) -> Result<(&'static str, &'static str), Failure> {
    if new.items.iter().any(|line| line.product == SOLD_OUT) {
        return Ok(("CANCELLED", "PENDING"));
    }
    if new.payment_method == DECLINED {
        return Ok(("CANCELLED", "FAILED"));
    }
    let row = client.query_one("SELECT pincode FROM addresses WHERE id = $1", &[&address]).await?;
    match catalogue::carrier_for(row.get(0)) {
        Some(_) => Ok(("CONFIRMED", "PAID")),
        None => Ok(("CANCELLED", "REFUNDED")),
    }
}

struct Header<'a> {
    number: &'a str,
    user: i32,
    shipping: i32,
    billing: i32,
    status: &'a str,
    payment: &'a str,
}

async fn insert(
    transaction: &Transaction<'_>,
    header: &Header<'_>,
    new: &NewOrder,
    quote: &Quote,
) -> Result<i32, Failure> {
    let [subtotal, tax, shipping, discount, total] =
        [quote.subtotal, quote.tax, quote.shipping_cost, quote.discount, quote.total].map(money);
    let row = transaction
        .query_one(
            "INSERT INTO orders (user_id, order_number, status, shipping_address_id, billing_address_id, subtotal,
                 tax, shipping_cost, discount, total, payment_method, payment_status, notes)
             VALUES ($1, $2, $3, $4, $5, $6::text::numeric, $7::text::numeric, $8::text::numeric, $9::text::numeric,
                 $10::text::numeric, $11, $12, $13) RETURNING id",
            &[
                &header.user,
                &header.number,
                &header.status,
                &header.shipping,
                &header.billing,
                &subtotal,
                &tax,
                &shipping,
                &discount,
                &total,
                &new.payment_method,
                &header.payment,
                &new.notes,
            ],
        )
        .await?;
    let order: i32 = row.get(0);
    for line in &quote.lines {
        transaction
            .execute(
                "INSERT INTO order_items (order_id, product_id, product_name, sku, quantity, unit_price, total_price)
                 VALUES ($1, $2, $3, $4, $5, $6::text::numeric, $7::text::numeric)",
                &[
                    &order,
                    &line.product,
                    &catalogue::name(line.product),
                    &catalogue::sku(line.product),
                    &line.quantity,
                    &money(line.unit_price),
                    &money(line.total_price),
                ],
            )
            .await?;
    }
    Ok(order)
}

/// The order with its customer and its shipment: one query with JOINs.
pub(super) async fn show(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::serial(&**client, "order", &id).await?;
    let row = client
        .query_opt(
            "SELECT jsonb_build_object('id', o.id, 'order_number', o.order_number, 'status', o.status,
                 'total', o.total, 'payment_status', o.payment_status, 'user_id', o.user_id,
                 'customer_email', u.email, 'customer_name', concat_ws(' ', u.first_name, u.last_name),
                 'shipment', CASE WHEN s.id IS NULL THEN NULL ELSE jsonb_build_object('id', s.id,
                     'tracking_number', s.tracking_number, 'status', s.status, 'carrier', s.carrier) END,
                 'shipment_status', CASE WHEN s.id IS NULL THEN 'none' ELSE 'ok' END)::text
             FROM orders o JOIN users u ON u.id = o.user_id LEFT JOIN shipments s ON s.order_id = o.id
             WHERE o.id = $1",
            &[&id],
        )
        .await?;
    Ok(Reply::ok(row.ok_or(Failure::NotFound("order"))?.get::<_, String>(0)))
}

/// The orders of a user, the newest first.
pub(super) async fn of_user(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::serial(&**client, "user", &id).await?;
    let row = client
        .query_one(
            "SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'order_number', order_number, 'status', status,
                 'total', total) ORDER BY id DESC), '[]')::text
             FROM orders WHERE user_id = $1",
            &[&id],
        )
        .await?;
    Ok(Reply::ok(row.get::<_, String>(0)))
}

/// What has become of an order. The monolith keeps no history: it has the present status alone.
pub(super) async fn history(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::serial(&**client, "order", &id).await?;
    let query = "SELECT jsonb_build_array(jsonb_build_object('to_status', status, 'created_at', updated_at))::text
                 FROM orders WHERE id = $1";
    let row = client.query_opt(query, &[&id]).await?.ok_or(Failure::NotFound("order"))?;
    Ok(Reply::ok(row.get::<_, String>(0)))
}

/// The last orders, from the view across all domains.
pub(super) async fn summary(State(app): App) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let query = "SELECT coalesce(jsonb_agg(to_jsonb(s)), '[]')::text
                 FROM (SELECT * FROM order_summary ORDER BY id DESC LIMIT 50) s";
    Ok(Reply::ok(client.query_one(query, &[]).await?.get::<_, String>(0)))
}

/// Confirms an order that was only created, and makes its shipment.
pub(super) async fn confirm(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    change(&app, &id, "confirm").await
}

/// Cancels an order that has not left yet.
pub(super) async fn cancel(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    change(&app, &id, "cancel").await
}

/// Completes an order that was delivered.
pub(super) async fn complete(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    change(&app, &id, "complete").await
}

async fn change(app: &Monolith, id: &str, verb: &str) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "orders").await?;
    db::require(&transaction, "shipments").await?;
    let id = ids::serial(&transaction, "order", id).await?;
    let row = transaction
        .query_opt(
            "SELECT o.status, (SELECT s.status FROM shipments s WHERE s.order_id = o.id)
             FROM orders o WHERE o.id = $1 FOR UPDATE",
            &[&id],
        )
        .await?
        .ok_or(Failure::NotFound("order"))?;
    let status: String = row.get(0);
    let shipment: Option<String> = row.get(1);
    let to = match (verb, status.as_str(), shipment.as_deref()) {
        ("confirm", "CREATED", _) => {
            shipments::create(&transaction, id).await?;
            "CONFIRMED"
        }
        ("cancel", "CREATED" | "CONFIRMED", None | Some("PENDING" | "ASSIGNED")) => {
            let update = "UPDATE shipments SET status = 'RETURNED', updated_at = CURRENT_TIMESTAMP WHERE order_id = $1";
            transaction.execute(update, &[&id]).await?;
            "CANCELLED"
        }
        ("complete", _, Some("DELIVERED")) => "COMPLETED",
        ("confirm", "CONFIRMED", _) | ("cancel", "CANCELLED" | "RETURNED", _) => &status,
        _ => return Err(Failure::Conflict(format!("cannot {verb} an order that is {status}"))),
    };
    set_status(&transaction, id, to).await?;
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": id, "status": to })))
}

/// Sets the status of an order, and its payment's where that follows.
pub(super) async fn set_status(transaction: &Transaction<'_>, order: i32, to: &str) -> Result<(), Failure> {
    transaction
        .execute(
            "UPDATE orders SET status = $2::text, updated_at = CURRENT_TIMESTAMP, payment_status = CASE
                 WHEN $2::text IN ('CANCELLED', 'RETURNED') AND payment_status = 'PAID' THEN 'REFUNDED'
                 WHEN $2::text = 'CONFIRMED' THEN 'PAID' ELSE payment_status END
             WHERE id = $1 AND status <> $2::text",
            &[&order, &to],
        )
        .await?;
    Ok(())
}
