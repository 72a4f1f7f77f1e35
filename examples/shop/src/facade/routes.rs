//! Which process reads and writes a domain. The table is the truth; a killed facade reads it again.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use anyhow::Result;
use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};

/// A part of the shop that moves as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    Users,
    Orders,
    Shipments,
}

impl Domain {
    /// The domain of a path.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["users", _, "orders"] | ["orders" | "summary", ..] => Some(Self::Orders),
            ["users" | "login", ..] => Some(Self::Users),
            ["shipments" | "track", ..] => Some(Self::Shipments),
            _ => None,
        }
    }

    /// As the tables have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Orders => "orders",
            Self::Shipments => "shipments",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Monolith,
    Service,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Monolith => "monolith",
            Self::Service => "service",
        }
    }

    fn parse(text: &str) -> Self {
        if text == "service" { Self::Service } else { Self::Monolith }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub reads: Target,
    pub writes: Target,
}

impl Route {
    /// Everything in the monolith.
    pub const MONOLITH: Self = Self { reads: Target::Monolith, writes: Target::Monolith };
    /// Read in the service, written in the monolith.
    pub const READS: Self = Self { reads: Target::Service, writes: Target::Monolith };
    /// Everything in the service.
    pub const SERVICE: Self = Self { reads: Target::Service, writes: Target::Service };
}

pub(super) struct Routes {
    pool: Pool,
    now: RwLock<BTreeMap<Domain, Route>>,
}

impl Routes {
    pub(super) async fn load(pool: Pool) -> Result<Self> {
        let client = pool.get().await?;
        let mut now = BTreeMap::new();
        for row in client.query("SELECT domain, reads, writes FROM route", &[]).await? {
            let domain = match row.get(0) {
                "users" => Domain::Users,
                "orders" => Domain::Orders,
                _ => Domain::Shipments,
            };
            now.insert(domain, Route { reads: Target::parse(row.get(1)), writes: Target::parse(row.get(2)) });
        }
        drop(client);
        Ok(Self { pool, now: RwLock::new(now) })
    }

    pub(super) fn all(&self) -> BTreeMap<Domain, Route> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn of(&self, domain: Domain) -> Route {
        self.all().get(&domain).copied().unwrap_or(Route::MONOLITH)
    }

    /// Changes the table first.
    pub(super) async fn set(&self, domain: Domain, route: Route) -> Result<()> {
        let client = self.pool.get().await?;
        let update = "UPDATE route SET reads = $2, writes = $3 WHERE domain = $1";
        let changed = client.execute(update, &[&domain.name(), &route.reads.name(), &route.writes.name()]).await?;
        anyhow::ensure!(changed == 1, "no route for {domain:?}");
        self.now.write().unwrap_or_else(PoisonError::into_inner).insert(domain, route);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_domain_that_answers_it() {
        for (path, domain) in [
            ("/users", Some(Domain::Users)),
            ("/login", Some(Domain::Users)),
            ("/users/1/addresses/2", Some(Domain::Users)),
            ("/users/1/orders", Some(Domain::Orders)),
            ("/orders/1/cancel", Some(Domain::Orders)),
            ("/shipments/by-order/1", Some(Domain::Shipments)),
            ("/track/TRK-1", Some(Domain::Shipments)),
            ("/favicon.ico", None),
        ] {
            assert_eq!(Domain::of(path), domain, "{path}");
        }
    }
}
