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

/// The tasks of the sessions that were dropped and have not ended. Each dropped session takes the
/// ended ones away, so the list is as long as the sessions that are just leaving.
static LEAVING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// A session was dropped. Its task goes on until the goodbye is said.
pub(super) fn leaves(task: JoinHandle<()>) {
    let mut leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
    leaving.retain(|task| !task.is_finished());
    leaving.push(task);
}

/// Waits until the sessions that were dropped so far have said goodbye, at most for a second.
pub(crate) async fn said() {
    let leaving = std::mem::take(&mut *LEAVING.lock().unwrap_or_else(PoisonError::into_inner));
    let all = async {
        for task in leaving {
            // A task that was ended with its runtime says nothing more.
            let _ = task.await;
        }
    };
    let _ = timeout(PATIENCE, all).await;
}
