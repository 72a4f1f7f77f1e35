//! The relay's state machine: which rows are published, when a batch is cut, what is marked, what is confirmed.
//!
//! It knows no socket, no clock and no thread. The session (`session.rs`) feeds it what arrived and carries out what it
//! asks for; `tests/simulation` does the same with models of Postgres and Kafka, millions of times.
//!
//! ```text
//!   begin/row/commit ─▶ building ─Publish─▶ sending ─sent─▶ committing ─committed─▶ marking ─marked─▶ done ─▶ Confirm
//!   (redelivered)    ─▶ building ──────────────▶ held ────────proved──────────────▶ marking ─marked─▶ done ─▶ Confirm
//! ```
//!
//! Batches stand in one queue in stream order. Three things hold at any time:
//! - a row is published only if its transaction ends behind the position in Kafka (rule 10);
//! - a batch is marked only when Kafka has committed it, or when it was redelivered and the server has proved that its
//!   history is the one that was published (design, "Redelivery");
//! - the LSN confirmed to the server is the end of the longest prefix of the queue that is done, or, with nothing in
//!   flight, an idle LSN that a position in Kafka carries (rules 4, 7, 8).
//!
//! A failed or unknown Kafka transaction is no input: the session ends, and a new machine starts from the position
//! that is then read (rules 22 to 24).

use std::{collections::VecDeque, time::Duration};

mod cutting;
mod queue;
mod redelivery;

use self::{
    queue::{Batch, Queue, Stage},
    redelivery::diverged,
};
use crate::{
    Code, Error, Lsn,
    source::position::{CommitId, Progress, Split},
};

/// Kafka transactions that may be cut and not yet committed: one is committing, one is being sent and the next is ready
/// behind it, so that the producers never wait for us; more would only hold memory.
const MAX_PUBLISHING: usize = 3;

/// Redelivered rows that are handed to the marker together, at most; see [`Machine::hold_rows`].
const HOLD_ROWS: usize = 1000;

/// Behind a backlog a batch waits for more rows, by this share of the time by which the stream is behind: a Kafka
/// transaction costs the same for one row as for ten thousand, and rows that are late by minutes do not mind a moment
/// more. A stream that is not behind does not wait.
const PATIENCE_SHARE: u32 = 8;

/// It waits no longer than that. Rows to publish fill a batch before; a flood of rows to pass over never does.
const PATIENCE_MAX: Duration = Duration::from_millis(250);

/// Bounds that the machine keeps.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Rows of one Kafka transaction.
    pub batch_rows: usize,
    /// Bytes of one Kafka transaction.
    pub batch_bytes: usize,
    /// How long a batch may wait for more rows while the producer is idle.
    pub linger: Duration,
    /// Encoded records in memory.
    pub in_flight_bytes: usize,
    /// Rows in memory that wait for their mark.
    pub unmarked_rows: usize,
    /// At most one position-only transaction in this time.
    pub idle_advance: Duration,
}

/// Names a batch in this session; they count up from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// What to do with a streamed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowIs {
    /// Encode it, then call [`Machine::published_row`] (or [`Machine::passed_over`] if it is marked already).
    New,
    /// Published before: keep its id for the mark, then call [`Machine::redelivered_row`] (or
    /// [`Machine::passed_over`]).
    Redelivered,
    /// Redelivered, but there is no room to keep it: it will come again after a reconnect.
    Dropped,
}

/// Where in the stream the next message is read: between two transactions, or in one of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// No transaction is open.
    Between,
    /// In one that ends at or before the position.
    Redelivered,
    /// In the one that is split at the position.
    Resumed,
    /// In one behind the position.
    New,
}

/// What the session must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take the first `rows` rows of the building batch, and publish them with this progress as the position. With
    /// `rows` 0 it is a position alone.
    Publish {
        /// The batch.
        batch: BatchId,
        /// Rows from the front of the building records.
        rows: usize,
        /// What the position says once Kafka has committed it.
        progress: Progress,
    },
    /// Take the first `rows` ids of the building batch: they were published before and wait for [`Action::Mark`].
    Hold {
        /// The batch.
        batch: BatchId,
        /// Ids from the front of the building batch.
        rows: usize,
    },
    /// Mark the rows of this batch, then call [`Machine::marked`].
    Mark {
        /// The batch.
        batch: BatchId,
    },
    /// Tell the server that everything before this LSN is published and marked.
    Confirm(Lsn),
    /// The history is proved, but rows were dropped meanwhile: reconnect and take them again, with
    /// [`Machine::trust_history`].
    Reconnect,
}

