//! A model of Postgres: the log, the outbox table with its marks, one logical slot with its
//! walsender, one advisory lock.
//!
//! The model keeps to these facts, from the sources and the documentation of Postgres:
//! - Transactions are sent whole and in commit order. A transaction is sent if its commit record
//!   does not start before the `confirmed_flush` with which the walsender started (rule 6).
//! - `confirmed_flush` is written to disk only at a checkpoint, so a crash takes it back. Marks are
//!   durable.
//! - A commit is in the log, and is sent, before other sessions see its rows. Until then an UPDATE
//!   passes them over.
//! - Xids are given out when transactions begin, so they come in any order. A new slot waits for
//!   the transactions that are open.
//! - A keepalive carries the end of what was read from the log, which may at first lie before
//!   `confirmed_flush`.
//! - A slot has one walsender. The walsender of a client that is gone lingers, and may still take
//!   in what the client sent.
//! - A restored server goes on from the copy's LSN and xid, so both are given out a second time.

use std::collections::VecDeque;

use outboxd::Lsn;

use crate::{
    copies::{Backup, Standby},
    random::Random,
};

/// Rows are numbered in commit order, and within a transaction in insert order. The numbers run
/// over all histories.
pub(crate) type RowNo = u32;

#[derive(Debug)]
pub(crate) struct Row {
    /// The event id.
    pub(crate) name: String,
    pub(crate) key: u8,
    pub(crate) bytes: usize,
    /// Index into [`Postgres::transactions`].
    pub(crate) transaction: usize,
    /// It was inserted with its mark set, so it must be passed over.
    pub(crate) born_marked: bool,
    pub(crate) marked: bool,
    /// Where in the log its mark lies.
    pub(crate) marked_at: Lsn,
    /// The system identifier of the cluster in which it was committed.
    pub(crate) system: u64,
    /// It was committed in a history that no longer exists.
    pub(crate) gone: bool,
    /// The application deleted it, so there is nothing left to mark.
    pub(crate) deleted: bool,
    /// It was deleted before a slot was there to see it, so nobody will publish it.
    pub(crate) vanished: bool,
}

/// A partition that was detached.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) rows: Vec<RowNo>,
    /// Where the log ended then.
    pub(crate) end: Lsn,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) xid: u32,
    pub(crate) time: i64,
    pub(crate) final_lsn: Lsn,
    pub(crate) end_lsn: Lsn,
    pub(crate) rows: std::ops::Range<RowNo>,
    /// Whether other sessions see its rows. The commit is in the log, and is sent, before that.
    pub(crate) is_visible: bool,
    /// Whether the publication had the table when it was committed.
    pub(crate) is_sent: bool,
}

/// What a walsender sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Message {
    Begin { final_lsn: Lsn, xid: u32, time: i64 },
    Row(RowNo),
    Commit { end_lsn: Lsn },
    Keepalive { wal_end: Lsn, reply_requested: bool },
}

#[derive(Debug, Clone)]
pub(crate) struct Walsender {
    pub(crate) connection: u64,
    pub(crate) owner: usize,
    /// Index into the log of the next transaction.
    next: usize,
    sent: Lsn,
    /// What the client confirmed and the server has not taken in yet.
    pub(crate) inbox: Option<Lsn>,
    pub(crate) confirmed_before: Lsn,
    pub(crate) client_gone: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) confirmed: Lsn,
    /// What `confirmed` goes back to in a crash.
    pub(crate) saved: Lsn,
    pub(crate) consistent_point: Lsn,
    pub(crate) walsender: Option<Walsender>,
    /// It is invalidated: the log that it needs was removed.
    pub(crate) is_lost: bool,
}

#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) session: u64,
    pub(crate) client_gone: bool,
}

