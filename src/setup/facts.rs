//! What there is already. This module reads it in SQL and from Kafka, and [`plan`](super::plan)
//! judges it.

use std::collections::HashSet;

use tokio_postgres::Client;

use super::topics::{constant_topics, topics_of_waiting_rows};
use crate::{
    Error, Result,
    config::{Mark, Password, Secret, Source, TableName, password},
    kafka::{broker, topics},
    postgres::{
        catalog::{
            PublicationInfo, TableInfo,
            names::{display_table, quote_ident, quote_qualified},
            overlaps::{named_twice, refuse_overlaps},
            publications, server, slots,
            tables::{self, TablePrivileges},
        },
        sql_error,
    },
    source::{position::Position, verdict::require_own},
};

/// What there is of a source in Postgres.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The daemon's role.
    pub role: Role,
    /// The database.
    pub database: String,
    /// The source's tables, in configuration order.
    pub tables: Vec<TableFact>,
    /// The publication.
    pub publication: Option<PublicationInfo>,
    /// Whether there is a slot of the source's name.
    pub slot_exists: bool,
    /// The system identifier of the server.
    pub system_id: String,
}

/// The daemon's role.
#[derive(Debug, Clone)]
pub struct Role {
    /// Its name.
    pub(crate) name: String,
    /// `None`: the role does not exist.
    pub(crate) rights: Option<RoleRights>,
    /// The password of the source, where it is at hand and the role is still to be made.
    pub(crate) password: Option<Secret>,
}

/// What a role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoleRights {
    /// The role has LOGIN and REPLICATION, or is a superuser, or a member of the role to whose
    /// members Amazon RDS gives the right.
    pub(crate) replication: bool,
    /// The role has CONNECT on the database.
    pub(crate) connect: bool,
}

/// A table of the source.
#[derive(Debug, Clone)]
pub enum TableFact {
    /// It exists. The rights are those of the daemon's role; `None` when there is no such role.
    Found(Box<TableInfo>, Option<TablePrivileges>),
    /// It does not exist.
    Missing(MissingTable),
}

/// Where a missing table would be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingTable {
    /// The configured schema, or the first one of the search_path.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether the schema is there.
    pub(crate) schema_exists: bool,
}

impl TableFact {
    pub(super) fn found(&self) -> Option<&TableInfo> {
        match self {
            Self::Found(table, _) => Some(table),
            Self::Missing(_) => None,
        }
    }

    /// `"schema"."name"`.
    #[must_use]
    pub(crate) fn sql_name(&self) -> String {
        match self {
            Self::Found(table, _) => table.sql_name(),
            Self::Missing(missing) => quote_qualified(&missing.schema, &missing.name),
        }
    }

    /// `schema.name`.
    #[must_use]
    pub(crate) fn display_name(&self) -> String {
        match self {
            Self::Found(table, _) => table.display_name(),
            Self::Missing(missing) => format!("{}.{}", missing.schema, missing.name),
        }
    }

    /// `"schema"`.
    #[must_use]
    pub(crate) fn sql_schema(&self) -> String {
        quote_ident(match self {
            Self::Found(table, _) => &table.schema,
            Self::Missing(missing) => &missing.schema,
        })
    }
}

/// What there is of the source in Kafka.
#[derive(Debug, Clone, Default)]
pub struct KafkaFacts {
    /// Whether the position topic is there.
    pub position_topic: bool,
    /// The topics that rows go to, as far as they can be known, and whether they are there.
    pub topics: Vec<(String, bool)>,
    /// Whether the brokers make the topics of later rows; `None` if they do not tell.
    pub creates_topics: Option<bool>,
    /// The source's position, if it has one.
    pub position: Option<Box<Position>>,
}

