//! Rows that come again. They were published before this session, and at most their marks are still
//! owed.
//!
//! The server might have been restored from an older copy. Then "again" would be an illusion: new
//! rows would stand where published ones stood, and would be marked without ever being published.
//! So redelivered rows are held until the server has shown the very commit that was published last
//! (end LSN, xid, time), or the very row at which a split transaction was cut. Anything else in its
//! place halts the source with `history-diverged`.

use super::{
    action::{Action, RowIs},
    faults::{diverged, internal},
    machine::Machine,
    queue::{Batch, Stage},
    reading::{Boundary, Kind},
};
use crate::{Error, Lsn, source::position::CommitId};

/// Redelivered rows that go to the marker together, at most; see [`Machine::hold_rows`].
const HOLD_ROWS: usize = 1000;

impl Machine {
    pub(super) fn refuse_new_row_before_proof(&self) -> Result<(), Error> {
        let open = self.open.as_ref().ok_or_else(|| internal("a new row is kept outside a transaction"))?;
        if let Some(proof) = self.proof {
            return Err(diverged(format!(
                "transaction {} at {} came before the published transaction {} at {}",
                open.xid, open.final_lsn, proof.xid, proof.end_lsn
            )));
        }
        match &self.split {
            Some(split) if open.kind != Kind::Resumed => Err(diverged(format!(
                "transaction {} at {} came before the published part of transaction {} at {}",
                open.xid, open.final_lsn, split.xid, split.final_lsn
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn redelivered_commit(&mut self, commit: CommitId) -> Result<(), Error> {
        if let Some(proof) = self.proof.filter(|proof| commit.end_lsn >= proof.end_lsn) {
            if commit != proof {
                return Err(diverged(format!(
                    "found transaction {} ending at {} where transaction {} ending at {} was published",
                    commit.xid, commit.end_lsn, proof.xid, proof.end_lsn
                )));
            }
            self.proof = None;
        }
        self.read_to = self.read_to.max(commit.end_lsn);
        if self.building.rows > 0 {
            self.building.boundary = Some(Boundary { rows: self.building.rows, bytes: 0, commit });
        }
        if self.building.rows > 0 && self.committed.commit.is_some_and(|last| last == commit) {
            self.hold(); // No row follows that was published whole.
        }
        self.hold_redelivered()?;
        if self.dropped && !self.is_unproved() {
            self.actions.push_back(Action::Reconnect);
        }
        Ok(())
    }

    pub(super) fn resumed_part_is_complete(&self) -> bool {
        match (&self.open, &self.split) {
            (Some(open), Some(split)) => open.kind == Kind::Resumed && open.rows == split.rows,
            _ => false,
        }
    }

    /// Whether a redelivered row finds no room. Such rows are kept until the proof comes, within
    /// the bound. Beyond the bound they are dropped, and taken again after a reconnect.
    pub(super) fn no_room_to_hold(&self) -> bool {
        self.is_unproved() && self.rows_in_flight() >= self.bounds.unmarked_rows
    }

    pub(super) fn drop_row(&mut self) -> Result<RowIs, Error> {
        self.dropped = true;
        self.hold_redelivered()?;
        Ok(RowIs::Dropped)
    }

    /// Whether the server still has to show what was published last.
    pub(super) fn is_unproved(&self) -> bool {
        let part_is_owed = self.split.is_some() && !self.resumed_part_is_complete();
        !self.trusted && (self.proof.is_some() || part_is_owed)
    }

    /// How many redelivered rows go to the marker together. It may not be more than memory may
    /// hold: rows that are not handed over are never marked, and so would never make room.
    fn hold_rows(&self) -> usize {
        HOLD_ROWS.min(self.bounds.batch_rows)
    }

    /// Queues the redelivered rows of the building batch when there are enough of them, or when the
    /// published part of the transaction is complete. Gives held batches to the marker once the
    /// history is proved.
    pub(super) fn hold_redelivered(&mut self) -> Result<(), Error> {
        let part_is_complete = self.resumed_part_is_complete();
        if self.building.redelivered && (self.building.rows >= self.hold_rows() || part_is_complete) {
            self.hold();
        }
        self.release_held()?;
        if part_is_complete && self.dropped {
            self.actions.push_back(Action::Reconnect);
        }
        Ok(())
    }

    /// Moves the building batch of redelivered rows into the queue.
    pub(super) fn hold(&mut self) {
        // A batch without a whole transaction ends where the batch before it ends, so nothing more
        // may be confirmed when it is done. The same holds for a transaction that ends before the
        // slot's confirmed LSN: a late confirmation of an earlier session may have moved the slot
        // while the stream began.
        let before = self.queue.last_end().or(self.settling.last_end()).unwrap_or(self.done);
        let building = std::mem::take(&mut self.building);
        let end = building.boundary.map_or(before, |boundary| boundary.commit.end_lsn.max(before));
        let id = self.queue.next_id();
        self.actions.push_back(Action::Hold { batch: id, rows: building.rows });
        self.queue.push(Batch {
            id,
            stage: Stage::Held,
            rows: building.rows,
            bytes: 0,
            end,
            progress: None,
            oldest: None,
            behind: Lsn::ZERO,
        });
    }

    /// Gives held batches to the marker. They wait until the last published commit has come by. In
    /// a split transaction they wait until its last published row has come by.
    pub(super) fn release_held(&mut self) -> Result<(), Error> {
        let split_is_owed = self.open.as_ref().is_some_and(|open| open.kind == Kind::Resumed) && self.is_unproved();
        let proof_is_owed = self.proof.is_some() && !self.trusted;
        if proof_is_owed || split_is_owed || self.queue.is_none_held() {
            return Ok(());
        }
        for batch in self.queue.held() {
            if self.marks {
                self.queue.advance(batch, Stage::Held, Stage::Marking)?;
                self.actions.push_back(Action::Mark { batch });
            } else {
                self.queue.advance(batch, Stage::Held, Stage::Done)?;
            }
        }
        self.confirm();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        relay::state::{Bounds, Place},
        source::position::{Progress, Split},
    };

    const BOUNDS: Bounds = Bounds {
        batch_rows: 2,
        batch_bytes: 1 << 20,
        linger: Duration::ZERO,
        in_flight_bytes: 1 << 20,
        unmarked_rows: 100,
        idle_advance: Duration::from_secs(10),
    };

    /// Where rows were dropped and the proof has come, the session is about to reconnect. It may have
    /// read on by then: rows that nobody published, on a server that was restored. They are dropped
    /// like the others, and the next session halts at them.
    #[test]
    fn rows_behind_the_proof_are_dropped_by_a_session_that_is_about_to_reconnect() {
        let commit = CommitId { end_lsn: Lsn(400), xid: 7, time: 1 };
        let position = Progress { lsn: Lsn(600), commit: Some(commit), split: None };
        let mut machine = Machine::new(Bounds { unmarked_rows: 1, ..BOUNDS }, true, position, Lsn(100));
        machine.begin(Lsn(390), 7, 1).unwrap();
        assert_eq!(machine.row(|_| false).unwrap(), RowIs::Redelivered);
        machine.redelivered_row().unwrap();
        assert_eq!(machine.row(|_| false).unwrap(), RowIs::Dropped);
        machine.commit(Lsn(400), Duration::ZERO, Duration::ZERO).unwrap();
        assert!(!machine.is_unproved());
        machine.begin(Lsn(500), 8, 1).unwrap();
        assert_eq!(machine.row(|_| false).unwrap(), RowIs::Dropped);
        let actions: Vec<_> = std::iter::from_fn(|| machine.next_action(Duration::ZERO).unwrap()).collect();
        assert_eq!(machine.place(), Place::Redelivered);
        assert!(actions.contains(&Action::Reconnect), "{actions:?}");
        assert_eq!(machine.confirmed(), Lsn(100));
    }

    /// The last status of a dead session may reach the server after the slot was read, or while the
    /// stream begins. The stream then starts before the LSN that the slot has confirmed, and its
    /// rows are redelivered all the same.
    #[test]
    fn a_transaction_that_comes_although_the_slot_has_confirmed_it_frees_nothing_new() {
        let commit = CommitId { end_lsn: Lsn(400), xid: 7, time: 1 };
        let split = Split { final_lsn: Lsn(500), xid: 8, rows: 1, event_id: "a".to_owned() };
        let position = Progress { lsn: commit.end_lsn, commit: Some(commit), split: Some(split) };
        let confirmed = commit.end_lsn;
        let mut machine = Machine::new(BOUNDS, true, position, confirmed);
        machine.looked(Lsn(600)).unwrap();
        for (final_lsn, end_lsn, xid) in [(200, 300, 6), (390, 400, 7)] {
            machine.begin(Lsn(final_lsn), xid, 1).unwrap();
            assert_eq!(machine.row(|_| false).unwrap(), RowIs::Redelivered);
            machine.redelivered_row().unwrap();
            machine.commit(Lsn(end_lsn), Duration::ZERO, Duration::ZERO).unwrap();
        }
        machine.begin(Lsn(500), 8, 1).unwrap();
        assert_eq!(machine.row(|id| id == "a").unwrap(), RowIs::Redelivered);
        machine.redelivered_row().unwrap();
        assert_eq!(machine.confirmed(), confirmed);
    }
}
