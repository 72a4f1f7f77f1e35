//! The order of a start, and of every rebuild after an error (rule 1), without I/O.
//!
//! ```text
//!  TakeSlot ──taken──▶ InitProducers ─▶ CheckOwnership ─▶ ReadPosition ─▶ streaming? ─▶ Compare ─▶ Stream
//!     │ in use: stand by                                       │
//!     │ absent                                                 │ creating, backfill: with the slot in hand
//!     ▼                                                        ▼
//!  LockSource ─▶ InitProducers ─▶ CheckOwnership ─▶ ReadPosition ─▶ Backfill: MarkChunk
//!     │ held by another: stand by                                 ─▶ WriteCreating ─▶ ReleaseSlot ─▶ DropSlot
//!     │                                                           ─▶ CreateSlot ─▶ WriteBackfill ─▶ Backfill
//!     └───────────────────────────────────────────────────────────▶ WriteStreaming ─▶ Stream
//! ```
//!
//! Whoever takes the slot fences all others before it knows the phase. So a set-up that finds a
//! slot keeps it in hand for as long as it can, and gives it back only to drop or to adopt it.
//! Otherwise instances that start together would fence each other out of the set-up for as long as
//! they keep meeting.
//!
//! The slot is the mutex of a source that has one: whoever streams from it leads. To create a slot
//! is not to hold it, so the set-up runs under a session advisory lock. From then on
//! `init_transactions` fences an instance that was paused in the set-up, since every step that
//! cannot be taken back goes through Kafka first: `creating` before the slot is touched, `backfill`
//! before its first row, the ids of a chunk with its records.
//!
//! `start/` carries the steps out and reports what it found. `tests/simulation` does the same with
//! models.

use crate::{
    Code, Error, Lsn,
    source::{
        compare::{Server, compare, require_same_system},
        position::{Phase, Position, Progress},
        verdict::{Interrupted, require_pair},
    },
};

/// The step that has to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// `START_REPLICATION` on the source's slot.
    TakeSlot,
    /// Close the replication connection, and wait until the slot is free. The set-up is about to
    /// drop the slot or to take it afresh.
    ReleaseSlot,
    /// Take the session advisory lock of the source. A slot that is in hand stays in hand.
    LockSource,
    /// `init_transactions` on all producers of the source.
    InitProducers,
    /// Look whether the slot (or the lock) is still ours, since a late `init_transactions` might
    /// have fenced a newer instance. This step comes again before a halt: what was read since might
    /// be another instance's doing.
    CheckOwnership,
    /// Read the position, `read_committed`, to the high watermark. After it, read whether the slot
    /// exists.
    ReadPosition,
    /// Mark the rows of the last chunk of an interrupted backfill. The server must still have the
    /// marks of the chunks before it.
    MarkChunk,
    /// Write a position in phase `creating`.
    WriteCreating,
    /// Drop the slot. Nothing was published through it.
    DropSlot,
    /// Create the slot, import its snapshot if there is a backfill, and stream from it without
    /// confirming.
    CreateSlot,
    /// Use the slot that is there, and take it by `START_REPLICATION`. Nothing was published
    /// through it, and there is no backfill.
    AdoptSlot,
    /// Write a position in phase `backfill` at the slot's consistent point.
    WriteBackfill,
    /// Publish the unpublished rows of the snapshot, chunk by chunk.
    Backfill,
    /// Write a position in phase `streaming` at the slot's consistent point (or where the adopted
    /// slot stands).
    WriteStreaming,
    /// Report what the server showed when the slot was taken. The position is compared with it.
    Compare,
    /// Stream from [`Startup::stream_from`].
    Stream,
    /// Another instance leads. Wait, then start again.
    StandBy,
}

/// The outcome of the current step.
#[derive(Debug)]
pub enum Fact {
    /// It is done.
    Done,
    /// Another instance has the slot or the lock.
    TakenByAnother,
    /// There is no such slot.
    SlotAbsent,
    /// The position, and whether the slot exists.
    Position {
        /// The newest position of the source.
        position: Option<Box<Position>>,
        /// Whether the slot exists.
        slot_exists: bool,
        /// The system identifier of the server that answers.
        system_id: String,
    },
    /// What the server showed when the slot was taken.
    Server(Box<Server>),
    /// The slot was created or adopted, and its stream begins here.
    Slot {
        /// `consistent_point`, or the adopted slot's `confirmed_flush`.
        begins: Lsn,
    },
}

/// How a source is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Publish the rows that were unpublished when the slot was made.
    pub backfill: bool,
    /// Create what is missing.
    pub auto_setup: bool,
}

/// Walks through a start.
#[derive(Debug)]
pub struct Startup {
    policy: Policy,
    step: Step,
    setting_up: bool,
    /// [`Step::TakeSlot`] succeeded, and the slot was not given back.
    has_slot: bool,
    position: Option<Box<Position>>,
    slot_exists: bool,
    begins: Lsn,
    /// The halt that is due if the slot or the lock is still ours.
    verdict: Option<Error>,
}

