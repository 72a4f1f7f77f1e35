//! Turns what the state machine asks for into what a session does. The daemon and the simulation
//! use this same code.
//!
//! The machine speaks of batches. The driver holds what belongs to them between one effect and the
//! next: the rows under construction, the marks that wait, and the memory of records that is used
//! again. It knows no socket, clock or thread, and it does not know what a record or a mark looks
//! like.
//!
//! ```text
//!   a row is read ─▶ building ─▶ Effect::Publish ─▶ sent ─▶ committed ─▶ owed ─▶ Effect::Mark ─▶ marked ─▶ Effect::SendStatus
//!                       └──────── held until the history is proved ───────▲
//! ```
//!
//! - A batch's marks wait here until the machine says that they may be made.
//! - One marking job is under way at a time. What becomes due in the meantime goes out together, as
//!   the next job.
//! - The marker may answer a job without having made all its marks. It keeps the others, and tells
//!   of their batches later.
//! - Whoever publishes a batch owns the memory of its records, and gives it back once Kafka has
//!   committed them.
//! - Nothing follows [`Effect::Reconnect`], since the session is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::state::{Action, BatchId, Machine};
use crate::{Code, Error, Lsn, source::position::Progress};

/// The rows that were read and are not cut yet, in stream order.
pub trait Building {
    /// The records of a batch, in memory that is used again.
    type Records: Default;
    /// What has to be known of a batch's rows to mark them.
    type Marks;

    /// Moves the records of the first `rows` rows into `to`, which is empty.
    fn take_records(&mut self, rows: usize, to: &mut Self::Records);

    /// Takes the marks of the first `rows` rows away.
    fn take_marks(&mut self, rows: usize) -> Self::Marks;

    /// Empties records that Kafka has committed.
    fn clear(&self, records: &mut Self::Records);
}

/// Marks to be made, and the batches that are done with them.
#[derive(Debug)]
pub struct MarkingJob<Marks> {
    /// The batches, in stream order.
    pub batches: Vec<BatchId>,
    /// The marks of each.
    pub marks: Vec<Marks>,
    /// When the first of these marks could be made.
    pub since: Duration,
}

/// What the session must do, in this order.
#[derive(Debug)]
pub enum Effect<Records, Marks> {
    /// Publish these records and then the position, as one Kafka transaction. Report it with
    /// [`Driver::sent`], [`Driver::committed`] and [`Driver::give_back`].
    Publish {
        /// The batch.
        batch: BatchId,
        /// How many rows it has. 0 if only the position moves on.
        rows: usize,
        /// Their records.
        records: Records,
        /// What the position says once Kafka has committed it.
        progress: Progress,
    },
    /// Make these marks, then report it with [`Driver::marked`].
    Mark(MarkingJob<Marks>),
    /// Send the server a status with [`Driver::confirmed`].
    SendStatus,
    /// End the session and begin the next one at once, with [`Machine::trust_history`]. The history
    /// is proved, and rows that were dropped in the meantime must come again.
    Reconnect,
}

/// What a driver asks for if it gathers its rows in `B`.
pub type EffectOf<B> = Effect<<B as Building>::Records, <B as Building>::Marks>;

/// Drives the machine of one session.
#[derive(Debug)]
pub struct Driver<B: Building> {
    /// The machine decides. Whoever reads the stream feeds it.
    pub machine: Machine,
    /// What was read and is not cut yet.
    pub building: B,
    /// Marks of batches that are being published or held.
    waiting: BTreeMap<BatchId, B::Marks>,
    /// What the marker gets next.
    owed: Option<MarkingJob<B::Marks>>,
    /// The batches that the marker has.
    marking: BTreeSet<BatchId>,
    /// The marker has a job that it has not answered.
    is_marking: bool,
    /// Memory of records to use again. The machine bounds how many there are.
    spare: Vec<B::Records>,
    is_status_due: bool,
    /// The wrong turn that the simulation asks for.
    #[cfg(debug_assertions)]
    wrong_turn: Option<WrongTurn>,
}

/// Wrong turns that a driver must not take. The simulation asks a driver to take one on purpose, to
/// see that its checks find it. Release builds have none of them.
#[cfg(debug_assertions)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongTurn {
    /// The marks of a batch are made when it is published, before Kafka has committed it.
    MarksBeforeCommitted,
    /// A marking job goes out while another one is under way.
    TwoMarkingJobs,
    /// An answered job counts as marked, whatever the marker keeps of it.
    KeptIsMarked,
}

impl<B: Building> Driver<B> {
    /// Begins a session. The first status tells the server where we stand.
    #[must_use]
    pub fn new(machine: Machine, building: B) -> Self {
        Self {
            machine,
            building,
            waiting: BTreeMap::new(),
            owed: None,
            marking: BTreeSet::new(),
            is_marking: false,
            spare: Vec::new(),
            is_status_due: true,
            #[cfg(debug_assertions)]
            wrong_turn: None,
        }
    }

