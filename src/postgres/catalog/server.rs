//! The server as a whole: version, settings, the role, and where its log stands.

use std::time::{Duration, SystemTime};

use tokio_postgres::{Client, types::PgLsn};

use super::failed;
use crate::{Lsn, Result};

/// What a source needs to know about its server before anything else.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// `server_version_num`, for example 150018.
    pub version: u32,
    /// `server_version`, for example `15.18 (Debian 15.18-0+deb12u1)`.
    pub version_text: String,
    /// A standby.
    pub in_recovery: bool,
    /// When the postmaster started. A different value after a reconnect means that the server has
    /// restarted.
    pub started: SystemTime,
    /// `current_database()`.
    pub database: String,
    /// `server_encoding`.
    pub encoding: String,
    /// `wal_level`. Decoding needs `logical`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub max_replication_slots: i32,
    /// Slots that exist.
    pub replication_slots: i64,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// Walsenders that run.
    pub wal_senders: i64,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// `synchronous_commit` of this session. The marker sets its own.
    pub synchronous_commit: String,
    /// `max_slot_wal_keep_size` in megabytes; -1 is no limit.
    pub max_slot_wal_keep_mb: i64,
    /// `idle_replication_slot_timeout` as shown (Postgres 18); `None` before, or when it is off.
    pub idle_slot_timeout: Option<String>,
    /// `synchronized_standby_slots` (Postgres 17); `None` before, or when it is empty.
    pub synchronized_standby_slots: Option<String>,
    /// `synchronous_standby_names`. It is often empty.
    pub synchronous_standby_names: String,
    /// `wal_sender_timeout` as this role has it. Zero is none.
    pub wal_sender_timeout: Duration,
    /// The role that we are.
    pub role: RoleInfo,
}

/// The session's role.
#[derive(Debug, Clone)]
pub struct RoleInfo {
    /// `current_user`.
    pub name: String,
    /// Has the REPLICATION attribute.
    pub replication: bool,
    /// Is a superuser.
    pub superuser: bool,
    /// May create in the database: schemas and publications.
    pub create_in_database: bool,
}

impl ServerInfo {
    /// The major version, for example 15.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// The minor version, for example 18.
    #[must_use]
    pub(crate) fn minor(&self) -> u32 {
        self.version % 10_000
    }

    /// Whether `synchronous_standby_names` matches the daemon's walsender, whose application_name
    /// is `outboxd`. Postgres would then take it for a synchronous standby, though it is a logical
    /// one. Commits would wait for our confirmation, and that waits for marks. But a mark sees a
    /// row only when the row's commit has returned.
    #[must_use]
    pub(crate) fn may_wait_for_us(&self) -> bool {
        let mut names = self.synchronous_standby_names.split([',', '(', ')', ' ']).map(|name| name.trim_matches('"'));
        names.any(|name| name == "*" || name.eq_ignore_ascii_case("outboxd"))
    }
}

