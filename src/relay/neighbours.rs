//! Lets a halted source wait while the other sources of the daemon go on.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::telemetry::Metrics;

/// A halted source looks this often whether a person has acted, as long as other sources go on.
const HALTED_POLL: Duration = Duration::from_secs(30);

/// What a halted source has to know of the others.
#[derive(Clone)]
pub(super) struct Neighbours {
    metrics: Metrics,
    /// Changes whenever a source halts.
    halts: Arc<watch::Sender<u64>>,
}

impl Neighbours {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self { metrics: metrics.clone(), halts: Arc::new(watch::Sender::new(0)) }
    }

    /// Waits as long as another source goes on, at most [`HALTED_POLL`]. Returns whether one does.
    pub(super) async fn wait(&self) -> bool {
        let mut halts = self.halts.subscribe();
        self.halts.send_modify(|halts| *halts += 1);
        let all_halted = async {
            while !self.metrics.all_halted() {
                // An error would mean that the sender is gone, which this struct holds.
                let _ = halts.changed().await;
            }
        };
        tokio::time::timeout(HALTED_POLL, all_halted).await.is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::standing::SourceState;

    #[tokio::test]
    async fn the_last_source_that_halts_ends_the_wait_of_the_others() {
        let metrics = Metrics::new();
        let [order, user] = ["order", "user"].map(|name| metrics.source(name));
        let neighbours = Neighbours::new(&metrics);
        order.set_state(SourceState::Halted);
        user.set_state(SourceState::Streaming);
        let waiting = tokio::spawn({
            let neighbours = neighbours.clone();
            async move { neighbours.wait().await }
        });
        tokio::task::yield_now().await;
        user.set_state(SourceState::Halted);
        assert!(!neighbours.wait().await);
        assert!(!waiting.await.unwrap());
    }
}
