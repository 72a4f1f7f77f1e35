//! One schedule: a seed, the world that it makes, the steps that it takes, and whether everything
//! held.
//!
//! Each step is drawn from everything that can happen. A writer commits, the walsender sends or
//! takes in a confirmation, a request reaches Kafka or Postgres or its answer is lost, an instance
//! takes one small step, or a fault strikes. After the last step the faults stop, and the world
//! must come to rest with every row published and marked.
//!
//! A step carries its own chance. So a schedule is the list of its steps, and means the same when
//! some are left out.

use std::time::Duration;

use outboxd::Error;

use crate::{
    bugs::Bug,
    checks::Checks,
    copies::Standby,
    coverage::{Coverage, Event},
    faults::Fault,
    instance::{Instance, Life},
    kafka::Kafka,
    options::Options,
    phase::leader,
    postgres::Postgres,
    random::Random,
    replaying::Replays,
};

/// A calm world must come to rest within this many steps.
const PATIENCE: usize = 30_000;

/// A fault that is aimed at a phase strikes in this many of a hundred steps of that phase.
const AIM: u64 = 30;

/// Notes what happens, if the schedule is told step by step.
macro_rules! trace {
    ($env:expr, $($text:tt)*) => {
        if let Some(trace) = &mut $env.trace {
            trace.push(format!($($text)*));
        }
    };
}
pub(crate) use trace;

/// What happens in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// One instance brings the source to streaming, unharmed.
    SetUp,
    /// Anything but a fault.
    Turn,
    Strike {
        fault: Fault,
        on: usize,
    },
    /// Like a turn. From the first calm step on nobody writes, and what is held up goes on.
    Calm,
}

/// One step, and all the chance that there is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    seed: u64,
    pub(crate) what: What,
}

/// A schedule that is to be run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) bug: Option<Bug>,
    pub(crate) options: Options,
    /// The steps. `None` draws them.
    pub(crate) steps: Option<Vec<Step>>,
    /// Whether the source must come to rest after the steps.
    pub(crate) rests: bool,
    pub(crate) traced: bool,
}

impl Plan {
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut options = Options::new(&mut Random::part(seed, 0));
        options.replays = options.marks && Random::part(seed, 4).chance(30);
        Self { seed, bug, options, steps: None, rests: true, traced: false }
    }

    pub(crate) fn run(&self, coverage: Box<Coverage>) -> Outcome {
        let mut world = World::new(self, coverage);
        match &self.steps {
            None => world.draw(Random::part(self.seed, 2)),
            Some(steps) => {
                for step in steps {
                    world.take(*step);
                    if world.is_over() {
                        break;
                    }
                }
            }
        }
        if self.rests && !world.is_over() {
            world.come_to_rest(Random::part(self.seed, 3));
            if !world.is_over() {
                world.finish_replay(Random::part(self.seed, 5));
            }
        }
        let World { mut env, taken, struck, .. } = world;
        env.coverage.schedules += 1;
        env.hit_times(Event::Steps, taken.len());
        Outcome {
            violation: env.checks.violation,
            steps: taken,
            struck,
            coverage: env.coverage,
            trace: env.trace.unwrap_or_default(),
        }
    }
}

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
    pub(crate) coverage: Box<Coverage>,
    pub(crate) trace: Option<Vec<String>>,
    /// The grave fault that has happened.
    pub(crate) grave: Option<Fault>,
    serials: u64,
}

/// What became of a schedule.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    pub(crate) steps: Vec<Step>,
    /// How many faults found something to hit.
    pub(crate) struck: usize,
    pub(crate) coverage: Box<Coverage>,
    pub(crate) trace: Vec<String>,
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

    /// A source that halts must have met a fault after which it may halt with this code.
    pub(crate) fn halted(&mut self, error: &Error) {
        let allowed = self.grave.map(Fault::may_halt_with).unwrap_or_default();
        if !allowed.contains(&error.code()) {
            let grave = self.grave;
            self.checks.fail(|| format!("halted without need, after {grave:?}: {error}"));
        }
    }
}

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) instances: Vec<Instance>,
    pub(crate) replays: Replays,
    pub(crate) written: u64,
    pub(crate) struck: usize,
    /// Faults that still wait for their phase.
    aims: Vec<(Fault, crate::phase::Phase)>,
    is_calm: bool,
    taken: Vec<Step>,
}

impl World {
    fn new(plan: &Plan, coverage: Box<Coverage>) -> Self {
        let options = plan.options.clone();
        let mut bounds = options.bounds.clone();
        bounds.batch_rows = bounds.batch_rows.min(bounds.unmarked_rows);
        bounds.batch_bytes = bounds.batch_bytes.min(bounds.in_flight_bytes);
        let checks = Checks::new(options.exactly_once, options.marks, options.policy.backfill, bounds);
        let aims = options.aims.clone();
        let mut env = Env {
            random: Random::part(plan.seed, 1),
            now: Duration::ZERO,
            options,
            bug: plan.bug,
            postgres: Postgres::new(),
            kafka: Kafka::new(),
            checks,
            coverage,
            trace: plan.traced.then(Vec::new),
            grave: None,
            serials: 0,
        };
        if env.options.failover {
            env.postgres.standby = Some(Standby::new(env.postgres.log_end));
        }
        trace!(env, "{:?}", env.options);
        let instances = (0..env.options.instances).map(|number| Instance::new(number, &mut env)).collect();
        let replays = Replays::default();
        let mut world =
            Self { env, instances, replays, written: 0, struck: 0, aims, is_calm: false, taken: Vec::new() };
        for _ in 0..world.env.options.existing {
            world.write();
        }
        world
    }

