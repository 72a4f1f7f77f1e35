//! Bugs that are put into the driver on purpose, to see that the simulation bites.

/// One wrong turn of a session; `README.md` tells which check finds it, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Marks are reported as done while they are on their way.
    ConfirmBeforeMark,
    /// After an unknown commit, new producers send the same batches again.
    RepublishFromMemory,
    /// The position is read before the slot is taken and the producers are initialised.
    PositionBeforeSlot,
    /// Rows are marked when they are handed to the producer.
    MarkBeforeCommit,
    /// A keepalive of an idle stream is confirmed at once.
    ConfirmIdleWithoutPosition,
    /// After a failed or unknown commit the same process goes on with its producers.
    KeepProducers,
    /// `init_transactions` is left out: the epoch is taken as it stands.
    NoFencing,
    /// The stream is started from the position instead of 0/0.
    StreamFromPosition,
    /// The next chunk of a backfill is sent while the last one's marks are on their way.
    ChunkBeforeMarks,
    /// An interrupted backfill begins anew without marking its last chunk.
    SkipMarkChunk,
    /// Redelivered rows are marked without the proof of history.
    TrustRestoredServer,
    /// The position is read without waiting for open transactions.
    ReadUncommittedPosition,
    /// Of two batches under way the second is committed first.
    CommitOutOfOrder,
    /// A fenced instance initialises its producers and goes on, instead of starting anew.
    BareInitAfterFence,
}

impl Bug {
    /// Each with the check that must find it, by the beginning of its message.
    pub(crate) const ALL: [(Self, &str); 14] = [
        (Self::ConfirmBeforeMark, "rule 7"),
        (Self::RepublishFromMemory, "G1"),
        (Self::PositionBeforeSlot, "G1"),
        (Self::MarkBeforeCommit, "G5"),
        (Self::ConfirmIdleWithoutPosition, "rule 4"),
        (Self::KeepProducers, "G1"),
        (Self::NoFencing, "G1"),
        // The machine itself finds that the published commit does not come by.
        (Self::StreamFromPosition, "halted without need"),
        (Self::ChunkBeforeMarks, "G1"),
        (Self::SkipMarkChunk, "G1"),
        (Self::TrustRestoredServer, "G5"),
        (Self::ReadUncommittedPosition, "rule"),
        (Self::CommitOutOfOrder, "rule 2"),
        (Self::BareInitAfterFence, "G1"),
    ];
}
