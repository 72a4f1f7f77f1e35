//! The three services of the migration guide, each with its database, its outbox and its topic.

use anyhow::Result;
use testbed::Postgres;

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
        schema: include_str!("../../../../../migrations/seed/user_outbox.sql"),
    },
    Source {
        name: "order",
        database: "order_service",
        table: "order_outbox",
        topic: "order.events",
        aggregate_type: "order",
        schema: include_str!("../../../../../migrations/seed/order_outbox.sql"),
    },
    Source {
        name: "logistics",
        database: "logistics_service",
        table: "logistics_outbox",
        topic: "shipment.events",
        aggregate_type: "shipment",
        schema: include_str!("../../../../../migrations/seed/logistics_outbox.sql"),
    },
];

impl Source {
    /// Database, outbox and publication.
    pub(crate) async fn create(&self, postgres: &Postgres) -> Result<()> {
        postgres.create_database(self.database).await?;
        let client = postgres.client(self.database).await?;
        client.batch_execute(self.schema).await?;
        let publication = format!(
            "CREATE PUBLICATION outboxd_{} FOR TABLE {} WITH (publish = 'insert', publish_via_partition_root = true)",
            self.name, self.table
        );
        Ok(client.batch_execute(&publication).await?)
    }

    /// Its section of the configuration. All timeouts are short, so that much happens in little time. Batches are
    /// small, so that large transactions are split.
    pub(crate) fn config(&self, postgres: &str) -> String {
        let Self { name, database, table, .. } = self;
        format!(
            "[[source]]\nname = \"{name}\"\nurl = \"postgres://outboxd@{postgres}/{database}\"\ntables = [\"{table}\"]\n\
             [source.limits]\nbatch_rows = 1000\n\
             [source.timeouts]\nstatus = \"300ms\"\nconnect = \"3s\"\nstatement = \"10s\"\nlock = \"2s\"\n\
             idle_advance = \"1s\"\nbackoff_max = \"2s\"\n\n"
        )
    }
}
