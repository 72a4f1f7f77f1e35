//! What the monolith has written about shipments, while it is the writer.

use anyhow::Result;
use deadpool_postgres::Pool;
use inbox::{Event, Handler, Subscription};
use tokio_postgres::Transaction;

use crate::{db, places::Places};

pub(super) fn spawn(places: &Places, pool: &Pool) {
    let subscription = Subscription {
        brokers: places.brokers.clone(),
        consumer: "logistics-sync".to_owned(),
        topics: vec!["monolith.images".to_owned()],
    };
    tokio::spawn(inbox::run(subscription, pool.clone(), Images));
}

struct Images;

impl Handler for Images {
    fn wants(&self, kind: &str) -> bool {
        // Orders come along for the serial numbers that clients still send.
        matches!(kind, "shipment_image" | "order_image")
    }

    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> Result<()> {
        db::applying(transaction).await?;
        let kind = event.kind.trim_end_matches("_image");
        let remember =
            "INSERT INTO legacy_ids SELECT $2::text, ($1::jsonb ->> 'legacy_id')::int, ($1::jsonb ->> 'id')::uuid
                        WHERE $1::jsonb ->> 'legacy_id' IS NOT NULL ON CONFLICT DO NOTHING";
        transaction.execute(remember, &[&event.data, &kind]).await?;
        if event.kind == "shipment_image" { apply(transaction, event).await } else { Ok(()) }
    }
}

async fn apply(transaction: &Transaction<'_>, event: &Event) -> Result<()> {
    transaction
        .execute(
            "INSERT INTO shipments (id, order_id, order_number, tracking_number, carrier_id, carrier_name, status,
                 recipient_name, recipient_phone, address_line1, city, state, pincode, weight_kg, dimensions_cm,
                 estimated_delivery, actual_delivery, created_at)
             SELECT i.id, i.order_id, i.order_number, i.tracking_number, c.id, i.carrier, i.status,
                 $1::jsonb #>> '{snapshot,recipient_name}', $1::jsonb #>> '{snapshot,recipient_phone}', i.line1, i.city, i.state,
                 i.pincode, i.weight, i.dimensions, i.estimated_delivery, i.actual_delivery, i.created_at
             FROM jsonb_to_record($1::jsonb) AS i (id uuid, order_id uuid, order_number text, tracking_number text,
                 carrier text, status text, line1 text, city text, state text, pincode text, weight numeric,
                 dimensions text, estimated_delivery date, actual_delivery date, created_at timestamp)
             LEFT JOIN carriers c ON c.name = i.carrier
             ON CONFLICT (id) DO UPDATE SET status = excluded.status, carrier_name = excluded.carrier_name,
                 actual_delivery = coalesce(shipments.actual_delivery, excluded.actual_delivery),
                 updated_at = CURRENT_TIMESTAMP, version = shipments.version + 1",
            &[&event.data],
        )
        .await?;
    let shipment = event.uuid("id")?;
    transaction
        .execute(
            "INSERT INTO delivery_attempts (shipment_id, agent_id, attempt_number, status, failure_reason,
                 attempted_at)
             SELECT $2::uuid, (SELECT id FROM delivery_agents g WHERE g.name = i.agent ORDER BY id LIMIT 1),
                 i.attempt_number, i.status, i.notes, CURRENT_TIMESTAMP
             FROM jsonb_to_recordset($1::jsonb -> 'attempts') AS i (attempt_number int, status text, agent text, notes text)
             WHERE NOT EXISTS (SELECT FROM delivery_attempts d
                 WHERE d.shipment_id = $2::uuid AND d.attempt_number = i.attempt_number)",
            &[&event.data, &shipment],
        )
        .await?;
    Ok(())
}
