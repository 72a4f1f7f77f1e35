//! The deck that the faults are dealt from: every kind comes, and a seed repeats their order.

use crate::fault::{Fault, Kind};
use std::time::Duration;

pub(crate) struct Deck {
    random: fastrand::Rng,
    cards: Vec<Kind>,
}

impl Deck {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), cards: Vec::new() }
    }

    /// The next fault. A deck that is used up is shuffled anew.
    pub(crate) fn deal(&mut self) -> Fault {
        if self.cards.is_empty() {
            self.cards = Kind::ALL.iter().flat_map(|&(kind, cards, ..)| std::iter::repeat_n(kind, cards)).collect();
            self.random.shuffle(&mut self.cards);
        }
        let kind = self.cards.pop().unwrap_or(Kind::KillDaemon);
        Fault::of(kind, &mut self.random)
    }

    /// Until the next fault: mostly short, sometimes long enough that all is well again.
    pub(crate) fn pause(&mut self, mean: Duration) -> Duration {
        let longest = if self.random.u8(..8) == 0 { mean * 6 } else { mean * 3 / 2 };
        longest.mul_f64(self.random.f64())
    }
}
