//! The publication as it is now, for comparing with the one through which rows were published.

use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    Code, Error, Result,
    postgres::catalog::{Fingerprint, TableInfo, children::refuse_children, publications},
};

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

/// The error of a publication that the stream no longer finds. It was there when rows were
/// published. The server cannot decode rows that were committed without it, even when it is made
/// again. So a person has to act.
pub(crate) fn is_gone(error: Error) -> Error {
    match error.code() {
        Code::PublicationMissing => Error::new(Code::PublicationChanged, "the publication was dropped").because(error),
        _ => error,
    }
}
