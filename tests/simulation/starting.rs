//! Carries out the steps of a start.

use std::collections::VecDeque;

use outboxd::{
    Code, Error, Lsn,
    relay::{
        driver::Driver,
        startup::{Fact, Step},
        state::Machine,
    },
    source::{
        compare::Server,
        position::{History, Phase, Position, Progress, RowId},
    },
};

use crate::{
    bugs::Bug,
    building::{Arena, Read},
    coverage::Event,
    instance::{Instance, Life},
    kafka::PRODUCERS,
    postgres::{Marks, RowNo, Take},
    schedule::{Env, trace},
    transitions::Came,
};

impl Instance {
    /// Goes a little further with the current step of the start.
    pub(crate) fn start_on(&mut self, env: &mut Env) -> Result<(), Error> {
        let step = self.session.startup.step();
        let fact = match self.carry_out(step, env) {
            Ok(Some(fact)) => fact,
            Ok(None) => return Ok(()),
            Err(error) => {
                env.coverage.transitions.started(step, Came::Failed, None);
                return Err(error);
            }
        };
        trace!(env, "{self}: {step:?}: {fact:?}");
        self.session.progress = 0;
        let came = Came::of(&fact);
        let reported = self.session.startup.report(fact);
        let next = reported.is_ok().then(|| self.session.startup.step());
        env.coverage.transitions.started(step, came, next);
        reported
    }

    fn carry_out(&mut self, step: Step, env: &mut Env) -> Result<Option<Fact>, Error> {
        Ok(match step {
            Step::TakeSlot => Some(self.take_slot(env)?),
            Step::ReleaseSlot => self.give_back_slot(env)?,
            Step::LockSource => {
                self.sql(env)?;
                self.session.lock = env.postgres.take_lock();
                Some(if self.session.lock.is_some() { Fact::Done } else { Fact::TakenByAnother })
            }
            Step::InitProducers if env.kafka.is_moving => {
                if env.random.chance(5) {
                    return Err(Error::new(Code::KafkaUnreachable, "the coordinator does not answer"));
                }
                None
            }
            Step::InitProducers => self.init_producer(env),
            Step::CheckOwnership => {
                self.sql(env)?;
                let ours = self.is_ours(env);
                if !ours {
                    env.hit(Event::NotOurs);
                }
                Some(if ours { Fact::Done } else { Fact::TakenByAnother })
            }
            Step::ReadPosition => self.read_position(env)?,
            Step::MarkChunk => self.mark_chunk(env)?,
            Step::WriteCreating => self.write(Phase::Creating, env)?,
            Step::DropSlot => self.drop_slot(env)?,
            Step::CreateSlot => self.create_slot(env)?,
            Step::AdoptSlot => {
                env.hit(Event::Adopted);
                match self.take_slot(env)? {
                    Fact::Done => {
                        let begins = env.postgres.slot.as_ref().map_or(Lsn::ZERO, |slot| slot.confirmed);
                        Some(Fact::Slot { begins })
                    }
                    Fact::SlotAbsent => return Err(Error::new(Code::SetupMissing, "the slot is gone")),
                    fact => Some(fact),
                }
            }
            Step::WriteBackfill => self.write(Phase::Backfill, env)?,
            Step::Backfill => self.backfill(env)?,
            Step::WriteStreaming => self.write(Phase::Streaming, env)?,
            Step::Compare => {
                let server =
                    self.session.server.clone().ok_or_else(|| Error::new(Code::Internal, "there is no slot"))?;
                let publication = self.session.publication.clone();
                Some(Fact::Server(Box::new(Server { publication, ..*server })))
            }
            Step::Stream => {
                self.stream(env)?;
                None
            }
            Step::StandBy => {
                env.hit(Event::Standby);
                self.hang_up(env);
                self.life = Life::Down;
                None
            }
        })
    }