/// Reads what there is of `source` for the daemon's `role`. Any session in the source's database
/// will do.
///
/// # Errors
/// [`Code::ConfigInvalid`](crate::Code::ConfigInvalid) where two tables share rows, or would be made
/// at one place, and for a slot that is another's; the error of a broken session or of a missing
/// right.
pub async fn read(client: &Client, source: &Source, role: &str) -> Result<Facts> {
    const ROLE: &str = "
SELECT r.rolsuper OR (r.rolreplication AND r.rolcanlogin)
         OR EXISTS (SELECT FROM pg_roles cloud WHERE cloud.rolname = 'rds_replication' AND pg_has_role(r.oid, cloud.oid, 'MEMBER')),
       has_database_privilege(r.oid, current_database(), 'CONNECT')
FROM pg_roles r WHERE r.rolname = $1::text";
    let failed = |error| sql_error(&format!("could not read the role {role}"), error);
    let rights = client.query_opt(ROLE, &[&role]).await.map_err(failed)?;
    let rights = rights.map(|row| RoleRights { replication: row.get(0), connect: row.get(1) });
    let database: String = client.query_one("SELECT current_database()::text", &[]).await.map_err(failed)?.get(0);
    let slot = slots::slot(client, &source.slot).await?;
    if let Some(slot) = &slot {
        require_own(&source.slot, slot, &database)?;
    }
    let mark = (source.mark == Mark::Update).then_some(source.mapping.columns.published_at.as_str());
    let mut found = Vec::with_capacity(source.tables.len());
    for name in &source.tables {
        found.push(match tables::find_table(client, name).await? {
            None => TableFact::Missing(missing(client, name).await?),
            Some(table) if rights.is_none() => TableFact::Found(Box::new(table), None),
            Some(table) => {
                let privileges = tables::privileges(client, role, &table, mark).await?;
                TableFact::Found(Box::new(table), Some(privileges))
            }
        });
    }
    require_apart(client, &found).await?;
    Ok(Facts {
        role: Role { name: role.to_owned(), rights, password: rights.is_none().then(|| password_of(source)).flatten() },
        database,
        tables: found,
        publication: publications::publication(client, &source.publication).await?,
        slot_exists: slot.is_some(),
        system_id: server::system_id(client).await?,
    })
}

/// The password that the source logs in with, unless a program has to be asked.
fn password_of(source: &Source) -> Option<Secret> {
    match &source.password {
        Some(Password::Written(secret)) => Some(secret.clone()),
        Some(Password::File(path)) => password::in_file(path).ok(),
        Some(Password::Command { .. }) | None => source.url.password.clone(),
    }
}

/// Refuses two names of one table, whether it is there or has to be made.
async fn require_apart(client: &Client, tables: &[TableFact]) -> Result<()> {
    let mut missing = HashSet::new();
    let mut there = Vec::with_capacity(tables.len());
    for table in tables {
        match table {
            TableFact::Found(info, _) => there.push(info.oid),
            TableFact::Missing(place) if missing.insert((&place.schema, &place.name)) => {}
            TableFact::Missing(_) => return Err(named_twice(&table.display_name())),
        }
    }
    refuse_overlaps(client, &there).await
}

async fn missing(client: &Client, name: &TableName) -> Result<MissingTable> {
    const SCHEMA: &str = "
SELECT coalesce($1::text, current_schema()::text, 'public'),
       EXISTS (SELECT FROM pg_namespace WHERE nspname = coalesce($1::text, current_schema()::text, 'public'))";
    let row = client
        .query_one(SCHEMA, &[&name.schema])
        .await
        .map_err(|error| sql_error(&format!("could not look up the schema of table {}", display_table(name)), error))?;
    Ok(MissingTable { schema: row.get(0), name: name.name.clone(), schema_exists: row.get(1) })
}

/// Reads whether the position topic is there, and the topics that the source's rows go to: those
/// that follow from the configuration, and those of the rows that wait in these tables.
///
/// # Errors
/// As [`topics::describe`], and what the server says of the tables.
pub(crate) async fn read_topics(
    kafka: &crate::config::Kafka,
    source: &Source,
    client: &Client,
    tables: &[TableFact],
) -> Result<KafkaFacts, Error> {
    let mut names = constant_topics(source);
    let there = tables.iter().filter_map(TableFact::found).cloned().collect::<Vec<_>>();
    let waiting = topics_of_waiting_rows(client, source, &there).await?;
    let others: Vec<_> = waiting.into_keys().filter(|name| !names.contains(name)).collect();
    names.extend(others);
    let mut asked: Vec<&str> = names.iter().map(String::as_str).collect();
    asked.push(&kafka.position_topic);
    let found = topics::describe(kafka, &asked, topics::TIMEOUT).await?;
    let exists = |name: &str| found.get(name).is_some_and(Option::is_some);
    Ok(KafkaFacts {
        position_topic: exists(&kafka.position_topic),
        topics: names.iter().map(|name| (name.clone(), exists(name))).collect(),
        creates_topics: match source.mapping.topic.constant() {
            Some(_) => None,
            None => broker::creates_topics(kafka).await,
        },
        position: None,
    })
}
