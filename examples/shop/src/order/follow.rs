//! What the Order service learns from others: shipments from Logistics, deletions from the User
//! service. Names, emails and addresses of users are not followed: an order keeps them as they were.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use inbox::{Event, Handler, Subscription};
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::{
    Orders,
    change::{self, Change},
};
use crate::{places::Places, web::Failure};

pub(super) fn spawn(places: &Places, app: &Arc<Orders>) {
    let subscription = |consumer: &str, topic: &str| Subscription {
        brokers: places.brokers.clone(),
        consumer: consumer.to_owned(),
        topics: vec![topic.to_owned()],
    };
    let shipments = Follow { app: app.clone(), topic: Topic::Shipments };
    tokio::spawn(inbox::run(subscription("orders-shipments", "shipment.events"), app.pool.clone(), shipments));
    let users = Follow { app: app.clone(), topic: Topic::Users };
    tokio::spawn(inbox::run(subscription("orders-users", "user.events"), app.pool.clone(), users));
}

enum Topic {
    Shipments,
    Users,
}

struct Follow {
    app: Arc<Orders>,
    topic: Topic,
}

impl Handler for Follow {
    fn wants(&self, kind: &str) -> bool {
        match self.topic {
            Topic::Users => kind == "UserDeleted",
            Topic::Shipments => matches!(
                kind,
                "ShipmentCreated"
                    | "ShipmentDispatched"
                    | "ShipmentDelivered"
                    | "DeliveryAttemptFailed"
                    | "ShipmentReturned"
            ),
        }
    }

    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> Result<()> {
        let handled = match self.topic {
            Topic::Users => user_deleted(transaction, event.uuid("user_id")?).await,
            Topic::Shipments => shipment(transaction, event).await,
        };
        handled.map_err(|failure| match failure {
            Failure::Internal(error) => error,
            other => anyhow!("{other:?}"),
        })?;
        self.app.wake.notify_one();
        Ok(())
    }
}

/// The event does what the foreign key did: no new order, and what is not confirmed is given up.
async fn user_deleted(transaction: &Transaction<'_>, user: Uuid) -> Result<(), Failure> {
    change::lock_user(transaction, user).await?;
    transaction.execute("INSERT INTO deleted_users VALUES ($1) ON CONFLICT DO NOTHING", &[&user]).await?;
    let open = "SELECT id FROM orders WHERE user_id = $1 AND status = 'CREATED'";
    for row in transaction.query(open, &[&user]).await? {
        change::turn_round(transaction, row.get(0), "the user was deleted").await?;
    }
    Ok(())
}

async fn shipment(transaction: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
    let order = event.uuid("order_id")?;
    await_commit(transaction, order).await?;
    let seen = change::look(transaction, order).await?;
    let reason = event.data["reason"].as_str();
    match (event.kind.as_str(), seen.status.as_str()) {
        ("ShipmentCreated", _) => end_saga(transaction, order).await?,
        ("ShipmentDispatched", "CONFIRMED") => {
            change::advance(transaction, order, &seen, ("SHIPPED", "logistics", None)).await?;
        }
        ("ShipmentDelivered", "CONFIRMED" | "SHIPPED") => {
            change::complete_in(transaction, order, &seen, "logistics").await?;
        }
        ("DeliveryAttemptFailed", status) => {
            let note = Change { from: Some(status), to: status, by: "logistics", reason };
            change::record(transaction, order, &note).await?;
        }
        ("ShipmentReturned", _) => give_back(transaction, order, reason).await?,
        _ => {}
    }
    Ok(())
}

/// Waits until what has led to this event is visible here.
///
/// Postgres sends a commit to outboxd before it shows it to other sessions. On a busy machine the
/// answer to OrderConfirmed can be here in between, and would find the saga one step behind. A lock
/// that names no state finds the row as it was, and waits for whoever is changing it.
async fn await_commit(transaction: &Transaction<'_>, order: Uuid) -> Result<(), tokio_postgres::Error> {
    transaction.query("SELECT FROM saga WHERE order_id = $1 ORDER BY kind FOR UPDATE", &[&order]).await?;
    transaction.query("SELECT FROM orders WHERE id = $1 FOR UPDATE", &[&order]).await?;
    Ok(())
}

/// Logistics has taken the parcel: the creation of the order has succeeded.
async fn end_saga(transaction: &Transaction<'_>, order: Uuid) -> Result<(), tokio_postgres::Error> {
    let end = "UPDATE saga SET state = 'DONE', outcome = 'completed', updated_at = now()
               WHERE order_id = $1 AND kind = 'create' AND state = 'SHIP' AND outcome IS NULL";
    transaction.execute(end, &[&order]).await?;
    Ok(())
}

/// A parcel that was never taken undoes the creation. One that came back later begins a return.
async fn give_back(transaction: &Transaction<'_>, order: Uuid, reason: Option<&str>) -> Result<(), Failure> {
    let undo = "UPDATE saga SET state = 'REFUND', reason = $2, attempts = 0, updated_at = now()
                WHERE order_id = $1 AND kind = 'create' AND state = 'SHIP' AND outcome IS NULL";
    if transaction.execute(undo, &[&order, &reason]).await? == 0 {
        let begin = "INSERT INTO saga (order_id, kind, state, reason) VALUES ($1, 'return', 'REFUND', $2)
                     ON CONFLICT DO NOTHING";
        transaction.execute(begin, &[&order, &reason]).await?;
    }
    Ok(())
}