/// An `UPDATE … SET published_at` that is under way. It can take effect after its client died.
#[derive(Debug)]
pub(crate) struct MarkRequest {
    pub(crate) owner: usize,
    /// The serial of the client's session. It tells whom the answer is for.
    pub(crate) serial: u64,
    pub(crate) what: Marks,
    pub(crate) rows: Vec<RowNo>,
    pub(crate) applied: bool,
    /// Where in the log the marks lie.
    pub(crate) at: Lsn,
    /// It waits for somebody's lock.
    pub(crate) blocked: bool,
    /// Some of its rows could not be marked.
    pub(crate) refused: bool,
}

/// Whether the row is in the table that takes no marks for a while.
pub(crate) fn takes_no_marks(row: RowNo) -> bool {
    row % 2 == 1
}

/// What the rows are for the client that marks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    Job,
    /// What was kept of earlier jobs.
    Kept,
    Chunk,
}

#[derive(Debug)]
pub(crate) enum Take {
    Taken { connection: u64 },
    InUse,
    Absent,
    Lost,
}

#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) rows: Vec<Row>,
    pub(crate) transactions: Vec<Transaction>,
    /// Committed transactions of the present history, in commit order.
    pub(crate) log: Vec<usize>,
    pub(crate) log_end: Lsn,
    pub(crate) next_xid: u32,
    /// Xids of writers that have not committed. Commits before theirs may have greater ones.
    open: Vec<u32>,
    pub(crate) slot: Option<Slot>,
    pub(crate) lock: Option<Lock>,
    pub(crate) marks: Vec<MarkRequest>,
    /// Counts the starts of the server. No connection outlives one.
    pub(crate) incarnation: u64,
    /// The system identifier.
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    pub(crate) switches: Vec<(u32, Lsn)>,
    pub(crate) publication: u64,
    /// Partitions that were detached and are still there.
    pub(crate) parts: Vec<Part>,
    /// The publication lacks a table, and with it half of the transactions that are committed from
    /// now on.
    pub(crate) passes_over: bool,
    /// A table takes no marks.
    pub(crate) refuses_marks: bool,
    connections: u64,
    pub(crate) backup: Option<Backup>,
    /// Where the slot is a failover slot.
    pub(crate) standby: Option<Standby>,
    /// Where a restore lost a transaction, and under which xid. The next transaction may be exactly
    /// like it.
    pub(crate) twin: Option<(Lsn, u32)>,
}

impl Postgres {
    pub(crate) fn new() -> Self {
        Self {
            rows: Vec::new(),
            transactions: Vec::new(),
            log: Vec::new(),
            log_end: Lsn(1000),
            next_xid: 700,
            open: Vec::new(),
            slot: None,
            lock: None,
            marks: Vec::new(),
            incarnation: 1,
            system: 1,
            timeline: 1,
            switches: Vec::new(),
            publication: 0,
            parts: Vec::new(),
            passes_over: false,
            refuses_marks: false,
            connections: 0,
            backup: None,
            standby: None,
            twin: None,
        }
    }

    // ---- writers --------------------------------------------------------------------------------

    /// A writer begins a transaction. It may commit much later, or roll back.
    pub(crate) fn begin(&mut self) {
        self.next_xid += 1;
        self.open.push(self.next_xid);
    }

    pub(crate) fn roll_back_one(&mut self) {
        self.open.pop();
    }

    pub(crate) fn roll_back_all(&mut self) {
        self.open.clear();
    }

    /// The last transaction that a new slot waits for: a slot is made when the transactions that
    /// were open have ended (rule 15).
    pub(crate) fn youngest_open(&self) -> u32 {
        self.open.iter().copied().max().unwrap_or(0)
    }

    pub(crate) fn is_open_up_to(&self, xid: u32) -> bool {
        self.open.iter().any(|open| *open <= xid)
    }

