//! The inputs of the machine, and the questions that it answers.

use std::{collections::VecDeque, time::Duration};

use super::{
    action::{Action, BatchId, Place, RowIs},
    bounds::Bounds,
    faults::diverged,
    queue::{Queue, Stage},
    reading::{Boundary, Building, Kind, Open},
    settling::Settling,
};
use crate::{
    Code, Error, Lsn,
    source::position::{CommitId, Progress, Split},
};

/// Kafka transactions that may be cut and not yet committed. One is being committed, one is being
/// sent, and the next one stands ready, so the producers never wait for us. More would only hold
/// memory.
const MAX_PUBLISHING: usize = 3;

/// The state machine of one session of one source. Times are durations since any fixed instant.
#[derive(Debug)]
pub struct Machine {
    pub(super) bounds: Bounds,
    pub(super) marks: bool,
    /// What Kafka will hold when everything cut so far is committed.
    pub(super) cut: Progress,
    /// What Kafka holds.
    pub(super) committed: Progress,
    /// The last LSN given to the server.
    pub(super) confirmed: Lsn,
    /// Everything before this LSN is published and marked, as far as that was read.
    pub(super) done: Lsn,
    /// What the server sends was looked at, and found as it must be, up to this LSN.
    pub(super) looked: Lsn,
    /// The published commit that must be seen again before redelivered rows may be marked.
    pub(super) proof: Option<CommitId>,
    /// The split transaction that must come before any new one.
    pub(super) split: Option<Split>,
    /// An earlier connection of this process has already seen the proof.
    pub(super) trusted: bool,
    /// Redelivered rows were dropped for lack of room.
    pub(super) dropped: bool,
    pub(super) open: Option<Open>,
    pub(super) building: Building,
    pub(super) queue: Queue,
    /// Done batches whose marks the stream has yet to pass.
    pub(super) settling: Settling,
    /// Everything before this LSN has been read.
    pub(super) read_to: Lsn,
    /// The server asked for a reply, so the next idle advance does not wait.
    pub(super) idle_urgent: bool,
    pub(super) last_position: Option<Duration>,
    /// How long after its commit the server sent the last transaction.
    pub(super) behind: Duration,
    pub(super) draining: bool,
    pub(super) actions: VecDeque<Action>,
    /// The confirmed LSN at the last check of the invariants.
    #[cfg(debug_assertions)]
    pub(super) confirmed_before: Lsn,
}

impl Machine {
    /// A machine that resumes from `position`, on a slot whose confirmed flush position is
    /// `confirmed`.
    #[must_use]
    pub fn new(mut bounds: Bounds, marks: bool, position: Progress, confirmed: Lsn) -> Self {
        // A batch whose limits lie above the bounds of memory could never become full, and would
        // wait for room for ever.
        bounds.batch_rows = bounds.batch_rows.min(bounds.unmarked_rows).max(1);
        bounds.batch_bytes = bounds.batch_bytes.min(bounds.in_flight_bytes).max(1);
        // No transaction between the last published commit and the position carries rows. So a slot
        // that is confirmed up to that commit needs no proof. On any other slot that commit must
        // come by again.
        let proof = position.commit.filter(|commit| confirmed < commit.end_lsn);
        Self {
            bounds,
            marks,
            cut: position.clone(),
            split: position.split.clone(),
            committed: position,
            confirmed,
            done: confirmed,
            looked: Lsn::ZERO,
            proof,
            trusted: false,
            dropped: false,
            open: None,
            building: Building::default(),
            queue: Queue::default(),
            settling: Settling::default(),
            read_to: Lsn::ZERO,
            idle_urgent: false,
            last_position: None,
            behind: Duration::ZERO,
            draining: false,
            actions: VecDeque::new(),
            #[cfg(debug_assertions)]
            confirmed_before: confirmed,
        }
    }

    /// Says that the same server has shown the last published commit on an earlier connection of
    /// this process ([`Action::Reconnect`]). Redelivered rows are then marked as they come. The
    /// proof must still come by after them.
    ///
    /// Call this only if the position is still the [`Machine::position`] of that session, and the
    /// server was not started since (`pg_postmaster_start_time`). Otherwise a copy may have taken
    /// the server's place between the two connections.
    #[must_use]
    pub fn trust_history(mut self) -> Self {
        self.trusted = true;
        self
    }

