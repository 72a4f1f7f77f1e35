//! One instance of the daemon. It does what the session around the machines does, on models instead
//! of sockets.
//!
//! A step is the smallest thing after which the process may die. The files beside this one hold its
//! parts: `starting.rs` carries out the steps of a start, `relaying.rs` feeds the state machine and
//! does what it asks for, and `publishing.rs` is the producer.

use std::collections::VecDeque;

use outboxd::{
    Class, Code, Error, Lsn,
    relay::{
        driver::Driver,
        startup::{Policy, Startup, Step},
        state::BatchId,
    },
    source::{
        compare::Server,
        position::{Position, Progress},
    },
};

use crate::{
    bugs::Bug,
    building::Read,
    coverage::Event,
    kafka::PRODUCERS,
    postgres::{MarkRequest, Marks, Message, RowNo, takes_no_marks},
    publishing::Publishing,
    relaying::stands,
    schedule::{Env, trace},
    transitions::{Came, Input, Made},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Down,
    Up,
    Paused,
    Halted(Code),
}

/// What a process keeps from one session to the next.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) number: usize,
    pub(crate) life: Life,
    pub(crate) session: Session,
    pub(crate) epochs: [u32; PRODUCERS],
    /// What an earlier session of this process saw proved, and the start of the server that showed
    /// it.
    pub(crate) proved: Option<(Progress, u64)>,
    /// For [`Bug::KeepProducers`].
    pub(crate) keeps_producers: bool,
    pub(crate) was_paused: bool,
}

/// One session, from a start to the next error.
#[derive(Debug)]
pub(crate) struct Session {
    /// Tells answers to this session from answers to an earlier one.
    pub(crate) serial: u64,
    pub(crate) startup: Startup,
    /// How far the current step of the start has come.
    pub(crate) progress: usize,
    /// The start of the server that the SQL sessions belong to.
    pub(crate) incarnation: u64,
    pub(crate) connection: Option<u64>,
    /// What arrived and is not read yet. It can still be read when the connection is broken.
    pub(crate) stream: VecDeque<Message>,
    pub(crate) lock: Option<u64>,
    /// The consistent point of the slot that this session made.
    pub(crate) created: Lsn,
    /// The youngest transaction that was open when the slot was to be made.
    pub(crate) waits_for: Option<u32>,
    /// What the server showed when the slot was taken.
    pub(crate) server: Option<Box<Server>>,
    /// The fingerprint of the publication, read after the position.
    pub(crate) publication: serde_json::Value,
    /// The position that was read, until it is reported.
    pub(crate) read: Option<Box<Position>>,
    /// The position from which this session goes on writing.
    pub(crate) position: Option<Box<Position>>,
    /// The same code as in the daemon. It is there once the source streams.
    pub(crate) driver: Option<Driver<Read>>,
    /// The marking job that is under way.
    pub(crate) marking: Option<Job>,
    /// What the marker keeps of earlier jobs, since a table takes no marks.
    pub(crate) kept: Job,
    /// Whether it is trying that again.
    pub(crate) tries_again: bool,
    pub(crate) publishing: VecDeque<Publishing>,
    pub(crate) published_batches: usize,
    /// Unpublished rows of the slot's snapshot.
    pub(crate) snapshot: VecDeque<RowNo>,
    pub(crate) chunk: Vec<RowNo>,
    /// The last row of the chunk that was published last.
    pub(crate) last_published: Option<RowNo>,
    /// The last row of an earlier chunk. Its mark is durable.
    pub(crate) last_marked: Option<RowNo>,
    pub(crate) draining: bool,
    /// Where the log ended when the look at the publication began that is under way.
    pub(crate) look: Option<Lsn>,
    /// The transaction of the last redelivered row.
    pub(crate) read_part: Option<usize>,
}

/// Batches and their rows that are to be marked.
pub(crate) type Job = Vec<(BatchId, Vec<RowNo>)>;

