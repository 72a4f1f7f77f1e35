//! Whether every published row is marked: seen in the tables, not concluded from the slot.
//!
//! A slot may be ahead of the marks. A standby may have been promoted that had the slot's position
//! and lacked the marks; a person may have advanced the slot, or taken marks back. A backfill would
//! publish such rows again. So this looks twice. What is unmarked at the first look is committed.
//! After the stream has passed the end of the log of that moment, every such row is published, and
//! must be marked or gone.

use std::time::{Duration, Instant};

use crate::{
    Code, Error, Lsn, Result,
    config::Source,
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{
            TableInfo,
            backfill::BackfillCursor,
            marks::{Id, MarkStatement},
            server, tables,
        },
    },
};

/// Rows that are looked at, at most. Right behind a drain few rows are unmarked.
const ROWS: usize = 1000;

/// How long a commit may be visible and not yet flushed. `wal_writer_delay` is at most ten seconds,
/// and the log writer needs three rounds.
const FLUSH_PATIENCE: Duration = Duration::from_secs(40);

const FLUSH_POLL: Duration = Duration::from_millis(50);

/// The header of a page of the log. The next record may begin that far behind the flushed end.
const PAGE_HEADER: u64 = 40;

/// The rows of a source that were unmarked at one moment.
pub(super) struct Unmarked {
    tables: Vec<TableInfo>,
    /// Ids, for each table.
    ids: Vec<Vec<String>>,
    /// Everything that was committed at that moment lies before it.
    pub(super) end: Lsn,
}

impl Unmarked {
    /// Looks. `None` if there are too many to remember, so that the stream has to come nearer first.
    ///
    /// # Errors
    /// What the server says.
    pub(super) async fn of(source: &Source) -> Result<Option<Self>> {
        let session = ConnectOptions::of(source).sql("unmarked").await?;
        let tables = tables::resolve_all(&session, source).await?;
        let mut positions = Vec::with_capacity(tables.len());
        for table in &tables {
            let id = table.needed_column(&source.mapping.columns.id)?;
            let columns = table.relation_schema().columns;
            positions.push(columns.iter().position(|column| column.name == id.name));
        }
        BackfillCursor::begin(&session).await?;
        let mut cursor = BackfillCursor::open(&session, &tables, source).await?;
        let rows = cursor.fetch(ROWS + 1).await?;
        cursor.finish().await?;
        if rows.len() > ROWS {
            return Ok(None);
        }
        let mut ids = vec![Vec::new(); tables.len()];
        for row in &rows {
            let table = usize::from(row.table);
            let id = positions.get(table).copied().flatten().and_then(|id| row.columns.get(id)?.as_deref());
            // A row without an id has no mark. Nor has one whose id is no text: it is poison.
            if let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok()) {
                ids[table].push(id.to_owned());
            }
        }
        let end = committed_so_far(&session).await?;
        Ok(Some(Self { tables, ids, end }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.iter().all(Vec::is_empty)
    }

    /// Looks again, once everything before [`Unmarked::end`] is published and marked.
    ///
    /// # Errors
    /// [`Code::SetupRefused`] where a row has no mark all the same.
    pub(super) async fn require_marked(&self, source: &Source) -> Result<()> {
        let session = ConnectOptions::of(source).sql("unmarked").await?;
        let statements = MarkStatement::prepare_all(&session, &self.tables, source).await?;
        for (statement, ids) in statements.iter().zip(&self.ids) {
            let ids: Vec<_> = ids.iter().map(|id| Id(id)).collect();
            if let Some(id) = statement.unmarked(&session, &ids).await? {
                let text = format!(
                    "row {id} of {} has no mark, though the stream has passed it: it is published, and would be \
                     published again. `outboxd verify` lists such rows; mark those that are in the topic by hand, and \
                     run this again",
                    statement.table()
                );
                return Err(Error::new(Code::SetupRefused, text));
            }
        }
        Ok(())
    }
}

/// An LSN behind every commit that can be seen now, and which the server has flushed: nothing is
/// streamed before that.
async fn committed_so_far(session: &SqlSession) -> Result<Lsn> {
    let inserted = server::inserted_lsn(session).await?;
    let deadline = Instant::now() + FLUSH_PATIENCE;
    loop {
        let flushed = server::flushed_lsn(session).await?;
        if flushed.0.saturating_add(PAGE_HEADER) >= inserted.0 {
            return Ok(flushed);
        }
        if Instant::now() > deadline {
            let text = format!("the server has written its log up to {inserted}, and flushed only {flushed}");
            return Err(Error::new(Code::PostgresUnavailable, text));
        }
        tokio::time::sleep(FLUSH_POLL).await;
    }
}
