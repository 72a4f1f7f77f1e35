//! Replay: two processes carry one request out, beside the daemon. What comes next, the command's own
//! `replay::plan` says. The processes die at any step, commits become unknown, and each may take the
//! request's id from the other at any time.
//!
//! The request has a transactional id, and a record in the position topic, of its own. So nothing of
//! this meets the transactions of the source, and this model has them apart. A step of it has chance of
//! its own, too.

use std::collections::BTreeMap;

use outboxd::replay::plan::{Identity, Place, Record, Request, Step};

use crate::{
    bugs::Bug,
    coverage::Event,
    postgres::RowNo,
    random::Random,
    schedule::{Env, World, trace},
};

/// Without faults a request is done within this many steps.
const PATIENCE: usize = 2_000;

/// So many rows are worth a request.
const WORTH_IT: usize = 5;

/// How often a process dies, in a hundred of its steps.
const DIES: u64 = 4;

/// One process.
#[derive(Debug, Default)]
struct Process {
    /// `None`: it is not there.
    request: Option<Request>,
    epoch: u32,
    /// The rows that it has yet to publish, as its snapshot shows them.
    rows: Option<Vec<RowNo>>,
    /// The rows that it found when the request had published nothing, and when it began.
    owed: Option<(Vec<RowNo>, i64)>,
    /// The rows of the batch at hand.
    batch: Vec<RowNo>,
    /// How much of the batch's transaction is sent.
    sent: Sent,
    /// With a bug: what it read before it took the id.
    early: Option<Option<Record>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sent {
    #[default]
    Nothing,
    Rows,
    All,
}

/// The transaction of the request's id that has not ended.
#[derive(Debug, Default)]
struct Open {
    rows: Vec<RowNo>,
    record: Option<Record>,
    /// The commit is decided, and not yet readable.
    is_decided: bool,
}

/// The request, as Kafka and the checks see it.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    processes: [Process; 2],
    epoch: u32,
    open: Option<Open>,
    record: Option<Record>,
    /// How often it published each row.
    published: BTreeMap<RowNo, u8>,
    /// What the process owed that was the first to commit.
    owed: Option<(Vec<RowNo>, i64)>,
}

/// The server's clock.
fn now(env: &Env) -> i64 {
    i64::try_from(env.postgres.log_end.0).unwrap_or(i64::MAX)
}

/// The rows that are published and marked by then, as a new snapshot shows them, behind a place.
fn snapshot(env: &Env, began: i64, after: Option<&Place>) -> Vec<RowNo> {
    let after = after.and_then(|place| place.id.parse::<RowNo>().ok());
    let rows = (0..).zip(&env.postgres.rows);
    let is_in = |row: &crate::postgres::Row| {
        let marked_by_then = row.marked && i64::try_from(row.marked_at.0).unwrap_or(i64::MAX) <= began;
        let is_there = !row.gone && !row.deleted && row.system == env.postgres.system;
        marked_by_then && is_there && env.postgres.transactions[row.transaction].is_visible
    };
    rows.filter(|(number, row)| after.is_none_or(|after| *number > after) && is_in(row))
        .map(|(number, _)| number)
        .collect()
}

impl Replays {
    /// `init_transactions`: aborts what is open, completes what is decided, and fences whoever had the
    /// id before.
    fn init(&mut self, env: &mut Env) -> u32 {
        self.complete(env);
        self.open = None;
        self.epoch += 1;
        self.epoch
    }

    /// The markers of a decided transaction are written.
    fn complete(&mut self, env: &mut Env) {
        if let Some(Open { record: Some(record), .. }) = self.open.take_if(|open| open.is_decided) {
            self.readable(record, env);
        }
    }

    /// A record becomes readable. It counts what is published.
    fn readable(&mut self, record: Record, env: &mut Env) {
        let published = self.published.len() as u64;
        if record.rows != published {
            env.checks
                .fail(|| format!("replay: the record counts {} rows, and {published} are published", record.rows));
        }
        self.record = Some(record);
    }

    /// The commit is decided.
    fn decide(&mut self, env: &mut Env) {
        let Some(open) = &mut self.open else { return };
        open.is_decided = true;
        for &row in &open.rows {
            let times = self.published.entry(row).or_default();
            *times += 1;
            env.hit(Event::ReplayedRow);
            env.checks.replaying(row, *times, &env.postgres.rows[row as usize]);
        }
    }
}

impl World {
    /// One step of one of the processes, now and then.
    pub(crate) fn replay(&mut self, seed: u64) {
        let mut random = Random::part(seed, 9);
        if !self.env.options.replays || !random.chance(15) {
            return;
        }
        let chosen = random.index(self.replays.processes.len());
        if self.replays.processes[chosen].request.is_some() && random.chance(DIES) {
            trace!(self.env, "replay {chosen}: dies");
            self.env.hit(Event::ReplayCrash);
            self.replays.processes[chosen] = Process::default();
            return;
        }
        self.replay_step(chosen, &mut random, true);
    }

    /// Carries the request out to its end, without faults. Then each of its rows is published again.
    pub(crate) fn finish_replay(&mut self, mut random: Random) {
        if !self.env.options.replays {
            return;
        }
        self.replays.processes = Default::default();
        for _ in 0..PATIENCE {
            self.replay_step(0, &mut random, false);
            if self.replays.record.as_ref().is_some_and(|record| record.finished) {
                break;
            }
            if self.env.checks.violation.is_some() {
                return;
            }
        }
        // A copy of the server may show marks that it has not yet, or again.
        let Some((owed, began)) = self.replays.owed.take().filter(|_| self.env.grave.is_none()) else { return };
        let still_there = snapshot(&self.env, began, None);
        for row in owed {
            let is_missing = still_there.contains(&row) && !self.replays.published.contains_key(&row);
            if is_missing {
                let name = &self.env.postgres.rows[row as usize].name;
                self.env.checks.fail(|| format!("replay: the request is over, and {name} was not published again"));
            }
        }
    }

