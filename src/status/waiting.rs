//! Where no daemon says why it stands still: whether a row that waits would halt one.

use tokio::time::timeout;

use super::PATIENCE;
use crate::{
    Result,
    config::Source,
    postgres::{ConnectOptions, catalog::tables},
    source::standing::{Problem, Standing},
    tail,
};

/// Adds to each standing without a daemon why its source would halt at a row. Nothing is added where
/// that takes longer than a person waits, or the rows cannot be read: the other looks tell why.
pub(crate) async fn add_stops(sources: &[Source], position_topic: &str, standings: &mut [Standing]) {
    for standing in standings.iter_mut().filter(|standing| standing.daemon.is_none()) {
        let Some(source) = sources.iter().find(|source| source.name == standing.source) else { continue };
        if let Ok(Ok(Some(error))) = timeout(PATIENCE, stops(source, position_topic)).await {
            standing.problems.push(Problem::from(&error));
        }
    }
}

async fn stops(source: &Source, position_topic: &str) -> Result<Option<crate::Error>> {
    let session = ConnectOptions::of(source).within(PATIENCE).sql("status").await?;
    let tables = tables::resolve_all(&session, source).await?;
    tail::stops(&session, source, &tables, position_topic).await
}
