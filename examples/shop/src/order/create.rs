//! A new order. It copies the customer and the addresses as they are now, and begins its saga.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::HeaderMap};
use serde_json::{Value, json};
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::{Orders, change};
use crate::{
    api::NewOrder,
    catalogue::{self, Quote, money},
    crash, db, ids,
    web::{Failure, Reply},
};

/// How long the User service may take.
const USER_WITHIN: Duration = Duration::from_secs(5);

/// Makes an order, or finds the one that an earlier attempt has made.
pub(super) async fn create(
    State(app): State<Arc<Orders>>,
    headers: HeaderMap,
    Json(new): Json<NewOrder>,
) -> Result<Reply, Failure> {
    let number = ids::order_number(&headers)?;
    let quote = catalogue::quote(&new.items)?;
    if let Some(reply) = existing(&app, &number).await? {
        return Ok(reply);
    }
    let snapshot = Snapshot::take(&app, &new).await?;
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "orders").await?;
    change::lock_user(&transaction, snapshot.user).await?;
    let gone = "SELECT FROM deleted_users WHERE user_id = $1";
    if transaction.query_opt(gone, &[&snapshot.user]).await?.is_some() {
        return Err(Failure::NotFound("user"));
    }
    let Some(order) = insert(&transaction, &number, &snapshot, (&new, &quote)).await? else {
        drop(transaction);
        drop(client);
        return existing(&app, &number).await?.ok_or(Failure::NotFound("order"));
    };
    change::record(&transaction, order, &change::Change { from: None, to: "CREATED", by: "user", reason: None })
        .await?;
    change::tell(&transaction, order, "OrderCreated").await?;
    let begin = "INSERT INTO saga (order_id, kind, state) VALUES ($1, 'create', 'RESERVE')";
    transaction.execute(begin, &[&order]).await?;
    transaction.commit().await?;
    crash::point("order.create.committed");
    app.wake.notify_one();
    Ok(Reply::created(json!({ "id": order, "order_number": number, "status": "CREATED" })))
}

async fn existing(app: &Orders, number: &str) -> Result<Option<Reply>, Failure> {
    let client = app.pool.get().await?;
    let row = client.query_opt("SELECT id, status FROM orders WHERE order_number = $1", &[&number]).await?;
    Ok(row.map(|row| {
        let (id, status): (Uuid, String) = (row.get(0), row.get(1));
        Reply::ok(json!({ "id": id, "order_number": number, "status": status }))
    }))
}

/// The customer as of now.
struct Snapshot {
    user: Uuid,
    email: String,
    name: String,
    phone: Option<String>,
    shipping: Value,
    billing: Value,
}

impl Snapshot {
    /// Asks the User service.
    async fn take(app: &Orders, new: &NewOrder) -> Result<Self, Failure> {
        let url = format!("http://{}/users/{}", app.facade, new.user_id);
        let answer = app.http.get(&url, USER_WITHIN).await;
        let answer = answer.map_err(|error| Failure::Unavailable(format!("users: {error:#}")))?;
        match answer.status {
            200 => {}
            404 => return Err(Failure::NotFound("user")),
            status => return Err(Failure::Unavailable(format!("users answer with {status}"))),
        }
        let user = answer.json();
        let text = |key: &str| user[key].as_str().unwrap_or_default().to_owned();
        let id = text("id").parse();
        // A serial number comes from the monolith, which answers for a moment after a way back.
        let id = id.map_err(|_| Failure::Unavailable("users are being moved".to_owned()))?;
        let shipping = address(&user, &new.shipping_address_id, app).await?;
        let billing = match &new.billing_address_id {
            Some(wanted) => address(&user, wanted, app).await?,
            None => shipping.clone(),
        };
        Ok(Self {
            user: id,
            email: text("email"),
            name: format!("{} {}", text("first_name"), text("last_name")),
            phone: user["phone"].as_str().map(str::to_owned),
            shipping,
            billing,
        })
    }
}

/// The copy of an address: `address_id`, `line1`, `line2`, `city`, `state`, `pincode`.
async fn address(user: &Value, wanted: &str, app: &Orders) -> Result<Value, Failure> {
    let client = app.pool.get().await?;
    let wanted = ids::uuid(&**client, "address", wanted).await?.to_string();
    let all = user["addresses"].as_array();
    let found = all.into_iter().flatten().find(|address| address["id"] == wanted.as_str());
    let found = found.ok_or(Failure::NotFound("address"))?;
    Ok(json!({
        "address_id": found["id"], "line1": found["address_line1"], "line2": found["address_line2"],
        "city": found["city"], "state": found["state"], "pincode": found["pincode"],
    }))
}

/// Inserts the order and its items. `None` when the number is taken meanwhile.
async fn insert(
    transaction: &Transaction<'_>,
    number: &str,
    snapshot: &Snapshot,
    (new, quote): (&NewOrder, &Quote),
) -> Result<Option<Uuid>, Failure> {
    let [subtotal, tax, shipping, discount, total] =
        [quote.subtotal, quote.tax, quote.shipping_cost, quote.discount, quote.total].map(money);
    let row = transaction
        .query_opt(
            "INSERT INTO orders (order_number, user_id, customer_email, customer_name, customer_phone,
                 shipping_address, billing_address, subtotal, tax, shipping_cost, discount, total, payment_method,
                 notes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::numeric, $9::text::numeric, $10::text::numeric,
                 $11::text::numeric, $12::text::numeric, $13, $14)
             ON CONFLICT (order_number) DO NOTHING RETURNING id",
            &[
                &number,
                &snapshot.user,
                &snapshot.email,
                &snapshot.name,
                &snapshot.phone,
                &snapshot.shipping,
                &snapshot.billing,
                &subtotal,
                &tax,
                &shipping,
                &discount,
                &total,
                &new.payment_method,
                &new.notes,
            ],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let order: Uuid = row.get(0);
    for line in &quote.lines {
        transaction
            .execute(
                "INSERT INTO order_items (order_id, product_id, product_name, sku, quantity, unit_price, total_price)
                 VALUES ($1, md5('product:' || $2::int)::uuid, $3, $4, $5, $6::text::numeric, $7::text::numeric)",
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
    Ok(Some(order))
}
