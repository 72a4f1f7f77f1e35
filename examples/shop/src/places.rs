//! Where the databases, the brokers and the processes are.

use clap::ValueEnum;

/// Every process gets the same addresses, as flags or from the environment.
#[derive(clap::Args, Debug, Clone)]
pub struct Places {
    /// The Postgres server, without a database: postgres://postgres@127.0.0.1:5432
    #[arg(long, env = "SHOP_POSTGRES", hide_env_values = true)]
    pub postgres: String,
    /// The Kafka brokers
    #[arg(long, env = "SHOP_BROKERS")]
    pub brokers: String,
    /// host:port of the facade, which is the address that clients know
    #[arg(long, env = "SHOP_FACADE", default_value = "127.0.0.1:8080")]
    pub facade: String,
    /// host:port of the monolith
    #[arg(long, env = "SHOP_MONOLITH", default_value = "127.0.0.1:8081")]
    pub monolith: String,
    /// host:port of the User service
    #[arg(long, env = "SHOP_USER", default_value = "127.0.0.1:8082")]
    pub user: String,
    /// host:port of the Order service
    #[arg(long, env = "SHOP_ORDER", default_value = "127.0.0.1:8083")]
    pub order: String,
    /// host:port of the Logistics service
    #[arg(long, env = "SHOP_LOGISTICS", default_value = "127.0.0.1:8084")]
    pub logistics: String,
    /// host:port of the stand-ins for stock and payment
    #[arg(long, env = "SHOP_PARTNERS", default_value = "127.0.0.1:8085")]
    pub partners: String,
}

impl Places {
    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: Database) -> String {
        format!("{}/{}", self.postgres, database.name())
    }

    /// The environment that gives a child process these places.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &str); 8] {
        [
            ("SHOP_POSTGRES", &self.postgres),
            ("SHOP_BROKERS", &self.brokers),
            ("SHOP_FACADE", &self.facade),
            ("SHOP_MONOLITH", &self.monolith),
            ("SHOP_USER", &self.user),
            ("SHOP_ORDER", &self.order),
            ("SHOP_LOGISTICS", &self.logistics),
            ("SHOP_PARTNERS", &self.partners),
        ]
    }
}

/// The databases. Each belongs to one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Database {
    Monolith,
    User,
    Order,
    Logistics,
    Partners,
    Facade,
}

impl Database {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Monolith, Self::User, Self::Order, Self::Logistics, Self::Partners, Self::Facade];

    /// Its name on the server.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Monolith => "monolith",
            Self::User => "user_service",
            Self::Order => "order_service",
            Self::Logistics => "logistics_service",
            Self::Partners => "partners",
            Self::Facade => "facade",
        }
    }
}
