//! The batches of one session in stream order. The queue keeps their sums, so asking for a sum
//! costs nothing per row.

use std::collections::VecDeque;

#[cfg(debug_assertions)]
use super::faults::require;
use super::{action::BatchId, faults::internal, settling::Settles};
use crate::{Error, Lsn, source::position::Progress};

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was published before this session, and the server has not yet proved its history.
    Held,
    /// It is cut, and Kafka has not yet acknowledged all of it. It waits for the producer or is
    /// with it.
    Sending,
    /// Kafka has acknowledged all of it, and the commit is under way.
    Committing,
    /// It is with the marker.
    Marking,
    /// It is published and marked.
    Done,
}

impl Stage {
    /// Whether a batch may go from this stage to that one.
    fn leads_to(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Sending, Self::Committing)
                | (Self::Committing | Self::Held, Self::Marking | Self::Done)
                | (Self::Marking, Self::Done)
        )
    }
}

/// What the queue knows of a batch. The session holds its rows.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    pub(super) stage: Stage,
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// The LSN that may be confirmed once this batch and all before it are done.
    pub(super) end: Lsn,
    /// The position that is published with it. A redelivered batch has none.
    pub(super) progress: Option<Progress>,
    /// Commit time of its first transaction, for the lag.
    pub(super) oldest: Option<i64>,
    /// The stream must have passed this before the batch is confirmed; zero where it need not.
    pub(super) behind: Lsn,
}

/// The queue. Ids count up by one, so the distance from the front finds a batch.
#[derive(Debug, Default)]
pub(super) struct Queue {
    batches: VecDeque<Batch>,
    last: u64,
    rows: usize,
    bytes: usize,
    /// How many batches are in each stage.
    stages: [usize; 5],
}

impl Queue {
    /// Takes the id that the next batch given to [`Queue::push`] must have.
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

    /// Kafka has acknowledged the batch. Its records stay in memory until Kafka has committed it.
    ///
    /// # Errors
    /// `internal`: it is not the oldest batch that is being sent (rule 26).
    pub(super) fn sent(&mut self, id: BatchId) -> Result<(), Error> {
        self.require_first(id, |stage| stage == Stage::Sending, "acknowledged")?;
        self.advance(id, Stage::Sending, Stage::Committing).map(|_| ())
    }

    /// Kafka has committed the batch. It goes to the marker if marks are made and it has rows.
    /// Returns what the position says now, and whether marks are owed.
    ///
    /// # Errors
    /// `internal`: it is not the oldest batch that is not committed, or its commit was not under
    /// way.
    pub(super) fn committed(&mut self, id: BatchId, marks: bool) -> Result<(Progress, bool), Error> {
        self.require_first(id, |stage| matches!(stage, Stage::Sending | Stage::Committing), "committed")?;
        let owes_marks = marks && self.find(id).is_some_and(|batch| batch.rows > 0);
        let to = if owes_marks { Stage::Marking } else { Stage::Done };
        let batch = self.advance(id, Stage::Committing, to)?;
        let progress = batch.progress.take().ok_or_else(|| internal(format!("batch {} has no position", id.0)))?;
        Ok((progress, owes_marks))
    }

    /// Refuses a batch whose turn it is not: batches are sent and committed in order.
    fn require_first(&self, id: BatchId, is_waiting: impl Fn(Stage) -> bool, what: &str) -> Result<(), Error> {
        match self.batches.iter().find(|batch| is_waiting(batch.stage)) {
            Some(first) if first.id == id => Ok(()),
            first => {
                let turn = first.map_or(0, |first| first.id.0);
                Err(internal(format!("batch {} is {what}, and it is the turn of batch {turn}", id.0)))
            }
        }
    }

    /// Moves a batch from a stage to one that may follow. The publisher gives a batch's records
    /// back at the commit, so from then on their bytes no longer count.
    ///
    /// # Errors
    /// `internal`: the batch is unknown, is not in the stage `from`, or may not go to `to`.
    pub(super) fn advance(&mut self, id: BatchId, from: Stage, to: Stage) -> Result<&mut Batch, Error> {
        let Some(index) = self.index(id) else {
            return Err(internal(format!("batch {} goes from {from:?} to {to:?}, and is not in flight", id.0)));
        };
        let batch = &mut self.batches[index];
        if batch.stage != from || !from.leads_to(to) {
            let stage = batch.stage;
            return Err(internal(format!("batch {} goes from {from:?} to {to:?}, and is {stage:?}", id.0)));
        }
        batch.stage = to;
        self.stages[from as usize] -= 1;
        self.stages[to as usize] += 1;
        if to != Stage::Committing {
            batch.oldest = None;
            self.bytes -= std::mem::take(&mut batch.bytes);
        }
        Ok(batch)
    }

    fn index(&self, id: BatchId) -> Option<usize> {
        let front = self.batches.front()?.id.0;
        let index = usize::try_from(id.0.checked_sub(front)?).ok()?;
        (index < self.batches.len()).then_some(index)
    }

    fn find(&self, id: BatchId) -> Option<&Batch> {
        self.batches.get(self.index(id)?)
    }

    /// Removes the done batches at the front. Returns where the last of them ends.
    pub(super) fn pop_done(&mut self) -> Option<Settles> {
        let mut done: Option<Settles> = None;
        while self.batches.front().is_some_and(|batch| batch.stage == Stage::Done) {
            let Some(batch) = self.batches.pop_front() else { break };
            self.rows -= batch.rows;
            self.stages[Stage::Done as usize] -= 1;
            let behind = done.map_or(Lsn::ZERO, |done| done.behind).max(batch.behind);
            done = Some(Settles { end: batch.end, behind });
        }
        done
    }

    pub(super) fn last_end(&self) -> Option<Lsn> {
        self.batches.back().map(|batch| batch.end)
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

    /// Whether the producer has finished sending all batches, so that it could take the next one.
    pub(super) fn is_none_sending(&self) -> bool {
        self.count(Stage::Sending) == 0
    }

    fn count(&self, stage: Stage) -> usize {
        self.stages[stage as usize]
    }

    /// Whether every batch waits for the proof, so that waiting would free nothing.
    pub(super) fn is_all_held(&self) -> bool {
        self.count(Stage::Held) == self.batches.len()
    }

    pub(super) fn is_none_held(&self) -> bool {
        self.count(Stage::Held) == 0
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.batches.iter().find_map(|batch| batch.oldest)
    }

    /// The batches, oldest first.
    #[cfg(debug_assertions)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter()
    }

    /// Checks that the sums are those of the batches, and that the ids count up by one.
    ///
    /// # Errors
    /// `internal`: they are not.
    #[cfg(debug_assertions)]
    pub(super) fn require_sums(&self) -> Result<(), Error> {
        let mut stages = [0; 5];
        let (mut rows, mut bytes) = (0, 0);
        for (index, batch) in self.batches.iter().enumerate() {
            require(self.index(batch.id) == Some(index), "the ids of the batches do not count up by one")?;
            stages[batch.stage as usize] += 1;
            rows += batch.rows;
            bytes += batch.bytes;
        }
        require((rows, bytes, stages) == (self.rows, self.bytes, self.stages), "the sums of the queue are wrong")?;
        let last = self.batches.back();
        require(last.is_none_or(|last| last.id.0 == self.last), "the last id is not the last batch's")
    }
}
