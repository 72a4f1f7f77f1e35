//! Creates what is missing, for `outboxd setup` and for `run` with `auto_setup`.
//!
//! ```text
//!   Postgres, Kafka ──▶ facts: what there is ──▶ plan: typed steps (pure) ──▶ execute: make them
//!                                                    ▲
//!   migrations/*.sql ────────────────────────────────┘
//! ```
//!
//! What must hold:
//! - it changes and drops nothing that exists, and a second run does nothing;
//! - it makes the publication before the slot (rule 13), and it never makes a slot again through
//!   which rows were published;
//! - when the session's role lacks a right, that is no failure: a person gets the SQL.

pub mod execute;
pub mod facts;
pub mod migrations;
pub mod plan;
pub(crate) mod topics;

pub(crate) use execute::Outcome;
use facts::RoleRights;
pub use facts::{Facts, KafkaFacts};
pub use plan::{Plan, SlotStep, SqlStep, Step};

use crate::{
    Code, Error, Result,
    config::Source,
    postgres::{SqlSession, catalog::server},
};

/// Makes what is missing of the source's tables, rights and publication, as far as the session's
/// role may do it. This is for `run`. With `auto_setup` off it makes nothing.
///
/// # Errors
/// What is missing and cannot be made: [`Code::TableMissing`], [`Code::PublicationMissing`],
/// [`Code::PostgresDenied`]. The message holds the SQL.
pub async fn ensure(sql: &SqlSession, source: &Source) -> Result<()> {
    let role = server::server(sql).await?.role.name;
    let mut facts = facts::read(sql, source, &role).await?;
    // This session has logged in. Whether its role may replicate, the replication connection tells.
    // The attributes of a role that the session has taken on do not.
    facts.role.rights = Some(RoleRights { replication: true, connect: true });
    let plan = Plan::for_postgres(&facts, source)?;
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

/// The error for what is missing, with the SQL that makes it.
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