    fn replay_step(&mut self, chosen: usize, random: &mut Random, faults: bool) {
        let (env, replays) = (&mut self.env, &mut self.replays);
        let system = env.postgres.system.to_string();
        let Some(request) = &mut replays.processes[chosen].request else {
            // A request of a row or two has no middle in which it could be interrupted.
            if faults && replays.record.is_none() && snapshot(env, now(env), None).len() < WORTH_IT {
                return;
            }
            let identity = Identity { selection: "all".to_owned(), system_id: system, began: now(env) };
            trace!(env, "replay {chosen}: starts");
            replays.processes[chosen].request = Some(Request::new(identity));
            return;
        };
        match request.step() {
            Step::TakeId => {
                if env.bug == Some(Bug::ReplayReadsBeforeId) && replays.processes[chosen].early.is_none() {
                    replays.complete(env);
                    replays.processes[chosen].early = Some(replays.record.clone());
                    return;
                }
                let epoch = replays.init(env);
                let process = &mut replays.processes[chosen];
                (process.epoch, process.rows, process.owed, process.sent) = (epoch, None, None, Sent::Nothing);
                if let Some(request) = &mut process.request {
                    request.id_taken();
                }
                trace!(env, "replay {chosen}: takes the id, epoch {epoch}");
            }
            Step::ReadRecord => self.replay_reads(chosen),
            Step::Rows(record) => self.replay_rows(chosen, &record, random),
            Step::Publish(record) => self.replay_publishes(chosen, record, random, faults),
            Step::Done(record) => {
                trace!(env, "replay {chosen}: done, {} rows", record.rows);
                env.hit(Event::ReplayDone);
                replays.processes[chosen] = Process::default();
            }
        }
    }

    fn replay_reads(&mut self, chosen: usize) {
        let (env, replays) = (&mut self.env, &mut self.replays);
        replays.complete(env);
        // Somebody else's transaction is in the way, who took the id in the meantime.
        if replays.open.is_some() {
            return;
        }
        let process = &mut replays.processes[chosen];
        let mut found = process.early.take().unwrap_or_else(|| replays.record.clone());
        if env.bug == Some(Bug::ReplayForgetsProgress) {
            found = None;
        }
        if found.as_ref().is_some_and(|record| !record.finished && record.rows > 0) {
            env.hit(Event::ReplayResumed);
        }
        trace!(env, "replay {chosen}: reads {found:?}");
        let Some(request) = &mut process.request else { return };
        if let Err(error) = request.record_read(found) {
            trace!(env, "replay {chosen}: {error}");
            *process = Process::default();
        }
    }

    fn replay_rows(&mut self, chosen: usize, record: &Record, random: &mut Random) {
        let (env, replays) = (&mut self.env, &mut self.replays);
        let began = record.identity.began;
        let process = &mut replays.processes[chosen];
        let rows = process.rows.get_or_insert_with(|| snapshot(env, began, record.last.as_ref()));
        // Whoever commits first says when the request began. Another one may have asked before.
        if record.last.is_none() && process.owed.is_none() {
            process.owed = Some((rows.clone(), began));
        }
        let count = rows.len().min(1 + random.index(3));
        process.batch = rows.drain(..count).collect();
        let last = process.batch.last().map(|row| Place { order: None, table: 0, id: row.to_string() });
        // The end is seen with the last rows, or only behind them.
        let is_end = rows.is_empty() && (count == 0 || random.chance(50));
        trace!(env, "replay {chosen}: has read {:?}", process.batch);
        let Some(request) = &mut process.request else { return };
        if let Err(error) = request.rows_read(count as u64, last, is_end) {
            env.checks.fail(|| format!("internal: {error}"));
        }
    }

    fn replay_publishes(&mut self, chosen: usize, record: Record, random: &mut Random, faults: bool) {
        let (env, replays) = (&mut self.env, &mut self.replays);
        if replays.processes[chosen].epoch != replays.epoch {
            trace!(env, "replay {chosen}: is fenced");
            env.hit(Event::ReplayFenced);
            replays.processes[chosen] = Process::default();
            return;
        }
        match replays.processes[chosen].sent {
            Sent::Nothing => {
                replays.complete(env);
                if env.bug == Some(Bug::ReplayProgressFirst) {
                    replays.readable(record, env);
                }
                let rows = replays.processes[chosen].batch.clone();
                replays.open = Some(Open { rows, ..Open::default() });
                replays.processes[chosen].sent = Sent::Rows;
            }
            Sent::Rows => {
                if let Some(open) = &mut replays.open {
                    open.record = Some(record);
                }
                replays.processes[chosen].sent = Sent::All;
            }
            Sent::All => {
                let (is_lost, is_unknown) = (faults && random.chance(5), faults && random.chance(5));
                trace!(env, "replay {chosen}: commits {:?}; lost {is_lost}, unknown {is_unknown}", replays.open);
                if !is_lost {
                    if replays.owed.is_none() {
                        replays.owed = replays.processes[chosen].owed.clone();
                    }
                    replays.decide(env);
                }
                let process = &mut replays.processes[chosen];
                process.sent = Sent::Nothing;
                let Some(request) = &mut process.request else { return };
                if is_lost || is_unknown {
                    env.hit(Event::ReplayUnknown);
                    request.failed();
                } else if let Err(error) = request.committed() {
                    env.checks.fail(|| format!("internal: {error}"));
                }
            }
        }
    }
}