impl Session {
    fn new(serial: u64, policy: Policy, incarnation: u64) -> Self {
        Self {
            serial,
            startup: Startup::new(policy),
            progress: 0,
            incarnation,
            connection: None,
            stream: VecDeque::new(),
            lock: None,
            created: Lsn::ZERO,
            waits_for: None,
            server: None,
            publication: serde_json::Value::Null,
            read: None,
            position: None,
            driver: None,
            marking: None,
            kept: Job::new(),
            tries_again: false,
            publishing: VecDeque::new(),
            published_batches: 0,
            snapshot: VecDeque::new(),
            chunk: Vec::new(),
            last_published: None,
            last_marked: None,
            draining: false,
            look: None,
            read_part: None,
        }
    }
}

impl Instance {
    pub(crate) fn new(number: usize, env: &mut Env) -> Self {
        Self {
            number,
            life: Life::Down,
            session: Session::new(env.serial(), env.options.policy, env.postgres.incarnation),
            epochs: [0; PRODUCERS],
            proved: None,
            keeps_producers: false,
            was_paused: false,
        }
    }

    /// Does one of the things that it could do next.
    pub(crate) fn step(&mut self, env: &mut Env) {
        match self.life {
            Life::Paused | Life::Halted(_) => {}
            Life::Down => self.start(env),
            Life::Up => {
                let done = match self.session.driver {
                    Some(_) => self.relay(env),
                    None => self.start_on(env),
                };
                match done {
                    Err(error) if error.code() == Code::KafkaFenced && env.bug == Some(Bug::BareInitAfterFence) => {
                        self.republish(env);
                    }
                    Err(error) => self.end_session(&error, env),
                    Ok(()) => {}
                }
            }
        }
    }

    fn start(&mut self, env: &mut Env) {
        self.life = Life::Up;
        self.was_paused = false;
        self.session = Session::new(env.serial(), env.options.policy, env.postgres.incarnation);
        trace!(env, "{self}: starts, session {}", self.session.serial);
        if env.bug == Some(Bug::PositionBeforeSlot) {
            self.session.read =
                env.kafka.read_position(false).ok().flatten().map(|position| Box::new(position.clone()));
        }
    }

    /// Ends the session. A person must act, or the next session starts after a while.
    pub(crate) fn end_session(&mut self, error: &Error, env: &mut Env) {
        trace!(env, "{self}: {error}");
        if error.code() == Code::KafkaFenced {
            env.hit(Event::Fenced);
            if self.was_paused {
                env.hit(Event::Zombie);
            }
        }
        if error.code() == Code::Internal {
            env.checks.fail(|| format!("internal: {error}"));
        }
        self.hang_up(env);
        self.life = Life::Down;
        if error.class() == Class::Halt {
            self.life = Life::Halted(error.code());
            env.coverage.halt(error.code());
            env.halted(error);
        }
    }

    /// The process dies. What it sent is still under way.
    pub(crate) fn kill(&mut self, env: &mut Env) {
        trace!(env, "{self}: is killed");
        env.hit(Event::Crash);
        if self.session.driver.is_none() {
            env.coverage.transitions.started(self.session.startup.step(), Came::Killed, None);
            env.hit(if self.session.startup.step() == Step::Backfill {
                Event::CrashInBackfill
            } else {
                Event::CrashInSetup
            });
        }
        self.hang_up(env);
        self.life = Life::Down;
        self.proved = None;
        self.epochs = [0; PRODUCERS];
        self.keeps_producers = false;
    }

    /// Closes all connections. The server may take a while to see it.
    pub(crate) fn hang_up(&mut self, env: &mut Env) {
        self.session.serial = env.serial();
        self.release_slot(env);
        if let Some(lock) = env.postgres.lock.as_mut().filter(|lock| Some(lock.session) == self.session.lock) {
            lock.client_gone = true;
        }
        if env.random.chance(50) {
            env.postgres.reap();
        }
        self.session.lock = None;
        self.session.driver = None;
    }

