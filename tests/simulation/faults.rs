//! The faults of a schedule: those that heal, and the grave ones after which a source may halt.

use outboxd::{Code, Error, relay::position::Phase};

use crate::{
    coverage::Event,
    instance::Life,
    kafka::PRODUCERS,
    options::Grave,
    schedule::{World, trace},
};

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Pause,
    Stop,
    BreakConnection,
    Broker,
    PostgresCrash,
}

impl World {
    /// What happens now and then in any world, and must always happen in the end.
    pub(crate) fn small_fault(&mut self) {
        let env = &mut self.env;
        match env.random.below(10) {
            0..3 => env.postgres.reap(),
            3 => env.postgres.checkpoint(),
            4 if self.written < env.options.transactions => env.postgres.other_activity(&mut env.random),
            4 => {}
            5 => {
                // An old copy is what hurts.
                if env.options.grave.is_some() && env.grave.is_none() && env.postgres.is_copy_due(&mut env.random) {
                    env.postgres.back_up();
                }
            }
            6..9 => {
                let chosen = env.random.index(self.instances.len());
                if self.instances[chosen].life == Life::Paused {
                    trace!(env, "instance {chosen}: goes on");
                    self.instances[chosen].life = Life::Up;
                }
            }
            _ => env.kafka.foreign_open = false,
        }
    }

    pub(crate) fn fault(&mut self) {
        let faults = self.env.options.faults;
        let kinds = [
            (faults.kill, Fault::Kill),
            (faults.pause, Fault::Pause),
            (faults.stop, Fault::Stop),
            (faults.break_connection, Fault::BreakConnection),
            (faults.broker, Fault::Broker),
            (faults.postgres_crash, Fault::PostgresCrash),
        ];
        let mut chance = self.env.random.below(1000);
        for (often, fault) in kinds {
            if chance < often {
                return self.strike(fault);
            }
            chance -= often;
        }
    }

    fn strike(&mut self, fault: Fault) {
        let env = &mut self.env;
        let chosen = env.random.index(self.instances.len());
        let instance = &mut self.instances[chosen];
        match fault {
            Fault::Kill if matches!(instance.life, Life::Up | Life::Paused) => instance.kill(env),
            Fault::Pause if instance.life == Life::Up => {
                trace!(env, "{instance}: is paused");
                env.hit(Event::Pause);
                instance.life = Life::Paused;
                instance.was_paused = true;
            }
            Fault::Stop => instance.drain(env),
            Fault::BreakConnection => self.break_connection(),
            Fault::Broker => self.broker_fault(),
            Fault::PostgresCrash => {
                trace!(env, "Postgres: crashes");
                env.hit(Event::PostgresCrash);
                let before = env.postgres.slot.as_ref().map(|slot| slot.confirmed);
                env.postgres.crash();
                if env.postgres.slot.as_ref().map(|slot| slot.confirmed) < before {
                    env.hit(Event::ConfirmedLost);
                }
                self.cut_streams();
            }
            Fault::Kill | Fault::Pause => {}
        }
    }

    /// Of what the server sent last, only a part arrived.
    fn cut_streams(&mut self) {
        for instance in &mut self.instances {
            let kept = self.env.random.index(instance.session.stream.len() + 1);
            let connection = instance.session.connection;
            if connection.is_some_and(|connection| self.env.postgres.walsender(connection).is_none()) {
                instance.session.stream.truncate(kept);
            }
        }
    }

    fn break_connection(&mut self) {
        let env = &mut self.env;
        env.hit(Event::BrokenConnection);
        if env.random.chance(40) {
            // The server gives up on the client, which can still read what it was sent.
            trace!(env, "Postgres: drops the walsender or the lock");
            if env.random.chance(70) {
                if let Some(slot) = &mut env.postgres.slot {
                    slot.walsender = None;
                }
            } else {
                env.postgres.lock = None;
            }
            return self.cut_streams();
        }
        // The client sees it first; the server's side lingers.
        let chosen = env.random.index(self.instances.len());
        if self.instances[chosen].life == Life::Up {
            let error = Error::new(Code::PostgresUnreachable, "the connection broke");
            self.instances[chosen].end_session(&error, env);
        }
    }

    fn broker_fault(&mut self) {
        let env = &mut self.env;
        let producer = env.random.index(PRODUCERS);
        match env.random.below(3) {
            0 => {
                if env.kafka.time_out(producer) {
                    trace!(env, "Kafka: producer {producer}'s transaction timed out");
                    env.hit(Event::Timeout);
                }
            }
            1 => {
                trace!(env, "Kafka: producer {producer} is fenced by a stranger");
                env.hit(Event::ForeignFence);
                env.kafka.init(producer);
            }
            _ => env.kafka.foreign_open = true,
        }
    }

    pub(crate) fn grave_fault(&mut self) {
        let env = &mut self.env;
        let Some(grave) = env.options.grave else { return };
        let is_streaming = env.checks.position.as_ref().is_some_and(|position| position.phase == Phase::Streaming);
        // During a set-up the marks alone tell what was published, and a restored table has lost some of them.
        if !is_streaming {
            return;
        }
        let happened = match grave {
            Grave::Restore { with_slot } => env.postgres.restore(false, with_slot),
            Grave::Promote { with_slot } => env.postgres.restore(true, with_slot),
            Grave::DropSlot => env.postgres.drop_slot(),
            Grave::RecreateSlot => env.postgres.drop_slot() && env.postgres.create_slot().is_some(),
            Grave::AdvanceSlot => env.postgres.advance_slot(),
            Grave::DeletePositions => {
                env.kafka.delete_positions();
                env.checks.position_lost();
                true
            }
            Grave::ChangePublication => {
                env.postgres.publication += 1;
                true
            }
        };
        if !happened {
            return;
        }
        trace!(env, "a grave fault: {grave:?}");
        env.grave = Some(grave);
        env.hit(match grave {
            Grave::Restore { .. } => Event::Restored,
            Grave::Promote { .. } => Event::Promoted,
            Grave::DropSlot => Event::PersonDroppedSlot,
            Grave::RecreateSlot => Event::PersonMadeSlot,
            Grave::AdvanceSlot => Event::PersonAdvancedSlot,
            Grave::DeletePositions => Event::PositionsDeleted,
            Grave::ChangePublication => Event::PublicationChanged,
        });
        if grave == Grave::AdvanceSlot {
            env.checks.forgiven_before = env.postgres.log_end;
        }
        if env.random.chance(50) {
            env.postgres.no_twin();
        }
        if let (Grave::Restore { .. } | Grave::Promote { .. }, Some(slot)) = (grave, &env.postgres.slot) {
            // A copy from amid the backfill lacks marks of its chunks: they are reported, and never published again.
            env.checks.forgiven_before = slot.consistent_point;
        }
        env.checks.restored();
        self.cut_streams();
    }
}
