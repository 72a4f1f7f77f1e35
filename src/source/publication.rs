//! The publication as it is now, to be compared with the one through which rows were published.

use serde_json::Value;

use crate::{
    Code, Error, Result,
    postgres::{
        SqlSession,
        catalog::{Fingerprint, TableInfo, children::refuse_children, publications},
    },
};

/// The fingerprint of the publication for these tables; null when there is no such publication.
///
/// # Errors
/// A table has children, whose rows no publication would send under its name; the catalog cannot be read.
pub(crate) async fn fingerprint(sql: &SqlSession, publication: &str, tables: &[TableInfo]) -> Result<Value> {
    refuse_children(sql, tables).await?;
    let Some(publication) = publications::publication(sql, publication).await? else { return Ok(Value::Null) };
    let print = Fingerprint::of(&publication, tables);
    serde_json::to_value(print).map_err(|error| Error::new(Code::Internal, "a fingerprint").because(error))
}
