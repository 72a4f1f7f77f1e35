//! Everything that runs: Postgres, Kafka, the processes of the shop, and an outboxd for each
//! database.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use testbed::{Daemon, Kafka, Postgres, Version, ports};

use crate::{
    db, partners,
    places::{Database, Places},
    seed,
};

/// Pieces of each product.
const PIECES: i32 = 1_000_000;

/// The topics. The brokers make none by themselves.
pub(super) const TOPICS: [&str; 7] = [
    "user.events",
    "order.events",
    "shipment.events",
    "monolith.images",
    "user_service.images",
    "order_service.images",
    "logistics_service.images",
];

/// A process that can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Monolith,
    User,
    Order,
    Logistics,
    Partners,
    Facade,
    OutboxdMonolith,
    OutboxdUser,
    OutboxdOrder,
    OutboxdLogistics,
    /// One outboxd for all three services.
    OutboxdAll,
}

impl Part {
    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Monolith => "monolith",
            Self::User => "user",
            Self::Order => "order",
            Self::Logistics => "logistics",
            Self::Partners => "partners",
            Self::Facade => "facade",
            Self::OutboxdMonolith => "outboxd of the monolith",
            Self::OutboxdUser => "outboxd of the User service",
            Self::OutboxdOrder => "outboxd of the Order service",
            Self::OutboxdLogistics => "outboxd of the Logistics service",
            Self::OutboxdAll => "outboxd of all services",
        }
    }

    /// Whether it is an outboxd.
    #[must_use]
    pub fn is_outboxd(self) -> bool {
        self.config().is_some()
    }

    /// The configuration of an outboxd.
    fn config(self) -> Option<&'static str> {
        Some(match self {
            Self::OutboxdMonolith => include_str!("../../config/monolith.toml"),
            Self::OutboxdUser => include_str!("../../config/sidecar-user.toml"),
            Self::OutboxdOrder => include_str!("../../config/sidecar-order.toml"),
            Self::OutboxdLogistics => include_str!("../../config/sidecar-logistics.toml"),
            Self::OutboxdAll => include_str!("../../config/all.toml"),
            _ => return None,
        })
    }
}

/// All of it. Dropping it ends every process.
pub struct Stage {
    pub places: Places,
    pub postgres: Postgres,
    pub kafka: Kafka,
    outboxd: PathBuf,
    shop: PathBuf,
    parts: Mutex<BTreeMap<Part, Daemon>>,
}

impl Stage {
    /// Starts the servers, fills the monolith, and starts what there is before phase 1. The services
    /// wait for their tables.
    pub async fn start(outboxd: &Path, users: u32) -> Result<Self> {
        Self::start_with(&std::env::current_exe()?, outboxd, users).await
    }

    /// The same with a `shop` of the caller's.
    pub async fn start_with(shop: &Path, outboxd: &Path, users: u32) -> Result<Self> {
        let outboxd = outboxd.canonicalize().with_context(|| format!("no outboxd at {}", outboxd.display()))?;
        let (postgres, kafka) = tokio::try_join!(
            Postgres::start(Version::V15),
            // A controller of its own: see the demo of outboxd.
            // A broker that stands still for 5 s keeps its partitions (KAFKA-20734).
            Kafka::builder(1).separate_controller().setting("broker.session.timeout.ms", "10000").start(),
        )?;
        let address = || anyhow::Ok(format!("127.0.0.1:{}", ports::free()?));
        let places = Places {
            postgres: postgres.superuser_url("").trim_end_matches('/').to_owned(),
            brokers: kafka.brokers(),
            facade: address()?,
            monolith: address()?,
            user: address()?,
            order: address()?,
            logistics: address()?,
            partners: address()?,
        };
        for topic in TOPICS {
            kafka.create_topic(topic, 3, &[]).await?;
        }
        let parts = Mutex::default();
        let stage = Self { places, postgres, kafka, outboxd, shop: shop.to_owned(), parts };
        stage.fill(users).await?;
        for part in [Part::Monolith, Part::Partners, Part::Facade, Part::OutboxdMonolith] {
            stage.launch(part)?;
        }
        for part in [Part::User, Part::Order, Part::Logistics] {
            stage.launch(part)?;
        }
        Ok(stage)
    }

    async fn fill(&self, users: u32) -> Result<()> {
        for database in Database::ALL {
            self.postgres.create_database(database.name()).await?;
        }
        for database in [Database::Monolith, Database::Partners, Database::Facade] {
            let mut client = db::connect(&self.places, database).await?;
            db::run_files(&mut client, db::schema(database)).await?;
        }
        seed::monolith(&mut db::connect(&self.places, Database::Monolith).await?, users).await?;
        partners::fill(&db::connect(&self.places, Database::Partners).await?, PIECES).await
    }

