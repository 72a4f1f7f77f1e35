//! Creating what is missing, for `outboxd setup` and for `run` with `auto_setup`.
//!
//! ```text
//!   Postgres, Kafka ──▶ facts: what there is ──▶ plan: typed steps, in order (pure) ──▶ execute: make them, say it
//!                                                    ▲
//!   migrations/*.sql ────────────────────────────────┘
//! ```
//!
//! What must hold:
//! - nothing that exists is changed or dropped, and running it again does nothing;
//! - the publication comes before the slot (rule 13), and a slot through which rows were published is never made again;
//! - what the role at hand may not do is not an accident: its SQL is given to a person.

pub mod execute;
pub mod facts;
pub mod join;
pub mod migrations;
pub mod plan;

pub use execute::{Outcome, Report};
pub use facts::{Facts, KafkaFacts};
pub use plan::{Plan, SlotStep, SqlStep, Step};

use std::time::Duration;

use tokio_postgres::Client;

use crate::{
    Code, Error, Result,
    config::Source,
    postgres::{
        SqlSession,
        catalog::{SlotInfo, server, slots},
        sql_error,
    },
};

/// How often, and at what distance, [`lock_source`] and [`slot_at_rest`] try.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// Refuses a server that outboxd cannot work with at all.
///
/// # Errors
/// [`Code::PostgresTooOld`] before Postgres 15, [`Code::WalLevel`] unless `wal_level` is `logical`.
pub async fn require_server(sql: &SqlSession) -> Result<()> {
    let server = server::server(sql).await?;
    if server.major() < 15 {
        return Err(Error::new(Code::PostgresTooOld, format!("the server is Postgres {}", server.version_text)));
    }
    if server.wal_level != "logical" {
        return Err(Error::new(Code::WalLevel, format!("wal_level is {}", server.wal_level)));
    }
    Ok(())
}

/// Holds off everybody else who would set up or take the source, as long as the session lives; false when somebody
/// does already. Creating a slot does not hold it, so the slot cannot serve for this.
///
/// # Errors
/// Only what a broken session brings.
pub async fn try_lock_source(client: &Client, source: &str) -> Result<bool> {
    let row = client
        .query_one("SELECT pg_try_advisory_lock(hashtextextended('outboxd:' || $1, 0))", &[&source])
        .await
        .map_err(|error| sql_error("taking the advisory lock of the source", error))?;
    Ok(row.get(0))
}

/// The same, with a few seconds of patience: a daemon that has just ended may hold the lock for the moment that its
/// server takes to notice.
///
/// # Errors
/// Only what a broken session brings.
pub async fn lock_source(client: &Client, source: &str) -> Result<bool> {
    for _ in 0..LOCK_TRIES {
        if try_lock_source(client, source).await? {
            return Ok(true);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    try_lock_source(client, source).await
}

/// The slot, once nobody streams from it; with the same patience, after which it is given as it is.
///
/// # Errors
/// Only what a broken session brings.
pub async fn slot_at_rest(client: &Client, name: &str) -> Result<Option<SlotInfo>> {
    for _ in 0..LOCK_TRIES {
        match slots::slot(client, name).await? {
            Some(slot) if slot.active => tokio::time::sleep(LOCK_PAUSE).await,
            slot => return Ok(slot),
        }
    }
    slots::slot(client, name).await
}

/// Gives back what [`try_lock_source`] took.
///
/// # Errors
/// Only what a broken session brings.
pub async fn unlock_source(client: &Client, source: &str) -> Result<()> {
    client
        .execute("SELECT pg_advisory_unlock(hashtextextended('outboxd:' || $1, 0))", &[&source])
        .await
        .map_err(|error| sql_error("giving back the advisory lock of the source", error))?;
    Ok(())
}

/// Makes what is missing of the source's tables, rights and publication, as far as the session's role may; for `run`.
/// With `auto_setup` off nothing is made.
///
/// # Errors
/// What is missing and cannot be made: [`Code::TableMissing`], [`Code::PublicationMissing`], [`Code::PostgresDenied`];
/// the message holds the SQL.
pub async fn ensure(sql: &SqlSession, source: &Source) -> Result<()> {
    let role = server::server(sql).await?.role.name;
    let plan = Plan::for_postgres(&facts::read(sql, source, &role).await?, source)?;
    for step in &plan.steps {
        let Step::Sql(step) = step else { continue };
        if !source.auto_setup {
            return Err(missing(step, None));
        }
        execute::run_sql(sql, step, source).await.map_err(|error| match error.code() {
            Code::PostgresDenied => missing(step, Some(error)),
            _ => error,
        })?;
        tracing::info!(made = step.what, "set up");
    }
    Ok(())
}

/// What is missing, with the SQL that makes it.
fn missing(step: &SqlStep, denied: Option<Error>) -> Error {
    let code = match step.what.split(' ').next() {
        Some("table") => Code::TableMissing,
        Some("publication") => Code::PublicationMissing,
        _ => Code::PostgresDenied,
    };
    let error = Error::new(code, format!("{} is missing; it is made by: {};", step.what, step.sql.join("; ")));
    match denied {
        Some(denied) => error.because(denied),
        None => error,
    }
}
