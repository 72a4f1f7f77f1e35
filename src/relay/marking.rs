//! A session that marks rows: its statements, and the wait for rows that nobody sees yet.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Mutex;

use super::{
    context::Context,
    kept::Tables,
    marks::{MarkRow, Marks},
};
use crate::{
    Code, Error, Lsn, Result,
    config::Source,
    postgres::{
        SqlSession,
        catalog::{
            TableInfo,
            marks::{
                Changed, Id, MarkStatement, is_passing, leaves_the_session, mark_failed, set_up, spoils_the_statement,
            },
            server, slots,
        },
        sql_error,
    },
};

/// Ids of one statement. So many make the round trip cheap, and so few keep row locks short.
pub(super) const STATEMENT_ROWS: usize = 2_000;

/// How often the marker looks whether a committed transaction has become visible.
const VISIBLE_POLL: Duration = Duration::from_millis(5);

/// After this many looks at invisible transactions, the marker checks what they may be waiting for.
const LOOKS_BETWEEN: u64 = 200;

/// The pause of a backfill after a statement that waited for a lock in vain.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// A session with a statement for each table.
pub(super) struct MarkingSession {
    session: SqlSession,
    source: Source,
    tables: Vec<TableInfo>,
    /// The prepared statement of each table. A rule of the table may keep it from being prepared.
    statements: Vec<Mutex<Option<Arc<MarkStatement>>>>,
    /// The slot is a failover slot, so it matters where in the log the marks lie.
    tells_log_end: bool,
}

/// Opens as many sessions as the configuration wants.
///
/// # Errors
/// As [`marking_session`].
pub(super) async fn marking_sessions(
    context: &Context,
    tables: &[TableInfo],
    started: SystemTime,
) -> Result<Vec<MarkingSession>> {
    let mut sessions = Vec::new();
    for _ in 0..context.source.limits.marker_connections.max(1) {
        sessions.push(marking_session(context, tables, started).await?);
    }
    Ok(sessions)
}

