//! A command relays a source for a moment. It sets the source up, or drains it, exactly as the
//! daemon would.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{context::Context, memory::Memory, start::Start, startup::Step};
use crate::{
    Lsn, Result,
    config::{Kafka, Source},
    postgres::{SqlSession, catalog::slots},
    telemetry::Metrics,
};

/// How often somebody who waits for a source reads how far its slot is confirmed.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// Lets an idle source advance and report at least every [`POLL`], since somebody waits until it
/// says how far it is.
pub(super) fn hurry(source: &mut Source) {
    source.timeouts.idle_advance = source.timeouts.idle_advance.min(POLL);
    source.timeouts.status = source.timeouts.status.min(POLL);
}

/// Whether the slot is there and confirmed up to `end`.
///
/// # Errors
/// Only what a broken session brings.
pub(super) async fn is_confirmed_up_to(sql: &SqlSession, slot: &str, end: Lsn) -> Result<bool> {
    Ok(slots::slot(sql, slot).await?.is_some_and(|slot| slot.confirmed_flush >= end))
}

/// Sets a source up as the daemon would at its first start, and ends where the daemon would begin
/// to stream. The slot is then made and the position written. A source that is set up already stays
/// as it is.
pub(crate) async fn set_up(source: &Source, kafka: &Kafka) -> Result<()> {
    let (_stop, shutdown) = watch::channel(false);
    let source = Source { auto_setup: true, ..source.clone() };
    let context = Context::new(&source, &Arc::new(kafka.clone()), &Metrics::new(), shutdown);
    match Start::new(&context, &mut Memory::default()).impatient().run().await? {
        Step::StandBy => Err(context.in_use()),
        _ => Ok(()),
    }
}

/// Relays a source as the daemon does until its slot is confirmed up to `end`, and then stops it in
/// order. What was read by then is published and marked, unless the stop took longer than it may.
/// The caller has to look at the position.
///
/// # Errors
/// `slot-in-use` if an instance is running, and whatever halts the source. What can heal is
/// waited for, as the daemon does.
pub(crate) async fn drain(source: &Source, kafka: &Kafka, end: Lsn) -> Result<()> {
    let (stop, shutdown) = watch::channel(false);
    let mut source = Source { auto_setup: false, ..source.clone() };
    hurry(&mut source);
    let mut context = Context::new(&source, &Arc::new(kafka.clone()), &Metrics::new(), shutdown);
    context.patient = false;
    let sql = context.connect.sql("drain").await?;
    let relaying = context.supervise();
    tokio::pin!(relaying);
    tokio::select! {
        ended = &mut relaying => return ended,
        reached = confirmed_up_to(&sql, &source.slot, end) => reached?,
    }
    // The receiver cannot be gone, since `relaying` has it.
    let _ = stop.send(true);
    relaying.await
}

/// Waits until the slot is confirmed up to `end`.
async fn confirmed_up_to(sql: &SqlSession, slot: &str, end: Lsn) -> Result<()> {
    while !is_confirmed_up_to(sql, slot, end).await? {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
