//! The database servers of a chaos run: one, or a primary with a standby that takes its place.
//!
//! ```text
//!   writers ─ front ─┐                       ┌─ synchronises the slots ─┐
//!                    ├─▶ primary ── WAL ─────▶ standby ── promoted ──▶ primary ── WAL ─▶ standby …
//!   daemons ─ proxy ─┘
//! ```
//! Replication is asynchronous: what the primary had committed and not sent is lost with it. The
//! primary waits for the standby before it sends a row to the daemon (`synchronized_standby_slots`),
//! so no lost row was published.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testbed::{Postgres, Proxy};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::{inflict::SHUTDOWN_WITHIN, stage::PATIENCE};
use crate::sources::SOURCES;

const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct Servers {
    primary: RwLock<Arc<Postgres>>,
    standby: Mutex<Option<Postgres>>,
    /// Where the writers connect, whichever server is the primary.
    front: Proxy,
}

/// How a primary ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    Kill,
    Immediate,
    Fast,
}

impl Servers {
    pub(crate) fn new(primary: Postgres) -> Result<Self> {
        let front = Proxy::start(primary.port()?)?;
        Ok(Self { primary: RwLock::new(Arc::new(primary)), standby: Mutex::new(None), front })
    }

    /// The server that takes writes.
    pub(crate) fn primary(&self) -> Arc<Postgres> {
        Arc::clone(&self.primary.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A superuser's session with it.
    pub(crate) async fn client(&self, database: &str) -> Result<Client> {
        self.primary().client(database).await
    }

    /// The superuser's URL of whichever server is the primary.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.front.address())
    }

    /// Makes a standby, and waits until it could take the primary's place.
    pub(crate) async fn add_standby(&self) -> Result<()> {
        let primary = self.primary();
        let client = primary.client("postgres").await?;
        let standby = primary.failover_standby().await?;
        primary.wait_for_standby(true).await?;
        let there = standby.client("postgres").await?;
        let started = Instant::now();
        while !is_in_step(&client, &there).await? {
            ensure!(started.elapsed() < PATIENCE, "the standby has not synchronised the slots within {PATIENCE:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        *self.standby.lock().await = Some(standby);
        Ok(())
    }

    /// The primary dies when its standby has been behind for as long as `lag`, the standby takes its
    /// place, and a new standby is made. Returns whether there was a standby.
    pub(crate) async fn fail_over(&self, lag: Duration, ending: Ending, proxies: &[Proxy]) -> Result<bool> {
        let Some(standby) = self.standby.lock().await.take() else { return Ok(false) };
        let there = standby.client("postgres").await?;
        let receiver = there.query_opt("SELECT pid FROM pg_stat_wal_receiver", &[]).await?;
        let receiver = receiver.and_then(|row| row.get::<_, Option<i32>>(0)).map(Pid::from_raw);
        let signal = |signal| receiver.map_or(Ok(()), |pid| kill(pid, signal));
        signal(Signal::SIGSTOP)?;
        tokio::time::sleep(lag).await;
        let primary = self.primary();
        match ending {
            Ending::Kill => primary.kill9()?,
            Ending::Immediate => primary.stop_immediate().await.map(|_| ())?,
            Ending::Fast => {
                // A primary that shuts down waits for its standby.
                signal(Signal::SIGCONT)?;
                primary.begin_stop_fast()?;
                let stopped = primary.wait_stopped(SHUTDOWN_WITHIN).await;
                stopped.context("a fast shutdown of the primary was held up")?;
            }
        }
        // The receiver may have ended, as its primary has.
        let _ = signal(Signal::SIGCONT);
        standby.wait_for_standby(false).await?;
        standby.promote().await?;
        let port = standby.port()?;
        for proxy in proxies.iter().chain([&self.front]) {
            proxy.retarget(port);
            proxy.cut();
        }
        *self.primary.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(standby);
        drop(primary);
        self.add_standby().await?;
        Ok(true)
    }
}

/// Whether the standby has replayed what the primary has, and every slot is there for good.
async fn is_in_step(primary: &Client, standby: &Client) -> Result<bool> {
    let end: String = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
    let query = "SELECT count(*) = $2 AND pg_last_wal_replay_lsn() >= $1::text::pg_lsn FROM pg_replication_slots
                 WHERE synced AND NOT temporary AND invalidation_reason IS NULL";
    Ok(standby.query_one(query, &[&end, &i64::try_from(SOURCES.len())?]).await?.get(0))
}
