//! A deterministic simulation of the relay: the real state machine and the real order of a start, driven against models
//! of Postgres and Kafka through seeded schedules of crashes, pauses, lost answers and takeovers. `README.md` tells what
//! is modelled, what is checked, and how to replay a seed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bugs;
mod cells;
mod checks;
mod coverage;
mod faults;
mod instance;
mod kafka;
mod options;
mod phase;
mod postgres;
mod publishing;
mod random;
mod relaying;
mod schedule;
mod starting;
mod striking;
mod transitions;
mod world;

use std::{
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use outboxd::Code;

use crate::{bugs::Bug, coverage::Coverage, schedule::Plan};

/// Steps that are printed of a failing schedule.
const LAST_EVENTS: usize = 120;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs the seeds until one fails in the way that is looked for. What was covered, and the first seed that failed.
fn run_seeds(seeds: std::ops::Range<u64>, bug: Option<Bug>, looked_for: &str) -> (Box<Coverage>, Option<u64>) {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let coverage = Mutex::new(Coverage::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut covered = Coverage::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || seed > failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let outcome = Plan::new(seed, bug).run(covered);
                    covered = outcome.coverage;
                    if outcome.violation.is_some_and(|violation| violation.starts_with(looked_for)) {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
                coverage.lock().unwrap().merge(&covered);
            });
        }
    });
    let failed = failed.into_inner();
    (coverage.into_inner().unwrap(), (failed < u64::MAX).then_some(failed))
}

/// Prints a schedule, its last events or all of them, and fails if it failed.
fn replay(seed: u64, events: usize) {
    let mut plan = Plan::new(seed, None);
    plan.traced = true;
    let outcome = plan.run(Coverage::new());
    let skipped = outcome.trace.len().saturating_sub(events);
    println!("{}", outcome.trace[0]);
    for line in &outcome.trace[skipped.max(1)..] {
        println!("{line}");
    }
    if let Some(violation) = outcome.violation {
        panic!("{violation}\nreplay: OUTBOXD_SIM_SEED={seed} cargo test --test simulation guarantees -- --nocapture");
    }
}

#[test]
fn the_guarantees_hold_in_every_schedule() {
    if let Some(seed) = number("OUTBOXD_SIM_SEED") {
        return replay(seed, usize::MAX);
    }
    let schedules = number("OUTBOXD_SIM_SCHEDULES").unwrap_or(100_000);
    let first = number("OUTBOXD_SIM_FIRST").unwrap_or(0);
    let started = Instant::now();
    let (coverage, failed) = run_seeds(first..first + schedules, None, "");
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = coverage.schedules as f64 / seconds;
    println!("{}{seconds:.1} s, {rate:.0} schedules/s", coverage.table());
    if let Some(seed) = failed {
        replay(seed, LAST_EVENTS);
    }
    if schedules >= 10_000 {
        assert_eq!(coverage.missing(), Vec::<&str>::new(), "these happened too seldom for the schedules to mean much");
        let halting =
            [Code::HistoryDiverged, Code::SlotMissing, Code::SlotAhead, Code::PositionLost, Code::PublicationChanged];
        assert_eq!(coverage.never_halted(&halting), [], "no schedule ended with these");
    }
}

#[test]
fn a_seed_decides_everything() {
    let told = |seed| Plan { traced: true, ..Plan::new(seed, None) }.run(Coverage::new()).trace;
    for seed in 0..20 {
        assert_eq!(told(seed), told(seed));
    }
}

/// A simulation that no bug can fail would prove nothing.
#[test]
fn every_deliberate_bug_is_found() {
    const SCHEDULES: u64 = 100_000;
    for (bug, _, looked_for) in Bug::ALL {
        let (_, failed) = run_seeds(0..SCHEDULES, Some(bug), looked_for);
        let Some(seed) = failed else { panic!("{bug:?} was not found by {looked_for} in {SCHEDULES} schedules") };
        let outcome = Plan::new(seed, Some(bug)).run(Coverage::new());
        println!("{bug:?}: seed {seed}, {} steps: {}", outcome.steps.len(), outcome.violation.unwrap());
    }
}
