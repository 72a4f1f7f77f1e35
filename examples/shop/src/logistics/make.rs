//! OrderConfirmed makes a shipment. An order that has one already, from here or from the monolith,
//! gets no second.

use anyhow::{Result, ensure};
use deadpool_postgres::Pool;
use inbox::{Event, Handler, Subscription};
use serde_json::json;
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::tell;
use crate::{crash, db, ids, places::Places};

pub(super) fn spawn(places: &Places, pool: &Pool) {
    let subscription = Subscription {
        brokers: places.brokers.clone(),
        consumer: "logistics-orders".to_owned(),
        topics: vec!["order.events".to_owned()],
    };
    tokio::spawn(inbox::run(subscription, pool.clone(), Confirmed));
}

struct Confirmed;

impl Handler for Confirmed {
    fn wants(&self, kind: &str) -> bool {
        kind == "OrderConfirmed"
    }

    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> Result<()> {
        // The event is kept for the time when shipments are made here.
        ensure!(db::owns(transaction, "shipments").await?, "shipments are made elsewhere");
        crash::point("logistics.confirmed.before");
        if let Some(shipment) = insert(transaction, event).await? {
            announce(transaction, shipment).await?;
        }
        Ok(())
    }
}

/// The shipment, with a carrier when one goes there.
async fn insert(transaction: &Transaction<'_>, event: &Event) -> Result<Option<Uuid>> {
    let order = event.uuid("order_id")?;
    let number = event.text("order_number")?;
    let row = transaction
        .query_opt(
            "INSERT INTO shipments (order_id, order_number, tracking_number, carrier_id, carrier_name, status,
                 recipient_name, recipient_phone, address_line1, address_line2, city, state, pincode, weight_kg,
                 dimensions_cm, estimated_delivery)
             SELECT $1, $2, $3, c.id, coalesce(c.name, 'none'), CASE WHEN c.id IS NULL THEN 'RETURNED' ELSE 'PENDING' END,
                 coalesce($4::jsonb ->> 'recipient_name', ''), coalesce($4::jsonb ->> 'recipient_phone', ''),
                 a ->> 'line1', a ->> 'line2', a ->> 'city', a ->> 'state', a ->> 'pincode', 1.50, '30x20x10',
                 CURRENT_DATE + 3
             FROM (SELECT $4::jsonb -> 'shipping_address') address (a)
             LEFT JOIN LATERAL (SELECT id, name FROM carriers
                 WHERE is_active AND serviceable_pincodes ? (a ->> 'pincode') ORDER BY code LIMIT 1) c ON true
             ON CONFLICT (order_id) DO NOTHING RETURNING id",
            &[&order, &number, &ids::tracking_number(number), &event.data],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

async fn announce(transaction: &Transaction<'_>, shipment: Uuid) -> Result<()> {
    let row = transaction.query_one("SELECT status FROM shipments WHERE id = $1", &[&shipment]).await?;
    if row.get::<_, &str>(0) == "PENDING" {
        return Ok(tell(transaction, shipment, "ShipmentCreated", &json!({})).await?);
    }
    let description = "no carrier goes there";
    let insert = "INSERT INTO shipment_events (shipment_id, event_type, description) VALUES ($1, 'RETURNED', $2)";
    transaction.execute(insert, &[&shipment, &description]).await?;
    Ok(tell(transaction, shipment, "ShipmentReturned", &json!({ "reason": description })).await?)
}
