//! Bugs that are put into the session on purpose, to see that the simulation finds them.

#[cfg(debug_assertions)]
use outboxd::relay::driver::WrongTurn;

/// One wrong turn of a session. `README.md` tells which check finds it, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Marks are reported as done while they are still under way.
    ConfirmBeforeMark,
    /// After an unknown commit, new producers send the same batches again.
    RepublishFromMemory,
    /// The position is read before the slot is taken and the producers are initialised.
    PositionBeforeSlot,
    /// The driver has rows marked as soon as they are handed to the producer.
    MarkBeforeCommit,
    /// The driver hands out a marking job while another one is under way.
    TwoMarkingJobs,
    /// The driver counts an answered job as marked, whatever the marker keeps of it.
    KeptIsMarked,
    /// The memory of a batch's records is handed back while the producer still reads it.
    ArenaTooEarly,
    /// The memory of a batch's records is used again with the old records still in it.
    ArenaKeepsRows,
    /// A keepalive of an idle stream is confirmed at once.
    ConfirmIdleWithoutPosition,
    /// After a failed or unknown commit, the same process goes on with its producers.
    KeepProducers,
    /// `init_transactions` is left out, and the producer takes the epoch as it stands.
    NoFencing,
    /// The stream is started from the position instead of 0/0.
    StreamFromPosition,
    /// The next chunk of a backfill is sent while the marks of the last one are still under way.
    ChunkBeforeMarks,
    /// An interrupted backfill begins anew without marking its last chunk.
    SkipMarkChunk,
    /// Redelivered rows are marked without the proof of history.
    TrustRestoredServer,
    /// The position is read without waiting for open transactions.
    ReadUncommittedPosition,
    /// When two batches are under way, the second is committed first, under the name of the first.
    CommitOutOfOrder,
    /// When two batches are under way, the second is committed first, and the machine is told so.
    TellOutOfOrder,
    /// A fenced instance initialises its producers and goes on, instead of starting anew.
    BareInitAfterFence,
    /// The commit of one batch fails, and the next one, which was sent in the meantime, is
    /// committed all the same.
    CommitSecondAfterFailure,
    /// A row that the UPDATE does not see counts as gone, although its commit is only not visible
    /// yet.
    InvisibleIsMarked,
    /// A row that comes with its mark set is published.
    PublishMarkedRows,
    /// A set-up goes on although marks that were durable are gone.
    TrustRestoredMarks,
    /// A batch of a failover slot is confirmed although the stream has not passed its marks.
    ConfirmBeforeStandby,
    /// The start takes the system identifier of any cluster for the one whose rows were published.
    TrustAnotherCluster,
    /// A partition is dropped as soon as it is detached.
    DropAtOnce,
    /// Everything may be confirmed without a look at the publication.
    ConfirmWithoutLook,
    /// A request begins anew, whatever its record says.
    ReplayForgetsProgress,
    /// The record of a request is committed before the rows that it counts.
    ReplayProgressFirst,
    /// The record of a request is read before its id is taken.
    ReplayReadsBeforeId,
}

impl Bug {
    /// Whether this build can have it. Only debug builds of the driver can be told to go wrong.
    pub(crate) fn is_possible(self) -> bool {
        cfg!(debug_assertions) || !matches!(self, Self::MarkBeforeCommit | Self::TwoMarkingJobs | Self::KeptIsMarked)
    }

    /// The wrong turn of the driver itself, if the bug is one.
    #[cfg(debug_assertions)]
    pub(crate) fn wrong_turn(self) -> Option<WrongTurn> {
        match self {
            Self::MarkBeforeCommit => Some(WrongTurn::MarksBeforeCommitted),
            Self::TwoMarkingJobs => Some(WrongTurn::TwoMarkingJobs),
            Self::KeptIsMarked => Some(WrongTurn::KeptIsMarked),
            _ => None,
        }
    }

    /// Each bug, what it breaks, and the check that must find it, by the beginning of its message.
    pub(crate) const ALL: [(Self, &str, &str); 30] = [
        (Self::ConfirmBeforeMark, "G5", "rule 7"),
        (Self::RepublishFromMemory, "G1", "G1"),
        (Self::PositionBeforeSlot, "G1", "G1"),
        (Self::MarkBeforeCommit, "G5", "G5"),
        // The marker refuses the second job.
        (Self::TwoMarkingJobs, "G6", "internal"),
        (Self::KeptIsMarked, "G5", "rule 7"),
        (Self::ArenaTooEarly, "G1", ""),
        (Self::ArenaKeepsRows, "G1", ""),
        (Self::ConfirmIdleWithoutPosition, "G4", "rule 4"),
        (Self::KeepProducers, "G1", "G1"),
        (Self::NoFencing, "G1", "G1"),
        // The machine itself finds that the published commit does not come by.
        (Self::StreamFromPosition, "G5", "halted without need"),
        (Self::ChunkBeforeMarks, "G1", "G1"),
        (Self::SkipMarkChunk, "G1", "G1"),
        (Self::TrustRestoredServer, "G4, G5", "G5"),
        (Self::ReadUncommittedPosition, "G1, G4", "rule"),
        (Self::CommitOutOfOrder, "G2", "rule 2"),
        // The machine itself refuses it.
        (Self::TellOutOfOrder, "G2", "internal"),
        (Self::BareInitAfterFence, "G1", "G1"),
        (Self::CommitSecondAfterFailure, "G1", ""),
        (Self::InvisibleIsMarked, "G5", "rule 7"),
        (Self::PublishMarkedRows, "G1", "e"),
        (Self::TrustRestoredMarks, "G1, G4", "G1"),
        (Self::ConfirmBeforeStandby, "G5", "failover"),
        (Self::TrustAnotherCluster, "G1, G4", ""),
        (Self::DropAtOnce, "G4", "retention"),
        (Self::ConfirmWithoutLook, "G4", "rule 7"),
        (Self::ReplayForgetsProgress, "replay", "replay"),
        (Self::ReplayProgressFirst, "replay", "replay"),
        (Self::ReplayReadsBeforeId, "replay", "replay"),
    ];
}