impl Startup {
    /// Stands at the first step.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let (step, begins) = (Step::TakeSlot, Lsn::ZERO);
        Self {
            policy,
            step,
            setting_up: false,
            has_slot: false,
            position: None,
            slot_exists: false,
            begins,
            verdict: None,
        }
    }

    /// What is to be done now.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// The position that was read.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.position.as_deref()
    }

    /// Where the created or adopted slot begins.
    #[must_use]
    pub fn begins(&self) -> Lsn {
        self.begins
    }

    /// How far the stream was published, and the consistent point of its slot. A slot that was set
    /// up in this start begins at the position that was just written.
    #[must_use]
    pub fn stream_from(&self) -> (Progress, Lsn) {
        match &self.position {
            Some(position) if !self.setting_up => (position.progress.clone(), position.history.consistent_point),
            _ => (Progress { lsn: self.begins, ..Progress::default() }, self.begins),
        }
    }

    /// Whether the slot is set up in this start.
    #[must_use]
    pub fn is_setting_up(&self) -> bool {
        self.setting_up
    }

    /// Takes the outcome of the current step, and moves on.
    ///
    /// # Errors
    /// A person must act: the slot and the position do not belong together (rule 4).
    pub fn report(&mut self, fact: Fact) -> Result<(), Error> {
        self.step = match (self.step, fact) {
            (Step::TakeSlot | Step::LockSource | Step::AdoptSlot | Step::CheckOwnership, Fact::TakenByAnother) => {
                Step::StandBy
            }
            (Step::TakeSlot, Fact::SlotAbsent) => self.set_up(Step::LockSource),
            (Step::TakeSlot, Fact::Done) => {
                self.has_slot = true;
                Step::InitProducers
            }
            (Step::LockSource, Fact::Done) => Step::InitProducers,
            (Step::InitProducers, Fact::Done) => Step::CheckOwnership,
            (Step::CheckOwnership, Fact::Done) => match self.verdict.take() {
                Some(halt) => return Err(halt),
                None => Step::ReadPosition,
            },
            (Step::ReadPosition, Fact::Position { position, slot_exists, system_id }) => {
                self.position = position;
                self.slot_exists = slot_exists;
                // The start reads the position first and asks for the slot after it. If we lost the
                // slot or the lock meanwhile, a successor may have written the one and made the
                // other in between.
                self.decide(&system_id).unwrap_or_else(|halt| self.halt_if_ours(halt))
            }
            (Step::Compare, Fact::Server(server)) => match self.compare(&server) {
                Ok(()) => Step::Stream,
                // A successor may have confirmed past the position that we read.
                Err(halt) => self.halt_if_ours(halt),
            },
            (Step::MarkChunk, Fact::Done) => Step::WriteCreating,
            (Step::WriteCreating, Fact::Done) if self.has_slot => Step::ReleaseSlot,
            (Step::WriteCreating | Step::ReleaseSlot, Fact::Done) => {
                self.has_slot = false;
                self.after_creating()
            }
            (Step::DropSlot, Fact::Done) => Step::CreateSlot,
            (Step::CreateSlot, Fact::Slot { begins }) => {
                self.begins = begins;
                if self.policy.backfill { Step::WriteBackfill } else { Step::WriteStreaming }
            }
            (Step::AdoptSlot, Fact::Slot { begins }) => {
                self.begins = begins;
                Step::WriteStreaming
            }
            (Step::WriteBackfill, Fact::Done) => Step::Backfill,
            (Step::Backfill, Fact::Done) => Step::WriteStreaming,
            (Step::WriteStreaming, Fact::Done) => Step::Stream,
            (step, fact) => {
                return Err(Error::new(Code::Internal, format!("step {step:?} cannot end with {fact:?}")));
            }
        };
        Ok(())
    }

    fn set_up(&mut self, step: Step) -> Step {
        self.setting_up = true;
        step
    }

    /// Looks at the slot or the lock once more before it halts: only their holder may judge a
    /// difference.
    fn halt_if_ours(&mut self, halt: Error) -> Step {
        self.verdict = Some(halt);
        Step::CheckOwnership
    }

    fn compare(&self, server: &Server) -> Result<(), Error> {
        match &self.position {
            Some(position) => compare(position, server),
            None => Err(Error::new(Code::Internal, "there is no position to compare with the server")),
        }
    }

    /// Decides what follows, now that the holder of the slot or of the lock has read the position.
    fn decide(&mut self, system_id: &str) -> Result<Step, Error> {
        if let Some(position) = &self.position {
            require_same_system(position, system_id)?;
        }
        let phase = self.position.as_ref().map(|position| position.phase);
        // A start that is not setting up has the slot in hand.
        let slot_exists = self.slot_exists || !self.setting_up;
        require_pair(self.position.as_deref(), slot_exists, Interrupted::GoesOn)?;
        match (phase, self.setting_up) {
            (Some(Phase::Streaming), false) => Ok(Step::Compare),
            (Some(Phase::Creating | Phase::Backfill), false) => Ok(self.set_up(Step::LockSource)),
            (None, false) => Err(Error::new(Code::Internal, "a slot without a position was not judged")),
            // Another instance finished the set-up before we got the lock.
            (Some(Phase::Streaming), true) => Ok(Step::StandBy),
            (_, true) if !self.policy.auto_setup => {
                Err(Error::new(Code::SetupMissing, "the slot does not exist and auto_setup is off"))
            }
            (None, true) => Ok(Step::WriteCreating),
            (Some(Phase::Creating), true) if !self.was_marked() => Ok(Step::WriteCreating),
            (Some(Phase::Creating | Phase::Backfill), true) => Ok(Step::MarkChunk),
        }
    }

    /// Whether rows of an interrupted backfill were marked. The server must still show such marks.
    fn was_marked(&self) -> bool {
        self.position.as_ref().is_some_and(|position| position.marked.is_some())
    }

    fn after_creating(&self) -> Step {
        match (self.slot_exists, self.policy.backfill) {
            (true, true) => Step::DropSlot,
            (true, false) => Step::AdoptSlot,
            (false, _) => Step::CreateSlot,
        }
    }
}

#[cfg(test)]
mod tests;