/// The transaction that is being read.
#[derive(Debug)]
struct Open {
    final_lsn: Lsn,
    xid: u32,
    time: i64,
    /// Insert messages so far, before any filtering.
    rows: u64,
    /// Whether any of them was a row to publish or to mark, rather than one to pass over.
    carries_rows: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ends at or before the position.
    Redelivered,
    /// The split transaction of the position: its first rows are published.
    Resumed,
    /// Behind the position.
    New,
}

/// What was read and not yet cut off as a batch.
#[derive(Debug, Default)]
struct Building {
    rows: usize,
    bytes: usize,
    /// The rows were published before this session.
    redelivered: bool,
    /// The last whole transaction in it.
    boundary: Option<Boundary>,
    oldest: Option<i64>,
    /// When the first row of it became whole, for the linger.
    since: Option<Duration>,
}

#[derive(Debug)]
struct Boundary {
    rows: usize,
    bytes: usize,
    commit: CommitId,
}

/// The state machine of one session of one source. Times are durations since any fixed instant.
#[derive(Debug)]
pub struct Machine {
    bounds: Bounds,
    marks: bool,
    /// What Kafka will hold when everything cut so far is committed.
    cut: Progress,
    /// What Kafka holds.
    committed: Progress,
    /// The last LSN given to the server.
    confirmed: Lsn,
    /// The published commit that must be seen again before redelivered rows may be marked.
    proof: Option<CommitId>,
    /// The split transaction that must come next.
    split: Option<Split>,
    /// An earlier connection of this process has seen all of that proof.
    trusted: bool,
    /// Redelivered rows were dropped for lack of room.
    dropped: bool,
    open: Option<Open>,
    building: Building,
    queue: Queue,
    /// Everything before it has been read.
    read_to: Lsn,
    /// The server waits for its WAL end to be confirmed.
    idle_urgent: bool,
    last_position: Option<Duration>,
    /// How long ago what was read last had been committed, when the server sent it.
    behind: Duration,
    draining: bool,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine that resumes from the position read, on a slot whose confirmed flush position is `confirmed`.
    #[must_use]
    pub fn new(mut bounds: Bounds, marks: bool, position: Progress, confirmed: Lsn) -> Self {
        // A batch that could never become full would wait for room for ever.
        bounds.batch_rows = bounds.batch_rows.min(bounds.unmarked_rows).max(1);
        bounds.batch_bytes = bounds.batch_bytes.min(bounds.in_flight_bytes).max(1);
        // Redelivery beyond the last published commit cannot hold rows; before it, that commit must come by.
        let proof = position.commit.filter(|commit| confirmed < commit.end_lsn);
        Self {
            bounds,
            marks,
            cut: position.clone(),
            split: position.split.clone(),
            committed: position,
            confirmed,
            proof,
            trusted: false,
            dropped: false,
            open: None,
            building: Building::default(),
            queue: Queue::default(),
            read_to: Lsn::ZERO,
            idle_urgent: false,
            last_position: None,
            behind: Duration::ZERO,
            draining: false,
            actions: VecDeque::new(),
        }
    }

    /// The same server has already shown the last published commit on an earlier connection of this process
    /// ([`Action::Reconnect`]): rows are marked as they come. The proof must still come by behind them.
    ///
    /// Only where the position is still [`Machine::position`] of that session, and the server was not started since
    /// (`pg_postmaster_start_time`): a copy may have taken its place between the two connections.
    #[must_use]
    pub fn trust_history(mut self) -> Self {
        self.trusted = true;
        self
    }

    // ---- the stream ------------------------------------------------------------------------------------------

    /// A transaction begins. `final_lsn` is where its commit record starts.
    pub fn begin(&mut self, final_lsn: Lsn, xid: u32, time: i64) {
        // Rule 6: commit records do not overlap, so one that starts before the position ends at or before it.
        let kind = if final_lsn < self.committed.lsn {
            Kind::Redelivered
        } else if self.split.as_ref().is_some_and(|split| (split.final_lsn, split.xid) == (final_lsn, xid)) {
            Kind::Resumed
        } else {
            Kind::New
        };
        self.open = Some(Open { final_lsn, xid, time, rows: 0, carries_rows: false, kind });
    }