    // ---- the stream -----------------------------------------------------------------------------

    /// A transaction begins. `final_lsn` is where its commit record starts.
    ///
    /// # Errors
    /// `postgres-protocol`: another transaction is open.
    pub fn begin(&mut self, final_lsn: Lsn, xid: u32, time: i64) -> Result<(), Error> {
        if self.open.is_some() {
            return Err(Error::new(Code::PostgresProtocol, "a Begin inside a transaction"));
        }
        // Rule 6: commit records do not overlap. So one that starts before the position also ends
        // at or before it.
        let kind = if final_lsn < self.committed.lsn {
            Kind::Redelivered
        } else if self.split.as_ref().is_some_and(|split| (split.final_lsn, split.xid) == (final_lsn, xid)) {
            Kind::Resumed
        } else {
            Kind::New
        };
        self.open = Some(Open { final_lsn, xid, time, rows: 0, carries_rows: false, kind });
        self.checked()
    }

    /// An Insert message. `is_event` tells whether the row has the given event id. It is called
    /// only for the last published row of a split transaction.
    ///
    /// # Errors
    /// `history-diverged`: the row is not the one that was published at this place.
    /// `postgres-protocol`: no transaction is open.
    pub fn row(&mut self, is_event: impl FnOnce(&str) -> bool) -> Result<RowIs, Error> {
        let open =
            self.open.as_mut().ok_or_else(|| Error::new(Code::PostgresProtocol, "a row outside a transaction"))?;
        open.rows += 1;
        if open.kind == Kind::Resumed
            && let Some(proof) = self.proof
        {
            return Err(diverged(format!("the published transaction {} at {} is gone", proof.xid, proof.end_lsn)));
        }
        let redelivered = match (open.kind, &self.split) {
            (Kind::Redelivered, _) => true,
            (Kind::Resumed, Some(split)) if open.rows < split.rows => true,
            (Kind::Resumed, Some(split)) if open.rows == split.rows => {
                if !is_event(&split.event_id) {
                    return Err(diverged(format!(
                        "row {} of the split transaction {} at {} is not event {}",
                        split.rows, split.xid, split.final_lsn, split.event_id
                    )));
                }
                true
            }
            _ => false,
        };
        if !redelivered {
            return Ok(RowIs::New);
        }
        if self.dropped || self.no_room_to_hold() {
            let dropped = self.drop_row()?;
            self.checked()?;
            return Ok(dropped);
        }
        Ok(RowIs::Redelivered)
    }

    /// The new row was encoded as `bytes` bytes at the end of the building records.
    ///
    /// # Errors
    /// `history-diverged`: something published must come first, and did not come.
    pub fn published_row(&mut self, bytes: usize, event_id: &str) -> Result<(), Error> {
        self.refuse_new_row_before_proof()?;
        // The redelivered rows are in the queue since the last of them came, so none of them is
        // left in the building batch.
        self.add_row(bytes, false)?;
        if self.is_full() {
            self.cut_whole_transactions();
            if self.is_full() {
                self.cut_split(event_id)?;
            }
        }
        self.checked()
    }

    /// The id of the redelivered row was added at the end of the building batch.
    ///
    /// # Errors
    /// `history-diverged`: the transaction comes after the last published one, yet it carries rows.
    pub fn redelivered_row(&mut self) -> Result<(), Error> {
        if let Some(open) = &self.open
            && open.kind == Kind::Redelivered
            && self.committed.commit.is_none_or(|commit| open.final_lsn >= commit.end_lsn)
        {
            return Err(diverged(format!(
                "transaction {} at {} carries rows, but none was published there",
                open.xid, open.final_lsn
            )));
        }
        self.add_row(0, true)?;
        self.hold_redelivered()?;
        self.checked()
    }

    /// The row needs nothing: its mark is set already, or its table is none of the source's.
    ///
    /// # Errors
    /// `internal`: a batch is not in the stage in which it must be.
    pub fn passed_over(&mut self) -> Result<(), Error> {
        self.hold_redelivered()?;
        self.checked()
    }

