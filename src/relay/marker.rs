//! Marks published rows, in batches, on connections of its own. So publishing never waits for an
//! UPDATE.
//!
//! A row that is gone counts as marked (rule 10). What matters is that no published row stays
//! unmarked. A table that takes no marks (a right that was revoked, a lock, a trigger's error) holds
//! up neither the publishing nor the marks of other tables: its marks are kept and tried again
//! ([`Kept`]), and the machine's bound on unmarked rows says how many may wait.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    driver::MarkingJob,
    kept::{Kept, Tables},
    marking::{MarkingSession, STATEMENT_ROWS},
    marks::Marks,
    state::BatchId,
};
use crate::{Code, Error, Lsn, Result, postgres::farewell::Task};

/// Marks to set, and the batches that are done with them.
type MarkJob = MarkingJob<Marks>;

/// What came of a job, or of marks that were tried again.
pub(super) struct Marked {
    /// Whether it answers a job.
    pub(super) is_answer: bool,
    /// Batches whose marks are durable, all of them.
    pub(crate) batches: Vec<BatchId>,
    /// How many rows were marked, or found to be gone.
    pub(crate) rows: usize,
    /// When the first of them could be marked, by the session's clock. Marks that were tried again
    /// do not tell.
    pub(super) since: Option<Duration>,
    /// Where the log ended behind the marks, if the slot is a failover slot; else zero.
    pub(super) behind: Lsn,
    /// Why tables took no marks, one error for each.
    pub(super) failures: Vec<Error>,
    /// How many rows wait until their table takes marks again.
    pub(super) kept: usize,
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
            let mut kept = Kept::new();
            let mut again = Instant::now();
            loop {
                let answer = tokio::select! {
                    job = queue.recv() => match job {
                        Some(job) => answer(&sessions, job, &mut kept).await,
                        None => return,
                    },
                    () = sleep_until(again), if !kept.is_empty() => try_again(&sessions, &mut kept).await,
                    error = any_closed(&sessions) => Err(error),
                };
                if answer.as_ref().is_ok_and(|marked| !marked.failures.is_empty()) {
                    again = Instant::now() + kept.pause();
                }
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

    /// Waits for the answer to the job, or for what came of marks that were kept. It is cancel-safe.
    ///
    /// # Errors
    /// The server ended a session, or the table is no longer what the statement was made for.
    pub(super) async fn done(&mut self) -> Result<Marked> {
        self.done.recv().await.unwrap_or_else(|| Err(Error::new(Code::MarkFailed, "the marker ended")))
    }
}

/// Marks a job's rows, but for those of tables that take no marks.
async fn answer(sessions: &[Arc<MarkingSession>], job: MarkJob, kept: &mut Kept) -> Result<Marked> {
    let MarkJob { batches, marks, since } = job;
    let (marks, failures) = attempt(sessions, marks, kept.tables()).await?;
    let (rows, before) = (marks.iter().map(Marks::len).sum::<usize>(), kept.rows());
    let batches = kept.keep(batches, marks, &failures.tables);
    let rows = rows - (kept.rows() - before);
    told(sessions, Marked { is_answer: true, since: Some(since), batches, rows, ..failures.told(kept) }).await
}

/// Tries the marks again that are kept.
async fn try_again(sessions: &[Arc<MarkingSession>], kept: &mut Kept) -> Result<Marked> {
    let (batches, marks) = kept.take();
    let rows: usize = marks.iter().map(Marks::len).sum();
    let (marks, failures) = attempt(sessions, marks, &Tables::default()).await?;
    let batches = kept.keep_again(batches, marks, &failures.tables);
    let rows = rows - kept.rows();
    told(sessions, Marked { batches, rows, ..failures.told(kept) }).await
}

/// Adds where the log ends now that the marks are made.
async fn told(sessions: &[Arc<MarkingSession>], marked: Marked) -> Result<Marked> {
    let behind = match sessions.first() {
        Some(session) => session.marks_end().await?,
        None => Lsn::ZERO,
    };
    Ok(Marked { behind, ..marked })
}

/// The tables that took no marks, and why.
#[derive(Default)]
struct Failures {
    tables: Tables,
    errors: Vec<Error>,
}

impl Failures {
    fn add(&mut self, table: u16, error: Error) {
        // The parts of a job fail alike.
        if !self.tables.contains(table) {
            self.tables.insert(table);
            self.errors.push(error);
        }
    }

    fn told(self, kept: &Kept) -> Marked {
        Marked {
            is_answer: false,
            batches: Vec::new(),
            rows: 0,
            since: None,
            behind: Lsn::ZERO,
            failures: self.errors,
            kept: kept.rows(),
        }
    }
}

/// Marks the rows, but for those of tables that are known to take no marks. Each session marks an
/// equal part of them. The marks come back.
async fn attempt(
    sessions: &[Arc<MarkingSession>],
    marks: Vec<Marks>,
    without: &Tables,
) -> Result<(Vec<Marks>, Failures)> {
    let rows = marks.iter().map(Marks::len).sum::<usize>();
    let share = rows.div_ceil(sessions.len()).max(STATEMENT_ROWS);
    let marks = Arc::new(marks);
    let mut parts = JoinSet::new();
    for (session, first) in sessions.iter().zip((0..rows).step_by(share)) {
        let (session, marks, without) = (Arc::clone(session), Arc::clone(&marks), without.clone());
        parts.spawn(async move { session.mark_part(&marks, first..first + share, &without).await });
    }
    let mut failures = Failures::default();
    while let Some(marked) = parts.join_next().await {
        let failed =
            marked.unwrap_or_else(|panic| Err(Error::new(Code::Internal, "a marking task ended").because(panic)))?;
        failed.into_iter().for_each(|(table, error)| failures.add(table, error));
    }
    let marks =
        Arc::into_inner(marks).ok_or_else(|| Error::new(Code::Internal, "a marking task holds its marks still"))?;
    Ok((marks, failures))
}

/// Resolves when the server ends one of the sessions.
async fn any_closed(sessions: &[Arc<MarkingSession>]) -> Error {
    let mut watches = JoinSet::new();
    for session in sessions {
        let session = Arc::clone(session);
        watches.spawn(async move { session.closed().await });
    }
    match watches.join_next().await {
        Some(Ok(error)) => error,
        _ => Error::new(Code::MarkFailed, "the marking sessions ended"),
    }
}
