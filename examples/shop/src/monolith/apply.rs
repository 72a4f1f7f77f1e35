//! What the services have written comes back into the monolith's tables, as images of whole users,
//! orders and shipments. While the Order service is the writer of orders and shipments are still
//! made here, OrderConfirmed makes one.

use anyhow::{Context, Result, bail, ensure};
use deadpool_postgres::Pool;
use inbox::{Event, Handler, Subscription};
use serde_json::{Value, json};
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::shipments::{self, Place};
use crate::{db, places::Places, web::Failure};

/// Starts a consumer for each stream. Each may wait for what another one brings.
pub(super) fn spawn(places: &Places, pool: &Pool) {
    for (consumer, topic, stream) in [
        ("monolith-users", "user_service.images", Stream::Users),
        ("monolith-orders", "order_service.images", Stream::Orders),
        ("monolith-shipments", "logistics_service.images", Stream::Shipments),
        ("monolith-shipping", "order.events", Stream::Shipping),
    ] {
        let subscription = Subscription {
            brokers: places.brokers.clone(),
            consumer: consumer.to_owned(),
            topics: vec![topic.to_owned()],
        };
        tokio::spawn(inbox::run(subscription, pool.clone(), stream));
    }
}

#[derive(Clone, Copy)]
enum Stream {
    Users,
    Orders,
    Shipments,
    Shipping,
}

impl Handler for Stream {
    fn wants(&self, kind: &str) -> bool {
        kind == match self {
            Self::Users => "user_image",
            Self::Orders => "order_image",
            Self::Shipments => "shipment_image",
            Self::Shipping => "OrderConfirmed",
        }
    }

    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> Result<()> {
        match self {
            Self::Shipping => ship(transaction, event).await,
            Self::Users => apply_user(transaction, &event.data).await,
            Self::Orders => apply_order(transaction, &event.data).await,
            Self::Shipments => apply_shipment(transaction, &event.data).await,
        }
    }
}

/// Makes the shipment of a confirmed order, while shipments are made here.
async fn ship(transaction: &Transaction<'_>, event: &Event) -> Result<()> {
    // The event is kept for the time when they are. An order that has a shipment by then is left.
    ensure!(db::owns(transaction, "shipments").await?, "shipments are made elsewhere");
    let order = known(transaction, "order", event.uuid("order_id")?).await?;
    let address = &event.data["shipping_address"];
    let text = |key: &str| address[key].as_str().unwrap_or_default().to_owned();
    let place = Place { line1: text("line1"), city: text("city"), state: text("state"), pincode: text("pincode") };
    let made = shipments::insert(transaction, order, event.text("order_number")?, &place).await.map_err(plain)?;
    let Some((shipment, taken)) = made else { return Ok(()) };
    let (kind, more) = if taken {
        ("ShipmentCreated", json!({}))
    } else {
        ("ShipmentReturned", json!({ "reason": "no carrier goes there" }))
    };
    shipments::tell(transaction, shipment, kind, &more).await.map_err(plain)
}

fn plain(failure: Failure) -> anyhow::Error {
    match failure {
        Failure::Internal(error) => error,
        other => anyhow::anyhow!("{other:?}"),
    }
}

/// The serial of something whose row is here.
async fn known(transaction: &Transaction<'_>, kind: &str, id: Uuid) -> Result<i32> {
    let query =
        format!("SELECT m.serial FROM id_map m JOIN {kind}s t ON t.id = m.serial WHERE m.kind = $1 AND m.id = $2");
    let row = transaction.query_opt(&query, &[&kind, &id]).await?;
    Ok(row.with_context(|| format!("{kind} {id} has not arrived yet"))?.get(0))
}

async fn numbered(transaction: &Transaction<'_>, kind: &str, table: &str, id: &Value) -> Result<i32> {
    let Some(id) = id.as_str() else { bail!("an image of {kind} without an id") };
    let id: Uuid = id.parse()?;
    let numbers = format!("SELECT serial_of($1, $2, '{table}_id_seq')");
    Ok(transaction.query_one(&numbers, &[&kind, &id]).await?.get(0))
}

