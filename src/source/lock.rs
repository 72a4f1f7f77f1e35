//! Who may touch a source: the advisory lock that every set-up and every recovery holds, and the
//! slot that a daemon holds.

use std::time::Duration;

use tokio_postgres::Client;

use crate::{
    Result,
    postgres::{
        catalog::{SlotInfo, slots},
        sql_error,
    },
};

/// How often [`take`] and [`slot_at_rest`] try, and how long they wait in between.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// Takes the lock that keeps everybody else from setting up or taking the source. The session holds
/// it as long as it lives. False when another session holds it. The slot cannot serve as this lock,
/// since creating a slot does not hold it.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn try_take(client: &Client, source: &str) -> Result<bool> {
    let row = client
        .query_one("SELECT pg_try_advisory_lock(hashtextextended('outboxd:' || $1, 0))", &[&source])
        .await
        .map_err(|error| sql_error("taking the advisory lock of the source", error))?;
    Ok(row.get(0))
}

/// The same, with a few seconds of patience. The lock of a daemon that has just ended stays until
/// the server has noticed.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn take(client: &Client, source: &str) -> Result<bool> {
    for _ in 0..LOCK_TRIES {
        if try_take(client, source).await? {
            return Ok(true);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    try_take(client, source).await
}

/// The slot, once nobody streams from it. It waits with the same patience, and then gives the slot
/// as it is.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn slot_at_rest(client: &Client, name: &str) -> Result<Option<SlotInfo>> {
    for _ in 0..LOCK_TRIES {
        match slots::slot(client, name).await? {
            Some(slot) if slot.active => tokio::time::sleep(LOCK_PAUSE).await,
            slot => return Ok(slot),
        }
    }
    slots::slot(client, name).await
}

/// Gives back what [`try_take`] took.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn give_back(client: &Client, source: &str) -> Result<()> {
    client
        .execute("SELECT pg_advisory_unlock(hashtextextended('outboxd:' || $1, 0))", &[&source])
        .await
        .map_err(|error| sql_error("giving back the advisory lock of the source", error))?;
    Ok(())
}

/// The name under which the retention of a source is locked. No source has a name like that.
pub(crate) fn of_retention(source: &str) -> String {
    format!("{source}/retention")
}
