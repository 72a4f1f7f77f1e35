//! The batches of one session in stream order, with their sums kept, so that asking costs nothing per row.

use std::collections::VecDeque;

use super::BatchId;
use crate::{Lsn, source::position::Progress};

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Published before this session, and the proof of the history is not yet seen.
    Held,
    /// Cut, and not yet acknowledged by Kafka as a whole: it waits for the producer, or is with it.
    Sending,
    /// Acknowledged, and the commit is under way.
    Committing,
    /// With the marker.
    Marking,
    /// Published and marked.
    Done,
}

/// What is queued of a batch; its rows are with the session.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    pub(super) stage: Stage,
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Confirmable once this batch and all before it are done.
    pub(super) end: Lsn,
    /// The position that is published with it; none for a redelivered batch.
    pub(super) progress: Option<Progress>,
    /// Commit time of its first transaction, for the lag.
    pub(super) oldest: Option<i64>,
}

/// The queue. Ids count up by one, so a batch is found by its distance from the front.
#[derive(Debug, Default)]
pub(super) struct Queue {
    batches: VecDeque<Batch>,
    last: u64,
    rows: usize,
    bytes: usize,
    /// Batches by their stage.
    stages: [usize; 5],
}

impl Queue {
    /// The id that [`Queue::push`] must be given next.
    pub(super) fn next_id(&mut self) -> BatchId {
        self.last += 1;
        BatchId(self.last)
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.rows += batch.rows;
        self.bytes += batch.bytes;
        self.stages[batch.stage as usize] += 1;
        self.batches.push_back(batch);
    }

    /// The batch is acknowledged. Its records are in memory until it is committed.
    pub(super) fn sent(&mut self, id: BatchId) {
        let Some(batch) = self.find(id).filter(|batch| batch.stage == Stage::Sending) else { return };
        batch.stage = Stage::Committing;
        self.stages[Stage::Sending as usize] -= 1;
        self.stages[Stage::Committing as usize] += 1;
    }

    /// Moves a batch on. Its records are given back by whoever published them, so its bytes count no longer.
    pub(super) fn advance(&mut self, id: BatchId, stage: Stage) -> Option<&mut Batch> {
        let batch = self.find(id)?;
        let (before, bytes) = (std::mem::replace(&mut batch.stage, stage), std::mem::take(&mut batch.bytes));
        batch.oldest = None;
        self.stages[before as usize] -= 1;
        self.stages[stage as usize] += 1;
        self.bytes -= bytes;
        self.find(id)
    }

    fn find(&mut self, id: BatchId) -> Option<&mut Batch> {
        let front = self.batches.front()?.id.0;
        self.batches.get_mut(usize::try_from(id.0.checked_sub(front)?).ok()?)
    }

    /// Takes off what is done at the front; the end of the last of it.
    pub(super) fn pop_done(&mut self) -> Option<Lsn> {
        let mut end = None;
        while self.batches.front().is_some_and(|batch| batch.stage == Stage::Done) {
            let Some(batch) = self.batches.pop_front() else { break };
            self.rows -= batch.rows;
            self.stages[Stage::Done as usize] -= 1;
            end = end.max(Some(batch.end));
        }
        end
    }

    /// Ids of the held batches, oldest first.
    pub(super) fn held(&self) -> Vec<BatchId> {
        self.batches.iter().filter(|batch| batch.stage == Stage::Held).map(|batch| batch.id).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Batches that are cut and not yet committed.
    pub(super) fn publishing(&self) -> usize {
        self.count(Stage::Sending) + self.count(Stage::Committing)
    }

    /// Whether the producer has all of a batch before it, so that it could take the next one.
    pub(super) fn is_none_sending(&self) -> bool {
        self.count(Stage::Sending) == 0
    }

    fn count(&self, stage: Stage) -> usize {
        self.stages[stage as usize]
    }

    /// Whether everything in it waits for the proof, so that waiting would free nothing.
    pub(super) fn is_all_held(&self) -> bool {
        self.count(Stage::Held) == self.batches.len()
    }

    pub(super) fn is_none_held(&self) -> bool {
        self.count(Stage::Held) == 0
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.batches.iter().find_map(|batch| batch.oldest)
    }
}
