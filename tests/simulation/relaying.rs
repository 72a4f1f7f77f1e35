//! Feeds the state machine from the stream, and does what it asks for.

use std::time::Duration;

use outboxd::{
    Code, Error, Lsn,
    relay::state::{Action, Machine, Place, RowIs},
};

use crate::{
    bugs::Bug,
    coverage::Event,
    instance::{Instance, Life},
    postgres::{MarkRequest, Marks, Message, RowNo},
    schedule::{Env, trace},
    transitions::{From, Input, Made},
};

impl Instance {
    /// One of the things that a session does beside each other.
    pub(crate) fn relay(&mut self, env: &mut Env) -> Result<(), Error> {
        match env.random.below(10) {
            0..4 => self.read(env)?,
            4..6 => {
                if env.random.chance(10) {
                    self.sql(env)?; // the marker notices that its session is gone
                }
                while self.act(env)? && env.random.chance(80) {}
            }
            _ => {
                if let Some(published) = self.publish_on(env)?
                    && let (Some(batch), Some(machine)) = (published.batch, &mut self.session.machine)
                {
                    let owes_marks = env.options.marks && !published.rows.is_empty();
                    if owes_marks {
                        self.session.batches.push((batch, published.rows));
                    }
                    let (from, before) = (stands(machine), machine.confirmed());
                    machine.committed(batch)?;
                    let made = match machine.confirmed() > before {
                        true => Made::Confirms,
                        false if owes_marks => Made::ToMark,
                        false => Made::Ends,
                    };
                    env.coverage.transitions.told(Input::Published, from, made);
                }
            }
        }
        self.stop_if_drained(env);
        Ok(())
    }