    /// Commits a transaction of this many rows. It is a new one, or one of those that are open.
    pub(crate) fn commit(&mut self, random: &mut Random, rows: u32, keys: u64, time: i64) {
        self.log_end.0 += 8 * random.below(4);
        self.next_xid += u32::try_from(random.below(3)).unwrap_or(0) + 2;
        let first = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let all_marked = random.chance(3);
        for number in first..first + rows {
            let born_marked = all_marked || random.chance(6);
            self.rows.push(Row {
                name: format!("e{number}"),
                key: u8::try_from(random.below(keys)).unwrap_or(0),
                bytes: usize::try_from(random.between(1, 30)).unwrap_or(1),
                transaction: self.transactions.len(),
                born_marked,
                marked: born_marked,
                marked_at: Lsn::ZERO,
                system: self.system,
                gone: false,
                deleted: false,
                vanished: false,
            });
        }
        let twin = self.twin.take().filter(|(final_lsn, _)| *final_lsn >= self.log_end);
        if let Some((final_lsn, xid)) = twin {
            self.log_end = final_lsn;
            self.next_xid = xid;
        }
        let final_lsn = self.log_end;
        self.log_end.0 += 8 * random.between(1, 4);
        self.log.push(self.transactions.len());
        let is_old = twin.is_none() && !self.open.is_empty() && random.chance(50);
        let xid = if is_old { self.open.swap_remove(random.index(self.open.len())) } else { self.next_xid };
        self.transactions.push(Transaction {
            xid,
            time,
            final_lsn,
            end_lsn: self.log_end,
            rows: first..first + rows,
            is_visible: random.chance(85),
            is_sent: !self.passes_over || random.chance(50),
        });
    }

    pub(crate) fn show_commits(&mut self) {
        self.transactions.iter_mut().for_each(|transaction| transaction.is_visible = true);
    }

    pub(crate) fn is_visible(&self, row: RowNo) -> bool {
        self.transactions[self.rows[row as usize].transaction].is_visible
    }

    /// Whoever has locked rows lets them go.
    pub(crate) fn unblock(&mut self) {
        self.marks.iter_mut().for_each(|request| request.blocked = false);
    }

    /// The application deletes a row. Where marks are made, it deletes one that is not yet marked.
    pub(crate) fn delete_row(&mut self, random: &mut Random, marks: bool) -> bool {
        let is_there = |row: &&mut Row| !(row.gone || row.deleted || marks && row.marked);
        let count = self.rows.iter_mut().filter(is_there).count();
        let chosen = random.index(count);
        let Some(row) = self.rows.iter_mut().filter(is_there).nth(chosen) else { return false };
        row.deleted = true;
        true
    }

    /// Writes log that holds nothing of ours: other tables, other databases, a rolled back
    /// transaction.
    pub(crate) fn other_activity(&mut self, random: &mut Random) {
        self.log_end.0 += 8 * random.between(1, 8);
        self.next_xid += 1;
    }

    // ---- the slot -------------------------------------------------------------------------------

    /// `START_REPLICATION` from `from`. The server raises it to its own confirmed position.
    pub(crate) fn take_slot(&mut self, owner: usize, from: Lsn) -> Take {
        let Some(slot) = &mut self.slot else { return Take::Absent };
        if slot.is_lost {
            return Take::Lost;
        }
        if slot.walsender.is_some() {
            return Take::InUse;
        }
        self.connections += 1;
        let start = slot.confirmed.max(from);
        let (log, transactions) = (&self.log, &self.transactions);
        slot.walsender = Some(Walsender {
            connection: self.connections,
            owner,
            next: log.partition_point(|&index| transactions[index].final_lsn < start),
            // Decoding reads from restart_lsn, which lies before the start.
            sent: Lsn(start.0.saturating_sub(64)),
            inbox: None,
            confirmed_before: slot.confirmed,
            client_gone: false,
        });
        Take::Taken { connection: self.connections }
    }

    pub(crate) fn is_connected(&self, connection: u64) -> bool {
        let walsender = self.slot.as_ref().and_then(|slot| slot.walsender.as_ref());
        walsender.is_some_and(|walsender| walsender.connection == connection)
    }

    pub(crate) fn walsender(&mut self, connection: u64) -> Option<&mut Walsender> {
        self.slot.as_mut()?.walsender.as_mut().filter(|walsender| walsender.connection == connection)
    }