    /// Whether the server counts the slot as ours, or in a set-up the lock.
    fn is_ours(&self, env: &mut Env) -> bool {
        if self.session.startup.is_setting_up() {
            env.postgres.holds_lock(self.session.lock)
        } else {
            self.holds_slot(env)
        }
    }

    fn take_slot(&mut self, env: &mut Env) -> Result<Fact, Error> {
        let mut from = Lsn::ZERO;
        if env.bug == Some(Bug::StreamFromPosition)
            && let Ok(Some(position)) = env.kafka.read_position(false)
        {
            from = position.progress.lsn;
        }
        let is_trusted = env.bug == Some(Bug::TrustAnotherCluster);
        Ok(match env.postgres.take_slot(self.number, from) {
            Take::Taken { connection } => {
                self.session.connection = Some(connection);
                self.session.server = env.postgres.slot.as_ref().map(|slot| {
                    Box::new(Server {
                        system_id: if is_trusted { "1".to_owned() } else { env.postgres.system.to_string() },
                        timeline: env.postgres.timeline,
                        flushed: env.postgres.log_end,
                        switches: env.postgres.switches.clone(),
                        confirmed_flush: slot.confirmed,
                        publication: serde_json::Value::Null,
                    })
                });
                Fact::Done
            }
            Take::InUse => Fact::TakenByAnother,
            Take::Absent => Fact::SlotAbsent,
            Take::Lost => return Err(Error::new(Code::SlotLost, "the slot was invalidated")),
        })
    }

    /// Closes the connection, and waits until the server has seen it.
    fn give_back_slot(&mut self, env: &mut Env) -> Result<Option<Fact>, Error> {
        if self.session.progress == 0 {
            self.session.progress = 1;
            self.release_slot(env);
        }
        self.sql(env)?;
        let is_free = env.postgres.slot.as_ref().is_none_or(|slot| slot.walsender.is_none());
        if !is_free && env.random.chance(5) {
            return Err(Error::new(Code::SlotInUse, "the slot did not become free in time"));
        }
        Ok(is_free.then_some(Fact::Done))
    }

    fn init_producer(&mut self, env: &mut Env) -> Option<Fact> {
        let producer = self.session.progress;
        if env.bug == Some(Bug::NoFencing) {
            self.epochs[producer] = env.kafka.epochs[producer];
        } else if !self.keeps_producers {
            self.epochs[producer] = env.kafka.init(producer);
        }
        self.session.progress += 1;
        if self.session.progress < PRODUCERS {
            return None;
        }
        self.keeps_producers = false;
        Some(Fact::Done)
    }

    /// Reads first the position, and then whether the slot exists. These are two questions to two
    /// servers, and anything may happen between them.
    fn read_position(&mut self, env: &mut Env) -> Result<Option<Fact>, Error> {
        if self.session.progress == 0 {
            let read = match env.bug {
                Some(Bug::ReadUncommittedPosition) => Ok(env.kafka.read_uncommitted()),
                _ => env.kafka.read_position(!env.options.exactly_once),
            };
            let Ok(position) = read else {
                env.hit(Event::ReadBlocked);
                if env.random.chance(5) {
                    return Err(Error::new(Code::KafkaUnreachable, "an open transaction is in the way"));
                }
                return Ok(None);
            };
            if env.bug != Some(Bug::PositionBeforeSlot) {
                self.session.read = position.map(|position| Box::new(position.clone()));
            }
            self.session.position = self.session.read.clone();
            self.session.progress = 1;
            return Ok(None);
        }
        self.sql(env)?;
        let position = self.session.read.take();
        self.session.publication = env.postgres.publication.into();
        let system = if env.bug == Some(Bug::TrustAnotherCluster) { 1 } else { env.postgres.system };
        let (slot_exists, system_id) = (env.postgres.slot.is_some(), system.to_string());
        Ok(Some(Fact::Position { position, slot_exists, system_id }))
    }

