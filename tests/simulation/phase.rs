//! Where a source stands when a fault strikes: one of the two sides of the table of faults.

use outboxd::relay::startup::Step;

use crate::{
    instance::{Instance, Life},
    postgres::Postgres,
    publishing::Stage,
};

macro_rules! phases {
    ($($name:ident = $text:literal, $meaning:literal;)*) => {
        /// What an instance is doing. If several apply, [`Instance::phase`] says which one counts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Phase { $(#[doc = $meaning] $name,)* }

        impl Phase {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];
            /// The head of its column.
            pub(crate) const NAMES: &[&str] = &[$($text,)*];
        }
    };
}

phases! {
    Down = "down", "No process, or one that stands by.";
    Taking = "take", "It takes the slot or the lock.";
    Fencing = "fence", "It initialises the producers and looks whether the slot is still its own.";
    Reading = "read", "It reads the position.";
    Creating = "create", "Position `creating`: the slot is given back, dropped, made, adopted.";
    Chunk = "chunk", "A chunk of the backfill is being published.";
    ChunkMarks = "chmark", "The marks of a chunk are under way.";
    Entering = "enter", "The set-up ends: position `streaming`, and the comparison with the server.";
    Idle = "idle", "Nothing is in flight.";
    Gathering = "gather", "Rows were read, and none is with the producer.";
    Marking = "mark", "Published rows wait for their marks, and nothing is with the producer.";
    Redelivering = "redeliv", "What was published before comes again.";
    Sending = "send", "Records are with the producer, and no commit is.";
    Committing = "commit", "A commit is under way.";
    Split = "split", "A part of a transaction is with the producer or published, and the rest has yet to come.";
    Pipelined = "pipe", "A commit is under way, and the next batch is being sent.";
    Draining = "drain", "It was told to stop, and finishes what is in flight.";
}

impl Phase {
    /// Whether the position is not `streaming` yet.
    pub(crate) fn is_set_up(self) -> bool {
        matches!(self, Self::Creating | Self::Chunk | Self::ChunkMarks | Self::Entering)
    }
}

impl Instance {
    pub(crate) fn phase(&self) -> Phase {
        if !matches!(self.life, Life::Up | Life::Paused) {
            return Phase::Down;
        }
        let Some(driver) = &self.session.driver else { return self.phase_of_start() };
        let (machine, building) = (&driver.machine, &driver.building);
        let stage = |index: usize| self.session.publishing.get(index).map(|publishing| publishing.stage);
        let is_committing = matches!(stage(0), Some(Stage::Ending | Stage::Ended(_)));
        let is_split = self.session.position.as_ref().is_some_and(|position| position.progress.split.is_some());
        let is_redelivering = building.is_redelivering() || machine.owes_proof();
        if self.session.draining {
            Phase::Draining
        } else if is_committing && stage(1).is_some_and(|stage| stage != Stage::Queued) {
            Phase::Pipelined
        } else if is_redelivering {
            Phase::Redelivering
        } else if is_split {
            Phase::Split
        } else if is_committing {
            Phase::Committing
        } else if stage(0).is_some() {
            Phase::Sending
        } else if self.session.marking.is_some() || !self.session.kept.is_empty() || driver.marks().next().is_some() {
            Phase::Marking
        } else if !building.is_empty() || machine.in_transaction() {
            Phase::Gathering
        } else {
            Phase::Idle
        }
    }

    fn phase_of_start(&self) -> Phase {
        match self.session.startup.step() {
            Step::StandBy => Phase::Down,
            Step::TakeSlot | Step::LockSource => Phase::Taking,
            Step::InitProducers | Step::CheckOwnership => Phase::Fencing,
            Step::ReadPosition => Phase::Reading,
            Step::MarkChunk
            | Step::WriteCreating
            | Step::ReleaseSlot
            | Step::DropSlot
            | Step::CreateSlot
            | Step::AdoptSlot
            | Step::WriteBackfill => Phase::Creating,
            Step::Backfill if self.session.publishing.is_empty() && !self.session.chunk.is_empty() => Phase::ChunkMarks,
            Step::Backfill => Phase::Chunk,
            Step::WriteStreaming | Step::Compare | Step::Stream => Phase::Entering,
        }
    }

    /// Whether the server counts the slot or the lock as this instance's.
    pub(crate) fn leads(&self, postgres: &Postgres) -> bool {
        let has_slot = self.session.connection.is_some_and(|connection| postgres.is_connected(connection));
        has_slot || postgres.holds_lock(self.session.lock)
    }
}

/// The instance that leads, or that comes nearest to it. What it is doing is what the source is
/// doing.
pub(crate) fn leader(instances: &[Instance], postgres: &Postgres) -> usize {
    let rank = |instance: &Instance| (instance.leads(postgres), instance.phase());
    (0..instances.len()).max_by_key(|&number| rank(&instances[number])).unwrap_or(0)
}