    /// An Insert message; `is_event` tells whether the row has an event id, where that must be compared.
    ///
    /// # Errors
    /// `history-diverged`: the row is not the one that was published at this place. `internal`: no transaction is open.
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
        Ok(if self.dropped || self.no_room_to_hold() { self.drop_row() } else { RowIs::Redelivered })
    }

    /// The new row was encoded to `bytes` bytes at the end of the building records.
    ///
    /// # Errors
    /// `history-diverged`: something published must come first, and did not.
    pub fn published_row(&mut self, bytes: usize, event_id: &str) -> Result<(), Error> {
        self.refuse_new_row_before_proof()?;
        debug_assert!(!self.building.redelivered, "redelivered rows were queued when the last of them came");
        self.add_row(bytes, false);
        if self.is_full() {
            self.cut_whole_transactions();
            if self.is_full() {
                self.cut_split(event_id);
            }
        }
        Ok(())
    }

    /// The id of the redelivered row was kept at the end of the building batch.
    ///
    /// # Errors
    /// `history-diverged`: the transaction lies behind the last published one, yet it carries rows.
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
        self.add_row(0, true);
        self.hold_redelivered();
        Ok(())
    }

    /// The row needs nothing: its mark is set already.
    pub fn passed_over(&mut self) {
        self.hold_redelivered();
    }

    /// The transaction ends. `end_lsn` is the end of its commit record, `behind` how long after the commit the server has
    /// sent it: a backlog is known by its age.
    ///
    /// # Errors
    /// `history-diverged`: it is not the transaction that was published here.
    pub fn commit(&mut self, end_lsn: Lsn, now: Duration, behind: Duration) -> Result<(), Error> {
        self.behind = behind;
        let open = self.open.take().ok_or_else(|| Error::new(Code::PostgresProtocol, "a Commit without its Begin"))?;
        let commit = CommitId { end_lsn, xid: open.xid, time: open.time };
        match open.kind {
            Kind::Redelivered => return self.redelivered_commit(commit),
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
        // Where a split ends with its last published row, only the position is behind.
        let ends_split = self.cut.split.as_ref().is_some_and(|split| split.final_lsn == open.final_lsn);
        if open.carries_rows || ends_split {
            self.building.boundary = Some(Boundary { rows: self.building.rows, bytes: self.building.bytes, commit });
            self.building.since.get_or_insert(now);
            if self.is_nearly_full() {
                self.cut_whole_transactions();
            }
        }
        Ok(())
    }

    /// A keepalive: everything before `wal_end` was sent.
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
        Ok(())
    }

    // ---- what the session did --------------------------------------------------------------------------------

    /// Kafka has acknowledged the batch and its position, and the commit is under way: the next batch may be sent
    /// (rule 26).
    pub fn sent(&mut self, batch: BatchId) {
        self.queue.sent(batch);
    }

    /// Kafka has committed the batch.
    pub fn committed(&mut self, batch: BatchId) {
        let mut owed = false;
        if let Some(queued) = self.queue.advance(batch, Stage::Marking) {
            owed = self.marks && queued.rows > 0;
            if let Some(progress) = queued.progress.take() {
                self.committed = progress;
            }
        }
        if owed {
            self.actions.push_back(Action::Mark { batch });
        } else {
            self.queue.advance(batch, Stage::Done);
        }
        self.confirm();
    }

    /// The batch's marks are durable.
    pub fn marked(&mut self, batch: BatchId) {
        self.queue.advance(batch, Stage::Done);
        self.confirm();
    }

    /// Takes no further input; what is in flight is finished.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    // ---- what the session must do ----------------------------------------------------------------------------

    /// The next thing to do, if any.
    pub fn next_action(&mut self, now: Duration) -> Option<Action> {
        if self.actions.is_empty() {
            self.cut_if_due(now);
            self.advance_if_idle(now);
        }
        self.actions.pop_front()
    }

    /// How long after its commit the server sent the end of the last transaction.
    #[must_use]
    pub fn behind(&self) -> Duration {
        self.behind
    }

    /// Whether the stream may be read on. `false` while a bound is reached, so that memory stays within it.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        // Rows that are held for the proof free no room by waiting: read on, and drop what does not fit.
        let room =
            self.rows_in_flight() < self.bounds.unmarked_rows || (self.is_unproved() && self.queue.is_all_held());
        room && !self.draining
            && self.queue.publishing() < MAX_PUBLISHING
            && self.in_flight_bytes() < self.bounds.in_flight_bytes
    }

    /// When [`Machine::next_action`] should be asked again although nothing happened.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
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

    /// The LSN last given to the server; never 0, never backwards.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// Whether a transaction is being read.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Where in the stream it stands.
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

    /// Commit time of the oldest transaction that is read and not committed in Kafka, microseconds since the Unix epoch.
    #[must_use]
    pub fn oldest_unpublished(&self) -> Option<i64> {
        self.queue.oldest().or(self.building.oldest)
    }
}
