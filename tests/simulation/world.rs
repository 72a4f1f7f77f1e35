//! What the world does by itself: writers commit, the walsender sends, and Kafka and Postgres take
//! requests in.

use outboxd::{Code, Error};

use crate::{
    bugs::Bug,
    coverage::Event,
    instance::Life,
    postgres::Marks,
    postgres::takes_no_marks,
    schedule::{World, trace},
};

/// When there are more rows than this, transactions are small, so that a schedule with the smallest
/// bounds also ends.
const MANY_ROWS: usize = 80;

impl World {
    /// Does what happens now and then in any world, and must always happen in the end.
    pub(crate) fn housekeeping(&mut self) {
        if self.env.options.retains && self.env.random.chance(30) {
            return self.retain();
        }
        let env = &mut self.env;
        match env.random.below(10) {
            0..3 => {
                trace!(env, "Postgres: notices that clients are gone; commits become visible, locks are let go");
                env.postgres.reap();
                env.postgres.show_commits();
                env.postgres.unblock();
                env.postgres.refuses_marks &= env.random.chance(70);
            }
            3 => {
                trace!(env, "Postgres: checkpoint");
                env.postgres.checkpoint();
            }
            4 if self.written < env.options.transactions => env.postgres.other_activity(&mut env.random),
            4 => {}
            5 => {
                // An old copy hurts most.
                let is_wanted = env.options.aims.iter().any(|(fault, _)| fault.is_copy()) && env.grave.is_none();
                if is_wanted && env.postgres.is_copy_due(&mut env.random) {
                    trace!(env, "Postgres: is copied");
                    env.postgres.back_up(&mut env.random);
                }
            }
            6..9 => {
                let chosen = env.random.index(self.instances.len());
                if self.instances[chosen].life == Life::Paused {
                    trace!(env, "instance {chosen}: goes on");
                    self.instances[chosen].life = Life::Up;
                }
            }
            _ => {
                trace!(env, "Kafka: the coordinator answers, and the foreign transaction has ended");
                env.kafka.foreign_open = false;
                env.kafka.is_moving = false;
            }
        }
    }

    pub(crate) fn write(&mut self) {
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
        // Each commit has a time of its own, so that a restored server cannot repeat one.
        let time = i64::try_from(self.written).unwrap_or(0);
        if env.random.chance(25) {
            env.postgres.begin();
        }
        if env.random.chance(5) {
            env.postgres.roll_back_one();
        }
        env.postgres.commit(&mut env.random, u32::try_from(rows).unwrap_or(0), env.options.keys, time);
        if rows > 0 && env.postgres.passes_over {
            env.hit(Event::Unsent);
        }
        trace!(env, "Postgres: commit {:?}", env.postgres.transactions.last());
    }

