//! The faults: those that heal, and the grave ones, after which a source may halt.

use outboxd::Code;

macro_rules! faults {
    ($($name:ident = $text:literal, $often:literal, $meaning:literal;)*) => {
        /// Something that goes wrong at one step.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault { $(#[doc = $meaning] $name,)* }

        impl Fault {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];
            /// The name of each in what is printed.
            pub(crate) const NAMES: &[&str] = &[$($text,)*];

            /// How often it strikes in ten thousand steps of a schedule that has much of it.
            pub(crate) fn often(self) -> u64 {
                match self { $(Self::$name => $often,)* }
            }
        }
    };
}

faults! {
    Kill = "instance killed", 150, "kill -9; what it sent is still under way.";
    Pause = "instance paused", 150, "SIGSTOP.";
    Stop = "instance told to stop", 50, "SIGTERM.";
    Leap = "hours pass", 10, "Every timeout of the servers passes: open transactions, silent clients.";
    ConnectionBreaks = "connection breaks", 80, "The client sees it first; the server's side lingers.";
    WalsenderEnds = "walsender ended", 50, "The server ends it; the client can still read what it was sent.";
    LockLost = "session of the lock ended", 30, "The server ends it; the client thinks that it has the lock.";
    PostgresCrashes = "Postgres crashes", 70, "What was confirmed since the last checkpoint is lost.";
    FailOver = "failed over to a standby", 30, "Its log may end before the last marks; the slot's position is in it.";
    TransactionTimesOut = "Kafka transaction timed out", 40, "The coordinator aborts it and fences its producer.";
    StrangerFences = "fenced by a stranger", 40, "`init_transactions` with one of our transactional ids.";
    StrangerOpens = "foreign transaction on positions", 40, "It holds the last stable offset of the topic.";
    CoordinatorMoves = "coordinator moves or dies", 40, "Requests under way to it may be lost; nobody answers for a while.";
    IdExpires = "transactional id expires", 20, "The coordinator knows it no more.";
    SendFails = "record not delivered", 60, "Or only perhaps: the transaction cannot be finished.";
    CommitHeld = "EndTxn held up", 150, "It arrives in the next transaction of its producer, or never.";
    CommitSlow = "EndTxn sent again", 150, "The client gives the first one up, and waits for the second.";
    CommitUnknown = "EndTxn given up", 100, "The client does not know what came of it.";
    AnswerLost = "answer to EndTxn lost", 100, "The coordinator has decided, and the client does not hear of it.";
    RecordsLost = "loose records lost", 60, "Without a transaction: nothing of what a producer has under way arrives.";
    MarksLost = "UPDATE failed", 80, "It had no effect.";
    MarksUnanswered = "answer to UPDATE lost", 80, "It had its effect.";
    MarksBlocked = "rows locked", 60, "The UPDATE waits for somebody else's lock.";
    MarksRefused = "a table takes no marks", 60, "Every other row cannot be marked for a while.";
    RowsDeleted = "rows deleted before their mark", 60, "By the application.";
    Restore = "copy restored, with slot", 0, "The server is replaced by an older copy of its disk.";
    RestoreBare = "copy restored, without slot", 0, "The same, from a backup that leaves slots out.";
    Promote = "standby promoted, with slot", 0, "It is behind, and so may be its failover slot.";
    PromoteBare = "standby promoted, without slot", 0, "It is behind.";
    OtherCluster = "another cluster answers", 0, "Behind the same configuration, with its own rows and no slot of the source.";
    OtherClusterSlot = "another cluster answers, with slot", 0, "The same, and somebody made the slot there.";
    DropSlot = "slot dropped", 0, "By a person, who ended its walsender first.";
    RecreateSlot = "slot dropped and made again", 0, "By a person.";
    MakeSlot = "slot made by a person", 0, "Where there is none.";
    AdvanceSlot = "slot advanced", 0, "By a person.";
    LoseSlot = "slot invalidated", 0, "The server removed its log, or it idled for too long.";
    DeletePositions = "position topic deleted", 0, "Whoever writes to it next makes it again.";
    ChangePublication = "publication changed", 0, "A table left it, or its filter is another one.";
}

impl Fault {
    /// Whether the source may halt after it. At most one such fault happens in a schedule.
    pub(crate) fn is_grave(self) -> bool {
        !self.may_halt_with().is_empty()
    }

    /// Whether a copy takes the server's place.
    pub(crate) fn is_copy(self) -> bool {
        matches!(self, Self::Restore | Self::RestoreBare | Self::Promote | Self::PromoteBare)
    }

    /// The codes with which a source may halt after it.
    pub(crate) fn may_halt_with(self) -> &'static [Code] {
        match self {
            // The copy may be older than the slot.
            Self::Restore | Self::RestoreBare | Self::Promote | Self::PromoteBare => {
                &[Code::HistoryDiverged, Code::SlotMissing]
            }
            Self::OtherCluster => &[Code::SystemChanged],
            // Without a position nothing tells that it is another cluster.
            Self::OtherClusterSlot => &[Code::SystemChanged, Code::PositionLost],
            // An instance whose set-up was overtaken may make the slot anew, as a person would.
            Self::DropSlot => &[Code::SlotMissing, Code::SlotAhead],
            Self::RecreateSlot | Self::AdvanceSlot => &[Code::SlotAhead],
            Self::LoseSlot => &[Code::SlotLost],
            // A daemon may not judge a slot without a position.
            Self::MakeSlot | Self::DeletePositions => &[Code::PositionLost],
            Self::ChangePublication => &[Code::PublicationChanged],
            _ => &[],
        }
    }
}
