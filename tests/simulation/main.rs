//! A deterministic simulation of the relay. The real state machine, its driver and the real order
//! of a start run against models of Postgres and Kafka, through seeded schedules of crashes,
//! pauses, lost answers and takeovers. `README.md` tells what is modelled, what is checked, and how
//! to replay a seed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bugs;
mod building;
mod cells;
mod checks;
mod copies;
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
mod replaying;
mod retaining;
mod schedule;
mod shrink;
mod starting;
mod striking;
mod transitions;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use outboxd::Code;

use crate::{bugs::Bug, coverage::Coverage, schedule::Plan, shrink::Shrunk};

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// The bug that `OUTBOXD_SIM_BUG` names.
fn bug_asked_for() -> Option<Bug> {
    let name = std::env::var("OUTBOXD_SIM_BUG").ok()?;
    let bug = Bug::ALL.iter().map(|(bug, _, _)| *bug).find(|bug| format!("{bug:?}") == name);
    Some(bug.unwrap_or_else(|| panic!("OUTBOXD_SIM_BUG={name}: there is no such bug in bugs.rs")))
}

/// Runs the seeds until one fails in the way that is looked for. Returns what was covered, and the
/// first seed that failed.
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

/// Prints a schedule step by step. One that fails is made small first, unless `OUTBOXD_SIM_WHOLE`
/// is set. `Err` says how it fails.
fn tell(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    let plan = Plan { traced: true, ..Plan::new(seed, bug) };
    let mut outcome = plan.run(Coverage::new());
    let (steps, struck, mut told) = (outcome.steps.len(), outcome.struck, std::mem::take(&mut outcome.trace));
    let mut text = format!("seed {seed}: {steps} steps, {struck} faults");
    let shrunk =
        Shrunk::new(&Plan { traced: false, ..plan }, outcome).filter(|_| number("OUTBOXD_SIM_WHOLE").is_none());
    let violation = shrunk.map(|shrunk| {
        let shrunk = shrunk.shrink();
        told = shrunk.tell();
        text += &format!("; shrunk to {} steps, {} faults, which are above", shrunk.len(), shrunk.faults());
        shrunk.violation
    });
    told.iter().for_each(|line| println!("{line}"));
    let bug = bug.map_or(String::new(), |bug| format!("OUTBOXD_SIM_BUG={bug:?} "));
    println!("{text}\nreplay: {bug}OUTBOXD_SIM_SEED={seed} cargo test --test simulation guarantees -- --nocapture");
    violation.map_or(Ok(()), Err)
}

#[test]
fn the_guarantees_hold_in_every_schedule() {
    if let Some(seed) = number("OUTBOXD_SIM_SEED") {
        tell(seed, bug_asked_for()).unwrap_or_else(|violation| panic!("{violation}"));
        return;
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
        tell(seed, None).unwrap_or_else(|violation| panic!("{violation}"));
        panic!("seed {seed} failed, and does not when it is run again");
    }
    if schedules >= 100_000 {
        assert_eq!(coverage.wrong(), Vec::<String>::new(), "the table of faults and phases is not full");
    }
    if schedules >= 10_000 {
        assert_eq!(coverage.missing(), Vec::<&str>::new(), "these happened too seldom for the schedules to mean much");
        let halting = [
            Code::HistoryDiverged,
            Code::SlotMissing,
            Code::SlotAhead,
            Code::PositionLost,
            Code::PublicationChanged,
            Code::SystemChanged,
        ];
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

/// A simulation that no bug can fail would prove nothing. This prints the table of the README.
#[test]
fn every_deliberate_bug_is_found_and_made_small() {
    const SCHEDULES: u64 = 100_000;
    let mut table = String::from("| bug | breaks | found as | seed | steps | faults | shrunk to | faults |\n");
    table += "|---|---|---|---:|---:|---:|---:|---:|\n";
    for (bug, breaks, looked_for) in Bug::ALL.into_iter().filter(|(bug, _, _)| bug.is_possible()) {
        let (_, failed) = run_seeds(0..SCHEDULES, Some(bug), looked_for);
        let Some(seed) = failed else { panic!("{bug:?} was not found by {looked_for:?} in {SCHEDULES} schedules") };
        let plan = Plan::new(seed, Some(bug));
        let outcome = plan.run(Coverage::new());
        let (steps, faults) = (outcome.steps.len(), outcome.struck);
        let Some(whole) = Shrunk::new(&plan, outcome) else { panic!("{bug:?}: seed {seed} fails only once") };
        let small = whole.shrink();
        assert!(small.len() < steps && small.faults() <= faults, "{bug:?}: {} of {steps} steps", small.len());
        let (found, left) = (shrink::check(&small.violation), (small.len(), small.faults()));
        table +=
            &format!("| `{bug:?}` | {breaks} | {found} | {seed} | {steps} | {faults} | {} | {} |\n", left.0, left.1);
    }
    println!("{table}");
}
