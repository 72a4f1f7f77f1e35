//! Who writes a module, and what is still on its way between two databases.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{Migration, say};
use crate::{
    db,
    places::{Database, Places},
};

/// How long everything that was written may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// Rows of an outbox, and the consumer that takes them.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    pub from: Database,
    pub table: &'static str,
    /// Event types that the consumer takes.
    pub kinds: &'static [&'static str],
    pub to: Database,
    pub consumer: &'static str,
}

const IMAGES: &str = "sync_outbox";
const SHIPMENT_EVENTS: &[&str] =
    &["ShipmentCreated", "ShipmentDispatched", "ShipmentDelivered", "DeliveryAttemptFailed", "ShipmentReturned"];

impl Flow {
    pub const USERS: Self = Self::images(Database::Monolith, &["user_image"], Database::User, "users-sync");
    pub const USERS_BACK: Self = Self::images(Database::User, &["user_image"], Database::Monolith, "monolith-users");
    pub const ORDERS: Self =
        Self::images(Database::Monolith, &["order_image", "user_image"], Database::Order, "orders-sync");
    pub const ORDERS_BACK: Self =
        Self::images(Database::Order, &["order_image"], Database::Monolith, "monolith-orders");
    pub const SHIPMENTS: Self =
        Self::images(Database::Monolith, &["shipment_image", "order_image"], Database::Logistics, "logistics-sync");
    pub const SHIPMENTS_BACK: Self =
        Self::images(Database::Logistics, &["shipment_image"], Database::Monolith, "monolith-shipments");
    /// OrderConfirmed, while the monolith makes the shipments.
    pub const CONFIRMED: Self = Self {
        from: Database::Order,
        table: "order_outbox",
        kinds: &["OrderConfirmed"],
        to: Database::Monolith,
        consumer: "monolith-shipping",
    };
    /// Events of shipments of the monolith.
    pub const OLD_EVENTS: Self = Self {
        from: Database::Monolith,
        table: "shipment_outbox",
        kinds: SHIPMENT_EVENTS,
        to: Database::Order,
        consumer: "orders-shipments",
    };
    /// Events of shipments of the Logistics service.
    pub const NEW_EVENTS: Self = Self {
        from: Database::Logistics,
        table: "logistics_outbox",
        kinds: SHIPMENT_EVENTS,
        to: Database::Order,
        consumer: "orders-shipments",
    };

    const fn images(from: Database, kinds: &'static [&'static str], to: Database, consumer: &'static str) -> Self {
        Self { from, table: IMAGES, kinds, to, consumer }
    }
}

/// The rows of a flow that have had no effect yet.
pub async fn unapplied(places: &Places, flow: &Flow) -> Result<Vec<Uuid>> {
    let source = db::connect(places, flow.from).await?;
    let query = format!("SELECT id FROM {} WHERE event_type = ANY($1)", flow.table);
    let ids: Vec<Uuid> = source.query(&query, &[&flow.kinds]).await?.iter().map(|row| row.get(0)).collect();
    missing(&db::connect(places, flow.to).await?, flow, ids).await
}

async fn missing(target: &Client, flow: &Flow, ids: Vec<Uuid>) -> Result<Vec<Uuid>> {
    let query = "SELECT u.id FROM unnest($2::uuid[]) u (id)
                 WHERE NOT EXISTS (SELECT FROM inbox i WHERE i.consumer = $1 AND i.event_id = u.id)";
    Ok(target.query(query, &[&flow.consumer, &ids]).await?.iter().map(|row| row.get(0)).collect())
}

impl Migration {
    /// Waits until everything that was written up to now has had its effect on the other side.
    pub(super) async fn drain(&self, flow: &Flow) -> Result<()> {
        let started = tokio::time::Instant::now();
        let mut open = unapplied(&self.places, flow).await?;
        let waited_for = open.len();
        while !open.is_empty() {
            if started.elapsed() > ARRIVES_WITHIN {
                bail!("{} rows of {}.{} have not arrived", open.len(), flow.from.name(), flow.table);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            open = missing(&self.connect(flow.to).await?, flow, open).await?;
        }
        let (from, to) = (flow.from.name(), flow.to.name());
        say(&format!("{from}.{} → {to}: drained ({waited_for} were on their way)", flow.table));
        Ok(())
    }

    /// Takes a module away. Writes that are under way end first; later ones are refused, and held
    /// by the facade.
    pub(super) async fn take(&self, database: Database, module: &str) -> Result<()> {
        self.own(database, module, false).await
    }

    /// Gives a module.
    pub(super) async fn give(&self, database: Database, module: &str) -> Result<()> {
        self.own(database, module, true).await
    }

    async fn own(&self, database: Database, module: &str, owner: bool) -> Result<()> {
        let client = self.connect(database).await?;
        client
            .execute(
                "INSERT INTO module_state VALUES ($1, $2) ON CONFLICT (module) DO UPDATE SET owner = excluded.owner",
                &[&module, &owner],
            )
            .await?;
        say(&format!("{} {} {module}", database.name(), if owner { "now writes" } else { "no longer writes" }));
        Ok(())
    }

    /// Whether a database writes a module.
    pub(super) async fn owns(&self, database: Database, module: &str) -> Result<bool> {
        let client = self.connect(database).await?;
        Ok(db::owns(&client, module).await?)
    }
}