    /// The transaction ends. `end_lsn` is the end of its commit record. `behind` is the time from
    /// the commit until the server sent it, which shows how old a backlog is.
    ///
    /// # Errors
    /// `history-diverged`: it is not the transaction that was published here.
    pub fn commit(&mut self, end_lsn: Lsn, now: Duration, behind: Duration) -> Result<(), Error> {
        self.behind = behind;
        let open = self.open.take().ok_or_else(|| Error::new(Code::PostgresProtocol, "a Commit without its Begin"))?;
        let commit = CommitId { end_lsn, xid: open.xid, time: open.time };
        match open.kind {
            Kind::Redelivered => {
                self.redelivered_commit(commit)?;
                return self.checked();
            }
            Kind::Resumed => {
                if let Some(split) = self.split.take_if(|split| open.rows < split.rows) {
                    return Err(diverged(format!(
                        "transaction {} has {} rows, but {} of it were published",
                        open.xid, open.rows, split.rows
                    )));
                }
                self.split = None;
            }
            Kind::New => {}
        }
        self.read_to = self.read_to.max(end_lsn);
        // If a split ended with the last row of its transaction, only the position has to move on.
        let ends_split = self.cut.split.as_ref().is_some_and(|split| split.final_lsn == open.final_lsn);
        if open.carries_rows || ends_split {
            self.building.boundary = Some(Boundary { rows: self.building.rows, bytes: self.building.bytes, commit });
            self.building.since.get_or_insert(now);
            if self.is_nearly_full() {
                self.cut_whole_transactions();
            }
        }
        if !self.settling.is_empty() {
            self.confirm();
        }
        self.checked()
    }

    /// A keepalive: the server has sent everything before `wal_end`.
    ///
    /// # Errors
    /// `history-diverged`: a published transaction should have come before it.
    pub fn keepalive(&mut self, wal_end: Lsn, reply_requested: bool) -> Result<(), Error> {
        if self.open.is_some() {
            return Ok(()); // Rule 7: inside Begin..Commit it says nothing.
        }
        if let Some(proof) = self.proof.filter(|proof| wal_end >= proof.end_lsn) {
            return Err(diverged(format!("the published transaction {} at {} is gone", proof.xid, proof.end_lsn)));
        }
        if let Some(split) = self.split.as_ref().filter(|split| wal_end > split.final_lsn) {
            return Err(diverged(format!("the published transaction {} at {} is gone", split.xid, split.final_lsn)));
        }
        self.read_to = self.read_to.max(wal_end);
        self.idle_urgent |= reply_requested;
        self.confirm();
        self.checked()
    }

    // ---- what the session did -------------------------------------------------------------------

    /// Kafka has acknowledged the batch and its position, and the commit is under way. The next
    /// batch may be sent (rule 26).
    ///
    /// # Errors
    /// `internal`: it is not the batch that is being sent.
    pub fn sent(&mut self, batch: BatchId) -> Result<(), Error> {
        self.queue.sent(batch)?;
        self.checked()
    }

    /// Kafka has committed the batch.
    ///
    /// # Errors
    /// `internal`: it is not the batch whose commit is under way.
    pub fn committed(&mut self, batch: BatchId) -> Result<(), Error> {
        let (progress, owes_marks) = self.queue.committed(batch, self.marks)?;
        self.committed = progress;
        if owes_marks {
            self.actions.push_back(Action::Mark { batch });
        }
        self.confirm();
        self.checked()
    }

    /// The batch's marks are durable. `behind` is the LSN that the stream must have passed before the
    /// batch is confirmed: the end of the marks' commit, if the slot is a failover slot; else zero.
    ///
    /// # Errors
    /// `internal`: the batch is not with the marker.
    pub fn marked(&mut self, batch: BatchId, behind: Lsn) -> Result<(), Error> {
        self.queue.advance(batch, Stage::Marking, Stage::Done)?.behind = behind;
        self.confirm();
        self.checked()
    }

