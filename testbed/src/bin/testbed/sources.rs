//! The sources of the demo and of the chaos run: the three services of the migration guide, each
//! with its database, its outbox and its topic.

use anyhow::Result;
use testbed::Postgres;
use tokio_postgres::Client;

/// One service: a database with one outbox, and the topic that its rows belong in.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) database: &'static str,
    pub(crate) table: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) aggregate_type: &'static str,
    schema: &'static str,
}

pub(crate) const SOURCES: [Source; 3] = [
    Source {
        name: "user",
        database: "user_service",
        table: "user_outbox",
        topic: "user.events",
        aggregate_type: "user",
        schema: include_str!("../../../../migrations/seed/user_outbox.sql"),
    },
    Source {
        name: "order",
        database: "order_service",
        table: "order_outbox",
        topic: "order.events",
        aggregate_type: "order",
        schema: include_str!("../../../../migrations/seed/order_outbox.sql"),
    },
    Source {
        name: "logistics",
        database: "logistics_service",
        table: "logistics_outbox",
        topic: "shipment.events",
        aggregate_type: "shipment",
        schema: include_str!("../../../../migrations/seed/logistics_outbox.sql"),
    },
];

impl Source {
    /// Makes the database, the outbox, word for word as the guide has it, and the publication. The
    /// table's owner has to make that, since the daemon's role may not.
    /// (`outboxd setup --admin-url` would make it, too.) Returns the owner's session.
    pub(crate) async fn create(&self, postgres: &Postgres) -> Result<Client> {
        postgres.create_database(self.database).await?;
        let client = postgres.client(self.database).await?;
        client.batch_execute(self.schema).await?;
        let publication = format!(
            "CREATE PUBLICATION outboxd_{} FOR TABLE {} WITH (publish = 'insert', publish_via_partition_root = true)",
            self.name, self.table
        );
        client.batch_execute(&publication).await?;
        Ok(client)
    }
}
