//! What each fault does to the models and to the instance that it hits.

use outboxd::{Code, Error, source::position::Phase as PositionPhase};

use crate::{
    coverage::Event,
    faults::Fault,
    instance::{Instance, Life},
    kafka::{End, PRODUCERS},
    phase::{Phase, leader},
    postgres::Walsender,
    publishing::Stage,
    schedule::{World, trace},
};

impl World {
    /// Lets a fault strike, if it can. `on` is the instance that it hits, if it hits one.
    pub(crate) fn strike(&mut self, fault: Fault, on: usize) {
        let phase = self.phase_for(fault, on);
        if fault.is_grave() && self.env.grave.is_some() {
            return;
        }
        trace!(self.env, "fault in phase {phase:?}, instance {on}: {fault:?}");
        let happened = if fault.is_grave() { self.grave(fault) } else { self.healing(fault, on) };
        if happened {
            self.env.coverage.strike(fault, phase);
            self.struck += 1;
        } else {
            trace!(self.env, "… and there is nothing for it to hit");
        }
    }

    /// The phase of the instance that is hit, or else of the source.
    fn phase_for(&self, fault: Fault, on: usize) -> Phase {
        if fault == Fault::TransactionTimesOut {
            let owner = self.env.kafka.open_producer().and_then(|producer| {
                let epoch = self.env.kafka.epochs[producer];
                self.instances.iter().find(|instance| instance.epochs[producer] == epoch)
            });
            return owner.map_or(Phase::Down, Instance::phase);
        }
        if fault == Fault::LockLost {
            let lock = self.env.postgres.lock.as_ref().map(|lock| lock.session);
            let owner = self.instances.iter().find(|instance| lock.is_some() && instance.session.lock == lock);
            return owner.map_or(Phase::Down, Instance::phase);
        }
        let on = if fault.hits_an_instance() { on } else { leader(&self.instances, &self.env.postgres) };
        self.instances[on].phase()
    }

    fn healing(&mut self, fault: Fault, on: usize) -> bool {
        let is_up = self.instances[on].life == Life::Up;
        match fault {
            Fault::Kill | Fault::Pause | Fault::Stop => self.signal(fault, on),
            Fault::ConnectionBreaks => {
                self.env.hit(Event::BrokenConnection);
                is_up && self.fail(on, Code::PostgresUnreachable, "the connection broke")
            }
            Fault::SendFails => {
                let sending =
                    |publishing: &crate::publishing::Publishing| publishing.transactional && !publishing.is_sent();
                let hits = is_up && self.instances[on].session.publishing.iter().any(sending);
                hits && self.fail(on, Code::KafkaTransactionFailed, "a record was not delivered")
            }
            Fault::CommitSlow | Fault::CommitUnknown => is_up && self.commit_trouble(fault, on),
            Fault::CommitHeld | Fault::AnswerLost => self.end_trouble(fault, on),
            Fault::RecordsLost => {
                let serial = self.instances[on].session.serial;
                let lost = self.env.kafka.lose(serial);
                lost && self.session_fails(on, serial, Code::KafkaTransactionFailed)
            }
            Fault::MarksLost | Fault::MarksUnanswered | Fault::MarksBlocked => self.marks_trouble(fault, on),
            _ => self.servers_trouble(fault),
        }
    }

    fn fail(&mut self, on: usize, code: Code, what: &'static str) -> bool {
        self.instances[on].end_session(&Error::new(code, what), &mut self.env);
        true
    }

    fn signal(&mut self, fault: Fault, on: usize) -> bool {
        let (instance, env) = (&mut self.instances[on], &mut self.env);
        match (fault, instance.life) {
            (Fault::Kill, Life::Up | Life::Paused) => instance.kill(env),
            (Fault::Pause, Life::Up) => {
                env.hit(Event::Pause);
                instance.life = Life::Paused;
                instance.was_paused = true;
            }
            (Fault::Stop, Life::Up) => instance.drain(env),
            _ => return false,
        }
        true
    }

    fn commit_trouble(&mut self, fault: Fault, on: usize) -> bool {
        let (instance, env) = (&mut self.instances[on], &mut self.env);
        if instance.session.publishing.front().is_none_or(|first| first.stage != Stage::Ending) {
            return false;
        }
        if fault == Fault::CommitSlow {
            instance.commit_again(env);
            return true;
        }
        let error = Error::new(Code::KafkaCommitUnknown, "no answer to the commit");
        if let Err(error) = instance.failed(error, env) {
            instance.end_session(&error, env);
        }
        true
    }