    fn read(&mut self, env: &mut Env) -> Result<(), Error> {
        for _ in 0..=env.random.below(8) {
            let Some(machine) = &mut self.session.machine else { return Ok(()) };
            if !machine.wants_input() {
                return Ok(());
            }
            let Some(message) = self.session.stream.pop_front() else {
                if self.holds_slot(env) {
                    return Ok(());
                }
                return Err(Error::new(Code::PostgresUnreachable, "the replication connection ended"));
            };
            self.take_in(message, env)?;
            // A session acts after every message; here it may be late, as actions are only queued.
            if env.random.chance(60) {
                while self.act(env)? {}
                self.check_bounds(env);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, message: Message, env: &mut Env) -> Result<(), Error> {
        trace!(env, "{self}: reads {message:?}");
        let Some(machine) = &self.session.machine else { return Ok(()) };
        let from = stands(machine);
        let input = match message {
            Message::Begin { .. } => Input::Begin,
            Message::Row(_) => Input::Row,
            Message::Commit { .. } => Input::Commit,
            Message::Keepalive { .. } => Input::Keepalive,
        };
        let made = self.tell(message, env);
        env.coverage.transitions.told(input, from, *made.as_ref().unwrap_or(&Made::Halts));
        made.map(|_| ())
    }

    fn tell(&mut self, message: Message, env: &mut Env) -> Result<Made, Error> {
        let now = env.now;
        let Some(machine) = &mut self.session.machine else { return Ok(Made::Ends) };
        Ok(match message {
            Message::Begin { final_lsn, xid, time } => {
                machine.begin(final_lsn, xid, time)?;
                match machine.place() {
                    Place::Resumed => Made::Resumes,
                    Place::New => Made::Begins,
                    Place::Between | Place::Redelivered => Made::Redelivers,
                }
            }
            Message::Commit { end_lsn } => {
                let owed = machine.owes_proof();
                // How far behind it is decides only how long a batch waits.
                let behind = Duration::from_millis(if env.random.chance(80) { 0 } else { env.random.below(3_000) });
                machine.commit(end_lsn, now, behind)?;
                self.session.read_part = None;
                if owed && !machine.owes_proof() { Made::Proves } else { Made::Ends }
            }
            Message::Keepalive { wal_end, reply_requested } => {
                if reply_requested {
                    env.hit(Event::UrgentReply);
                }
                let before = machine.confirmed();
                machine.keepalive(wal_end, reply_requested)?;
                let made = if machine.confirmed() > before { Made::Confirms } else { Made::Reads };
                let is_idle = self.session.batches.is_empty() && self.session.building.is_empty();
                let is_ahead = wal_end > machine.confirmed() && !machine.in_transaction();
                let bug = env.bug == Some(Bug::ConfirmIdleWithoutPosition) && is_idle && is_ahead;
                if bug && self.session.publishing.is_empty() {
                    self.confirm(wal_end, env);
                }
                made
            }
            Message::Row(number) => self.tell_row(number, env)?,
        })
    }

    fn tell_row(&mut self, number: RowNo, env: &mut Env) -> Result<Made, Error> {
        let row = &env.postgres.rows[number as usize];
        let Some(machine) = &mut self.session.machine else { return Ok(Made::Ends) };
        Ok(match machine.row(|id| id == row.name)? {
            RowIs::Dropped => {
                env.hit(Event::Dropped);
                Made::Drop
            }
            _ if row.born_marked && env.bug != Some(Bug::PublishMarkedRows) => {
                machine.passed_over()?;
                env.hit(Event::PassedOver);
                Made::PassOver
            }
            RowIs::New => {
                machine.published_row(row.bytes, &row.name)?;
                if self.session.read_part.take() == Some(row.transaction) {
                    env.hit(Event::SplitResumed);
                }
                self.session.building.push_back((number, false));
                Made::Publish
            }
            RowIs::Redelivered => {
                machine.redelivered_row()?;
                self.session.building.push_back((number, true));
                self.session.read_part = Some(row.transaction);
                env.hit(Event::Redelivered);
                Made::Keep
            }
        })
    }

    /// G6: rows and bytes in memory.
    fn check_bounds(&self, env: &mut Env) {
        let Some(machine) = &self.session.machine else { return };
        let publishing: usize = self.session.publishing.iter().map(|publishing| publishing.rows.len()).sum();
        let marking: usize = self.session.batches.iter().map(|(_, rows)| rows.len()).sum();
        let (rows, bytes) = (self.session.building.len() + publishing + marking, machine.in_flight_bytes());
        let bounds = env.checks.bounds.clone();
        if rows > bounds.unmarked_rows + bounds.batch_rows || bytes > bounds.in_flight_bytes + 30 {
            env.checks.fail(|| format!("G6: {rows} rows and {bytes} bytes in memory, and the bounds are {bounds:?}"));
        }
    }

    /// Carries out one action. Whether there was one.
    fn act(&mut self, env: &mut Env) -> Result<bool, Error> {
        let now = env.now;
        let Some(machine) = &mut self.session.machine else { return Ok(false) };
        let from = stands(machine);
        let Some(action) = machine.next_action(now)? else { return Ok(false) };
        env.coverage.transitions.told(Input::Ask, from, asked(&action));
        trace!(env, "{self}: {action:?}");
        match action {
            Action::Publish { batch, rows, progress } => {
                let rows = self.take_rows(rows, false, env);
                env.hit_times(Event::RowsPublished, rows.len());
                if progress.split.is_some() {
                    env.hit(Event::Split);
                }
                if rows.is_empty() {
                    env.hit(Event::IdleAdvance);
                }
                if let Some(position) = &self.session.position {
                    let mut position = position.clone();
                    position.progress = progress;
                    position.chunk.clear();
                    if env.bug == Some(Bug::MarkBeforeCommit) && env.options.marks {
                        let (owner, what) = (self.number, Marks::Batch(batch));
                        env.postgres.marks.push(MarkRequest {
                            owner,
                            serial: 0,
                            what,
                            rows: rows.clone(),
                            applied: false,
                            blocked: false,
                        });
                    }
                    self.publish(Some(batch), rows, position, env);
                }
            }
            Action::Hold { batch, rows } => {
                let rows = self.take_rows(rows, true, env);
                env.hit_times(Event::Held, rows.len());
                // Without marks nothing follows a Hold.
                if env.options.marks {
                    self.session.batches.push((batch, rows));
                }
            }
            Action::Mark { batch } => {
                let rows = self.session.batches.iter().find(|(id, _)| *id == batch).map(|(_, rows)| rows.clone());
                let Some(rows) = rows else {
                    return Err(Error::new(Code::Internal, "a batch to mark that was neither published nor held"));
                };
                self.send_marks(Marks::Batch(batch), rows, env)?;
                if env.bug == Some(Bug::ConfirmBeforeMark)
                    && let Some(machine) = &mut self.session.machine
                {
                    machine.marked(batch)?;
                }
            }
            Action::Confirm(lsn) => self.confirm(lsn, env),
            Action::Reconnect => {
                env.hit(Event::Reconnect);
                // Marks under way are waited for, or not.
                if let Some(machine) = &self.session.machine {
                    self.proved = Some((machine.position().clone(), self.session.incarnation));
                }
                return Err(Error::new(Code::PostgresUnreachable, "reconnects to take the dropped rows again"));
            }
        }
        Ok(true)
    }

    /// The first rows of the building batch: all of one kind.
    fn take_rows(&mut self, count: usize, redelivered: bool, env: &mut Env) -> Vec<RowNo> {
        let count_there = self.session.building.len();
        if count > count_there {
            env.checks.fail(|| format!("{count} rows are asked for, and {count_there} were read"));
        }
        let rows: Vec<(RowNo, bool)> = self.session.building.drain(..count.min(count_there)).collect();
        if rows.iter().any(|(_, kind)| *kind != redelivered) {
            env.checks.fail(|| format!("redelivered and new rows in one batch: {rows:?}"));
        }
        rows.into_iter().map(|(row, _)| row).collect()
    }

    /// It is told to stop: a stream is finished first, a start is left where it is.
    pub(crate) fn drain(&mut self, env: &mut Env) {
        trace!(env, "{self}: is told to stop");
        let Some(machine) = &mut self.session.machine else {
            self.hang_up(env);
            self.life = Life::Down;
            self.proved = None;
            return;
        };
        let from = stands(machine);
        machine.drain();
        let made = if machine.is_drained() { Made::IsDone } else { Made::Finishes };
        env.coverage.transitions.told(Input::Drain, from, made);
        self.session.draining = true;
    }

    fn stop_if_drained(&mut self, env: &mut Env) {
        let Some(machine) = &self.session.machine else { return };
        if self.session.draining && machine.is_drained() {
            env.hit(Event::Drained);
            let confirmed: Lsn = machine.confirmed();
            trace!(env, "{self}: stops, confirmed {confirmed}");
            if !self.session.publishing.is_empty() {
                env.checks.fail(|| "drained with batches under way".to_owned());
            }
            self.hang_up(env);
            self.life = Life::Down;
            self.proved = None;
        }
    }
}

/// Where the machine stands.
pub(crate) fn stands(machine: &Machine) -> From {
    (machine.place(), machine.owes_proof())
}

fn asked(action: &Action) -> Made {
    match action {
        Action::Publish { rows: 0, .. } => Made::Advance,
        Action::Publish { progress, .. } if progress.split.is_some() => Made::Part,
        Action::Publish { .. } => Made::Batch,
        Action::Hold { .. } => Made::Hold,
        Action::Mark { .. } => Made::Mark,
        Action::Confirm(_) => Made::Confirm,
        Action::Reconnect => Made::Reconnect,
    }
}
