//! The servers, which are our own or those that the environment names.

use anyhow::{Result, ensure};
use testbed::{Kafka, Postgres, Version, reader};

use crate::sources::SOURCES;

/// `config/demo.toml` has this name.
const POSITION_TOPIC: &str = "outboxd.demo.positions";

pub(crate) struct Servers {
    postgres: Server<Postgres>,
    kafka: Server<Kafka>,
}

enum Server<T: 'static> {
    Own(T),
    Named(&'static T),
}

impl<T> Server<T> {
    fn get(&self) -> &T {
        match self {
            Self::Own(server) => server,
            Self::Named(server) => server,
        }
    }
}

impl Servers {
    pub(crate) async fn start() -> Result<Self> {
        let named = |variable| std::env::var_os(variable).is_some();
        let postgres = async {
            anyhow::Ok(if named("TESTBED_POSTGRES_URL") {
                Server::Named(Postgres::shared(Version::V15).await?)
            } else {
                Server::Own(Postgres::start(Version::V15).await?)
            })
        };
        let kafka = async {
            anyhow::Ok(if named("TESTBED_KAFKA_BROKERS") {
                Server::Named(Kafka::shared().await?)
            } else {
                // The controller is a process of its own. A Kafka 4.4 broker that is its own
                // controller, and is killed between the end of a transaction and its markers, comes
                // back with stale metadata and can skip the markers. Then Kafka would lose a
                // committed transaction, and no relay could do anything about it.
                Server::Own(Kafka::builder(1).separate_controller().start().await?)
            })
        };
        let (postgres, kafka) = tokio::try_join!(postgres, kafka)?;
        let servers = Self { postgres, kafka };
        servers.refuse_leftovers().await?;
        Ok(servers)
    }

    /// Foreign records in our topics would make the audit fail.
    async fn refuse_leftovers(&self) -> Result<()> {
        if self.own_kafka().is_some() {
            return Ok(());
        }
        for topic in topics() {
            let found = reader::count_committed(&self.kafka().brokers(), &[topic]).await;
            ensure!(found.is_err(), "topic {topic} is on those brokers already; the demo wants to make it");
        }
        Ok(())
    }

    pub(crate) fn postgres(&self) -> &Postgres {
        self.postgres.get()
    }

    pub(crate) fn kafka(&self) -> &Kafka {
        self.kafka.get()
    }

    /// The cluster, if its brokers may be killed.
    pub(crate) fn own_kafka(&self) -> Option<&Kafka> {
        match &self.kafka {
            Server::Own(kafka) => Some(kafka),
            Server::Named(_) => None,
        }
    }

    pub(crate) fn describe(&self) -> String {
        let postgres = match self.postgres {
            Server::Own(_) => "Postgres 15, ours",
            Server::Named(_) => "Postgres of TESTBED_POSTGRES_URL",
        };
        let kafka = match self.kafka {
            Server::Own(_) => format!("Kafka {} (a broker and a controller), ours", testbed::artifacts::KAFKA),
            Server::Named(_) => "Kafka of TESTBED_KAFKA_BROKERS".to_owned(),
        };
        format!("{postgres}; {kafka} at {}", self.kafka().brokers())
    }

    /// Removes what the demo made from servers that are not ours.
    pub(crate) async fn clean_up(self) -> Result<()> {
        if let Server::Named(postgres) = &self.postgres {
            let client = postgres.client("postgres").await?;
            for source in &SOURCES {
                let slot = format!("outboxd_{}", source.name);
                client
                    .execute(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1",
                        &[&slot],
                    )
                    .await?;
                client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", source.database)).await?;
            }
        }
        if let Server::Named(kafka) = &self.kafka {
            for topic in topics() {
                kafka.delete_topic(topic).await?;
            }
        }
        Ok(())
    }
}

fn topics() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|source| source.topic).chain([POSITION_TOPIC])
}