    fn is_over(&self) -> bool {
        self.env.checks.violation.is_some()
    }

    /// Draws steps and faults, and takes them.
    fn draw(&mut self, mut random: Random) {
        // Most of what can go wrong goes wrong long after the set-up.
        if self.env.options.starts_streaming {
            for _ in 0..PATIENCE {
                if self.instances[0].session.driver.is_some() {
                    break;
                }
                self.take(Step { seed: random.next(), what: What::SetUp });
            }
        }
        for _ in 0..self.env.options.steps {
            self.take(Step { seed: random.next(), what: What::Turn });
            if self.is_over() {
                return;
            }
            let strike = self.aimed(&mut random).or_else(|| self.drawn(&mut random));
            if let Some((fault, on)) = strike {
                let struck = self.struck;
                self.take(Step { seed: random.next(), what: What::Strike { fault, on } });
                if self.struck > struck {
                    self.aims.retain(|(aimed, _)| *aimed != fault);
                }
            }
        }
    }

    /// A fault whose phase has come, if there is one and it is to strike.
    fn aimed(&mut self, random: &mut Random) -> Option<(Fault, usize)> {
        if self.aims.is_empty() {
            return None;
        }
        let on = leader(&self.instances, &self.env.postgres);
        let phase = self.instances[on].phase();
        let aim = self.aims.iter().position(|(_, aimed)| *aimed == phase)?;
        random.chance(AIM).then(|| (self.aims[aim].0, on))
    }

    fn drawn(&self, random: &mut Random) -> Option<(Fault, usize)> {
        let mut chance = random.below(10_000);
        for (often, fault) in self.env.options.faults.iter().zip(Fault::ALL) {
            if chance < *often {
                return Some((*fault, random.index(self.instances.len())));
            }
            chance -= often;
        }
        None
    }

    pub(crate) fn take(&mut self, step: Step) {
        self.taken.push(step);
        self.env.random = Random::new(step.seed);
        let told = self.env.trace.as_ref().map_or(0, Vec::len);
        match step.what {
            What::SetUp => self.set_up(),
            What::Turn => {
                self.turn();
                self.replay(step.seed);
            }
            What::Strike { fault, on } => self.strike(fault, on.min(self.instances.len() - 1)),
            What::Calm => {
                if !self.is_calm {
                    self.calm();
                }
                self.turn();
                self.replay(step.seed);
            }
        }
        if let Some(trace) = &mut self.env.trace {
            if trace.len() == told {
                trace.push("…".to_owned());
            }
            let number = self.taken.len();
            for line in &mut trace[told..] {
                *line = format!("{number:>5}  {line}");
            }
        }
    }

    fn set_up(&mut self) {
        self.env.postgres.roll_back_all();
        self.env.postgres.show_commits();
        match self.env.random.below(4) {
            0 => self.kafka(),
            1 => self.marks(),
            _ => self.instances[0].step(&mut self.env),
        }
    }

    fn turn(&mut self) {
        self.env.now += Duration::from_micros(self.env.random.below(600));
        match self.env.random.below(100) {
            0..6 => self.write(),
            6..24 => self.walsender(),
            24..40 => self.kafka(),
            40..52 => self.marks(),
            52..95 => {
                let chosen = self.env.random.index(self.instances.len());
                // An instance that is down, or stands by, waits for a while.
                if self.instances[chosen].life != Life::Down || self.env.random.chance(20) {
                    self.instances[chosen].step(&mut self.env);
                }
            }
            _ => self.housekeeping(),
        }
    }

    // ---- the end --------------------------------------------------------------------------------

    fn calm(&mut self) {
        self.is_calm = true;
        trace!(self.env, "---- from here on there are no faults ----");
        self.written = self.env.options.transactions;
        // If the daemon may not set its source up, a person does it.
        self.env.options.policy.auto_setup = true;
        self.env.kafka.foreign_open = false;
        self.env.kafka.is_moving = false;
        self.env.postgres.roll_back_all();
        self.env.postgres.unblock();
        self.env.postgres.refuses_marks = false;
        for instance in &mut self.instances {
            if instance.life == Life::Paused {
                instance.life = Life::Up;
            }
        }
    }

    /// Without faults and writers, the source must finish, or have halted for a reason.
    fn come_to_rest(&mut self, mut random: Random) {
        for step in 1..=PATIENCE {
            self.take(Step { seed: random.next(), what: What::Calm });
            if self.is_over() {
                return;
            }
            if step % 16 == 0 && self.is_at_rest() {
                return self.env.checks.order_of_the_log(&self.env.kafka, &self.env.postgres);
            }
        }
        let env = &mut self.env;
        let open = env.checks.first_open(&env.postgres).map(|number| env.postgres.rows[number as usize].name.clone());
        let (slot, end) = (env.postgres.slot.as_ref().map(|slot| slot.confirmed), env.postgres.log_end);
        env.checks.fail(|| format!("liveness: not at rest; first open row {open:?}, confirmed {slot:?} of {end}"));
    }

    fn is_at_rest(&mut self) -> bool {
        if self.instances.iter().all(|instance| matches!(instance.life, Life::Halted(_))) {
            return true;
        }
        let env = &mut self.env;
        let at_end = env.postgres.slot.as_ref().is_some_and(|slot| slot.confirmed == env.postgres.log_end);
        let rests = at_end && env.checks.first_open(&env.postgres).is_none();
        if rests && env.grave.is_some_and(Fault::is_copy) {
            env.hit(Event::Healed);
        }
        rests
    }
}
