//! What the guarantees stand on besides what the position is compared with: every start looks at
//! it, and so does the session now and then while rows stream ([`Watch`]).
//!
//! It changes seldom, and nothing is lost at the moment at which it changes. So a look now and then
//! is enough. What loses rows at once is looked at every second (`looks.rs`).

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::context::Context;
use crate::{
    Code, Error, Result,
    config::{Kafka, Mark, Source},
    kafka::position_topic,
    postgres::{
        SqlSession,
        catalog::{ColumnInfo, IdUniqueness, TableInfo, tables},
        farewell::Task,
    },
};

/// How often it looks while rows stream.
const EVERY: Duration = Duration::from_secs(30);

/// Something that may keep rows from being published, or marks from meeting the right row.
pub(super) struct Doubt {
    pub(super) text: String,
    /// Nothing is begun on a table like that. A source that was set up goes on for the sake of its
    /// other rows.
    pub(super) refuses_set_up: bool,
}

/// Judges what a mark rests on: an id that is unique, and a column that nobody else sets. A row that
/// is inserted with its mark is passed over.
///
/// # Errors
/// Only what a broken session brings.
pub(super) async fn doubts(sql: &SqlSession, source: &Source, tables: &[TableInfo]) -> Result<Vec<Doubt>> {
    let mut doubts = Vec::new();
    let mut doubt = |refuses_set_up, text| doubts.push(Doubt { text, refuses_set_up });
    let (id, mark) = (&source.mapping.columns.id, &source.mapping.columns.published_at);
    for table in tables {
        let shown = table.display_name();
        if source.mark != Mark::None && table.id_uniqueness(id) == IdUniqueness::None {
            let text = "has no unique index: a mark could meet other rows than the published one";
            doubt(false, format!("table {shown}: {id} {text}"));
        }
        if source.mark != Mark::Update {
            continue;
        }
        if let Some((text, hint)) = table.column(mark).and_then(ColumnInfo::never_null) {
            doubt(true, format!("table {shown}: {text}: {hint}"));
        }
        for trigger in tables::setting_triggers(sql, table, mark).await? {
            doubt(false, format!("table {shown}: rows whose {mark} is set by trigger {trigger} are passed over"));
        }
    }
    Ok(doubts)
}

/// Refuses a position topic that may delete positions. Brokers that do not tell hold nothing up.
///
/// # Errors
/// [`Code::PositionInvalid`].
pub(super) async fn require_compacted(kafka: &Kafka) -> Result<()> {
    match position_topic::validate(kafka).await {
        Err(error) if error.code() == Code::PositionInvalid => Err(error),
        _ => Ok(()),
    }
}

/// Looks now and then while rows stream. It warns of each new doubt once.
pub(super) struct Watch {
    found: mpsc::Receiver<Error>,
    _task: Task,
}

impl Watch {
    /// `told` is what the start has said.
    pub(super) fn start(context: &Context, sql: &Arc<SqlSession>, mut told: HashSet<String>) -> Self {
        let (tell, found) = mpsc::channel(1);
        let (source, kafka, sql) = (context.source.clone(), Arc::clone(&context.kafka), Arc::clone(sql));
        let watch = async move {
            loop {
                sleep(EVERY).await;
                if let Err(error) = require_compacted(&kafka).await {
                    let _ = tell.send(error).await;
                    return;
                }
                warn_of_new(&sql, &source, &mut told).await;
            }
        };
        Self { found, _task: Task::spawn(watch) }
    }

    /// Why the source cannot go on. There may never be a reason.
    pub(super) async fn found(&mut self) -> Error {
        match self.found.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }
}

/// Warns of doubts that are not `told` yet. What keeps the catalog from being read is told by the
/// looks of each second.
async fn warn_of_new(sql: &SqlSession, source: &Source, told: &mut HashSet<String>) {
    let Ok(tables) = tables::resolve_all(sql, source).await else { return };
    let Ok(doubts) = doubts(sql, source, &tables).await else { return };
    let mut now = HashSet::new();
    for Doubt { text, .. } in doubts {
        if !told.contains(&text) {
            tracing::warn!("{text}");
        }
        now.insert(text);
    }
    // What was mended and comes back is told again.
    *told = now;
}
