//! One schedule: a seed, the world that it makes, the steps that it takes, and whether everything held.
//!
//! Each step is drawn from everything that can happen: a writer commits, the walsender sends or takes in a confirmation,
//! a request reaches Kafka or Postgres or its answer is lost, an instance takes one small step, a fault strikes. After
//! the last step the faults stop, and the world must come to rest with every row published and marked.

use std::time::Duration;

use outboxd::{Code, Error};

use crate::{
    bugs::Bug,
    checks::Checks,
    coverage::{Coverage, Event},
    instance::{Instance, Life},
    kafka::Kafka,
    options::{Grave, Options},
    postgres::Postgres,
    random::Random,
};

/// Steps in which a calm world must come to rest.
const PATIENCE: u64 = 30_000;

/// From here on transactions are small, so that the smallest bounds come to an end.
const MANY_ROWS: usize = 80;

/// Notes what happens, where a seed is replayed.
macro_rules! trace {
    ($env:expr, $($text:tt)*) => {
        if let Some(trace) = &mut $env.trace {
            trace.push(format!($($text)*));
        }
    };
}
pub(crate) use trace;

/// Everything that the instances share.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) random: Random,
    pub(crate) now: Duration,
    pub(crate) options: Options,
    pub(crate) bug: Option<Bug>,
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
    pub(crate) checks: Checks,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Option<Vec<String>>,
    /// The grave fault that happened.
    pub(crate) grave: Option<Grave>,
    serials: u64,
}

/// What became of a schedule.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    pub(crate) steps: u64,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Vec<String>,
}

pub(crate) fn run(seed: u64, bug: Option<Bug>, traced: bool) -> Outcome {
    let mut world = World::new(seed, bug, traced);
    let mut steps = 0;
    if world.env.options.starts_streaming {
        world.set_up();
    }
    while steps < world.env.options.steps && world.env.checks.violation.is_none() {
        steps += 1;
        world.step(steps);
    }
    if world.env.checks.violation.is_none() {
        steps += world.come_to_rest();
    }
    let mut env = world.env;
    env.coverage.schedules = 1;
    env.hit_times(Event::Steps, usize::try_from(steps).unwrap_or(0));
    Outcome { violation: env.checks.violation, steps, coverage: env.coverage, trace: env.trace.unwrap_or_default() }
}

impl Env {
    pub(crate) fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    pub(crate) fn hit(&mut self, event: Event) {
        self.coverage.add(event, 1);
    }

    pub(crate) fn hit_times(&mut self, event: Event, times: usize) {
        self.coverage.add(event, times);
    }

    /// A source that halts must have met a fault that calls for it.
    pub(crate) fn halted(&mut self, error: &Error) {
        let allowed = self.grave.map(Grave::may_halt_with).unwrap_or_default();
        if !allowed.contains(&error.code()) {
            let grave = self.grave;
            self.checks.fail(|| format!("halted without need, after {grave:?}: {error}"));
        }
    }
}

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) instances: Vec<Instance>,
    pub(crate) written: u64,
}

