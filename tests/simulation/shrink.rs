//! Makes a failing schedule small. It leaves out steps, in ever smaller pieces, and single faults,
//! for as long as what is left fails in the same way.
//!
//! This works since a step carries its own chance: the other steps do the same without it, as far
//! as they still can.

use crate::{
    coverage::Coverage,
    schedule::{Outcome, Plan, Step, What},
};

/// Runs, at most. A schedule is small after a few hundred.
const RUNS: usize = 6_000;

/// A schedule that fails, and how it fails.
#[derive(Debug)]
pub(crate) struct Shrunk {
    plan: Plan,
    /// How it fails. The words before the first colon or comma name the check.
    pub(crate) violation: String,
    runs: usize,
}

impl Shrunk {
    /// The schedule of a plan that failed, cut off at its failure.
    pub(crate) fn new(plan: &Plan, outcome: Outcome) -> Option<Self> {
        let violation = outcome.violation?;
        let mut plan = plan.clone();
        // A failure that shows only when the source should have come to rest needs the whole rest.
        plan.rests = violation.starts_with("liveness");
        let is_kept = |step: &Step| !plan.rests || step.what != What::Calm;
        plan.steps = Some(outcome.steps.into_iter().filter(is_kept).collect());
        Some(Self { plan, violation, runs: 0 })
    }

    /// How many steps are left. The steps of the rest do not count if all of it is needed.
    pub(crate) fn len(&self) -> usize {
        self.steps().len()
    }

    pub(crate) fn faults(&self) -> usize {
        self.steps().iter().filter(|step| matches!(step.what, What::Strike { .. })).count()
    }

    fn steps(&self) -> &[Step] {
        self.plan.steps.as_deref().unwrap_or_default()
    }

    pub(crate) fn shrink(mut self) -> Self {
        self.leave_out_faults();
        loop {
            let before = self.len();
            self.leave_out_steps();
            self.leave_out_faults();
            if self.len() == before || self.runs >= RUNS {
                return self;
            }
        }
    }

    /// Leaves out halves, quarters, eighths and so on, down to single steps. It begins at the end,
    /// where the least depends on them.
    fn leave_out_steps(&mut self) {
        let mut size = self.len().div_ceil(2);
        while size > 0 && self.runs < RUNS {
            let mut end = self.len();
            while end > 0 && self.runs < RUNS {
                let start = end.saturating_sub(size);
                let mut fewer = self.steps().to_vec();
                fewer.drain(start..end);
                self.try_out(fewer);
                end = start.min(self.len());
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    fn leave_out_faults(&mut self) {
        let mut index = self.len();
        while index > 0 && self.runs < RUNS {
            index -= 1;
            if matches!(self.steps().get(index), Some(Step { what: What::Strike { .. }, .. })) {
                let mut fewer = self.steps().to_vec();
                fewer.remove(index);
                self.try_out(fewer);
                index = index.min(self.len());
            }
        }
    }

    /// Keeps these steps, up to the failure, if they fail in the same way.
    fn try_out(&mut self, steps: Vec<Step>) {
        self.runs += 1;
        let plan = Plan { steps: Some(steps), ..self.plan.clone() };
        let outcome = plan.run(Coverage::new());
        let Some(violation) = outcome.violation else { return };
        if check(&violation) != check(&self.violation) {
            return;
        }
        let count = outcome.steps.iter().filter(|step| !plan.rests || step.what != What::Calm).count();
        self.plan = plan;
        if let Some(steps) = &mut self.plan.steps {
            steps.truncate(count);
        }
        self.violation = violation;
    }

    /// The steps that are left, one line each.
    pub(crate) fn tell(&self) -> Vec<String> {
        let outcome = Plan { traced: true, ..self.plan.clone() }.run(Coverage::new());
        let is_told = |line: &String| !self.plan.rests || !line.contains("liveness");
        outcome.trace.into_iter().filter(is_told).collect()
    }
}

/// The check that found it: G1, rule 7, halted without need, liveness.
pub(crate) fn check(violation: &str) -> &str {
    let end = violation.find([':', ',']).unwrap_or(violation.len());
    let words = &violation[..end];
    // "e12 was published although its mark was set": another schedule may name another row.
    words.split_once(" was ").map_or(words, |(_, what)| what)
}