    pub(crate) fn release_slot(&mut self, env: &mut Env) {
        if let Some(walsender) =
            self.session.connection.take().and_then(|connection| env.postgres.walsender(connection))
        {
            walsender.client_gone = true;
        }
        self.session.stream.clear();
    }

    /// Fails if the SQL sessions have ended with the server.
    pub(crate) fn sql(&self, env: &Env) -> Result<(), Error> {
        if self.session.incarnation == env.postgres.incarnation {
            return Ok(());
        }
        Err(Error::new(Code::PostgresUnreachable, "the session ended with the server"))
    }

    /// Whether the server still counts the replication connection as ours.
    pub(crate) fn holds_slot(&self, env: &Env) -> bool {
        self.session.connection.is_some_and(|connection| env.postgres.is_connected(connection))
    }

    pub(crate) fn send_marks(&mut self, what: Marks, rows: Vec<RowNo>, env: &mut Env) -> Result<(), Error> {
        self.sql(env)?;
        trace!(env, "{self}: marks {what:?} {rows:?}");
        let (owner, serial) = (self.number, self.session.serial);
        env.postgres.marks.push(MarkRequest {
            owner,
            serial,
            what,
            rows,
            applied: false,
            at: Lsn::ZERO,
            blocked: false,
            refused: false,
        });
        Ok(())
    }

    /// The answer to an UPDATE.
    pub(crate) fn marks_done(&mut self, request: &MarkRequest, env: &mut Env) -> Result<(), Error> {
        trace!(env, "{self}: {:?} is marked", request.what);
        match request.what {
            Marks::Job => {
                let Some(job) = self.session.marking.take() else { return Ok(()) };
                let done = self.keep(job, request.refused);
                self.batches_marked(&done, true, request.at, env)
            }
            Marks::Kept => {
                self.session.tries_again = false;
                let job = std::mem::take(&mut self.session.kept);
                let done = self.keep(job, request.refused);
                self.batches_marked(&done, false, request.at, env)?;
                self.begin_job(env)
            }
            Marks::Chunk => {
                self.session.chunk.clear();
                Ok(())
            }
        }
    }

    /// Keeps the rows of a job that could not be marked, as the marker does. Returns the batches of
    /// which nothing is kept.
    pub(crate) fn keep(&mut self, job: Job, refused: bool) -> Vec<BatchId> {
        let mut done = Vec::new();
        for (batch, mut rows) in job {
            rows.retain(|&row| refused && takes_no_marks(row));
            if rows.is_empty() {
                done.push(batch);
            } else {
                self.session.kept.push((batch, rows));
            }
        }
        done
    }

    pub(crate) fn batches_marked(
        &mut self,
        batches: &[BatchId],
        answers: bool,
        at: Lsn,
        env: &mut Env,
    ) -> Result<(), Error> {
        let Some(driver) = &mut self.session.driver else { return Ok(()) };
        if env.bug == Some(Bug::ConfirmBeforeMark) {
            return Ok(());
        }
        let (from, before) = (stands(&driver.machine), driver.confirmed());
        let is_awaited = env.options.failover && env.bug != Some(Bug::ConfirmBeforeStandby);
        if answers {
            driver.job_done();
        }
        driver.marked(batches, if is_awaited { at } else { Lsn::ZERO })?;
        let made = if driver.confirmed() > before { Made::Confirms } else { Made::Ends };
        env.coverage.transitions.told(Input::Marked, from, made);
        Ok(())
    }

    pub(crate) fn confirm(&mut self, lsn: Lsn, env: &mut Env) {
        trace!(env, "{self}: confirms {lsn}");
        let connection = self.session.connection;
        if let Some(walsender) = connection.and_then(|connection| env.postgres.walsender(connection)) {
            walsender.inbox = Some(lsn);
        }
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "instance {}", self.number)
    }
}
