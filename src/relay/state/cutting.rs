//! From rows to batches, and from done batches to what may be confirmed.

use std::time::Duration;

use super::{
    action::Action,
    faults::internal,
    machine::Machine,
    queue::{Batch, Stage},
};
use crate::{
    Error, Lsn,
    source::position::{Progress, Split},
};

/// Behind a backlog a batch waits for more rows, by this share of the time by which the stream is behind: a Kafka
/// transaction costs the same for one row as for ten thousand, and rows that are late by minutes do not mind a moment
/// more. A stream that is not behind does not wait.
const PATIENCE_SHARE: u32 = 8;

/// It waits no longer than that. Rows to publish fill a batch before; a flood of rows to pass over never does.
const PATIENCE_MAX: Duration = Duration::from_millis(250);

/// A batch as it is cut.
struct Cut {
    rows: usize,
    bytes: usize,
    progress: Progress,
    oldest: Option<i64>,
}

impl Machine {
    pub(super) fn add_row(&mut self, bytes: usize, redelivered: bool) -> Result<(), Error> {
        let open = self.open.as_mut().ok_or_else(|| internal("a row is kept outside a transaction"))?;
        if self.building.rows > 0 && self.building.redelivered != redelivered {
            return Err(internal("redelivered and new rows meet in one batch"));
        }
        open.carries_rows = true;
        if !redelivered {
            self.building.oldest.get_or_insert(open.time);
        }
        self.building.rows += 1;
        self.building.bytes += bytes;
        self.building.redelivered = redelivered;
        Ok(())
    }

    pub(super) fn rows_in_flight(&self) -> usize {
        self.building.rows + self.queue.rows()
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_filled_to(4)
    }

    /// Three quarters are enough for a batch of whole transactions: what more it would save is little, and three batches
    /// of them are in memory at a time. The rest is room for a transaction that would otherwise be split.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.is_filled_to(3)
    }

    /// Whether the building batch has so many quarters of the rows or bytes of one.
    fn is_filled_to(&self, quarters: usize) -> bool {
        4 * self.building.rows >= quarters * self.bounds.batch_rows
            || 4 * self.building.bytes >= quarters * self.bounds.batch_bytes
    }

    pub(super) fn nothing_in_flight(&self) -> bool {
        self.queue.is_empty() && self.building.rows == 0 && self.building.boundary.is_none() && self.open.is_none()
    }

    /// Cuts when the producer could send more and the batch has waited long enough for more rows.
    pub(super) fn cut_if_due(&mut self, now: Duration) {
        if self.building.boundary.is_none() || self.building.redelivered {
            return;
        }
        if self.draining || self.cut_due().is_some_and(|due| now >= due) {
            self.cut_whole_transactions();
        }
    }

    /// When the building batch is cut if it is not full before, if it may be: while the batch before it is being sent,
    /// it gathers what comes.
    pub(super) fn cut_due(&self) -> Option<Duration> {
        let since = self.building.since.filter(|_| self.queue.is_none_sending())?;
        // What more would be gathered would gain little, and the memory of two batches is under way already.
        let patience =
            if self.is_filled_to(2) { Duration::ZERO } else { (self.behind / PATIENCE_SHARE).min(PATIENCE_MAX) };
        Some(since + self.bounds.linger + patience)
    }

    /// Cuts the whole transactions off the building batch; rows of an open one stay.
    pub(super) fn cut_whole_transactions(&mut self) {
        let Some(boundary) = self.building.boundary.take() else { return };
        let progress = Progress { lsn: boundary.commit.end_lsn, commit: Some(boundary.commit), split: None };
        let (rows, bytes) = (boundary.rows, boundary.bytes);
        let oldest = self.building.oldest.take();
        self.building.rows -= rows;
        self.building.bytes -= bytes;
        self.building.since = None;
        if self.building.rows > 0 {
            self.building.oldest = self.open.as_ref().map(|open| open.time);
        }
        self.publish(Cut { rows, bytes, progress, oldest });
    }

    /// Cuts in the middle of a transaction that is larger than a batch (G3): resumable at the row.
    pub(super) fn cut_split(&mut self, event_id: &str) -> Result<(), Error> {
        let open = self.open.as_ref().ok_or_else(|| internal("a transaction is split that is not open"))?;
        let split = Split { final_lsn: open.final_lsn, xid: open.xid, rows: open.rows, event_id: event_id.to_owned() };
        let progress = Progress { split: Some(split), ..self.cut.clone() };
        let building = std::mem::take(&mut self.building);
        self.publish(Cut { rows: building.rows, bytes: building.bytes, progress, oldest: building.oldest });
        Ok(())
    }

    fn publish(&mut self, cut: Cut) {
        let id = self.queue.next_id();
        let Cut { rows, bytes, progress, oldest } = cut;
        self.cut = progress.clone();
        let (end, stage) = (progress.lsn, Stage::Sending);
        self.queue.push(Batch { id, stage, rows, bytes, end, progress: Some(progress.clone()), oldest });
        self.actions.push_back(Action::Publish { batch: id, rows, progress });
    }

    /// When the position may next be advanced over log that holds nothing to publish, if there is such.
    pub(super) fn idle_advance_due(&self) -> Option<Duration> {
        let idle = !self.draining && self.read_to > self.cut.lsn && self.nothing_in_flight() && !self.owes_proof();
        let last = if self.idle_urgent { None } else { self.last_position };
        idle.then(|| last.map_or(Duration::ZERO, |last| last + self.bounds.idle_advance))
    }

    /// Rules 4 and 8: an idle stream advances, but the position in Kafka first.
    pub(super) fn advance_if_idle(&mut self, now: Duration) {
        if self.idle_advance_due().is_some_and(|due| now >= due) {
            self.idle_urgent = false;
            self.last_position = Some(now);
            let progress = Progress { lsn: self.read_to, commit: self.cut.commit, split: None };
            self.publish(Cut { rows: 0, bytes: 0, progress, oldest: None });
        }
    }

    /// Something published has yet to come by again; until then an idle LSN would hide that it is gone.
    #[must_use]
    pub fn owes_proof(&self) -> bool {
        self.proof.is_some() || self.split.is_some()
    }

    /// Rule 7: the end of the longest prefix that is published and marked, never backwards.
    pub(super) fn confirm(&mut self) {
        let done = self.queue.pop_done().unwrap_or(Lsn::ZERO);
        // A dropped row is neither marked nor queued: what follows it must come again, and so must not be confirmed.
        if self.dropped && self.marks {
            return;
        }
        let mut end = self.confirmed.max(done);
        if self.nothing_in_flight() && !self.owes_proof() {
            // Everything read is done, so an idle LSN that Kafka already carries may be confirmed.
            end = end.max(self.committed.lsn.min(self.read_to));
        }
        if end > self.confirmed {
            self.confirmed = end;
            self.actions.push_back(Action::Confirm);
        }
    }
}
