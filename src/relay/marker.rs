//! Marks published rows, in batches, on connections of its own. So publishing never waits for an
//! UPDATE.
//!
//! A row that is gone counts as marked (rule 10). What matters is that no published row stays
//! unmarked.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    context::Context,
    driver::MarkingJob,
    marks::{MarkRow, Marks},
    state::BatchId,
};
use crate::{
    Code, Error, Lsn, Result,
    postgres::{
        SqlSession,
        catalog::{
            TableInfo,
            marks::{Changed, Id, MarkStatement, is_passing, mark_failed},
            server, slots,
        },
        farewell::Task,
        sql_error,
    },
};

/// Ids of one statement. So many make the round trip cheap, and so few keep row locks short.
const STATEMENT_ROWS: usize = 2_000;

/// How often the marker looks whether a committed transaction has become visible.
const VISIBLE_POLL: Duration = Duration::from_millis(5);

/// After this many looks at invisible transactions, the marker checks what they may be waiting for.
const LOOKS_BETWEEN: u64 = 200;

/// The pause after a statement that waited for a lock in vain.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// Marks to set, and the batches that are done with them.
type MarkJob = MarkingJob<Marks>;

/// The answer to a job: its marks are durable.
pub(super) struct Marked {
    pub(crate) batches: Vec<BatchId>,
    /// How many rows were given, whether they were found or gone.
    pub(crate) rows: usize,
    /// When the first of them could be marked, by the session's clock.
    pub(super) since: Duration,
    /// Where the log ended behind the marks, if the slot is a failover slot; else zero.
    pub(super) behind: Lsn,
}

/// The marking task, as the session sees it.
pub(super) struct Marker {
    jobs: mpsc::Sender<MarkJob>,
    done: mpsc::Receiver<Result<Marked>>,
    _task: Task,
}

