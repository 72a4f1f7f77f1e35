//! Looks, while rows stream, whether everything still holds that the guarantees stand on.
//!
//! The server passes rows over in silence when a table leaves the publication, and nothing in the
//! stream tells. The catalog tells, at any time. So the source looks every second, and confirms
//! nothing behind its last look that found all well (rule 35):
//!
//! ```text
//!   1  end of the log that is flushed ─▶ 2  a moment's pause ─▶ 3  catalog ─▶ everything before 1 was sent
//! ```
//!
//! A change is in the log before sessions see it. The pause is for the time between the two. It can
//! be longer only where a commit waits for a synchronous standby (guarantees.md, "What it stands
//! on").

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_postgres::error::SqlState;

use crate::{
    Lsn, Result,
    config::Source,
    postgres::{
        SqlSession,
        catalog::{TableInfo, server, tables},
        farewell::Task,
        sqlstate,
    },
    source::{compare::require_same_publication, publication},
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// How long after it was flushed a commit may be invisible still.
const PAUSE: Duration = Duration::from_millis(100);

/// What a look compares.
pub(super) struct Look {
    source: Source,
    sql: Arc<SqlSession>,
    /// The tables as they were at the start.
    tables: Vec<TableInfo>,
    /// The fingerprint that the position carries.
    publication: Value,
}

impl Look {
    pub(super) fn new(source: &Source, sql: &Arc<SqlSession>, tables: &[TableInfo], publication: &Value) -> Self {
        let (source, publication) = (source.clone(), publication.clone());
        Self { source, sql: Arc::clone(sql), tables: tables.to_vec(), publication }
    }

    /// Looks now. A publication that lacks the table which was put in the place of ours would pass
    /// rows over as well.
    ///
    /// # Errors
    /// `publication-changed`, and whatever else keeps rows from being sent or marked.
    pub(super) async fn now(&self) -> Result<()> {
        let tables = tables::renamed(&self.sql, &self.source, &self.tables).await?;
        let now = publication::look(&self.sql, &self.source, &tables).await?;
        require_same_publication(&self.publication, &now)
    }

    /// Looks, and says up to where nothing was overlooked. `None` if this look was not made.
    async fn up_to(&self) -> Result<Option<Lsn>> {
        let look = async {
            let end = server::flushed_lsn(&self.sql).await?;
            sleep(PAUSE).await;
            self.now().await.map(|()| end)
        };
        match look.await {
            Ok(end) => Ok(Some(end)),
            // It took too long, because of a lock for instance. The next look may be luckier.
            Err(error) if sqlstate(&error) == Some(SqlState::QUERY_CANCELED.code()) => {
                tracing::warn!("looking at the publication took too long: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The task that looks. It ends with the first look that finds something, and when this is dropped.
pub(super) struct Looks {
    task: Task,
    found: mpsc::Receiver<Result<Lsn>>,
    hurry: Arc<Notify>,
}

impl Looks {
    pub(super) fn start(look: Arc<Look>) -> Self {
        let (tell, found) = mpsc::channel(1);
        let hurry = Arc::new(Notify::new());
        let hurried = Arc::clone(&hurry);
        let task = Task::spawn(async move { look_on(&look, &tell, &hurried).await });
        Self { task, found, hurry }
    }

    /// What the next look found. After an error there is no other.
    pub(super) async fn found(&mut self) -> Result<Lsn> {
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// Asks for a look at once.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Whether looks are to come.
    pub(super) fn go_on(&self) -> bool {
        !self.task.is_finished() || !self.found.is_empty()
    }
}

async fn look_on(look: &Look, tell: &mpsc::Sender<Result<Lsn>>, hurry: &Notify) {
    loop {
        if let Some(found) = look.up_to().await.transpose() {
            let is_end = found.is_err();
            if tell.send(found).await.is_err() || is_end {
                return;
            }
        }
        let _ = timeout(EVERY, hurry.notified()).await;
    }
}
