//! The publication as it is now, for comparing with the one through which rows were published.

use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    Code, Error, Result,
    config::{Mark, Source},
    postgres::catalog::{
        Fingerprint, PublicationInfo, TableInfo, TableKind,
        children::{refuse_children, refuse_outside_the_log, refuse_row_security},
        publications::{self, Membership},
    },
};

/// Looks at everything in the database that the guarantees stand on and that somebody may change
/// while rows stream. Gives back the publication's fingerprint, which the caller compares.
///
/// # Errors
/// Rows of these tables are not in the log, or the stream does not send them, or our role does not
/// see them. Or the catalog cannot be read.
pub(crate) async fn look(client: &Client, source: &Source, tables: &[TableInfo]) -> Result<Value> {
    refuse_outside_the_log(client, tables).await?;
    if source.mark != Mark::None {
        refuse_row_security(client, tables).await?;
    }
    fingerprint(client, &source.publication, tables).await
}

/// The fingerprint of the publication for these tables. It is null when there is no such
/// publication.
///
/// # Errors
/// A table has children, whose rows no publication would send under its name. Or the catalog cannot
/// be read.
pub async fn fingerprint(client: &Client, publication: &str, tables: &[TableInfo]) -> Result<Value> {
    refuse_children(client, tables).await?;
    let Some(publication) = publications::publication(client, publication).await? else { return Ok(Value::Null) };
    let print = Fingerprint::of(&publication, tables);
    serde_json::to_value(print).map_err(|error| Error::new(Code::Internal, "a fingerprint").because(error))
}

/// What keeps a publication from sending rows of a source.
pub(crate) struct Shortcoming {
    pub(crate) text: String,
    /// The next step.
    pub(crate) hint: &'static str,
}

/// Judges what a publication sends of these tables. `check` and the start both ask here.
pub(crate) fn shortcomings(publication: &PublicationInfo, tables: &[TableInfo]) -> Vec<Shortcoming> {
    let mut found = Vec::new();
    if !publication.insert {
        found.push(Shortcoming {
            text: format!("it publishes '{}', and no INSERT", publication.operations()),
            hint: "ALTER PUBLICATION … SET (publish = 'insert'), before the service writes its first row",
        });
    }
    let partitioned = tables.iter().find(|table| table.kind == TableKind::Partitioned);
    if let Some(table) = partitioned.filter(|_| !publication.via_root) {
        found.push(Shortcoming {
            text: format!("rows of {} would arrive under the names of its partitions", table.display_name()),
            hint: "ALTER PUBLICATION … SET (publish_via_partition_root = true)",
        });
    }
    found
}

/// Refuses a publication that does not send the rows of these tables. A publication that is not
/// there is left to others.
///
/// # Errors
/// [`Code::PublicationMissing`], or the catalog cannot be read.
pub(crate) async fn require_sends(client: &Client, name: &str, tables: &[TableInfo]) -> Result<()> {
    let Some(publication) = publications::publication(client, name).await? else { return Ok(()) };
    shortcomings(&publication, tables).first().map_or(Ok(()), |Shortcoming { text, hint }| {
        Err(Error::new(Code::PublicationMissing, format!("publication {name}: {text}: {hint}")))
    })
}

/// Refuses a publication that is not there, or that lacks one of these tables, besides what
/// [`require_sends`] refuses.
///
/// # Errors
/// [`Code::PublicationMissing`], or the catalog cannot be read.
pub(crate) async fn require_publishes(client: &Client, name: &str, tables: &[TableInfo]) -> Result<()> {
    let missing = |text: String| Err(Error::new(Code::PublicationMissing, format!("publication {name}: {text}")));
    let Some(publication) = publications::publication(client, name).await? else {
        return missing("it does not exist".to_owned());
    };
    if let Some(table) = tables.iter().find(|table| publication.membership(table) == Membership::Absent) {
        return missing(format!("it does not have table {}", table.display_name()));
    }
    shortcomings(&publication, tables)
        .first()
        .map_or(Ok(()), |Shortcoming { text, hint }| missing(format!("{text}: {hint}")))
}

/// The error of a publication that the stream no longer finds. It was there when rows were
/// published. The server cannot decode rows that were committed without it, even when it is made
/// again. So a person has to act.
pub(crate) fn is_gone(error: Error) -> Error {
    match error.code() {
        Code::PublicationMissing => Error::new(Code::PublicationChanged, "the publication was dropped").because(error),
        _ => error,
    }
}