    /// Takes this wrong turn from now on.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn with_wrong_turn(self, wrong_turn: Option<WrongTurn>) -> Self {
        Self { wrong_turn, ..self }
    }

    /// The next thing to do, if any.
    ///
    /// # Errors
    /// `internal`: the machine asks for something impossible.
    pub fn next_effect(&mut self, now: Duration) -> Result<Option<EffectOf<B>>, Error> {
        while let Some(action) = self.machine.next_action(now)? {
            match action {
                Action::Publish { batch, rows, progress } => {
                    let mut records = self.spare.pop().unwrap_or_default();
                    self.building.take_records(rows, &mut records);
                    self.keep_marks(batch, rows);
                    #[cfg(debug_assertions)]
                    if self.wrong_turn == Some(WrongTurn::MarksBeforeCommitted) && self.waiting.contains_key(&batch) {
                        self.owe(batch, now)?;
                    }
                    return Ok(Some(Effect::Publish { batch, rows, records, progress }));
                }
                Action::Hold { batch, rows } => self.keep_marks(batch, rows),
                Action::Mark { batch } => self.owe(batch, now)?,
                Action::Confirm => self.is_status_due = true,
                Action::Reconnect => return Ok(Some(Effect::Reconnect)),
            }
        }
        if self.may_mark()
            && let Some(job) = self.owed.take()
        {
            self.marking.extend(&job.batches);
            self.is_marking = true;
            return Ok(Some(Effect::Mark(job)));
        }
        Ok(std::mem::take(&mut self.is_status_due).then_some(Effect::SendStatus))
    }

    /// Whether the marker has nothing to do.
    fn may_mark(&self) -> bool {
        #[cfg(debug_assertions)]
        if self.wrong_turn == Some(WrongTurn::TwoMarkingJobs) {
            return true;
        }
        !self.is_marking
    }

    fn keep_marks(&mut self, batch: BatchId, rows: usize) {
        let marks = self.building.take_marks(rows);
        if self.machine.makes_marks() && rows > 0 {
            self.waiting.insert(batch, marks);
        }
    }

    fn owe(&mut self, batch: BatchId, now: Duration) -> Result<(), Error> {
        let marks = self.waiting.remove(&batch).ok_or_else(|| internal("to be marked, and has no marks", batch))?;
        let job = self.owed.get_or_insert_with(|| MarkingJob { batches: Vec::new(), marks: Vec::new(), since: now });
        job.batches.push(batch);
        job.marks.push(marks);
        Ok(())
    }

    /// Kafka has acknowledged the batch and its position, and the commit is under way.
    ///
    /// # Errors
    /// `internal`: it is not the batch that is being sent.
    pub fn sent(&mut self, batch: BatchId) -> Result<(), Error> {
        self.machine.sent(batch)
    }

    /// Kafka has committed the batch.
    ///
    /// # Errors
    /// `internal`: it is not the batch whose commit is under way.
    pub fn committed(&mut self, batch: BatchId) -> Result<(), Error> {
        self.machine.committed(batch)
    }

    /// Takes back memory of records that nobody reads any more. A later batch uses it again.
    pub fn give_back(&mut self, mut records: B::Records) {
        self.building.clear(&mut records);
        self.spare.push(records);
    }

    /// The marker has answered its job, and can take the next one.
    pub fn job_done(&mut self) {
        self.is_marking = false;
        #[cfg(debug_assertions)]
        if self.wrong_turn == Some(WrongTurn::KeptIsMarked) {
            for batch in std::mem::take(&mut self.marking) {
                let _ = self.machine.marked(batch, Lsn::ZERO);
            }
        }
    }

    /// All marks of these batches are durable.
    ///
    /// # Errors
    /// `internal`: the marker does not have one of them.
    pub fn marked(&mut self, batches: &[BatchId], behind: Lsn) -> Result<(), Error> {
        for batch in batches {
            #[cfg(debug_assertions)]
            if self.wrong_turn == Some(WrongTurn::KeptIsMarked) && !self.marking.contains(batch) {
                continue;
            }
            if !self.marking.remove(batch) {
                return Err(internal("marked, and not with the marker", *batch));
            }
            self.machine.marked(*batch, behind)?;
        }
        Ok(())
    }

    /// The server waits for a status, or a status is due.
    pub fn ask_for_status(&mut self) {
        self.is_status_due = true;
    }

    /// Everything before this LSN is published and marked. It never goes back.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.machine.confirmed()
    }

    /// Takes no further input from the stream, and finishes what is in flight.
    pub fn drain(&mut self) {
        self.machine.drain();
    }

    /// Whether everything that was cut is published, marked and confirmed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.machine.is_drained()
    }

    /// The marks that the marker does not have yet.
    pub fn marks(&self) -> impl Iterator<Item = &B::Marks> {
        self.waiting.values().chain(self.owed.iter().flat_map(|job| &job.marks))
    }
}

fn internal(what: &str, batch: BatchId) -> Error {
    Error::new(Code::Internal, format!("batch {} is {what}", batch.0))
}
