//! Marks published rows, in batches, on connections of its own, so that publishing never waits for an UPDATE.
//!
//! A row that is gone counts as marked (rule 10): what matters is that no row stays unmarked that was published.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{marks::Marks, state::BatchId, supervisor::Context};
use crate::{
    Code, Error, Result,
    postgres::{
        SqlSession,
        catalog::{TableInfo, marks::MarkStatement},
        sql_error,
    },
};

/// Ids of one statement: enough to make the round trip cheap, few enough to keep row locks short.
const STATEMENT_ROWS: usize = 2_000;

#[derive(Default)]
/// Marks to set, and the batches that are done with them.
pub struct MarkJob {
    /// The batches, in stream order.
    pub batches: Vec<BatchId>,
    /// Their rows.
    pub marks: Marks,
}

/// The marks of a job are durable.
pub struct Marked {
    /// The job's batches.
    pub batches: Vec<BatchId>,
    /// Rows that were given, whether found or gone.
    pub rows: usize,
    /// How long it took.
    pub took: Duration,
}

/// The marking task, as the session sees it.
pub struct Marker {
    jobs: mpsc::Sender<MarkJob>,
    done: mpsc::Receiver<Result<Marked>>,
    task: tokio::task::JoinHandle<()>,
}

impl Marker {
    /// Starts the task.
    #[must_use]
    pub fn start(marking: MarkingSession) -> Self {
        // One job is under way and the session gathers the next: more would only wait.
        let (jobs, mut queue) = mpsc::channel::<MarkJob>(1);
        let (answers, done) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            loop {
                let job = tokio::select! {
                    job = queue.recv() => job,
                    error = marking.session.closed() => {
                        let _ = answers.send(Err(error)).await;
                        return;
                    }
                };
                let Some(job) = job else { return };
                let answer = answer(&marking, job).await;
                let failed = answer.is_err();
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { jobs, done, task }
    }

    /// Hands over a job; only when the last one is answered.
    ///
    /// # Errors
    /// A job is under way still, or the task has ended.
    pub fn mark(&self, job: MarkJob) -> Result<()> {
        match self.jobs.try_send(job) {
            // An ended task has sent its reason, which the session will meet.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Error::new(Code::Internal, "a second marking job before the first is done"))
            }
        }
    }

    /// The answer to the job; cancel-safe.
    ///
    /// # Errors
    /// Marking failed, or the session was ended by the server.
    pub async fn done(&mut self) -> Result<Marked> {
        self.done.recv().await.unwrap_or_else(|| Err(Error::new(Code::MarkFailed, "the marker ended")))
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(marking: &MarkingSession, job: MarkJob) -> Result<Marked> {
    let began = Instant::now();
    marking.mark(&job.marks).await?;
    Ok(Marked { batches: job.batches, rows: job.marks.len(), took: began.elapsed() })
}

/// A session with a prepared statement for each table.
pub struct MarkingSession {
    session: SqlSession,
    statements: Vec<MarkStatement>,
}

/// Opens a session to mark rows of these tables.
///
/// # Errors
/// The server cannot be reached, or the role may not mark.
pub async fn marking_session(context: &Context, tables: &[TableInfo]) -> Result<MarkingSession> {
    let session = context.connect.sql("marker").await?;
    let statements = MarkStatement::prepare_all(&session, tables, &context.source).await?;
    Ok(MarkingSession { session, statements })
}

impl MarkingSession {
    /// Marks all rows, table by table, in statements of bounded size.
    ///
    /// # Errors
    /// A statement failed; marks made before it stay, and making them again does nothing.
    pub async fn mark(&self, marks: &Marks) -> Result<()> {
        let mut ids = Vec::with_capacity(marks.len().min(STATEMENT_ROWS));
        for (table, statement) in (0_u16..).zip(&self.statements) {
            for (_, id) in marks.iter().filter(|(of, _)| *of == table) {
                ids.push(id);
                if ids.len() == STATEMENT_ROWS {
                    self.execute(statement, &ids).await?;
                    ids.clear();
                }
            }
            if !ids.is_empty() {
                self.execute(statement, &ids).await?;
                ids.clear();
            }
        }
        Ok(())
    }

    async fn execute(&self, statement: &MarkStatement, ids: &[&str]) -> Result<()> {
        let context = format!("marking rows of {}", statement.table());
        self.session.execute(statement.prepared(), &[&ids]).await.map_err(|error| {
            let error = sql_error(&context, error);
            match error.code() {
                Code::PostgresQueryFailed => Error::new(Code::MarkFailed, context).because(error),
                _ => error,
            }
        })?;
        Ok(())
    }
}
