//! Which servers a source can be read from at all, whether two sessions reach the same one, and what
//! holds a slot up that is being made.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    Code, Error, Result,
    postgres::{
        ReplicationClient, SqlSession,
        catalog::{ServerInfo, server},
    },
};

/// Refuses a server that outboxd cannot work with at all. Gives back what it says about itself.
///
/// # Errors
/// [`Code::PostgresTooOld`] before Postgres 15, [`Code::WalLevel`] unless `wal_level` is `logical`.
pub async fn require_server(sql: &SqlSession) -> Result<ServerInfo> {
    let server = server::server(sql).await?;
    if server.major() < 15 {
        return Err(Error::new(Code::PostgresTooOld, format!("the server is Postgres {}", server.version_text)));
    }
    if server.wal_level != "logical" {
        return Err(Error::new(Code::WalLevel, format!("wal_level is {}", server.wal_level)));
    }
    Ok(server)
}

/// Refuses a session on another server than the one that streams. The address may be that of a
/// proxy, or a name with several addresses. A mark that is made on another server is not made, and
/// a row that is not there looks like one that is gone.
///
/// The start time of the postmaster, in microseconds, tells servers apart that share system id and
/// timeline, as a standby and its primary do.
///
/// # Errors
/// [`Code::PostgresUnreachable`].
pub(crate) async fn require_same_server(session: &SqlSession, name: &str, started: SystemTime) -> Result<()> {
    require_same(name, server::postmaster_start_time(session).await?, started)
}

/// The same for the replication connection.
///
/// # Errors
/// [`Code::PostgresUnreachable`].
pub(crate) async fn require_same_server_streams(client: &mut ReplicationClient, started: SystemTime) -> Result<()> {
    const STARTED: &str = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";
    let rows = client.simple_query(STARTED).await?;
    let micros = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    let micros = micros.ok_or_else(|| Error::new(Code::PostgresProtocol, "the server's start time is no number"))?;
    require_same("of the replication stream", UNIX_EPOCH + Duration::from_micros(micros), started)
}

/// A slot is made once every transaction has ended that was open when the server was asked. Names
/// those that hold it up.
pub(crate) async fn held_up_by(sql: &SqlSession, error: Error) -> Error {
    match what_holds_up(sql).await {
        Some(text) => error.about(text),
        None => error,
    }
}

/// The same in words. `None` where nothing holds it up, or the server does not tell.
pub(crate) async fn what_holds_up(sql: &SqlSession) -> Option<String> {
    let open = server::open_transactions(sql).await.ok().filter(|open| !open.is_empty())?;
    let pids = open.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    Some(format!(
        "the slot is made once the transactions have ended that were open before; the oldest of them are of pid {pids}"
    ))
}

fn require_same(name: &str, found: SystemTime, expected: SystemTime) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let text = format!(
        "the session {name} reached a server that was started at {}, and the session before it one that was started at \
         {}: the address leads to several servers; name the one that takes writes, or all of them with \
         target_session_attrs=read-write",
        humantime::format_rfc3339_micros(found),
        humantime::format_rfc3339_micros(expected)
    );
    Err(Error::new(Code::PostgresUnreachable, text))
}