async fn apply_user(transaction: &Transaction<'_>, image: &Value) -> Result<()> {
    db::applying(transaction).await?;
    let user = numbered(transaction, "user", "users", &image["id"]).await?;
    if image["deleted"] == json!(true) {
        // Orders hold on to their user by a foreign key. Such a user is marked, and not shown.
        let delete = "DELETE FROM users WHERE id = $1 AND NOT EXISTS (SELECT FROM orders WHERE user_id = $1)";
        transaction.execute(delete, &[&user]).await?;
        let mark = "UPDATE id_map SET gone_at = CURRENT_TIMESTAMP WHERE kind = 'user' AND serial = $1";
        transaction.execute(mark, &[&user]).await?;
        return Ok(());
    }
    transaction
        .execute(
            "INSERT INTO users SELECT $2::int, i.email, i.password_hash, i.first_name, i.last_name, i.phone,
                 i.is_verified, i.created_at, i.updated_at FROM jsonb_populate_record(NULL::users, $1::jsonb - 'id') i
             ON CONFLICT (id) DO UPDATE SET email = excluded.email, password_hash = excluded.password_hash,
                 first_name = excluded.first_name, last_name = excluded.last_name, phone = excluded.phone,
                 is_verified = excluded.is_verified, updated_at = excluded.updated_at",
            &[image, &user],
        )
        .await?;
    for address in image["addresses"].as_array().into_iter().flatten() {
        let serial = numbered(transaction, "address", "addresses", &address["id"]).await?;
        transaction
            .execute(
                "INSERT INTO addresses SELECT $2::int, $3::int, i.address_line1, i.address_line2, i.city, i.state,
                     i.country, i.pincode, i.is_default, i.type, i.created_at
                 FROM jsonb_populate_record(NULL::addresses, $1::jsonb - 'id') i
                 ON CONFLICT (id) DO UPDATE SET address_line1 = excluded.address_line1,
                     address_line2 = excluded.address_line2, city = excluded.city, state = excluded.state,
                     country = excluded.country, pincode = excluded.pincode, is_default = excluded.is_default,
                     type = excluded.type",
                &[address, &serial, &user],
            )
            .await?;
    }
    Ok(())
}

async fn apply_order(transaction: &Transaction<'_>, image: &Value) -> Result<()> {
    db::applying(transaction).await?;
    let user: Uuid = image["user_id"].as_str().context("no user")?.parse()?;
    let user = known(transaction, "user", user).await?;
    let order = numbered(transaction, "order", "orders", &image["id"]).await?;
    let inserted = transaction
        .query_one(
            "INSERT INTO orders SELECT $2::int, $3::int, i.order_number, i.status,
                 (SELECT a.id FROM id_map m JOIN addresses a ON a.id = m.serial WHERE m.kind = 'address'
                     AND m.id = ($1::jsonb #>> '{snapshot,shipping_address,address_id}')::uuid),
                 (SELECT a.id FROM id_map m JOIN addresses a ON a.id = m.serial WHERE m.kind = 'address'
                     AND m.id = ($1::jsonb #>> '{snapshot,billing_address,address_id}')::uuid),
                 i.subtotal, i.tax, i.shipping_cost, i.discount, i.total, i.payment_method, i.payment_status, i.notes,
                 i.created_at, i.updated_at
             FROM jsonb_populate_record(NULL::orders, $1::jsonb - 'id' - 'user_id') i
             ON CONFLICT (id) DO UPDATE SET status = excluded.status, payment_status = excluded.payment_status,
                 updated_at = excluded.updated_at
             RETURNING xmax = 0",
            &[image, &order, &user],
        )
        .await?
        .get::<_, bool>(0);
    if inserted {
        transaction
            .execute(
                "INSERT INTO order_items (order_id, product_id, product_name, sku, quantity, unit_price, total_price)
                 SELECT $2::int, i.product, i.name, i.sku, i.quantity, i.unit_price, i.total_price
                 FROM jsonb_to_recordset($1::jsonb -> 'items') AS i (product int, name text, sku text, quantity int,
                     unit_price numeric, total_price numeric)",
                &[image, &order],
            )
            .await?;
    }
    Ok(())
}

async fn apply_shipment(transaction: &Transaction<'_>, image: &Value) -> Result<()> {
    db::applying(transaction).await?;
    let order: Uuid = image["order_id"].as_str().context("no order")?.parse()?;
    let order = known(transaction, "order", order).await?;
    let shipment = numbered(transaction, "shipment", "shipments", &image["id"]).await?;
    transaction
        .execute(
            "INSERT INTO shipments SELECT $2::int, $3::int, i.tracking_number, i.carrier, i.status, i.line1, i.city,
                 i.state, i.pincode, i.estimated_delivery, i.actual_delivery, i.weight, i.dimensions, i.created_at
             FROM jsonb_to_record($1) AS i (tracking_number text, carrier text, status text, line1 text, city text,
                 state text, pincode text, estimated_delivery date, actual_delivery date, weight numeric,
                 dimensions text, created_at timestamp)
             ON CONFLICT (id) DO UPDATE SET status = excluded.status, carrier = excluded.carrier,
                 actual_delivery = excluded.actual_delivery, updated_at = CURRENT_TIMESTAMP",
            &[image, &shipment, &order],
        )
        .await?;
    transaction
        .execute(
            "INSERT INTO delivery_attempts (shipment_id, attempt_number, status, delivery_agent, notes)
             SELECT $2::int, i.attempt_number, i.status, i.agent, i.notes
             FROM jsonb_to_recordset($1::jsonb -> 'attempts') AS i (attempt_number int, status text, agent text, notes text)
             WHERE NOT EXISTS (SELECT FROM delivery_attempts d
                 WHERE d.shipment_id = $2::int AND d.attempt_number = i.attempt_number)",
            &[image, &shipment],
        )
        .await?;
    Ok(())
}
