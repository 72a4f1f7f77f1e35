//! One round, for a command.

use super::{Done, Event, Round, Scope};
use crate::{
    Code, Error, Lsn, Result,
    config::{Kafka, Retention, RetentionBy, Source},
    postgres::{ConnectOptions, SqlSession, catalog::server},
    source::{
        compare::require_same_system,
        lock,
        newest::{self, Belief},
        position::Phase,
    },
};

/// Makes one round, or says what it would do.
///
/// # Errors
/// [`Code::RetentionFailed`] while somebody else makes a round; else what stands in its way.
pub(crate) async fn once(
    source: &Source,
    kafka: &Kafka,
    retention: &Retention,
    dry_run: bool,
    tell: &mut (dyn FnMut(Event) + Send + Sync),
) -> Result<Done> {
    let session = ConnectOptions::of(source).sql("purge").await?;
    if !dry_run && !lock::take(&session, &lock::of_retention(&source.name)).await? {
        let text =
            format!("somebody else makes a round of retention of source {}: a daemon, or another command", source.name);
        return Err(Error::new(Code::RetentionFailed, text));
    }
    let scope = if dry_run { Scope::DryRun } else { Scope::All };
    let position = match retention.by {
        RetentionBy::Partition { .. } if !dry_run => position(source, kafka, &session).await?,
        _ => None,
    };
    Round { session: &session, source, retention, scope, position, tell }.run().await
}

/// The position up to which this source is published from this very server, if it streams.
async fn position(source: &Source, kafka: &Kafka, session: &SqlSession) -> Result<Option<Lsn>> {
    let newest = newest::read(kafka, &source.name, Belief::Strict, newest::PATIENCE_OF_A_PERSON).await?;
    let Some(position) = newest.readable()? else { return Ok(None) };
    require_same_system(&position, &server::system_id(session).await?)?;
    let is_streaming = position.phase == Phase::Streaming && position.history.slot == source.slot;
    Ok(is_streaming.then_some(position.progress.lsn))
}
