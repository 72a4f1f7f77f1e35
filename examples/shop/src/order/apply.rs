//! What the monolith has written about orders, while it is the writer.

use anyhow::Result;
use deadpool_postgres::Pool;
use inbox::{Event, Handler, Subscription};
use serde_json::Value;
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::change::{self, Change};
use crate::{db, places::Places};

pub(super) fn spawn(places: &Places, pool: &Pool) {
    let subscription = Subscription {
        brokers: places.brokers.clone(),
        consumer: "orders-sync".to_owned(),
        topics: vec!["monolith.images".to_owned()],
    };
    tokio::spawn(inbox::run(subscription, pool.clone(), Images));
}

struct Images;

impl Handler for Images {
    fn wants(&self, kind: &str) -> bool {
        // Users come along for the serial numbers of users and addresses that clients still send.
        matches!(kind, "order_image" | "user_image")
    }

    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> Result<()> {
        db::applying(transaction).await?;
        remember_serials(transaction, &event.data, &event.kind).await?;
        if event.kind == "order_image" { apply(transaction, event).await } else { Ok(()) }
    }
}

async fn apply(transaction: &Transaction<'_>, event: &Event) -> Result<()> {
    let order = event.uuid("id")?;
    let before = transaction.query_opt("SELECT status FROM orders WHERE id = $1 FOR UPDATE", &[&order]).await?;
    let before: Option<String> = before.map(|row| row.get(0));
    if before.is_none() {
        insert(transaction, &event.data, order).await?;
    } else {
        // The snapshot stays what it was when the order came.
        transaction
            .execute(
                "UPDATE orders SET status = $1::jsonb ->> 'status', payment_status = $1::jsonb ->> 'payment_status',
                     updated_at = ($1::jsonb ->> 'updated_at')::timestamp, version = version + 1
                 WHERE id = $2",
                &[&event.data, &order],
            )
            .await?;
    }
    let status = event.text("status")?;
    if before.as_deref() != Some(status) {
        let change = Change { from: before.as_deref(), to: status, by: "monolith", reason: None };
        change::record(transaction, order, &change).await?;
    }
    Ok(())
}

async fn insert(transaction: &Transaction<'_>, image: &Value, order: Uuid) -> Result<()> {
    transaction
        .execute(
            "INSERT INTO orders SELECT i.* FROM jsonb_populate_record(NULL::orders,
                 $1::jsonb || ($1::jsonb -> 'snapshot') || jsonb_build_object('version', 1)) i",
            &[image],
        )
        .await?;
    transaction
        .execute(
            "INSERT INTO order_items (order_id, product_id, product_name, sku, quantity, unit_price, total_price)
             SELECT $2, md5('product:' || i.product)::uuid, i.name, i.sku, i.quantity, i.unit_price, i.total_price
             FROM jsonb_to_recordset($1::jsonb -> 'items') AS i (product int, name text, sku text, quantity int,
                 unit_price numeric, total_price numeric)",
            &[image, &order],
        )
        .await?;
    let outcome = "INSERT INTO saga (order_id, kind, state, outcome) VALUES ($1, 'create', 'DONE', 'migrated')";
    transaction.execute(outcome, &[&order]).await?;
    Ok(())
}

async fn remember_serials(transaction: &Transaction<'_>, image: &Value, kind: &str) -> Result<()> {
    let kind = kind.trim_end_matches("_image");
    transaction
        .execute(
            "INSERT INTO legacy_ids
             SELECT * FROM (SELECT $2::text, ($1::jsonb ->> 'legacy_id')::int, ($1::jsonb ->> 'id')::uuid
                 UNION ALL SELECT 'address', (a ->> 'legacy_id')::int, (a ->> 'id')::uuid
                 FROM jsonb_array_elements(coalesce($1::jsonb -> 'addresses', '[]')) a) ids (kind, serial, id)
             WHERE serial IS NOT NULL ON CONFLICT DO NOTHING",
            &[image, &kind],
        )
        .await?;
    Ok(())
}
