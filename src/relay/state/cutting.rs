//! Cuts rows into batches, and confirms what is done.

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

/// When the stream is behind, a batch waits for more rows. It waits for the time by which the
/// stream is behind, divided by this number. A Kafka transaction costs the same for one row as for
/// ten thousand, and rows that are minutes late do not mind a moment more. A stream that is not
/// behind does not wait.
const PATIENCE_SHARE: u32 = 8;

/// The longest such wait. Rows to publish fill a batch sooner. Rows to pass over never fill one,
/// however many they are.
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

    /// Whether a batch of whole transactions may be cut: three quarters are enough. The last
    /// quarter would save little, and three batches are in memory at a time. It is room for a
    /// transaction that would otherwise be split.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.is_filled_to(3)
    }

    /// Whether the building batch has reached this many quarters of its limit of rows or bytes.
    fn is_filled_to(&self, quarters: usize) -> bool {
        4 * self.building.rows >= quarters * self.bounds.batch_rows
            || 4 * self.building.bytes >= quarters * self.bounds.batch_bytes
    }

    /// Whether everything that was read is published and marked.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.nothing_in_flight() && !self.owes_proof()
    }

    pub(super) fn nothing_in_flight(&self) -> bool {
        let nothing_is_built = self.building.rows == 0 && self.building.boundary.is_none() && self.open.is_none();
        nothing_is_built && self.queue.is_empty() && self.settling.is_empty()
    }

    /// Cuts when the producer could send more and the batch has waited long enough for rows.
    pub(super) fn cut_if_due(&mut self, now: Duration) {
        if self.building.boundary.is_none() || self.building.redelivered {
            return;
        }
        if self.draining || self.cut_due().is_some_and(|due| now >= due) {
            self.cut_whole_transactions();
        }
    }

    /// When the building batch is cut, unless it is full sooner. There is no such time while the
    /// batch before it is being sent: meanwhile it gathers what comes.
    pub(super) fn cut_due(&self) -> Option<Duration> {
        let since = self.building.since.filter(|_| self.queue.is_none_sending())?;
        // A batch that is half full does not wait. More rows would gain little, and the memory of
        // two batches is in use already.
        let patience =
            if self.is_filled_to(2) { Duration::ZERO } else { (self.behind / PATIENCE_SHARE).min(PATIENCE_MAX) };
        Some(since + self.bounds.linger + patience)
    }

    /// Cuts the whole transactions off the building batch. Rows of an open transaction stay.
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

    /// Cuts in the middle of a transaction that is larger than a batch (G3). The position then
    /// names the row at which the transaction is resumed.
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
        self.queue.push(Batch {
            id,
            stage,
            rows,
            bytes,
            end,
            progress: Some(progress.clone()),
            oldest,
            behind: Lsn::ZERO,
        });
        self.actions.push_back(Action::Publish { batch: id, rows, progress });
    }

    /// When the position may next advance over log that holds nothing to publish, if there is such
    /// log.
    pub(super) fn idle_advance_due(&self) -> Option<Duration> {
        let idle = !self.draining && self.read_to > self.cut.lsn && self.nothing_in_flight() && !self.owes_proof();
        let last = if self.idle_urgent { None } else { self.last_position };
        idle.then(|| last.map_or(Duration::ZERO, |last| last + self.bounds.idle_advance))
    }

    /// Rules 4 and 8: an idle stream advances, and the position in Kafka goes first.
    pub(super) fn advance_if_idle(&mut self, now: Duration) {
        if self.idle_advance_due().is_some_and(|due| now >= due) {
            self.idle_urgent = false;
            self.last_position = Some(now);
            let progress = Progress { lsn: self.read_to, commit: self.cut.commit, split: None };
            self.publish(Cut { rows: 0, bytes: 0, progress, oldest: None });
        }
    }

    /// Whether something published still has to come by again. Until then, confirming an idle LSN
    /// would hide that it is gone.
    #[must_use]
    pub fn owes_proof(&self) -> bool {
        self.proof.is_some() || self.split.is_some()
    }

    /// Rule 7: confirms the end of the longest prefix that is published and marked, and never goes
    /// back. Nothing behind the last look is confirmed (rule 35): the server may have passed rows
    /// over there.
    pub(super) fn confirm(&mut self) {
        if let Some(done) = self.queue.pop_done() {
            self.settling.add(done);
        }
        self.done = self.done.max(self.settling.take(self.read_to).unwrap_or(Lsn::ZERO));
        // A dropped row is neither marked nor in the queue. What follows it must come again with
        // it, and so must not be confirmed.
        if self.dropped && self.marks {
            return;
        }
        if self.nothing_in_flight() && !self.owes_proof() {
            // Everything that was read is done. So an idle LSN that Kafka already carries may be
            // confirmed.
            self.done = self.done.max(self.committed.lsn.min(self.read_to));
        }
        let end = self.done.min(self.looked);
        if end > self.confirmed {
            self.confirmed = end;
            self.actions.push_back(Action::Confirm);
        }
    }
}
