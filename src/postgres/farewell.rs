//! Sessions that were dropped, and say goodbye in the background.
//!
//! A runtime that ends takes the tasks of its sessions with it, and the server would log that the
//! client hung up. So whoever ends a runtime waits here for a moment.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};

/// Longest wait for the goodbyes. A server that does not take them in this time gets none.
const PATIENCE: Duration = Duration::from_secs(1);

/// The tasks of the sessions that were dropped and have not ended, and tasks that may still hold a
/// session. Each of them takes the ended ones away, so the list is as long as those that are just
/// leaving.
static LEAVING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// A task that may hold a session. Dropping this ends it.
pub(crate) struct Task(Option<JoinHandle<()>>);

impl Task {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(task)))
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            leaves(task);
        }
    }
}

/// A session was dropped, and its task goes on until the goodbye is said. Or a task was told to end
/// that may drop a session then.
pub(super) fn leaves(task: JoinHandle<()>) {
    let mut leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
    leaving.retain(|task| !task.is_finished());
    leaving.push(task);
}

/// Waits until the sessions that were dropped so far have said goodbye, at most for a second.
pub(crate) async fn said() {
    let next = || LEAVING.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let all = async {
        // A task that ends may drop another session, whose task is next.
        while let Some(task) = next() {
            // A task that was ended with its runtime says nothing more.
            let _ = task.await;
        }
    };
    let _ = timeout(PATIENCE, all).await;
}