    fn end_trouble(&mut self, fault: Fault, on: usize) -> bool {
        let serial = self.instances[on].session.serial;
        let free = |end: &End| end.serial == serial && !end.held;
        let Some(index) = self.env.kafka.ends.iter().position(free) else { return false };
        if fault == Fault::CommitHeld {
            self.env.kafka.ends[index].held = true;
            return true;
        }
        let can_answer = !self.env.kafka.is_moving;
        if can_answer {
            self.deliver_end(index, true);
        }
        can_answer
    }

    fn marks_trouble(&mut self, fault: Fault, on: usize) -> bool {
        let serial = self.instances[on].session.serial;
        let applied = fault == Fault::MarksUnanswered;
        let marks = &mut self.env.postgres.marks;
        let hits = |request: &crate::postgres::MarkRequest| request.serial == serial && request.applied == applied;
        let Some(index) = marks.iter().position(hits) else { return false };
        if fault == Fault::MarksBlocked {
            return !std::mem::replace(&mut marks[index].blocked, true);
        }
        marks.swap_remove(index);
        self.env.hit(Event::MarkLost);
        self.session_fails(on, serial, Code::MarkFailed)
    }

    fn servers_trouble(&mut self, fault: Fault) -> bool {
        let env = &mut self.env;
        match fault {
            Fault::Leap => self.leap(),
            Fault::WalsenderEnds => {
                let slot = env.postgres.slot.as_mut();
                let ended = slot.and_then(|slot| slot.walsender.take());
                self.cut_streams();
                return ended.is_some_and(|walsender| !walsender.client_gone);
            }
            Fault::FailOver => return self.fail_over(),
            Fault::LockLost => return env.postgres.lock.take().is_some_and(|lock| !lock.client_gone),
            Fault::PostgresCrashes => {
                let before = env.postgres.slot.as_ref().map(|slot| slot.confirmed);
                env.postgres.crash();
                if env.postgres.slot.as_ref().map(|slot| slot.confirmed) < before {
                    env.hit(Event::ConfirmedLost);
                }
                self.cut_streams();
            }
            Fault::TransactionTimesOut => {
                let open = env.kafka.open_producer();
                return open.is_some_and(|producer| env.kafka.time_out(producer));
            }
            Fault::StrangerFences => {
                let producer = env.random.index(PRODUCERS);
                env.kafka.init(producer);
            }
            Fault::StrangerOpens => return !std::mem::replace(&mut env.kafka.foreign_open, true),
            Fault::CoordinatorMoves => return env.kafka.move_coordinator(&mut env.random),
            Fault::IdExpires => {
                let first = env.random.index(PRODUCERS);
                return env.kafka.expire(first) || env.kafka.expire((first + 1) % PRODUCERS);
            }
            Fault::MarksRefused => return !std::mem::replace(&mut env.postgres.refuses_marks, true),
            // If a restored row has lost its mark and is deleted before the daemon looks, nothing
            // shows the loss any more.
            Fault::RowsDeleted if env.grave.is_some_and(Fault::is_copy) => return false,
            Fault::RowsDeleted => return env.postgres.delete_row(&mut env.random, env.options.marks),
            _ => return false,
        }
        true
    }

    /// Nothing that was streamed is lost with the server, and every row before the slot has its mark.
    /// Before the source streams, the marks alone tell what is published.
    fn fail_over(&mut self) -> bool {
        let env = &mut self.env;
        let is_streaming =
            env.checks.position.as_ref().is_some_and(|position| position.phase == PositionPhase::Streaming);
        if !is_streaming || env.grave.is_some() {
            return false;
        }
        let Some(undone) = env.postgres.fail_over() else { return false };
        env.hit(Event::FailedOver);
        if undone > 0 {
            env.hit(Event::MarksUndone);
        }
        env.checks.failed_over(&env.postgres);
        self.cut_streams();
        true
    }

    /// Lets every timeout of the servers pass. The servers give up every instance that is paused.
    fn leap(&mut self) {
        let env = &mut self.env;
        env.now += std::time::Duration::from_secs(3600);
        for producer in 0..PRODUCERS {
            env.kafka.time_out(producer);
        }
        for instance in self.instances.iter().filter(|instance| instance.life == Life::Paused) {
            let connection = instance.session.connection;
            if let Some(walsender) = connection.and_then(|connection| env.postgres.walsender(connection)) {
                walsender.client_gone = true;
            }
            if let Some(lock) = env.postgres.lock.as_mut().filter(|lock| Some(lock.session) == instance.session.lock) {
                lock.client_gone = true;
            }
        }
        env.postgres.reap();
    }

