//! The table of faults and phases: what has struck where, and what cannot.

use crate::{faults::Fault, phase::Phase};

/// How often each fault struck in each phase.
#[derive(Debug, Clone)]
pub(crate) struct Cells([[u32; Phase::ALL.len()]; Fault::ALL.len()]);

impl Cells {
    pub(crate) fn new() -> Self {
        Self([[0; Phase::ALL.len()]; Fault::ALL.len()])
    }

    pub(crate) fn add(&mut self, fault: Fault, phase: Phase) {
        self.0[fault as usize][phase as usize] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (sums, more) in self.0.iter_mut().zip(&other.0) {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }

    fn each(&self) -> impl Iterator<Item = (Fault, Phase, u32)> {
        Fault::ALL
            .iter()
            .zip(&self.0)
            .flat_map(|(fault, row)| Phase::ALL.iter().zip(row).map(move |(phase, times)| (*fault, *phase, *times)))
    }

    /// A row for each fault and a column for each phase. Letters stand for reasons.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:33}", "");
        for phase in Phase::NAMES {
            text += &format!("{phase:>8}");
        }
        for (fault, row) in Fault::ALL.iter().zip(&self.0) {
            text += &format!("\n{:33}", Fault::NAMES[*fault as usize]);
            for (phase, times) in Phase::ALL.iter().zip(row) {
                match why_not(*fault, *phase) {
                    Some(reason) if *times == 0 => text += &format!("{:>8}", letter(reason)),
                    _ => text += &format!("{times:>8}"),
                }
            }
        }
        for reason in REASONS {
            text += &format!("\n{}  {}", letter(*reason), reason.1);
        }
        text + "\n"
    }

    /// Cells that should have been hit and were not, and cells that were hit although they cannot
    /// be.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (fault, phase, times) in self.each() {
            let name = format!("{} × {phase:?}", Fault::NAMES[fault as usize]);
            match why_not(fault, phase) {
                None if times == 0 => wrong.push(format!("{name} was never hit")),
                Some((_, reason)) if times > 0 && !is_rare(fault, phase) => {
                    wrong.push(format!("{name} was hit {times} times, though: {reason}"));
                }
                _ => {}
            }
        }
        wrong
    }
}

/// A letter for the table, and the reason why a fault cannot strike in a phase.
type Reason = (char, &'static str);

const NO_LOCK: Reason = ('a', "only a set-up holds the lock, from its second step on, until the stream has begun");
const NOT_OPEN: Reason = ('b', "nothing is with the producer, and no transaction is open");
const NO_COMMIT: Reason = ('c', "no commit is under way");
const TRANSACTIONAL: Reason = ('d', "what is sent in this phase is always in a transaction");
const NO_MARKS: Reason =
    ('e', "no marks of this instance are under way; those of a dead one have nobody to miss their answer");
const HAS_SLOT: Reason = ('f', "there is a slot already");

const NOT_SYNCED: Reason = ('g', "before the source streams, the marks alone tell what is published");

const REASONS: &[Reason] = &[NO_LOCK, NOT_OPEN, NO_COMMIT, TRANSACTIONAL, NO_MARKS, HAS_SLOT, NOT_SYNCED];

fn letter(reason: Reason) -> char {
    reason.0
}

/// Whether the fault can strike after all, a few times in a million schedules. If the slot is taken
/// from an instance while it adopts it, the instance already stands by, and its session has not yet
/// let the lock go.
fn is_rare(fault: Fault, phase: Phase) -> bool {
    fault == Fault::LockLost && phase == Phase::Down
}

/// Why the fault cannot strike in this phase, if it cannot.
fn why_not(fault: Fault, phase: Phase) -> Option<Reason> {
    let starts = matches!(phase, Phase::Down | Phase::Taking | Phase::Fencing | Phase::Reading);
    let is_quiet = matches!(phase, Phase::ChunkMarks | Phase::Idle | Phase::Gathering | Phase::Marking);
    match fault {
        Fault::LockLost => matches!(phase, Phase::Down | Phase::Taking | Phase::Redelivering).then_some(NO_LOCK),
        Fault::TransactionTimesOut => (is_quiet || phase == Phase::Reading).then_some(NOT_OPEN),
        Fault::SendFails => (starts || is_quiet).then_some(NOT_OPEN),
        Fault::CommitHeld | Fault::CommitSlow | Fault::CommitUnknown | Fault::AnswerLost => {
            (starts || is_quiet || phase == Phase::Sending).then_some(NO_COMMIT)
        }
        Fault::RecordsLost if starts || is_quiet => Some(NOT_OPEN),
        Fault::RecordsLost => {
            (phase.is_set_up() || matches!(phase, Phase::Committing | Phase::Pipelined)).then_some(TRANSACTIONAL)
        }
        Fault::MarksLost | Fault::MarksUnanswered | Fault::MarksBlocked => {
            let is_none = matches!(phase, Phase::Chunk | Phase::Entering | Phase::Idle | Phase::Gathering);
            (starts || is_none).then_some(NO_MARKS)
        }
        Fault::FailOver => (phase.is_set_up() && phase != Phase::Entering).then_some(NOT_SYNCED),
        Fault::MakeSlot => (!starts && phase != Phase::Creating).then_some(HAS_SLOT),
        _ => None,
    }
}
