//! What takes the server's place: a copy of its disk, a standby that follows it, or another cluster.

use outboxd::Lsn;

use crate::{
    postgres::{Postgres, Slot},
    random::Random,
};

/// A copy of the disk at one moment.
#[derive(Debug)]
pub(crate) struct Backup {
    log: usize,
    log_end: Lsn,
    next_xid: u32,
    /// Of each row, whether it is marked, deleted, vanished.
    rows: Vec<(bool, bool, bool)>,
    slot: Option<Slot>,
}

/// A standby that receives the log and synchronises the slot (`sync_replication_slots`). The
/// walsender of the slot sends nothing that the standby has not received
/// (`synchronized_standby_slots`).
#[derive(Debug, Clone)]
pub(crate) struct Standby {
    pub(crate) received: Lsn,
    slot: Option<Slot>,
}

impl Standby {
    pub(crate) fn new(received: Lsn) -> Self {
        Self { received, slot: None }
    }
}

impl Postgres {
    /// Whether a new copy should be taken. Mostly the old one is kept.
    pub(crate) fn is_copy_due(&self, random: &mut Random) -> bool {
        self.backup.is_none() || random.chance(30)
    }

    pub(crate) fn no_twin(&mut self) {
        self.twin = None;
    }

    /// Whether there is a copy with at least this many rows, and no row was deleted. A deleted row
    /// might be the one whose mark the daemon looks for.
    pub(crate) fn copy_holds(&self, rows: usize) -> bool {
        self.backup.as_ref().is_some_and(|backup| backup.rows.len() >= rows) && !self.rows.iter().any(|row| row.deleted)
    }

    /// Copies the disk. A standby may know a state of the slot that is older than its log.
    pub(crate) fn back_up(&mut self, random: &mut Random) {
        let point = |slot: &Slot| slot.consistent_point;
        let synchronised = self.backup.take().and_then(|backup| backup.slot);
        let is_same = synchronised.is_some() && synchronised.as_ref().map(point) == self.slot.as_ref().map(point);
        let mut slot = if is_same && random.chance(50) { synchronised } else { self.slot.clone() };
        if let Some(slot) = &mut slot {
            slot.walsender = None;
            slot.confirmed = slot.saved;
        }
        self.backup = Some(Backup {
            log: self.log.len(),
            log_end: self.log_end,
            next_xid: self.next_xid,
            rows: self.rows.iter().map(|row| (row.marked, row.deleted, row.vanished)).collect(),
            slot,
        });
    }

    /// The standby receives some of the log, and takes over the slot's position once its log
    /// reaches that.
    pub(crate) fn follow(&mut self, random: &mut Random) {
        let Some(standby) = &mut self.standby else { return };
        if random.chance(70) {
            let missing = (self.log_end.0 - standby.received.0) / 8;
            let more = if random.chance(50) { missing } else { random.below(missing + 1) };
            standby.received.0 += 8 * more;
        }
        if random.chance(60) {
            match &self.slot {
                Some(slot) if slot.confirmed <= standby.received => {
                    standby.slot = Some(Slot { saved: slot.confirmed, walsender: None, ..slot.clone() });
                }
                Some(_) => {}
                None => standby.slot = None,
            }
        }
    }

    /// The server dies, and the standby takes its place: how many marks it lacks. `None` if there
    /// is none that has the slot.
    pub(crate) fn fail_over(&mut self) -> Option<usize> {
        let Some(Standby { received, slot: Some(synced) }) = self.standby.clone() else { return None };
        if self.slot.as_ref().is_none_or(|slot| slot.consistent_point != synced.consistent_point || slot.is_lost) {
            return None;
        }
        let marked = |postgres: &Self| postgres.rows.iter().filter(|row| row.marked && !row.gone).count();
        let before = marked(self);
        let is_received = |transaction: usize| self.transactions[transaction].end_lsn <= received;
        let log = self.log.partition_point(|&transaction| is_received(transaction));
        let lost = self.log.get(log).map(|&lost| self.transactions[lost].final_lsn);
        let rows = self.rows.iter().take_while(|row| row.gone || is_received(row.transaction));
        self.backup = Some(Backup {
            log,
            log_end: lost.map_or(received, |lost| lost.min(received)),
            next_xid: self.next_xid,
            rows: rows.map(|row| (row.marked && row.marked_at <= received, row.deleted, row.vanished)).collect(),
            slot: Some(synced),
        });
        self.restore(true, true);
        Some(before.saturating_sub(marked(self)))
    }

    /// Another cluster takes the server's place. It has none of the rows, and its log may end
    /// anywhere.
    pub(crate) fn give_way_to_another_cluster(&mut self, random: &mut Random) {
        self.crash();
        self.system += 1;
        self.timeline = 1;
        self.switches.clear();
        self.backup = None;
        self.twin = None;
        self.slot = None;
        self.log.clear();
        self.parts.clear();
        self.rows.iter_mut().for_each(|row| row.gone = true);
        self.log_end = Lsn(8 * random.between(100, self.log_end.0 / 4));
        if let Some(standby) = &mut self.standby {
            *standby = Standby::new(self.log_end);
        }
    }

    /// Puts the copy in the server's place. `promoted` makes it a standby on a new timeline;
    /// otherwise it is a restored disk.
    pub(crate) fn restore(&mut self, promoted: bool, with_slot: bool) -> bool {
        let Some(backup) = self.backup.take() else { return false };
        self.crash();
        self.twin =
            self.log.get(backup.log).map(|&lost| (self.transactions[lost].final_lsn, self.transactions[lost].xid));
        self.log.truncate(backup.log);
        // In the copy they may be partitions still.
        self.parts.clear();
        self.log_end = backup.log_end;
        self.next_xid = backup.next_xid;
        self.slot = if with_slot { backup.slot } else { None };
        for (number, row) in self.rows.iter_mut().enumerate() {
            match backup.rows.get(number) {
                Some(&then) if !row.gone => (row.marked, row.deleted, row.vanished) = then,
                _ => row.gone = true,
            }
        }
        if promoted {
            self.switches.push((self.timeline, self.log_end));
            self.timeline += 1;
        }
        if let Some(standby) = &mut self.standby {
            *standby = Standby::new(self.log_end);
        }
        true
    }
}
