//! The deck that deals the faults. Every kind comes, and a seed repeats their order.

use std::time::Duration;

use super::fault::{Fault, Kind};

pub(crate) struct Deck {
    has_standby: bool,
    random: fastrand::Rng,
    cards: Vec<Kind>,
}

impl Deck {
    /// The deck of a run with or without a standby that can take the primary's place.
    pub(crate) fn new(seed: u64, has_standby: bool) -> Self {
        Self { has_standby, random: fastrand::Rng::with_seed(seed), cards: Vec::new() }
    }

    /// The next fault. A deck that is used up is shuffled anew.
    pub(crate) fn deal(&mut self) -> Fault {
        if self.cards.is_empty() {
            let comes = |kind: &Kind| self.has_standby || *kind != Kind::FailOver;
            let cards = Kind::ALL.iter().flat_map(|&(kind, cards, ..)| std::iter::repeat_n(kind, cards));
            self.cards = cards.filter(comes).collect();
            self.random.shuffle(&mut self.cards);
        }
        let kind = self.cards.pop().unwrap_or(Kind::KillDaemon);
        Fault::of(kind, &mut self.random)
    }

    /// The time until the next fault. It is mostly short, and sometimes long enough for all faults
    /// to be healed.
    pub(crate) fn pause(&mut self, mean: Duration) -> Duration {
        let longest = if self.random.u8(..8) == 0 { mean * 6 } else { mean * 3 / 2 };
        longest.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn dealt(seed: u64, faults: usize) -> Vec<String> {
        let mut deck = Deck::new(seed, true);
        (0..faults)
            .map(|_| {
                let pause = deck.pause(Duration::from_secs(1));
                format!("{pause:?} {:?}", deck.deal())
            })
            .collect()
    }

    #[test]
    fn a_seed_repeats_the_faults_and_their_order() {
        assert_eq!(dealt(1, 200), dealt(1, 200));
        assert_ne!(dealt(1, 200), dealt(2, 200));
    }

    #[test]
    fn every_kind_comes_in_every_deck() {
        let cards = Kind::ALL.iter().map(|(_, cards, ..)| cards).sum();
        let mut deck = Deck::new(7, true);
        for _ in 0..3 {
            let kinds: BTreeSet<Kind> = (0..cards).map(|_| deck.deal().kind).collect();
            assert_eq!(kinds.len(), Kind::ALL.len());
        }
    }
}
