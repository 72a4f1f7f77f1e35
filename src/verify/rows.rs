//! Reads rows: all rows of a source in one snapshot, and some of them again.

use std::time::Instant;

use tokio_postgres::types::Type;

use super::{
    content::Contents,
    disk,
    entry::{EventKey, RowEntry},
    progress::Progress,
    query::{self, RowQuery, Shape},
    routes::TopicNumbers,
    sort::Sorter,
};
use crate::{
    Error, Result,
    config::Source,
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{
            TableInfo,
            fetch::next_fetch,
            names::quote_qualified,
            publications::{self, Membership},
            tables,
        },
        sql_error,
    },
};

/// Rows that the server sends at a time: a few MiB.
const FETCH: usize = 10_000;

/// Where whole rows are read, the first of them may be large.
const FETCH_FIRST: usize = 16;

/// A source whose rows can be read. Its snapshot lives until [`OpenSource::end_snapshot`].
pub(super) struct OpenSource<'c> {
    pub(super) config: &'c Source,
    pub(super) tables: Vec<TableInfo>,
    queries: Vec<RowQuery>,
    session: SqlSession,
    /// The position topic, to which no record goes.
    position_topic: &'c str,
    /// Whether records are compared with what their rows make.
    content: bool,
}

/// Rows of one table that are asked for by their ids.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) table: u16,
    pub(super) ids: &'a [&'a [u8]],
    /// When to stop asking, if ever.
    pub(super) deadline: Option<Instant>,
}

impl<'c> OpenSource<'c> {
    /// Connects, takes the snapshot and looks at the tables within it.
    pub(super) async fn open(number: u16, shape: Shape<'c>, position_topic: &'c str) -> Result<Self> {
        let config = shape.source;
        let session = ConnectOptions::of(config).sql("verify").await?;
        // Row security must fail an audit, not hide rows from it. The planner must plan for the
        // whole result, not for its first tenth. Reading it may take longer than a statement of the
        // daemon's.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SET LOCAL row_security = off; SET LOCAL cursor_tuple_fraction = 1; SET LOCAL statement_timeout = 0;
             SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL lock_timeout = {};
             SELECT pg_current_snapshot();",
            config.timeouts.lock.as_millis().clamp(1, i32::MAX as u128)
        );
        session.batch_execute(&begin).await.map_err(failed("begin a snapshot"))?;
        let tables = tables::resolve_all(&session, config).await?;
        let publication = publications::publication(&session, &config.publication).await?;
        let mut queries = Vec::with_capacity(tables.len());
        for (table, info) in (0..).zip(&tables) {
            // The audit does not expect what the stream leaves out.
            let filter = match publication.as_ref().map(|publication| publication.membership(info)) {
                Some(Membership::Listed(listed)) => listed.row_filter.as_deref(),
                _ => None,
            };
            queries.push(RowQuery::new(number, table, info, filter, shape)?);
        }
        Ok(Self { config, tables, queries, session, position_topic, content: shape.content })
    }

    /// About how many rows there are, by the planner's statistics.
    pub(super) async fn estimate(&self) -> u64 {
        let oids: Vec<u32> = self.tables.iter().map(|table| table.oid).collect();
        let sql = "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::int8 FROM pg_class c WHERE c.oid = ANY ($1)";
        let counted = self.session.query_one(sql, &[&oids]).await;
        counted.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs())
    }

    /// Gives every row of the snapshot to the sorter. After this, the topics that the rows are
    /// meant for have numbers.
    pub(super) async fn scan(
        &self,
        topics: &mut TopicNumbers,
        sorter: &mut Sorter,
        progress: &Progress,
        mut routed: impl FnMut(u32),
    ) -> Result<()> {
        let (mut id, mut entry) = (Vec::new(), Vec::new());
        let mut contents = match self.content {
            true => Some(Contents::new(self.config, &self.tables, self.position_topic)?),
            false => None,
        };
        for (number, (query, table)) in self.queries.iter().zip(&self.tables).enumerate() {
            let name = quote_qualified(&table.schema, &table.name);
            let reading = format!("read the rows of {name}");
            let declare = format!("DECLARE outboxd_verify NO SCROLL CURSOR FOR {}", query.all());
            self.session.batch_execute(&declare).await.map_err(failed(&reading))?;
            let mut limit = if self.content { FETCH_FIRST } else { FETCH };
            loop {
                let (asked, mut bytes) = (limit, 0);
                let fetch = format!("FETCH FORWARD {asked} FROM outboxd_verify");
                let rows = self.session.query_typed(&fetch, &[]).await.map_err(failed(&reading))?;
                for row in &rows {
                    let mut read = query.read(row, topics, &mut id);
                    if let (Some(contents), Some(values)) = (&mut contents, query::values(row)) {
                        bytes += values.iter().flatten().map(|value| value.len()).sum::<usize>();
                        read.entry.content = contents.of(number, &values)?;
                    }
                    routed(read.topic);
                    entry.clear();
                    read.entry.write(EventKey { id: &id, meant_for: read.topic }, &mut entry);
                    sorter.push(&entry).map_err(disk)?;
                }
                progress.add(rows.len() as u64);
                if rows.len() < asked {
                    break;
                }
                if self.content {
                    limit = next_fetch(asked, bytes, FETCH);
                }
            }
            self.session.batch_execute("CLOSE outboxd_verify").await.map_err(failed(&reading))?;
        }
        Ok(())
    }

    /// Lets the snapshot go, since it keeps the server from cleaning up.
    pub(super) async fn end_snapshot(&self) -> Result<()> {
        self.session.batch_execute("COMMIT").await.map_err(failed("end the snapshot"))
    }

    /// Gives the rows that are asked for and are there now, with what they are matched by.
    pub(super) async fn again(
        &self,
        asked: Asked<'_>,
        topics: &mut TopicNumbers,
        mut each: impl FnMut(&[u8], RowEntry),
    ) -> Result<()> {
        let Asked { table, ids, deadline } = asked;
        let Some(query) = self.queries.get(usize::from(table)) else { return Ok(()) };
        let (mut id, mut key) = (Vec::new(), Vec::new());
        let sql = query.chosen();
        for ids in ids.chunks(1_000) {
            let asked: Vec<String> = ids.iter().filter_map(|id| query.askable(id)).collect();
            if asked.is_empty() {
                continue;
            }
            let rows = self.session.query_typed(&sql, &[(&asked, Type::TEXT_ARRAY)]).await;
            for row in &rows.map_err(failed("read rows again"))? {
                let read = query.read(row, topics, &mut id);
                key.clear();
                EventKey { id: &id, meant_for: read.topic }.write(&mut key);
                each(&key, read.entry);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
        }
        Ok(())
    }
}

fn failed(what: &str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |error| sql_error(&format!("could not {what}"), error)
}