impl Marker {
    /// Starts the task on these sessions. They share each job.
    #[must_use]
    pub(super) fn start(sessions: Vec<MarkingSession>) -> Self {
        // One job is under way, and the session gathers the next one. More jobs would only wait.
        let (jobs, mut queue) = mpsc::channel::<MarkJob>(1);
        let (answers, done) = mpsc::channel(1);
        let sessions: Vec<_> = sessions.into_iter().map(Arc::new).collect();
        let task = Task::spawn(async move {
            loop {
                let job = tokio::select! {
                    job = queue.recv() => job,
                    error = any_closed(&sessions) => {
                        let _ = answers.send(Err(error)).await;
                        return;
                    }
                };
                let Some(job) = job else { return };
                let answer = answer(&sessions, job).await;
                let failed = answer.is_err();
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { jobs, done, _task: task }
    }

    /// Hands over a job, once the last one is answered.
    ///
    /// # Errors
    /// `internal`: an earlier job still waits.
    pub(super) fn mark(&self, job: MarkJob) -> Result<()> {
        match self.jobs.try_send(job) {
            // An ended task has sent its reason, and the session will meet it.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Error::new(Code::Internal, "a second marking job before the first is done"))
            }
        }
    }

    /// Waits for the answer to the job. It is cancel-safe.
    ///
    /// # Errors
    /// Marking failed, or the server ended the session.
    pub(super) async fn done(&mut self) -> Result<Marked> {
        self.done.recv().await.unwrap_or_else(|| Err(Error::new(Code::MarkFailed, "the marker ended")))
    }
}

/// Marks a job's rows. Each session marks an equal part of them.
async fn answer(sessions: &[Arc<MarkingSession>], job: MarkJob) -> Result<Marked> {
    let MarkJob { batches, marks, since } = job;
    let rows = marks.iter().map(Marks::len).sum::<usize>();
    let share = rows.div_ceil(sessions.len()).max(STATEMENT_ROWS);
    let marks: Arc<[Marks]> = marks.into();
    let mut parts = JoinSet::new();
    for (session, first) in sessions.iter().zip((0..rows).step_by(share)) {
        let (session, marks) = (Arc::clone(session), Arc::clone(&marks));
        parts.spawn(async move { session.mark_part(&marks, first..first + share).await });
    }
    while let Some(marked) = parts.join_next().await {
        marked.unwrap_or_else(|panic| Err(Error::new(Code::Internal, "a marking task ended").because(panic)))?;
    }
    let behind = match sessions.first() {
        Some(session) if session.tells_log_end => session.log_end().await?,
        _ => Lsn::ZERO,
    };
    Ok(Marked { batches, rows, since, behind })
}

/// Resolves when the server ends one of the sessions.
async fn any_closed(sessions: &[Arc<MarkingSession>]) -> Error {
    let mut watches = JoinSet::new();
    for session in sessions {
        let session = Arc::clone(session);
        watches.spawn(async move { session.session.closed().await });
    }
    match watches.join_next().await {
        Some(Ok(error)) => error,
        _ => Error::new(Code::MarkFailed, "the marking sessions ended"),
    }
}

/// A session with a prepared statement for each table.
pub(super) struct MarkingSession {
    session: SqlSession,
    statements: Vec<MarkStatement>,
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
    let statements = MarkStatement::prepare_all(&session, tables, &context.source).await?;
    let slot = slots::slot(&session, &context.source.slot).await?;
    let tells_log_end = slot.is_some_and(|slot| slot.failover);
    Ok(MarkingSession { session, statements, tells_log_end })
}

impl MarkingSession {
    /// Marks all rows, table by table, in statements of bounded size.
    ///
    /// # Errors
    /// A statement failed. Marks made before it stay, and making them again does nothing.
    pub(super) async fn mark(&self, marks: &Marks) -> Result<()> {
        self.mark_part(std::slice::from_ref(marks), 0..marks.len()).await
    }

    /// Marks the rows with these numbers, counted over all rows that have an id.
    async fn mark_part(&self, marks: &[Marks], part: Range<usize>) -> Result<()> {
        let mut chunk = Chunk::default();
        for (table, statement) in (0_u16..).zip(&self.statements) {
            let rows = marks.iter().flat_map(Marks::iter).skip(part.start).take(part.len());
            for row in rows.filter(|row| row.table == table) {
                chunk.push(row);
                if chunk.ids.len() == STATEMENT_ROWS {
                    self.mark_chunk(statement, &chunk).await?;
                    chunk.clear();
                }
            }
            if !chunk.ids.is_empty() {
                self.mark_chunk(statement, &chunk).await?;
                chunk.clear();
            }
        }
        Ok(())
    }

    /// Whether the row is there without its mark. This changes nothing: what is missing must still
    /// be missing when a person looks.
    ///
    /// # Errors
    /// As [`MarkingSession::mark`].
    pub(super) async fn is_unmarked(&self, row: MarkRow<'_>) -> Result<bool> {
        let Some(statement) = self.statements.get(usize::from(row.table)) else { return Ok(false) };
        Ok(statement.unmarked(&self.session, &[Id(row.id)]).await?.is_some())
    }

    /// Marks the rows of a chunk. A row that is not found may be gone, or marked already. But it
    /// may also still be invisible: the server's walsender sends a transaction as soon as its
    /// commit record is flushed. The transaction leaves the list of those in progress only after
    /// that, and much later if it waits for a synchronous standby. Such a row would stay unmarked
    /// for ever. So the statement runs again once the transactions can be seen.
    async fn mark_chunk(&self, statement: &MarkStatement, chunk: &Chunk<'_>) -> Result<()> {
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
    /// see only later, as [`MarkingSession::mark_chunk`] says. Without this wait their rows would
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

    /// The flushed end of the log. The marks are durable, so they lie before it.
    async fn log_end(&self) -> Result<Lsn> {
        server::flushed_lsn(&self.session).await
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        let row = self.session.query_one("SELECT pg_current_snapshot()::text", &[]).await;
        let text: String = row.map_err(|error| sql_error("reading the current snapshot", error))?.get(0);
        Snapshot::parse(&text).ok_or_else(|| Error::new(Code::PostgresQueryFailed, format!("{text:?} is no snapshot")))
    }

    /// Runs the statement. If somebody else has locked a row, the statement fails after a while and
    /// runs again, so the locks on the other rows are let go now and then. It also runs again where
    /// the server asks for that. To give up would end the session, and with it the publishing of
    /// all other rows.
    async fn execute(&self, statement: &MarkStatement, ids: &[Id<'_>]) -> Result<Changed> {
        let context = format!("marking rows of {}", statement.table());
        loop {
            let error = match statement.execute(&self.session, ids).await {
                Ok(changed) => return Ok(changed),
                Err(error) => error,
            };
            if !is_passing(&error) {
                return Err(mark_failed(context, error));
            }
            tracing::warn!(code = Code::MarkFailed.as_str(), %error, "{context}: trying again");
            tokio::time::sleep(LOCKED_PAUSE).await;
        }
    }
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