impl World {
    fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let options = Options::new(&mut random);
        let mut bounds = options.bounds.clone();
        bounds.batch_rows = bounds.batch_rows.min(bounds.unmarked_rows);
        bounds.batch_bytes = bounds.batch_bytes.min(bounds.in_flight_bytes);
        let checks = Checks::new(options.exactly_once, options.marks, options.policy.backfill, bounds);
        let mut env = Env {
            random,
            now: Duration::ZERO,
            options,
            bug,
            postgres: Postgres::new(),
            kafka: Kafka::new(),
            checks,
            coverage: Coverage::new(),
            trace: traced.then(Vec::new),
            grave: None,
            serials: 0,
        };
        trace!(env, "{:?}", env.options);
        let instances = (0..env.options.instances).map(|number| Instance::new(number, &mut env)).collect();
        let mut world = Self { env, instances, written: 0 };
        for _ in 0..world.env.options.existing {
            world.write();
        }
        world
    }

    /// Most of what can go wrong does so long after the set-up: one instance brings the source to streaming unharmed.
    fn set_up(&mut self) {
        let options = self.env.options.clone();
        self.env.options.calm();
        let written = std::mem::replace(&mut self.written, options.transactions);
        for _ in 0..PATIENCE {
            if self.instances[0].session.machine.is_some() {
                break;
            }
            match self.env.random.below(4) {
                0 => self.kafka(),
                1 => self.marks(),
                _ => self.instances[0].step(&mut self.env),
            }
        }
        self.written = written;
        self.env.options = options;
        trace!(self.env, "---- from here on there are faults ----");
    }

    fn step(&mut self, step: u64) {
        self.env.now += Duration::from_micros(self.env.random.below(600));
        match self.env.random.below(100) {
            0..6 => self.write(),
            6..24 => self.walsender(),
            24..40 => self.kafka(),
            40..52 => self.marks(),
            52..95 => {
                let chosen = self.env.random.index(self.instances.len());
                // Whoever is down, or stands by, waits for a while.
                if self.instances[chosen].life != Life::Down || self.env.random.chance(20) {
                    self.instances[chosen].step(&mut self.env);
                }
            }
            _ => self.small_fault(),
        }
        self.fault();
        if step == self.env.options.grave_at {
            self.grave_fault();
        }
    }

    // ---- what the world does by itself -----------------------------------------------------------------------

    fn write(&mut self) {
        let env = &mut self.env;
        if self.written >= env.options.transactions {
            return;
        }
        self.written += 1;
        let rows = match env.random.below(100) {
            0..10 => 0,
            10..60 => 1,
            60..90 => env.random.between(2, 5),
            _ => env.random.between(3, 9),
        };
        let rows = if env.random.chance(env.options.large) { env.random.between(8, 30) } else { rows };
        let rows = if env.postgres.rows.len() > MANY_ROWS { rows.min(1) } else { rows };
        // Times are unlike for each commit, so that a restored server cannot repeat one.
        let time = i64::try_from(self.written).unwrap_or(0);
        env.postgres.commit(&mut env.random, u32::try_from(rows).unwrap_or(0), env.options.keys, time);
        trace!(env, "Postgres: commit {:?}", env.postgres.transactions.last());
    }

    fn walsender(&mut self) {
        let env = &mut self.env;
        let Some(slot) = &mut env.postgres.slot else { return };
        let Some(walsender) = &mut slot.walsender else { return };
        if env.random.chance(40) {
            let Some(lsn) = walsender.inbox.take() else { return };
            if walsender.client_gone {
                env.coverage.add(Event::LateConfirm, 1);
            }
            let before = std::mem::replace(&mut walsender.confirmed_before, lsn);
            slot.confirmed = slot.confirmed.max(lsn);
            trace!(env, "Postgres: confirmed {lsn}");
            env.checks.confirming(lsn, before, &env.postgres);
        } else {
            let (owner, connection) = (walsender.owner, walsender.connection);
            let session = &mut self.instances[owner].session;
            if session.connection == Some(connection) && session.stream.len() < 60 {
                env.postgres.send(&mut env.random, &mut session.stream);
            }
        }
    }

    fn kafka(&mut self) {
        let env = &mut self.env;
        if env.random.chance(30) {
            for producer in 0..crate::kafka::PRODUCERS {
                if env.kafka.complete(producer) {
                    trace!(env, "Kafka: producer {producer} is readable");
                }
            }
        }
        let is_lost = env.random.below(1000) < env.options.lost_answers;
        if env.kafka.produces.is_empty() {
            self.end(is_lost);
        } else {
            self.land(is_lost);
        }
    }

    fn end(&mut self, is_lost: bool) {
        let env = &mut self.env;
        if env.kafka.ends.is_empty() {
            return;
        }
        let chosen = env.random.index(env.kafka.ends.len());
        let end = env.kafka.ends[chosen];
        let waits = self.instances[end.owner].session.serial == end.serial;
        // What nobody waits for any more may be held up for long, or never arrive.
        if !waits && env.random.chance(70) {
            return;
        }
        env.kafka.ends.swap_remove(chosen);
        if !waits && env.random.chance(20) {
            return;
        }
        let result = env.kafka.end(end);
        trace!(env, "Kafka: {end:?}: {result:?}");
        if let Ok(Some(decided)) = result {
            env.checks.visible(&env.kafka.transactions[decided], &env.postgres);
            if !waits {
                env.coverage.add(Event::UnknownWasCommitted, 1);
            }
        } else if !waits && result.is_err() {
            env.hit(Event::LateEnd);
        }
        let instance = &mut self.instances[end.owner];
        if is_lost || !waits {
            if waits && result.is_ok() {
                env.hit(Event::UnknownWasCommitted);
            }
            return; // whoever waits for the answer will give up
        }
        instance.end_answered(result.map(|_| ()));
    }

    fn land(&mut self, is_lost: bool) {
        let env = &mut self.env;
        if is_lost {
            if let Some((owner, serial)) = env.kafka.lose(&mut env.random) {
                self.session_fails(owner, serial, Code::KafkaTransactionFailed);
            }
            return;
        }
        let Some((produce, index)) = env.kafka.land(&mut env.random) else { return };
        trace!(env, "Kafka: {produce:?} landed as {index}");
        env.checks.visible(&env.kafka.transactions[index], &env.postgres);
        if self.instances[produce.owner].session.serial == produce.serial {
            self.instances[produce.owner].acknowledged();
        } else {
            env.hit(Event::LateLanding);
        }
    }

    fn marks(&mut self) {
        let env = &mut self.env;
        if env.postgres.marks.is_empty() {
            return;
        }
        let chosen = env.random.index(env.postgres.marks.len());
        let is_lost = env.random.below(1000) < env.options.faults.lost_marks;
        let postgres = &mut env.postgres;
        let waits = self.instances[postgres.marks[chosen].owner].session.serial == postgres.marks[chosen].serial;
        if !postgres.marks[chosen].applied && !is_lost {
            postgres.marks[chosen].applied = true;
            for number in postgres.marks[chosen].rows.clone() {
                let row = &mut postgres.rows[number as usize];
                if !row.gone {
                    env.checks.marking(number, row);
                    row.marked = true;
                }
            }
            trace!(env, "Postgres: marked {:?}", env.postgres.marks[chosen]);
            if !waits {
                env.hit(Event::LateMark);
            }
            return;
        }
        let request = env.postgres.marks.swap_remove(chosen);
        if is_lost {
            env.hit(Event::MarkLost);
            self.session_fails(request.owner, request.serial, Code::MarkFailed);
        } else if waits && self.instances[request.owner].life == Life::Up {
            self.instances[request.owner].marks_done(request.what, env);
        } else if waits {
            env.postgres.marks.push(request); // a paused process reads its answer later
        }
    }

    fn session_fails(&mut self, owner: usize, serial: u64, code: Code) {
        let instance = &mut self.instances[owner];
        if instance.session.serial == serial && matches!(instance.life, Life::Up | Life::Paused) {
            instance.end_session(&Error::new(code, "no answer came"), &mut self.env);
        }
    }

    // ---- the end ---------------------------------------------------------------------------------------------

    /// Without faults and writers the source must finish, or halt for a reason. The steps that it took.
    fn come_to_rest(&mut self) -> u64 {
        trace!(self.env, "---- from here on there are no faults ----");
        self.env.options.calm();
        self.env.kafka.foreign_open = false;
        self.written = self.env.options.transactions;
        for instance in &mut self.instances {
            if instance.life == Life::Paused {
                instance.life = Life::Up;
            }
        }
        for step in 1..=PATIENCE {
            self.step(u64::MAX);
            if self.env.checks.violation.is_some() {
                return step;
            }
            if step % 16 == 0 && self.is_at_rest() {
                self.env.checks.order_of_the_log(&self.env.kafka, &self.env.postgres);
                return step;
            }
        }
        let env = &mut self.env;
        let open = env.checks.first_open(&env.postgres).map(|number| env.postgres.rows[number as usize].name.clone());
        let (slot, end) = (env.postgres.slot.as_ref().map(|slot| slot.confirmed), env.postgres.log_end);
        env.checks.fail(|| format!("liveness: not at rest; first open row {open:?}, confirmed {slot:?} of {end}"));
        PATIENCE
    }

    fn is_at_rest(&mut self) -> bool {
        if self.instances.iter().all(|instance| matches!(instance.life, Life::Halted(_))) {
            return true;
        }
        let env = &mut self.env;
        let at_end = env.postgres.slot.as_ref().is_some_and(|slot| slot.confirmed == env.postgres.log_end);
        let rests = at_end && env.checks.first_open(&env.postgres).is_none();
        if rests && matches!(env.grave, Some(Grave::Restore { .. } | Grave::Promote { .. })) {
            env.hit(Event::Healed);
        }
        rests
    }
}