    /// Starts a process that was never started.
    pub fn launch(&self, part: Part) -> Result<()> {
        self.launch_with(part, &[])
    }

    /// The same with more environment, such as `SHOP_CRASH_AT`.
    pub fn launch_with(&self, part: Part, environment: &[(&str, &str)]) -> Result<()> {
        let mut builder = if let Some(config) = part.config() {
            let builder = Daemon::builder(&self.outboxd)?.args(&["run", "--config", "{config}"]).config(config);
            let listen = builder.http_address();
            builder.env("SHOP_OUTBOXD_POSTGRES", &self.outboxd_postgres()).env("OUTBOXD_LISTEN", &listen)
        } else {
            Daemon::builder(&self.shop)?.arg(part.name())
        };
        for (name, value) in self.places.environment().iter().chain(environment) {
            builder = builder.env(name, value);
        }
        self.parts().insert(part, builder.start()?);
        Ok(())
    }

    fn outboxd_postgres(&self) -> String {
        self.postgres.url("").trim_end_matches('/').to_owned()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Part, Daemon>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, part: Part, act: impl FnOnce(&Daemon) -> Result<T>) -> Result<T> {
        act(self.parts().get(&part).with_context(|| format!("{} was never started", part.name()))?)
    }

    /// `kill -9`
    pub fn kill9(&self, part: Part) -> Result<()> {
        self.with(part, Daemon::kill9)
    }

    /// Starts a killed process again.
    pub fn start_again(&self, part: Part) -> Result<()> {
        self.with(part, Daemon::start_again)
    }

    /// Whether it runs.
    pub fn is_running(&self, part: Part) -> Result<bool> {
        self.with(part, Daemon::is_running)
    }

    /// SIGSTOP and SIGCONT.
    pub fn pause(&self, part: Part, on: bool) -> Result<()> {
        self.with(part, |daemon| if on { daemon.pause() } else { daemon.resume() })
    }

    /// The last lines that a process has written.
    #[must_use]
    pub fn lines(&self, part: Part) -> Vec<String> {
        self.parts().get(&part).map(Daemon::lines).unwrap_or_default()
    }

    /// Ends a process in an orderly way, and forgets it.
    pub async fn stop(&self, part: Part) -> Result<()> {
        let daemon = self.parts().remove(&part).with_context(|| format!("{} was never started", part.name()))?;
        daemon.term()?;
        daemon.wait_status(Duration::from_secs(30)).await?;
        Ok(())
    }

    /// Every process that was started.
    #[must_use]
    pub fn started(&self) -> Vec<Part> {
        self.parts().keys().copied().collect()
    }

    /// Starts the outboxd of a service when its tables are there.
    pub async fn follow_one(&self, database: Database, part: Part) -> Result<()> {
        let pool = db::pool(&self.places, database)?;
        db::await_tables(&pool).await;
        self.launch(part)
    }

    /// Starts the outboxd of each service as the phases make the tables. It never ends by itself.
    pub async fn follow(&self) -> Result<()> {
        tokio::try_join!(
            self.follow_one(Database::User, Part::OutboxdUser),
            self.follow_one(Database::Order, Part::OutboxdOrder),
            self.follow_one(Database::Logistics, Part::OutboxdLogistics),
        )?;
        std::future::pending().await
    }

    /// Runs `shop migrate` with these arguments. Returns its exit code and what it printed.
    pub async fn migrate(&self, arguments: &[&str]) -> Result<(i32, Vec<String>)> {
        let mut builder = Daemon::builder(&self.shop)?.arg("migrate").args(arguments);
        for (name, value) in self.places.environment() {
            builder = builder.env(name, value);
        }
        let daemon = builder.start()?;
        let code = daemon.wait_exit(Duration::from_secs(180)).await?;
        Ok((code, daemon.lines()))
    }

    /// `outboxd verify` over the tables of all events, once the monolith is put away. Returns its
    /// exit code and output.
    pub async fn verify(&self) -> Result<(i32, Vec<String>)> {
        let config = include_str!("../../config/audit.toml");
        let daemon = Daemon::builder(&self.outboxd)?
            .args(&["verify", "--config", "{config}"])
            .config(config)
            .env("SHOP_OUTBOXD_POSTGRES", &self.outboxd_postgres())
            .env("SHOP_BROKERS", &self.places.brokers)
            .start()?;
        let code = daemon.wait_exit(Duration::from_secs(120)).await?;
        Ok((code, daemon.lines()))
    }
}
