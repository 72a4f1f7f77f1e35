//! The publication as it is now, to be compared with the one through which rows were published.

use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    Code, Error, Result,
    postgres::catalog::{Fingerprint, TableInfo, children::refuse_children, publications},
};

/// The fingerprint of the publication for these tables; null when there is no such publication.
///
/// # Errors
/// A table has children, whose rows no publication would send under its name; the catalog cannot be read.
pub async fn fingerprint(client: &Client, publication: &str, tables: &[TableInfo]) -> Result<Value> {
    refuse_children(client, tables).await?;
    let Some(publication) = publications::publication(client, publication).await? else { return Ok(Value::Null) };
    let print = Fingerprint::of(&publication, tables);
    serde_json::to_value(print).map_err(|error| Error::new(Code::Internal, "a fingerprint").because(error))
}

/// A publication that the stream no longer finds was there when its rows were published, and rows that were committed
/// without it cannot be decoded even when it is made again: that is for a person to mend.
pub(crate) fn is_gone(error: Error) -> Error {
    match error.code() {
        Code::PublicationMissing => Error::new(Code::PublicationChanged, "the publication was dropped").because(error),
        _ => error,
    }
}