    /// Sends the next transaction, or a keepalive.
    pub(crate) fn send(&mut self, random: &mut Random, to: &mut VecDeque<Message>) {
        let Some(walsender) = self.slot.as_mut().and_then(|slot| slot.walsender.as_mut()) else { return };
        let limit = self.standby.as_ref().map_or(self.log_end, |standby| standby.received);
        let next = self.log.get(walsender.next).map(|&index| &self.transactions[index]);
        if let Some(next) = next
            && next.end_lsn <= limit
            && random.chance(75)
        {
            walsender.next += 1;
            walsender.sent = next.end_lsn;
            // Since Postgres 15, pgoutput leaves out a transaction without rows.
            if !next.is_sent || next.rows.is_empty() && random.chance(50) {
                return;
            }
            to.push_back(Message::Begin { final_lsn: next.final_lsn, xid: next.xid, time: next.time });
            for row in next.rows.clone() {
                to.push_back(Message::Row(row));
                // A keepalive inside a transaction says nothing, whatever it carries.
                if random.chance(2) {
                    to.push_back(Message::Keepalive { wal_end: next.end_lsn, reply_requested: false });
                }
            }
            to.push_back(Message::Commit { end_lsn: next.end_lsn });
            return;
        }
        if random.chance(70) {
            walsender.sent = walsender.sent.max(next.map_or(limit, |next| next.final_lsn.min(limit)));
        }
        to.push_back(Message::Keepalive { wal_end: walsender.sent, reply_requested: random.chance(10) });
    }

    /// Makes the slot. Its snapshot is what is committed and unmarked before its consistent point.
    pub(crate) fn create_slot(&mut self) -> Option<(Lsn, Vec<RowNo>)> {
        if self.slot.is_some() {
            return None;
        }
        self.log_end.0 += 8; // the record of the running transactions
        let point = self.log_end;
        let slot = Slot { confirmed: point, saved: point, consistent_point: point, walsender: None, is_lost: false };
        self.slot = Some(slot);
        self.rows.iter_mut().filter(|row| row.deleted).for_each(|row| row.vanished = true);
        let is_detached = |number: RowNo| self.parts.iter().any(|part| part.rows.contains(&number));
        let unmarked = |number, row: &Row| !row.marked && !row.gone && !row.deleted && !is_detached(number);
        let rows = (0..).zip(&self.rows);
        Some((point, rows.filter(|(number, row)| unmarked(*number, row)).map(|(number, _)| number).collect()))
    }

    /// Drops the slot, unless a walsender is on it.
    pub(crate) fn drop_slot(&mut self) -> bool {
        let in_use = self.slot.as_ref().is_some_and(|slot| slot.walsender.is_some());
        if !in_use {
            self.slot = None;
        }
        !in_use
    }

    /// A person calls `pg_replication_slot_advance`.
    pub(crate) fn advance_slot(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.confirmed = self.log_end;
            slot.saved = self.log_end;
        }
    }

    // ---- sessions -------------------------------------------------------------------------------

    pub(crate) fn take_lock(&mut self) -> Option<u64> {
        if self.lock.is_some() {
            return None;
        }
        self.connections += 1;
        self.lock = Some(Lock { session: self.connections, client_gone: false });
        Some(self.connections)
    }

    pub(crate) fn holds_lock(&self, session: Option<u64>) -> bool {
        session.is_some() && self.lock.as_ref().map(|lock| lock.session) == session
    }

    /// The server notices that clients are gone.
    pub(crate) fn reap(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.walsender.take_if(|walsender| walsender.client_gone);
        }
        self.lock.take_if(|lock| lock.client_gone);
    }

    // ---- faults ---------------------------------------------------------------------------------

    pub(crate) fn checkpoint(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.saved = slot.confirmed;
        }
    }

    pub(crate) fn crash(&mut self) {
        self.incarnation += 1;
        self.lock = None;
        self.marks.clear();
        self.open.clear();
        self.show_commits();
        if let Some(slot) = &mut self.slot {
            slot.walsender = None;
            slot.confirmed = slot.saved;
        }
    }
}