const SERVER: &str = "
SELECT current_setting('server_version_num')::int4, current_setting('server_version'), pg_is_in_recovery(),
       pg_postmaster_start_time(), current_database()::text, current_setting('server_encoding'),
       current_setting('wal_level'), current_setting('max_replication_slots')::int4,
       (SELECT count(*) FROM pg_replication_slots), current_setting('max_wal_senders')::int4,
       (SELECT count(*) FROM pg_stat_replication), current_setting('track_commit_timestamp')::bool,
       current_setting('synchronous_commit'),
       (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       nullif(current_setting('idle_replication_slot_timeout', true), '0'),
       nullif(current_setting('synchronized_standby_slots', true), ''),
       r.rolname::text, r.rolreplication, r.rolsuper,
       has_database_privilege(current_database(), 'CREATE'),
       (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_sender_timeout'),
       current_setting('synchronous_standby_names')
FROM pg_roles r WHERE r.rolname = current_user";

/// Reads the server, its settings and the role of this session, in one round trip.
///
/// # Errors
/// Only what a broken session brings: every role may ask this.
pub async fn server(client: &Client) -> Result<ServerInfo> {
    let row = client.query_one(SERVER, &[]).await.map_err(|error| failed("read the server's settings", error))?;
    Ok(ServerInfo {
        version: row.get::<_, i32>(0).unsigned_abs(),
        version_text: row.get(1),
        in_recovery: row.get(2),
        started: row.get(3),
        database: row.get(4),
        encoding: row.get(5),
        wal_level: row.get(6),
        max_replication_slots: row.get(7),
        replication_slots: row.get(8),
        max_wal_senders: row.get(9),
        wal_senders: row.get(10),
        track_commit_timestamp: row.get(11),
        synchronous_commit: row.get(12),
        max_slot_wal_keep_mb: row.get::<_, Option<i64>>(13).unwrap_or(-1),
        idle_slot_timeout: row.get(14),
        synchronized_standby_slots: row.get(15),
        synchronous_standby_names: row.get(21),
        wal_sender_timeout: Duration::from_millis(row.get::<_, i64>(20).unsigned_abs()),
        role: RoleInfo {
            name: row.get(16),
            replication: row.get(17),
            superuser: row.get(18),
            create_in_database: row.get(19),
        },
    })
}

/// When the postmaster started.
///
/// # Errors
/// Only what a broken session brings.
pub async fn postmaster_start_time(client: &Client) -> Result<SystemTime> {
    let row = client
        .query_one("SELECT pg_postmaster_start_time()", &[])
        .await
        .map_err(|error| failed("read the server's start time", error))?;
    Ok(row.get(0))
}

/// The end of what the server has safely on disk. On a primary that is what it has flushed, on a
/// standby what it has replayed (a standby decodes no further). A position beyond it belongs to
/// another history.
///
/// # Errors
/// Only what a broken session brings.
pub async fn flushed_lsn(client: &Client) -> Result<Lsn> {
    const FLUSHED: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
                                       ELSE pg_current_wal_flush_lsn() END";
    read_lsn(client, FLUSHED).await
}

/// Where the next record of the log begins. Every commit that can be seen lies before it.
///
/// # Errors
/// What the server says; it must not be in recovery.
pub(crate) async fn inserted_lsn(client: &Client) -> Result<Lsn> {
    read_lsn(client, "SELECT pg_current_wal_insert_lsn()").await
}

/// The end of what the server has written, flushed or not. On a standby it is the end of what it
/// has received.
///
/// # Errors
/// Only what a broken session brings.
pub async fn current_lsn(client: &Client) -> Result<Lsn> {
    const CURRENT: &str = "SELECT CASE WHEN pg_is_in_recovery()
        THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0'))
        ELSE pg_current_wal_lsn() END";
    read_lsn(client, CURRENT).await
}

/// The identifier of the cluster, as IDENTIFY_SYSTEM gives it.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn system_id(client: &Client) -> Result<String> {
    const SYSTEM: &str = "SELECT system_identifier::text FROM pg_control_system()";
    let row = client.query_one(SYSTEM, &[]).await.map_err(|error| failed("read the system identifier", error))?;
    Ok(row.get(0))
}

/// The server's clock, in microseconds since the Unix epoch.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn clock(client: &Client) -> Result<i64> {
    const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let row = client.query_one(CLOCK, &[]).await.map_err(|error| failed("read the server's clock", error))?;
    Ok(row.get(0))
}

async fn read_lsn(client: &Client, sql: &str) -> Result<Lsn> {
    let row = client.query_one(sql, &[]).await.map_err(|error| failed("read the server's WAL position", error))?;
    Ok(Lsn(row.get::<_, PgLsn>(0).into()))
}

/// The pids of the transactions that write, the oldest three first. Any role may see the locks.
///
/// # Errors
/// What the server says.
pub(crate) async fn open_transactions(client: &Client) -> Result<Vec<i32>> {
    let sql = "SELECT pid FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted \
               ORDER BY age(transactionid) DESC LIMIT 3";
    let rows = client.query(sql, &[]).await.map_err(|error| failed("look for open transactions", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