    fn mark_chunk(&mut self, env: &mut Env) -> Result<Option<Fact>, Error> {
        if self.session.progress == 0 {
            env.hit(Event::BackfillAgain);
            self.session.progress = 1;
            let read = self.session.startup.position();
            let number = |row: &RowId| row.id.parse::<RowNo>().ok();
            if let Some(marked) = read.and_then(|position| position.marked.as_ref()).and_then(number) {
                self.sql(env)?;
                let row = &env.postgres.rows[marked as usize];
                if !row.marked && !row.gone && !row.deleted && env.bug != Some(Bug::TrustRestoredMarks) {
                    env.hit(Event::MarksGone);
                    return Err(Error::new(Code::HistoryDiverged, "a row that was marked has lost its mark"));
                }
                self.session.last_marked = Some(marked);
            }
            let chunk = read.map(|position| position.chunk.as_slice()).unwrap_or_default();
            self.session.last_marked = chunk.last().and_then(number).or(self.session.last_marked);
            self.session.chunk = chunk.iter().filter_map(|row| row.id.parse().ok()).collect();
            if env.bug == Some(Bug::SkipMarkChunk) {
                self.session.chunk.clear();
            }
            if !self.session.chunk.is_empty() {
                self.send_marks(Marks::Chunk, self.session.chunk.clone(), env)?;
            }
        }
        self.sql(env)?;
        Ok(self.session.chunk.is_empty().then_some(Fact::Done))
    }

    /// Writes a position of the set-up, in its own transaction.
    fn write(&mut self, phase: Phase, env: &mut Env) -> Result<Option<Fact>, Error> {
        if self.session.progress == 0 {
            self.session.progress = 1;
            let position = self.new_position(phase, &[]);
            self.publish(None, Arena::default(), position, env);
            return Ok(None);
        }
        Ok(self.publish_on(env)?.map(|_| Fact::Done))
    }

    fn new_position(&self, phase: Phase, chunk: &[RowNo]) -> Box<Position> {
        let lsn = self.session.startup.begins();
        let progress = Progress { lsn, commit: None, split: None };
        // Phase `creating`: a first set-up names no system, and one that goes on keeps its own.
        let system_id = match (&self.session.server, self.session.startup.position()) {
            (Some(server), _) => server.system_id.clone(),
            (None, Some(read)) => read.history.system_id.clone(),
            (None, None) => String::new(),
        };
        let history = History {
            system_id,
            timeline: self.session.server.as_ref().map_or(0, |server| server.timeline),
            slot: "s".to_owned(),
            consistent_point: lsn,
        };
        let mut position = Position::new(phase, progress, history, self.session.publication.clone());
        position.marked = self.session.last_marked.filter(|_| phase != Phase::Streaming).map(row_id);
        position.chunk = chunk.iter().copied().map(row_id).collect();
        Box::new(position)
    }

    /// Drops the slot in the session that holds the lock. An instance that lost the lock has lost
    /// the right to drop.
    fn drop_slot(&mut self, env: &mut Env) -> Result<Option<Fact>, Error> {
        self.sql(env)?;
        if !env.postgres.holds_lock(self.session.lock) {
            return Err(Error::new(Code::PostgresUnreachable, "the session that held the lock is gone"));
        }
        if !env.postgres.drop_slot() {
            return Err(Error::new(Code::SlotInUse, "a walsender is still on the slot"));
        }
        env.hit(Event::SlotDropped);
        Ok(Some(Fact::Done))
    }

    fn create_slot(&mut self, env: &mut Env) -> Result<Option<Fact>, Error> {
        if self.session.progress == 0 {
            self.sql(env)?;
            if self.waits_for_writers(env)? {
                return Ok(None);
            }
            let Some((consistent_point, snapshot)) = env.postgres.create_slot() else {
                return Err(Error::new(Code::SlotInUse, "another instance made the slot"));
            };
            env.checks.slot_created(consistent_point);
            self.session.snapshot = VecDeque::from(snapshot);
            self.session.created = consistent_point;
            self.session.progress = 1;
            return Ok(None);
        }
        self.sql(env)?;
        match self.take_slot(env)? {
            Fact::Done => {
                let begins = self.session.created;
                if env.postgres.slot.as_ref().map(|slot| slot.confirmed) != Some(begins) {
                    return Err(Error::new(Code::SlotInUse, "the slot was made anew by somebody else"));
                }
                Ok(Some(Fact::Slot { begins }))
            }
            _ => Err(Error::new(Code::SlotInUse, "another instance took the slot")),
        }
    }

