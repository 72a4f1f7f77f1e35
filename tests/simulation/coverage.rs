//! Counts what the schedules went through. A simulation that never meets a fault proves nothing.

use outboxd::Code;

use crate::{cells::Cells, faults::Fault, phase::Phase, transitions::Transitions};

macro_rules! events {
    ($($name:ident = $text:literal, $floor:literal;)*) => {
        /// Something that happened in a schedule.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Event { $($name,)* }

        /// What is printed for each, and how often it must happen in 100,000 schedules.
        const EVENTS: &[(&str, u64)] = &[$(($text, $floor),)*];
    };
}

events! {
    Steps = "steps of a driver, a server or the network", 10_000_000;
    RowsPublished = "rows published", 1_000_000;
    Crash = "instance killed", 50_000;
    CrashInSetup = "instance killed during the set-up", 5_000;
    CrashInBackfill = "instance killed during a backfill", 300;
    Pause = "instance paused", 20_000;
    Zombie = "zombie went on after a takeover", 2_000;
    Drained = "instance drained and stopped", 2_000;
    Standby = "instance stood by", 20_000;
    NotOurs = "ownership found lost during a start", 100;
    ConfirmedLost = "confirmed position lost in a crash", 1_000;
    BrokenConnection = "replication connection broken", 10_000;
    CommitUnknown = "commit unknown", 3_000;
    UnknownWasCommitted = "  and it was committed", 2_000;
    CommitSlow = "commit retried, its first request still under way", 1_000;
    LateEnd = "late EndTxn rejected by the epoch", 1_000;
    Fenced = "instance fenced", 5_000;
    ReadBlocked = "position not readable for an open transaction", 1_000;
    Redelivered = "rows redelivered", 100_000;
    HeldEnd = "EndTxn that was held up met the next transaction", 100;
    NotVisible = "rows to mark were not visible yet", 1_000;
    MarksGone = "marks of a backfill found gone", 10;
    OpenWriter = "slot waited for an open transaction", 100;
    Held = "rows held for the proof of history", 20_000;
    Dropped = "redelivered rows dropped for lack of room", 1_000;
    Reconnect = "reconnected after the proof", 200;
    PassedOver = "rows passed over", 10_000;
    Split = "transactions split", 20_000;
    SplitResumed = "split transaction resumed", 2_000;
    Pipelined = "batches sent while the one before was committing", 10_000;
    IdleAdvance = "positions advanced while idle", 20_000;
    UrgentReply = "replies asked for", 10_000;
    TriedAgain = "marks tried again of a table that took none", 2_000;
    AwaitedLook = "confirmations that waited for a look at the publication", 10_000;
    Unsent = "transactions passed over by a changed publication", 500;
    FailedOver = "failed over to a standby", 1_000;
    MarksUndone = "  which lacked marks", 200;
    LateMark = "marks applied for a session that had ended", 1_000;
    MarkLost = "marks failed or their answer lost", 1_000;
    LateConfirm = "confirmations taken in from a client that was gone", 200;
    Chunk = "chunks of a backfill", 20_000;
    BackfillAgain = "backfill begun anew", 2_000;
    SlotDropped = "slot dropped and made again by the set-up", 2_000;
    Adopted = "slot adopted", 200;
    Detached = "partitions detached", 5_000;
    DropWaits = "drops that waited for the position", 2_000;
    PartitionDropped = "partitions dropped", 2_000;
    ReplayedRow = "rows published again by a request", 50_000;
    ReplayCrash = "  whose process was killed", 10_000;
    ReplayResumed = "  which another process carried on", 10_000;
    ReplayFenced = "  whose id another process took", 5_000;
    ReplayUnknown = "  whose commit was lost or unknown", 2_000;
    ReplayDone = "  which came to their end", 2_000;
    LateLanding = "records without a transaction landed late", 300;
    Healed = "  and the source went on", 100;
}

#[derive(Debug, Clone)]
pub(crate) struct Coverage {
    events: [u64; EVENTS.len()],
    halts: [u64; Code::ALL.len()],
    cells: Cells,
    pub(crate) transitions: Transitions,
    pub(crate) schedules: u64,
}

impl Coverage {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            events: [0; EVENTS.len()],
            halts: [0; Code::ALL.len()],
            cells: Cells::new(),
            transitions: Transitions::new(),
            schedules: 0,
        })
    }

    pub(crate) fn strike(&mut self, fault: Fault, phase: Phase) {
        self.cells.add(fault, phase);
    }

    pub(crate) fn add(&mut self, event: Event, times: usize) {
        self.events[event as usize] += times as u64;
    }

    pub(crate) fn halt(&mut self, code: Code) {
        self.halts[code as usize] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.cells.merge(&other.cells);
        self.transitions.merge(&other.transitions);
        for (sum, more) in self.events.iter_mut().zip(other.events) {
            *sum += more;
        }
        for (sum, more) in self.halts.iter_mut().zip(other.halts) {
            *sum += more;
        }
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:>12}  schedules\n", self.schedules);
        for ((what, _), times) in EVENTS.iter().zip(self.events) {
            text += &format!("{times:>12}  {what}\n");
        }
        for (code, times) in Code::ALL.iter().zip(self.halts).filter(|(_, times)| *times > 0) {
            text += &format!("{times:>12}  halted: {code}\n");
        }
        text += &format!("\n{}{}", self.cells.table(), self.transitions.table());
        text
    }

    /// Cells and transitions that are missing, and those that should not have happened.
    pub(crate) fn wrong(&self) -> Vec<String> {
        [self.cells.wrong(), self.transitions.wrong(self.schedules)].concat()
    }

    /// Events that happened too seldom for the number of schedules.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let too_few = |floor: u64, times: u64| times < (floor * self.schedules / 100_000).max(1);
        let events = EVENTS.iter().zip(self.events);
        events.filter(|((_, floor), times)| too_few(*floor, *times)).map(|((what, _), _)| *what).collect()
    }

    /// Those of the codes with which no schedule ended.
    pub(crate) fn never_halted(&self, codes: &[Code]) -> Vec<Code> {
        codes.iter().copied().filter(|code| self.halts[*code as usize] == 0).collect()
    }
}
