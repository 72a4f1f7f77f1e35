//! Which servers a source can be read from at all.

use crate::{
    Code, Error, Result,
    postgres::{SqlSession, catalog::server},
};

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