    pub(crate) fn walsender(&mut self) {
        let env = &mut self.env;
        if env.postgres.standby.is_some() && env.random.chance(40) {
            env.postgres.follow(&mut env.random);
            trace!(env, "standby: {:?}", env.postgres.standby);
            return;
        }
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

    pub(crate) fn kafka(&mut self) {
        let env = &mut self.env;
        if env.random.chance(30) {
            for producer in 0..crate::kafka::PRODUCERS {
                if env.kafka.complete(producer) {
                    trace!(env, "Kafka: producer {producer} is readable");
                }
            }
        }
        if env.kafka.produces.is_empty() {
            self.end();
        } else {
            self.land();
        }
    }

    fn end(&mut self) {
        let env = &mut self.env;
        if env.kafka.ends.is_empty() || env.kafka.is_moving {
            return;
        }
        let chosen = env.random.index(env.kafka.ends.len());
        let end = env.kafka.ends[chosen];
        let waits = self.instances[end.owner].session.serial == end.serial;
        // A request that nobody waits for any more may be held up for long, or never arrive.
        if !waits && env.random.chance(70) {
            return;
        }
        if !waits && env.random.chance(if end.held { 5 } else { 20 }) {
            env.kafka.ends.swap_remove(chosen);
            return;
        }
        if end.held && !env.kafka.is_in_another_transaction(end) {
            return;
        }
        self.deliver_end(chosen, false);
    }

    /// An EndTxn arrives. `is_lost` says whether its answer is lost.
    pub(crate) fn deliver_end(&mut self, index: usize, is_lost: bool) {
        let env = &mut self.env;
        let end = env.kafka.ends.swap_remove(index);
        let waits = self.instances[end.owner].session.serial == end.serial;
        let result = env.kafka.end(end);
        trace!(env, "Kafka: {end:?}: {result:?}");
        if end.held {
            env.hit(Event::HeldEnd);
        }
        if let Ok(Some(decided)) = result {
            env.checks.visible(&env.kafka.transactions[decided], &env.postgres);
            if is_lost || !waits {
                env.hit(Event::UnknownWasCommitted);
            }
        } else if !waits && result.is_err() {
            env.hit(Event::LateEnd);
        }
        // Whoever waits for an answer that is lost will give up.
        if waits && !is_lost {
            self.instances[end.owner].end_answered(result.map(|_| ()));
        }
    }

    fn land(&mut self) {
        let env = &mut self.env;
        let chosen = env.random.index(env.kafka.produces.len());
        let (owner, serial) = (env.kafka.produces[chosen].owner, env.kafka.produces[chosen].serial);
        let waits = self.instances[owner].session.serial == serial;
        if !waits && env.random.chance(20) {
            env.kafka.lose(serial);
            return;
        }
        let Some((produce, index)) = env.kafka.land(serial) else { return };
        trace!(env, "Kafka: {produce:?} landed as {index}");
        env.checks.visible(&env.kafka.transactions[index], &env.postgres);
        if waits {
            self.instances[owner].acknowledged();
        } else {
            env.hit(Event::LateLanding);
        }
    }

    pub(crate) fn marks(&mut self) {
        let env = &mut self.env;
        if env.postgres.marks.is_empty() {
            return;
        }
        let chosen = env.random.index(env.postgres.marks.len());
        let waits =
            self.instances[env.postgres.marks[chosen].owner].session.serial == env.postgres.marks[chosen].serial;
        if env.postgres.marks[chosen].blocked {
            return;
        }
        if !env.postgres.marks[chosen].applied {
            self.apply_marks(chosen, waits);
            return;
        }
        // A paused process reads its answer later.
        let owner = env.postgres.marks[chosen].owner;
        if waits && self.instances[owner].life != Life::Up {
            return;
        }
        let request = env.postgres.marks.swap_remove(chosen);
        if waits {
            let instance = &mut self.instances[owner];
            if let Err(error) = instance.marks_done(&request, env) {
                instance.end_session(&error, env);
            }
        }
    }

    /// Marks the rows that are there. A row that is not there may be gone. It may also be committed
    /// and not yet visible, and then the UPDATE looks for it again.
    fn apply_marks(&mut self, chosen: usize, waits: bool) {
        let env = &mut self.env;
        let postgres = &mut env.postgres;
        let mut sees_all = true;
        // A chunk is marked in whole statements. Nothing of it is marked before all of it can be
        // seen.
        let is_chunk = postgres.marks[chosen].what == Marks::Chunk;
        if is_chunk && postgres.marks[chosen].rows.iter().any(|&row| !postgres.is_visible(row)) {
            env.hit(Event::NotVisible);
            return;
        }
        postgres.log_end.0 += 8;
        postgres.marks[chosen].at = postgres.log_end;
        let refuses = postgres.refuses_marks && !is_chunk;
        for number in postgres.marks[chosen].rows.clone() {
            if refuses && takes_no_marks(number) {
                postgres.marks[chosen].refused = true;
                continue;
            }
            let row = &mut postgres.rows[number as usize];
            if row.gone || row.deleted {
                continue;
            }
            if !postgres.transactions[row.transaction].is_visible {
                sees_all = false;
                continue;
            }
            env.checks.marking(number, row);
            if !row.marked {
                (row.marked, row.marked_at) = (true, postgres.log_end);
            }
        }
        if !sees_all {
            env.hit(Event::NotVisible);
        }
        if sees_all || env.bug == Some(Bug::InvisibleIsMarked) {
            env.postgres.marks[chosen].applied = true;
            trace!(env, "Postgres: marked {:?}", env.postgres.marks[chosen].rows);
            if !waits {
                env.hit(Event::LateMark);
            }
        }
    }

    pub(crate) fn session_fails(&mut self, owner: usize, serial: u64, code: Code) -> bool {
        let instance = &mut self.instances[owner];
        let lives = instance.session.serial == serial && matches!(instance.life, Life::Up | Life::Paused);
        if lives {
            instance.end_session(&Error::new(code, "no answer came"), &mut self.env);
        }
        lives
    }
}
