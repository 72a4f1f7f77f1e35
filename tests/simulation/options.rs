//! What a seed decides about a schedule before its first step: which features are on, how large
//! things are, and how often faults strike.
//!
//! Each kind of fault is off, rare or frequent in a schedule as a whole, since a fault that strikes
//! all the time hides what another would do ("swarm testing").

use std::time::Duration;

use outboxd::relay::{startup::Policy, state::Bounds};

use crate::{faults::Fault, kafka::PRODUCERS, phase::Phase, random::Random};

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) steps: u64,
    /// Whether the faults begin only when the source is streaming.
    pub(crate) starts_streaming: bool,
    pub(crate) exactly_once: bool,
    pub(crate) marks: bool,
    /// Somebody detaches and drops partitions.
    pub(crate) retains: bool,
    /// Somebody publishes marked rows again. `Plan::new` decides.
    pub(crate) replays: bool,
    /// The slot is a failover slot, and a standby follows.
    pub(crate) failover: bool,
    pub(crate) policy: Policy,
    pub(crate) instances: usize,
    /// How many of the producers are used.
    pub(crate) producers: usize,
    pub(crate) bounds: Bounds,
    pub(crate) keys: u64,
    /// Transactions from before the first start. `transactions` counts all.
    pub(crate) existing: u64,
    pub(crate) transactions: u64,
    /// How many of a hundred transactions are larger than a batch.
    pub(crate) large: u64,
    /// How often each fault strikes, in ten thousand steps.
    pub(crate) faults: [u64; Fault::ALL.len()],
    /// Faults that wait until the source comes to a phase.
    pub(crate) aims: Vec<(Fault, Phase)>,
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
        let mut faults = [0; Fault::ALL.len()];
        for (often_drawn, fault) in faults.iter_mut().zip(Fault::ALL) {
            *often_drawn = often(random, fault.often());
        }
        let (healing, grave): (Vec<Fault>, Vec<Fault>) = Fault::ALL.iter().partition(|fault| !fault.is_grave());
        let phase = |random: &mut Random| Phase::ALL[random.index(Phase::ALL.len())];
        let mut aims = vec![(healing[random.index(healing.len())], phase(random))];
        if random.chance(50) {
            // A copy that takes the server's place shows the most.
            let fault = if random.chance(30) { Fault::Restore } else { grave[random.index(grave.len())] };
            aims.push((fault, phase(random)));
        }
        Self {
            steps,
            starts_streaming: random.chance(70),
            exactly_once,
            marks,
            retains: random.chance(30),
            replays: false,
            failover: random.chance(25),
            policy: Policy { backfill: marks && random.chance(70), auto_setup: random.chance(95) },
            instances: 1 + random.index(3),
            producers: 1 + random.index(PRODUCERS),
            bounds,
            keys: random.between(1, 4),
            existing: random.below(6),
            transactions: random.between(4, 30),
            large: often(random, 25),
            faults,
            aims,
        }
        .bent_to_the_aims()
    }

    /// Makes sure that what is aimed at can come.
    fn bent_to_the_aims(mut self) -> Self {
        self.policy.auto_setup |= self.starts_streaming;
        for (fault, phase) in self.aims.clone() {
            if fault.is_copy() {
                // What is lost with the server must matter, and the log must be able to grow again.
                self.transactions = self.transactions.max(25);
                self.large = 25;
            }
            self.failover |= fault == Fault::FailOver;
            if phase.is_set_up() {
                self.starts_streaming = false;
            }
            match phase {
                Phase::Chunk | Phase::ChunkMarks => {
                    (self.marks, self.policy.backfill) = (true, true);
                    self.existing = self.existing.max(3);
                }
                Phase::Marking => self.marks = true,
                Phase::Split => self.large = 25,
                Phase::Redelivering => self.faults[Fault::Kill as usize] = Fault::Kill.often(),
                Phase::Draining => self.faults[Fault::Stop as usize] = 2 * Fault::Stop.often(),
                Phase::Pipelined => (self.exactly_once, self.producers) = (true, PRODUCERS),
                _ => {}
            }
        }
        self
    }
}