    /// Rule 15: a slot is made when the transactions that are open have ended. An instance may give
    /// up the wait for them.
    fn waits_for_writers(&mut self, env: &mut Env) -> Result<bool, Error> {
        let youngest = *self.session.waits_for.get_or_insert_with(|| env.postgres.youngest_open());
        let waits = env.postgres.is_open_up_to(youngest);
        if waits {
            env.hit(Event::OpenWriter);
            if env.random.chance(5) {
                return Err(Error::new(Code::PostgresUnreachable, "writers kept their transactions open for too long"));
            }
        }
        Ok(waits)
    }

    /// Publishes and marks one chunk, and only then the next.
    fn backfill(&mut self, env: &mut Env) -> Result<Option<Fact>, Error> {
        if !self.session.publishing.is_empty() {
            if let Some(published) = self.publish_on(env)? {
                env.hit(Event::Chunk);
                self.session.chunk.clone_from(&published.records.rows());
                self.session.last_published = self.session.chunk.last().copied();
                self.send_marks(Marks::Chunk, self.session.chunk.clone(), env)?;
            }
            return Ok(None);
        }
        self.sql(env)?; // the session with the snapshot, and the one that marks
        if !self.session.chunk.is_empty() && env.bug != Some(Bug::ChunkBeforeMarks) {
            return Ok(None);
        }
        if self.session.snapshot.is_empty() {
            return Ok(Some(Fact::Done));
        }
        self.session.last_marked = self.session.last_published.or(self.session.last_marked);
        let size = (1 + env.random.index(4)).min(self.session.snapshot.len());
        let chunk: Vec<RowNo> = self.session.snapshot.drain(..size).collect();
        let position = self.new_position(Phase::Backfill, &chunk);
        self.publish(None, chunk.into(), position, env);
        Ok(None)
    }

    fn stream(&mut self, env: &mut Env) -> Result<(), Error> {
        self.sql(env)?;
        let (Some(mut position), Some(server)) = (self.session.position.clone(), &self.session.server) else {
            return Err(Error::new(Code::Internal, "there is no position or no slot to stream from"));
        };
        let (confirmed, timeline) = (server.confirmed_flush, server.timeline);
        (position.progress, position.history.consistent_point) = self.session.startup.stream_from();
        let mut machine =
            Machine::new(env.options.bounds.clone(), env.options.marks, position.progress.clone(), confirmed);
        let is_proved = self.proved.as_ref() == Some(&(position.progress.clone(), env.postgres.incarnation));
        if is_proved || env.bug == Some(Bug::TrustRestoredServer) {
            machine = machine.trust_history();
        }
        trace!(env, "{self}: streams from {:?}, confirmed {confirmed}", position.progress);
        // The set-up is over, so the session may give its lock back, or keep it.
        if env.random.chance(70) && env.postgres.holds_lock(self.session.lock) {
            env.postgres.lock = None;
        }
        position.history.timeline = timeline;
        position.phase = Phase::Streaming;
        self.session.position = Some(position);
        let building = Read::new(env.bug == Some(Bug::ArenaKeepsRows));
        let driver = Driver::new(machine, building);
        #[cfg(debug_assertions)]
        let driver = driver.with_wrong_turn(env.bug.and_then(Bug::wrong_turn));
        self.session.driver = Some(driver);
        Ok(())
    }
}

fn row_id(row: RowNo) -> RowId {
    RowId { table: 0, id: row.to_string() }
}
