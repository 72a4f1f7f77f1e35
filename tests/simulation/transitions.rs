//! The transitions of the order of a start and of the state machine.
//!
//! A transition that `transitions.txt` lists must happen. One that happens and is not listed fails
//! the run.

use outboxd::{
    relay::{
        startup::{Fact, Step},
        state::Place,
    },
    source::position::{Phase, Position},
};

/// One transition to a line. Those with a question mark are rare, and those with two need not happen.
const LISTED: &str = include_str!("transitions.txt");

macro_rules! named {
    ($(#[$meta:meta])* $kind:ident: $($name:ident = $text:literal,)*) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $kind { $($name,)* }

        impl $kind {
            const NAMES: &[&str] = &[$($text,)*];
        }
    };
}

named! {
    /// What came of a step of the start.
    Came:
    Done = "done", Another = "taken by another", NoSlot = "no slot", Slot = "slot",
    Nothing = "no position", NothingSlot = "no position, slot", Creating = "creating", CreatingSlot = "creating, slot",
    Backfill = "backfill", BackfillSlot = "backfill, slot", Streaming = "streaming", StreamingSlot = "streaming, slot",
    Server = "server", Failed = "failed", Killed = "killed",
}

named! {
    /// What the state machine is told.
    Input:
    Begin = "begin", Row = "row", Commit = "commit", Keepalive = "keepalive", Published = "committed", Marked = "marked",
    Drain = "drain", Ask = "next action",
}

named! {
    /// What it does then.
    Made:
    Redelivers = "redelivers", Resumes = "resumes", Begins = "begins", Publish = "row to publish", Keep = "row to mark",
    Drop = "row dropped", PassOver = "row passed over", Ends = "nothing", Proves = "proof shown", Reads = "reads on",
    Confirms = "confirms", Halts = "halts", ToMark = "to be marked", Batch = "Publish whole", Part = "Publish part",
    Advance = "Publish position", Hold = "Hold", Mark = "Mark", Confirm = "Confirm", Reconnect = "Reconnect",
    Finishes = "finishes", IsDone = "is drained",
}

impl Came {
    pub(crate) fn of(fact: &Fact) -> Self {
        match fact {
            Fact::Done => Self::Done,
            Fact::TakenByAnother => Self::Another,
            Fact::SlotAbsent => Self::NoSlot,
            Fact::Slot { .. } => Self::Slot,
            Fact::Server(_) => Self::Server,
            Fact::Position { position, slot_exists, .. } => Self::read(position.as_deref(), *slot_exists),
        }
    }

    fn read(position: Option<&Position>, slot_exists: bool) -> Self {
        match (position.map(|position| position.phase), slot_exists) {
            (None, false) => Self::Nothing,
            (None, true) => Self::NothingSlot,
            (Some(Phase::Creating), false) => Self::Creating,
            (Some(Phase::Creating), true) => Self::CreatingSlot,
            (Some(Phase::Backfill), false) => Self::Backfill,
            (Some(Phase::Backfill), true) => Self::BackfillSlot,
            (Some(Phase::Streaming), false) => Self::Streaming,
            (Some(Phase::Streaming), true) => Self::StreamingSlot,
        }
    }
}

/// Where the state machine stands in the stream, and whether something published still has to come
/// by again.
pub(crate) type From = (Place, bool);

const PLACES: [&str; 4] = ["between", "in redelivered", "in resumed", "in new"];

const STEPS: [Step; 17] = [
    Step::TakeSlot,
    Step::ReleaseSlot,
    Step::LockSource,
    Step::InitProducers,
    Step::CheckOwnership,
    Step::ReadPosition,
    Step::MarkChunk,
    Step::WriteCreating,
    Step::DropSlot,
    Step::CreateSlot,
    Step::AdoptSlot,
    Step::WriteBackfill,
    Step::Backfill,
    Step::WriteStreaming,
    Step::Compare,
    Step::Stream,
    Step::StandBy,
];

/// Stands for the end of the session in place of the next step: a halt, an error that heals, a
/// kill.
const END: usize = STEPS.len();

/// Counts the transitions of both.
#[derive(Debug, Clone)]
pub(crate) struct Transitions {
    start: [[[u32; END + 1]; Came::NAMES.len()]; STEPS.len()],
    machine: [[[u32; Made::NAMES.len()]; 2 * PLACES.len()]; Input::NAMES.len()],
}

impl Transitions {
    pub(crate) fn new() -> Self {
        Self {
            start: [[[0; END + 1]; Came::NAMES.len()]; STEPS.len()],
            machine: [[[0; Made::NAMES.len()]; 2 * PLACES.len()]; Input::NAMES.len()],
        }
    }

    pub(crate) fn started(&mut self, step: Step, came: Came, next: Option<Step>) {
        let next = next.map_or(END, |next| next as usize);
        self.start[step as usize][came as usize][next] += 1;
    }

    pub(crate) fn told(&mut self, input: Input, (place, owes): From, made: Made) {
        // What is owed matters only to inputs from the stream.
        let owes = owes && matches!(input, Input::Begin | Input::Row | Input::Commit | Input::Keepalive);
        self.machine[input as usize][place as usize + 4 * usize::from(owes)][made as usize] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let add = |sum: &mut u32, more: &u32| *sum = sum.saturating_add(*more);
        let (ours, theirs) = (self.start.as_flattened_mut(), other.start.as_flattened());
        ours.as_flattened_mut().iter_mut().zip(theirs.as_flattened()).for_each(|(sum, more)| add(sum, more));
        let (ours, theirs) = (self.machine.as_flattened_mut(), other.machine.as_flattened());
        ours.as_flattened_mut().iter_mut().zip(theirs.as_flattened()).for_each(|(sum, more)| add(sum, more));
    }

    /// Calls `told` with each transition that happened: its name in the list, in two parts, and its
    /// count.
    fn each(&self, mut told: impl FnMut(String, String, u32)) {
        for (step, came) in self.start.iter().enumerate() {
            for (fact, nexts) in came.iter().enumerate() {
                for (next, times) in nexts.iter().enumerate().filter(|(_, times)| **times > 0) {
                    let next = STEPS.get(next).map_or("end".to_owned(), |step| format!("{step:?}"));
                    told(format!("{:?}", STEPS[step]), format!("{} → {next}", Came::NAMES[fact]), *times);
                }
            }
        }
        for (input, from) in self.machine.iter().enumerate() {
            for (place, made) in from.iter().enumerate() {
                for (what, times) in made.iter().enumerate().filter(|(_, times)| **times > 0) {
                    let owing = if place < PLACES.len() { "" } else { ", owing proof" };
                    let name = format!("{} {}{owing}", Input::NAMES[input], PLACES[place % PLACES.len()]);
                    told(name, format!("→ {}", Made::NAMES[what]), *times);
                }
            }
        }
    }

    /// One line for each step of the start, and for each input and place of the machine.
    pub(crate) fn table(&self) -> String {
        let (mut text, mut last) = (String::new(), String::new());
        self.each(|from, to, times| {
            let head = if from == last { " ·".to_owned() } else { format!("\n{from}:") };
            text += &format!("{head} {to} {times}");
            last = from;
        });
        text + "\n"
    }

    /// Transitions that are listed and were not seen, or were seen and are not listed. The rare
    /// ones are demanded only of a million schedules.
    pub(crate) fn wrong(&self, schedules: u64) -> Vec<String> {
        let mut seen = Vec::new();
        self.each(|from, to, _| seen.push(format!("{from}: {to}")));
        let named = |line: &'static str| line.trim_start_matches('?').trim_start();
        let is_listed = |line: &str| LISTED.lines().any(|listed| named(listed) == line);
        let unlisted =
            seen.iter().filter(|line| !is_listed(line)).map(|line| format!("not in transitions.txt: {line}"));
        let demanded = LISTED.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let demanded = demanded.filter(|line| schedules >= 1_000_000 || !line.starts_with("? "));
        let demanded = demanded.filter(|line| !line.starts_with("?? ")).map(named);
        let missing = demanded.filter(|line| !seen.iter().any(|seen| seen == line));
        unlisted.chain(missing.map(|line| format!("never happened: {line}"))).collect()
    }
}
