//! What a seed makes of a schedule before its first step: which features are on, how large, and how often faults strike.
//!
//! Each kind of fault is off, rare or frequent in a schedule as a whole, since a fault that strikes all the time hides
//! what another would do ("swarm testing").

use std::time::Duration;

use outboxd::{
    Code,
    relay::{startup::Policy, state::Bounds},
};

use crate::random::Random;

/// A fault after which the design allows the source to halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grave {
    /// The server is replaced by an older copy of its disk, with its slots or without.
    Restore {
        with_slot: bool,
    },
    /// A standby is promoted; it has the slot (a failover slot), or not.
    Promote {
        with_slot: bool,
    },
    DropSlot,
    RecreateSlot,
    AdvanceSlot,
    DeletePositions,
    ChangePublication,
}

impl Grave {
    /// The codes with which a source may halt after it.
    pub(crate) fn may_halt_with(self) -> &'static [Code] {
        match self {
            // The copy may be from before the slot.
            Self::Restore { .. } | Self::Promote { .. } => &[Code::HistoryDiverged, Code::SlotMissing],
            Self::DropSlot => &[Code::SlotMissing],
            Self::RecreateSlot | Self::AdvanceSlot => &[Code::SlotAhead],
            Self::DeletePositions => &[Code::PositionLost],
            Self::ChangePublication => &[Code::PublicationChanged],
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) steps: u64,
    /// The faults begin only when the source is streaming.
    pub(crate) starts_streaming: bool,
    pub(crate) exactly_once: bool,
    pub(crate) marks: bool,
    pub(crate) policy: Policy,
    pub(crate) instances: usize,
    /// How many of the producers are used.
    pub(crate) producers: usize,
    pub(crate) bounds: Bounds,
    pub(crate) keys: u64,
    /// Transactions from before the first start, and in all.
    pub(crate) existing: u64,
    pub(crate) transactions: u64,
    /// In a hundred transactions, those that are larger than a batch.
    pub(crate) large: u64,
    /// In a thousand.
    pub(crate) send_failures: u64,
    pub(crate) commit_retries: u64,
    pub(crate) commit_timeouts: u64,
    pub(crate) lost_answers: u64,
    pub(crate) faults: Faults,
    pub(crate) grave: Option<Grave>,
    pub(crate) grave_at: u64,
}

/// In a thousand steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) kill: u64,
    pub(crate) pause: u64,
    pub(crate) break_connection: u64,
    pub(crate) postgres_crash: u64,
    pub(crate) stop: u64,
    pub(crate) broker: u64,
    pub(crate) lost_marks: u64,
}

impl Options {
    pub(crate) fn new(random: &mut Random) -> Self {
        let marks = random.chance(80);
        let batch_rows = usize::try_from(random.between(2, 8)).unwrap_or(3);
        let batch_bytes = usize::try_from(random.between(40, 400)).unwrap_or(100);
        let unmarked_rows = usize::try_from(random.between(2, 30)).unwrap_or(10);
        let in_flight_bytes = usize::try_from(random.between(30, 600)).unwrap_or(100);
        let bounds = Bounds {
            batch_rows,
            batch_bytes,
            linger: Duration::from_micros(random.below(3) * 500),
            in_flight_bytes,
            unmarked_rows,
            idle_advance: Duration::from_millis(random.below(20)),
        };
        let exactly_once = random.chance(85);
        let often = |random: &mut Random, often: u64| match random.below(3) {
            0 => 0,
            1 => often / 4,
            _ => often,
        };
        let steps = random.between(100, 700);
        let grave = random.chance(20).then(|| match random.below(11) {
            0 | 1 | 9 | 10 => Grave::Restore { with_slot: true },
            2 => Grave::Restore { with_slot: random.chance(50) },
            3 => Grave::Promote { with_slot: random.chance(70) },
            4 => Grave::DropSlot,
            5 => Grave::RecreateSlot,
            6 => Grave::AdvanceSlot,
            7 => Grave::DeletePositions,
            _ => Grave::ChangePublication,
        });
        Self {
            steps,
            starts_streaming: random.chance(70),
            exactly_once,
            marks,
            policy: Policy { backfill: marks && random.chance(70), auto_setup: true },
            instances: 1 + random.index(3),
            producers: 1 + random.index(2),
            bounds,
            keys: random.between(1, 4),
            existing: random.below(6),
            transactions: random.between(4, 30),
            large: often(random, 25),
            send_failures: often(random, 8),
            commit_retries: often(random, 40),
            commit_timeouts: often(random, 60),
            lost_answers: often(random, 80),
            faults: Faults {
                kill: often(random, 16),
                pause: often(random, 16),
                break_connection: often(random, 16),
                postgres_crash: often(random, 8),
                stop: often(random, 6),
                broker: often(random, 10),
                lost_marks: often(random, 60),
            },
            grave,
            grave_at: random.between(steps / 4, steps),
        }
    }

    /// The same world without its faults, to see that it comes to rest.
    pub(crate) fn calm(&mut self) {
        self.send_failures = 0;
        self.commit_retries = 0;
        self.commit_timeouts = 0;
        self.lost_answers = 0;
        self.faults =
            Faults { kill: 0, pause: 0, break_connection: 0, postgres_crash: 0, stop: 0, broker: 0, lost_marks: 0 };
        self.grave = None;
    }
}