    /// Publication and tables were found as they must be, and no change of them that was committed
    /// before `end` was overlooked. So the server has sent every row before `end`, and it may be
    /// confirmed.
    ///
    /// # Errors
    /// `internal`: an invariant does not hold.
    pub fn looked(&mut self, end: Lsn) -> Result<(), Error> {
        self.looked = self.looked.max(end);
        self.confirm();
        self.checked()
    }

    /// Whether a look would let more be confirmed.
    #[must_use]
    pub fn awaits_look(&self) -> bool {
        self.done > self.confirmed.max(self.looked) && !(self.dropped && self.marks)
    }

    /// Takes no further input from the stream, and finishes what is in flight.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The new row cannot be published. Drains: whole transactions before it go out, and the rows
    /// of its own transaction do not.
    ///
    /// # Errors
    /// `history-diverged`: something published must come first, and did not come.
    pub(crate) fn refused_row(&mut self) -> Result<(), Error> {
        self.refuse_new_row_before_proof()?;
        self.drain();
        self.checked()
    }

    /// Ends every input. Debug builds check the invariants here. Release builds pay nothing for it.
    #[cfg_attr(
        not(debug_assertions),
        expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "checks nothing")
    )]
    fn checked(&mut self) -> Result<(), Error> {
        #[cfg(debug_assertions)]
        self.require_invariants()?;
        Ok(())
    }

    // ---- what the session must do ---------------------------------------------------------------

    /// The next thing to do, if any.
    ///
    /// # Errors
    /// `internal`: an invariant does not hold.
    pub fn next_action(&mut self, now: Duration) -> Result<Option<Action>, Error> {
        if self.actions.is_empty() {
            self.cut_if_due(now);
            self.advance_if_idle(now);
        }
        let action = self.actions.pop_front();
        self.checked()?;
        Ok(action)
    }

    /// How long after its commit the server sent the end of the last transaction.
    #[must_use]
    pub(crate) fn behind(&self) -> Duration {
        self.behind
    }

    /// Whether the session may read more of the stream. It is `false` while a bound is reached, so
    /// that memory stays within the bounds.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        // Rows that are held for the proof free no room while the session waits. So it reads on,
        // and drops the rows that do not fit.
        let room =
            self.rows_in_flight() < self.bounds.unmarked_rows || (self.is_unproved() && self.queue.is_all_held());
        room && !self.draining
            && self.queue.publishing() < MAX_PUBLISHING
            && self.in_flight_bytes() < self.bounds.in_flight_bytes
    }

    /// Whether nothing is published until rows are marked, since as many wait as may.
    #[must_use]
    pub(crate) fn waits_for_marks(&self) -> bool {
        self.rows_in_flight() >= self.bounds.unmarked_rows && self.queue.publishing() == 0
    }

    /// When [`Machine::next_action`] should be called again although nothing happened.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.cut_due().into_iter().chain(self.idle_advance_due()).min()
    }

    /// Whether everything that was cut is published, marked and confirmed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let nothing_to_cut = self.building.boundary.is_none() || self.building.redelivered;
        self.queue.is_all_held() && self.actions.is_empty() && nothing_to_cut
    }

    /// What Kafka is known to hold.
    #[must_use]
    pub fn position(&self) -> &Progress {
        &self.committed
    }

    /// The LSN last given to the server. It is never 0 and never goes back.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// Whether published rows are marked.
    #[must_use]
    pub fn makes_marks(&self) -> bool {
        self.marks
    }

    /// Whether a transaction is being read.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// In which kind of transaction the next message is read.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.open.as_ref().map(|open| open.kind) {
            None => Place::Between,
            Some(Kind::Redelivered) => Place::Redelivered,
            Some(Kind::Resumed) => Place::Resumed,
            Some(Kind::New) => Place::New,
        }
    }

    /// Bytes of encoded records in memory.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        self.building.bytes + self.queue.bytes()
    }

    /// Commit time of the oldest transaction that was read and that Kafka has not committed, in
    /// microseconds since the Unix epoch.
    #[must_use]
    pub(crate) fn oldest_unpublished(&self) -> Option<i64> {
        self.queue.oldest().or(self.building.oldest)
    }
}