/// Opens a session to mark rows of these tables.
///
/// # Errors
/// The server cannot be reached, or the role may not mark.
pub(super) async fn marking_session(
    context: &Context,
    tables: &[TableInfo],
    started: SystemTime,
) -> Result<MarkingSession> {
    let session = context.sql_on(started, "marker").await?;
    set_up(&session, &context.source).await?;
    let slot = slots::slot(&session, &context.source.slot).await?;
    let tells_log_end = slot.is_some_and(|slot| slot.failover);
    let statements = tables.iter().map(|_| Mutex::default()).collect();
    let (source, tables) = (context.source.clone(), tables.to_vec());
    let marking = MarkingSession { session, source, tables, statements, tells_log_end };
    for table in marking.tables() {
        // What a rule has against the statement is said when there are rows to mark.
        match marking.statement(table).await {
            Err(error) if !spoils_the_statement(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(marking)
}

impl MarkingSession {
    /// The tables, as the rows name them.
    fn tables(&self) -> impl Iterator<Item = u16> + use<> {
        (0_u16..).take(self.tables.len())
    }

    /// The statement of a table, prepared now if it is not. `None` with `mark = "none"`.
    async fn statement(&self, table: u16) -> Result<Option<Arc<MarkStatement>>> {
        let index = usize::from(table);
        let (Some(info), Some(slot)) = (self.tables.get(index), self.statements.get(index)) else { return Ok(None) };
        let mut slot = slot.lock().await;
        if slot.is_none() {
            *slot = MarkStatement::of(&self.session, info, &self.source).await?.map(Arc::new);
        }
        Ok(slot.clone())
    }

    /// Marks all rows, table by table, in statements of bounded size. Where somebody else has locked
    /// a row, it waits.
    ///
    /// # Errors
    /// A statement failed. Marks made before it stay, and making them again does nothing.
    pub(super) async fn mark(&self, marks: &Marks) -> Result<()> {
        for table in self.tables() {
            while let Err(error) = self.mark_table(table, std::slice::from_ref(marks), 0..marks.len()).await {
                if !is_passing(&error) {
                    return Err(error);
                }
                tracing::warn!(code = error.code().as_str(), "{}: trying again", error.detail());
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Marks the rows with these numbers, counted over all rows that have an id. Returns the tables
    /// that took no marks.
    pub(super) async fn mark_part(
        &self,
        marks: &[Marks],
        part: Range<usize>,
        without: &Tables,
    ) -> Result<Vec<(u16, Error)>> {
        let mut failed = Vec::new();
        for table in self.tables().filter(|table| !without.contains(*table)) {
            match self.mark_table(table, marks, part.clone()).await {
                Ok(()) => {}
                Err(error) if !self.session.is_closed() && leaves_the_session(&error) => failed.push((table, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(failed)
    }

    /// Marks the rows of one table among them.
    async fn mark_table(&self, table: u16, marks: &[Marks], part: Range<usize>) -> Result<()> {
        let mut chunk = Chunk::default();
        for row in rows_of(marks, part).filter(|row| row.table == table) {
            chunk.push(row);
            if chunk.ids.len() == STATEMENT_ROWS {
                self.mark_chunk(table, &chunk).await?;
                chunk.clear();
            }
        }
        if !chunk.ids.is_empty() {
            self.mark_chunk(table, &chunk).await?;
        }
        Ok(())
    }

    /// Marks the rows of a chunk. If the statement does not fit the table any more, the next one is
    /// prepared anew.
    async fn mark_chunk(&self, table: u16, chunk: &Chunk<'_>) -> Result<()> {
        let Some(statement) = self.statement(table).await? else { return Ok(()) };
        let marked = self.mark_seen(&statement, chunk).await;
        if marked.as_ref().is_err_and(spoils_the_statement) {
            *self.statements[usize::from(table)].lock().await = None;
        }
        marked
    }

    /// Whether the row is there without its mark. This changes nothing: what is missing must still
    /// be missing when a person looks.
    ///
    /// # Errors
    /// As [`MarkingSession::mark`].
    pub(super) async fn is_unmarked(&self, row: MarkRow<'_>) -> Result<bool> {
        let Some(statement) = self.statement(row.table).await? else { return Ok(false) };
        Ok(statement.unmarked(&self.session, &[Id(row.id)]).await?.is_some())
    }

    /// Marks rows, and sees to it that they have their marks. A row that is not found may be gone, or
    /// marked already. But it may also still be invisible: the server's walsender sends a transaction
    /// as soon as its commit record is flushed. The transaction leaves the list of those in progress
    /// only after that, and much later if it waits for a synchronous standby. Such a row would stay
    /// unmarked for ever. So the statement runs again once the transactions can be seen.
    async fn mark_seen(&self, statement: &MarkStatement, chunk: &Chunk<'_>) -> Result<()> {
        let all = chunk.ids.len() as u64;
        let mut changed = self.execute(statement, &chunk.ids).await?;
        if changed.rows < all {
            let mut looks = 0_u64;
            while !self.snapshot().await?.sees_all(&chunk.xids) {
                looks += 1;
                if looks.is_multiple_of(LOOKS_BETWEEN) {
                    self.require_asynchronous().await?;
                }
                tokio::time::sleep(VISIBLE_POLL).await;
            }
            let again = self.execute(statement, &chunk.ids).await?;
            changed = Changed { rows: changed.rows + again.rows, lost: changed.lost + again.lost };
        }
        if changed.rows < all || changed.lost > 0 {
            self.require_none_unmarked(statement, &chunk.ids).await?;
        }
        Ok(())
    }

    /// What was not changed must be marked already, or gone. A row that is there without its mark
    /// had the change swallowed: by a rule or a trigger, or by a policy of row security.
    async fn require_none_unmarked(&self, statement: &MarkStatement, ids: &[Id<'_>]) -> Result<()> {
        let Some(id) = statement.unmarked(&self.session, ids).await? else { return Ok(()) };
        let text = format!(
            "row {id} of {} is published, and has no mark after the statement that makes it: a rule or a trigger of the \
             table keeps the mark from being made",
            statement.table()
        );
        Err(Error::new(Code::MarkFailed, text))
    }

    /// Ends the session if the invisible transactions may be waiting for us. Only a role that may
    /// read all statistics learns which walsenders are synchronous, so this goes by the names of
    /// the standbys.
    async fn require_asynchronous(&self) -> Result<()> {
        let server = server::server(&self.session).await?;
        if server.may_wait_for_us() {
            let text = format!(
                "synchronous_standby_names = '{}' takes the daemon for a synchronous standby: commits wait for its marks, \
                 which wait for those commits; name the standbys one by one there",
                server.synchronous_standby_names
            );
            return Err(Error::new(Code::MarkFailed, text));
        }
        Ok(())
    }

    /// Waits until this session sees every row that the backfill's imported snapshot shows. The
    /// imported snapshot is made of commit records, so it shows transactions that other sessions
    /// see only later, as [`MarkingSession::mark_seen`] says. Without this wait their rows would
    /// be published, the marks would not find them, and a backfill that begins anew would publish
    /// them again.
    ///
    /// # Errors
    /// A session has ended.
    pub(super) async fn wait_to_see(&self, imported: &SqlSession) -> Result<()> {
        let context = |error| sql_error("comparing snapshots", error);
        let row = imported.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(context)?;
        let imported: String = row.get(0);
        // What is at or past the end of our snapshot is unseen as well. So our end must reach the
        // end of the imported one, which lies after its last commit.
        let sees_all = "SELECT pg_snapshot_xmax(own) >= pg_snapshot_xmax(imported)
                          AND NOT EXISTS (SELECT FROM pg_snapshot_xip(own) AS xid WHERE pg_visible_in_snapshot(xid, imported))
                        FROM pg_current_snapshot() AS own, CAST($1::text AS pg_snapshot) AS imported";
        for polls in 0_u64.. {
            if self.session.query_one(sees_all, &[&imported]).await.map_err(context)?.get(0) {
                return Ok(());
            }
            if polls == 0 {
                tracing::info!("the backfill waits for transactions that are committed and not visible yet");
            }
            tokio::time::sleep(VISIBLE_POLL).await;
        }
        Ok(())
    }

    /// Where the log ends behind the marks that were made, if the slot is a failover slot; else zero.
    pub(super) async fn marks_end(&self) -> Result<Lsn> {
        // The marks are durable, so they lie before the flushed end.
        if self.tells_log_end { server::flushed_lsn(&self.session).await } else { Ok(Lsn::ZERO) }
    }

    /// Resolves when the server ends the session.
    pub(super) async fn closed(&self) -> Error {
        self.session.closed().await
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        let row = self.session.query_one("SELECT pg_current_snapshot()::text", &[]).await;
        let text: String = row.map_err(|error| sql_error("reading the current snapshot", error))?.get(0);
        Snapshot::parse(&text).ok_or_else(|| Error::new(Code::PostgresQueryFailed, format!("{text:?} is no snapshot")))
    }

    async fn execute(&self, statement: &MarkStatement, ids: &[Id<'_>]) -> Result<Changed> {
        let changed = statement.execute(&self.session, ids).await;
        changed.map_err(|error| mark_failed(format!("marking rows of {}", statement.table()), error))
    }
}

/// The rows with these numbers, counted over all that have an id.
fn rows_of(marks: &[Marks], part: Range<usize>) -> impl Iterator<Item = MarkRow<'_>> {
    marks.iter().flat_map(Marks::iter).skip(part.start).take(part.len())
}

/// The rows of one statement.
#[derive(Default)]
struct Chunk<'a> {
    ids: Vec<Id<'a>>,
    /// Their transactions. Neighbouring rows of one transaction name it once.
    xids: Vec<u32>,
}

impl<'a> Chunk<'a> {
    fn push(&mut self, row: MarkRow<'a>) {
        self.ids.push(Id(row.id));
        if row.xid != 0 && self.xids.last() != Some(&row.xid) {
            self.xids.push(row.xid);
        }
    }

    fn clear(&mut self) {
        self.ids.clear();
        self.xids.clear();
    }
}

/// Which transactions a new statement does not see yet. The stream's ids have 32 bits, so this
/// compares them on the circle, as Postgres itself does.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    /// The first id that is not yet assigned.
    next: u32,
    in_progress: Vec<u32>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip_list` (PostgreSQL documentation, "Transaction ID and Snapshot
    /// Information Functions").
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':').skip(1);
        // The upper half is the epoch. The stream does not tell it.
        let low = |id: &str| id.parse::<u64>().ok().map(|id| (id & u64::from(u32::MAX)) as u32);
        let next = low(parts.next()?)?;
        let list = parts.next()?.split(',').filter(|id| !id.is_empty());
        Some(Self { next, in_progress: list.map(low).collect::<Option<_>>()? })
    }

    fn sees_all(&self, xids: &[u32]) -> bool {
        let is_future = |xid: u32| (xid.wrapping_sub(self.next) as i32) >= 0;
        xids.iter().all(|xid| !is_future(*xid) && !self.in_progress.contains(xid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_has_ended_before_it() {
        let snapshot = Snapshot::parse("10:20:10,14,15").unwrap();
        assert!(snapshot.sees_all(&[9, 11, 13, 19]));
        for unseen in [10, 14, 15, 20, 21] {
            assert!(!snapshot.sees_all(&[9, unseen]), "{unseen}");
        }
        assert!(Snapshot::parse("10:10:").unwrap().sees_all(&[9]));
        assert_eq!(Snapshot::parse("10"), None);
    }

    #[test]
    fn transaction_ids_are_compared_on_the_circle() {
        // 2^32 + 5 comes next. Ids shortly before the wrap are past, and those shortly after 5 are
        // future.
        let snapshot = Snapshot::parse("4294967301:4294967301:").unwrap();
        assert!(snapshot.sees_all(&[u32::MAX, 4]));
        assert!(!snapshot.sees_all(&[6]));
    }
}
