//! The pauses between attempts at what heals by itself.

use std::time::Duration;

/// The first pause.
const MIN: Duration = Duration::from_millis(200);

/// Doubling pauses with jitter, so that fifty sources do not come back at the same instant.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// No pause is longer than `max`.
    pub(crate) fn new(max: Duration) -> Self {
        Self { next: MIN.min(max), max }
    }

    /// Begins with the first pause again.
    pub(crate) fn reset(&mut self) {
        self.next = MIN.min(self.max);
    }

    /// A random pause between half of the current step and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_to_its_bound_and_starts_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        for step in [200_u64, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            let step = Duration::from_millis(step);
            assert!(pause >= step / 2 && pause <= step, "{pause:?} is not within a step of {step:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= MIN);
    }
}