    /// Only a part of what the server sent last has arrived.
    fn cut_streams(&mut self) {
        for instance in &mut self.instances {
            let kept = self.env.random.index(instance.session.stream.len() + 1);
            let connection = instance.session.connection;
            if connection.is_some_and(|connection| !self.env.postgres.is_connected(connection)) {
                instance.session.stream.truncate(kept);
            }
        }
    }

    // ---- grave faults ---------------------------------------------------------------------------

    fn grave(&mut self, fault: Fault) -> bool {
        let env = &mut self.env;
        let is_streaming =
            env.checks.position.as_ref().is_some_and(|position| position.phase == PositionPhase::Streaming);
        let happened = match fault {
            // During a set-up only the marks tell what was published. A copy from before such a row
            // shows nothing.
            _ if fault.is_copy() && !is_streaming && !env.postgres.copy_holds(env.checks.published_rows()) => false,
            Fault::Restore | Fault::RestoreBare => env.postgres.restore(false, fault == Fault::Restore),
            Fault::Promote | Fault::PromoteBare => env.postgres.restore(true, fault == Fault::Promote),
            Fault::OtherCluster | Fault::OtherClusterSlot => {
                env.postgres.give_way_to_another_cluster(&mut env.random);
                if fault == Fault::OtherClusterSlot {
                    env.postgres.create_slot();
                    let begins = env.postgres.slot.as_ref().map_or(outboxd::Lsn::ZERO, |slot| slot.confirmed);
                    env.checks.slot_created(begins);
                }
                true
            }
            Fault::DeletePositions => env.kafka.delete_positions(),
            Fault::ChangePublication => {
                env.postgres.publication += 1;
                env.postgres.passes_over = is_streaming && env.random.chance(70);
                true
            }
            _ => self.by_a_person(fault, is_streaming),
        };
        if !happened {
            return false;
        }
        let env = &mut self.env;
        env.grave = Some(fault);
        if fault == Fault::DeletePositions {
            env.checks.position_lost();
        }
        if fault == Fault::AdvanceSlot {
            env.checks.forgiven_before = env.postgres.log_end;
        }
        if env.random.chance(30) {
            env.postgres.no_twin();
        }
        if let (true, Some(slot)) = (fault.is_copy(), &env.postgres.slot) {
            // A copy from the middle of the backfill lacks marks of its chunks. Once the position
            // says `streaming`, and that may be under way already, nobody looks for them. The rows
            // stay unmarked, and are never published again.
            env.checks.forgiven_before = slot.consistent_point;
        }
        env.checks.restored();
        self.cut_streams();
        true
    }

    /// What a person does to the slot, or the server because of its limits.
    fn by_a_person(&mut self, fault: Fault, is_streaming: bool) -> bool {
        let env = &mut self.env;
        if env.postgres.slot.is_none() != (fault == Fault::MakeSlot) {
            return false;
        }
        if let Some(slot) = &mut env.postgres.slot {
            let _: Option<Walsender> = slot.walsender.take();
            slot.is_lost |= fault == Fault::LoseSlot;
        }
        if matches!(fault, Fault::DropSlot | Fault::RecreateSlot) {
            env.postgres.slot = None;
        }
        if matches!(fault, Fault::RecreateSlot | Fault::MakeSlot) {
            env.postgres.create_slot();
        }
        if fault == Fault::AdvanceSlot {
            env.postgres.advance_slot();
        }
        if let (false, Some(slot)) = (is_streaming, &env.postgres.slot) {
            env.checks.slot_created(slot.confirmed);
        }
        true
    }
}

impl Fault {
    /// Whether it hits one instance, or what one instance has under way. Other faults hit the
    /// servers.
    fn hits_an_instance(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Pause
                | Self::Stop
                | Self::ConnectionBreaks
                | Self::SendFails
                | Self::CommitHeld
                | Self::CommitSlow
                | Self::CommitUnknown
                | Self::AnswerLost
                | Self::RecordsLost
                | Self::MarksLost
                | Self::MarksUnanswered
                | Self::MarksBlocked
        )
    }
}
