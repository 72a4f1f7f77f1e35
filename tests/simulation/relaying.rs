//! Feeds the state machine from the stream, and does what it asks for.

use std::time::Duration;

use outboxd::{
    Code, Error, Lsn,
    relay::{
        driver::{Driver, Effect, EffectOf, MarkingJob},
        state::{Machine, Place, RowIs},
    },
    source::compare::require_same_publication,
};

use crate::{
    bugs::Bug,
    building::Read,
    coverage::Event,
    instance::{Instance, Job, Life},
    postgres::{Marks, Message, RowNo, takes_no_marks},
    schedule::{Env, trace},
    transitions::{From, Input, Made},
};

impl Instance {
    /// Does one of the things that a session does side by side.
    pub(crate) fn relay(&mut self, env: &mut Env) -> Result<(), Error> {
        match env.random.below(11) {
            10 => self.look(env)?,
            0..4 => self.read(env)?,
            4..6 => {
                if env.random.chance(10) {
                    self.sql(env)?; // the marker notices that its session is gone
                }
                self.try_again(env)?;
                while self.act(env)? && env.random.chance(80) {}
            }
            _ => {
                if let Some(published) = self.publish_on(env)?
                    && let (Some(batch), Some(driver)) = (published.batch, &mut self.session.driver)
                {
                    let owes_marks = env.options.marks && !published.records.rows().is_empty();
                    if env.bug != Some(Bug::ArenaTooEarly) {
                        driver.give_back(published.records);
                    }
                    let (from, before) = (stands(&driver.machine), driver.confirmed());
                    driver.committed(batch)?;
                    let made = match driver.confirmed() > before {
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

    /// Looks at the publication, in two steps: first the end of the log, then the catalog.
    fn look(&mut self, env: &mut Env) -> Result<(), Error> {
        self.sql(env)?;
        let end = match self.session.look.take() {
            _ if env.bug == Some(Bug::ConfirmWithoutLook) => Lsn(u64::MAX),
            None => {
                self.session.look = Some(env.postgres.log_end);
                return Ok(());
            }
            Some(end) => {
                self.require_same_publication(env)?;
                end
            }
        };
        let Some(driver) = &mut self.session.driver else { return Ok(()) };
        if driver.machine.awaits_look() {
            env.hit(Event::AwaitedLook);
        }
        driver.machine.looked(end)
    }

    fn require_same_publication(&self, env: &Env) -> Result<(), Error> {
        let now = env.postgres.publication.into();
        self.session.position.as_ref().map_or(Ok(()), |position| require_same_publication(&position.publication, &now))
    }

    fn read(&mut self, env: &mut Env) -> Result<(), Error> {
        for _ in 0..=env.random.below(8) {
            let Some(driver) = &self.session.driver else { return Ok(()) };
            if !driver.machine.wants_input() {
                return Ok(());
            }
            let Some(message) = self.session.stream.pop_front() else {
                if self.holds_slot(env) {
                    return Ok(());
                }
                return Err(Error::new(Code::PostgresUnreachable, "the replication connection ended"));
            };
            self.take_in(message, env)?;
            // A session acts after every message. Here it may act later, since actions are only
            // queued.
            if env.random.chance(60) {
                while self.act(env)? {}
                self.check_bounds(env);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, message: Message, env: &mut Env) -> Result<(), Error> {
        trace!(env, "{self}: reads {message:?}");
        let Some(driver) = &self.session.driver else { return Ok(()) };
        let from = stands(&driver.machine);
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
        let Some(driver) = &mut self.session.driver else { return Ok(Made::Ends) };
        let machine = &mut driver.machine;
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
                // How far the stream is behind decides only how long a batch waits.
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
                let is_ahead = wal_end > machine.confirmed() && !machine.in_transaction();
                if reply_requested {
                    driver.ask_for_status();
                }
                let is_idle = self.session.marking.is_none()
                    && self.session.kept.is_empty()
                    && driver.marks().next().is_none()
                    && driver.building.is_empty();
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
        let Some(driver) = &mut self.session.driver else { return Ok(Made::Ends) };
        let (machine, building) = (&mut driver.machine, &mut driver.building);
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
                building.push(number, false);
                Made::Publish
            }
            RowIs::Redelivered => {
                machine.redelivered_row()?;
                building.push(number, true);
                self.session.read_part = Some(row.transaction);
                env.hit(Event::Redelivered);
                Made::Keep
            }
        })
    }

    /// G6: the rows and bytes in memory stay within the bounds.
    fn check_bounds(&self, env: &mut Env) {
        let Some(driver) = &self.session.driver else { return };
        let publishing: usize = self.session.publishing.iter().map(|publishing| publishing.records.rows().len()).sum();
        let jobs = self.session.marking.iter().chain([&self.session.kept]);
        let marking: usize = jobs.flatten().map(|(_, rows)| rows.len()).sum();
        // Where marks are made, the marks of a batch wait in the driver from the beginning.
        let waiting: usize = driver.marks().map(Vec::len).sum();
        let waiting = if env.options.marks { waiting } else { publishing + waiting };
        let (rows, bytes) = (driver.building.len() + waiting + marking, driver.machine.in_flight_bytes());
        let bounds = env.checks.bounds.clone();
        if rows > bounds.unmarked_rows + bounds.batch_rows || bytes > bounds.in_flight_bytes + 30 {
            env.checks.fail(|| format!("G6: {rows} rows and {bytes} bytes in memory, and the bounds are {bounds:?}"));
        }
    }

    /// Does one thing that the driver asks for. Returns whether there was one.
    fn act(&mut self, env: &mut Env) -> Result<bool, Error> {
        let now = env.now;
        let Some(driver) = &mut self.session.driver else { return Ok(false) };
        if env.random.chance(2) {
            driver.ask_for_status(); // one is due
        }
        let (from, held) = (stands(&driver.machine), driver.building.held);
        let effect = driver.next_effect(now)?;
        if let Some(wrong) = driver.building.wrong.take() {
            env.checks.fail(|| wrong);
        }
        if driver.building.held > held {
            env.hit_times(Event::Held, driver.building.held - held);
            env.coverage.transitions.told(Input::Ask, from, Made::Hold);
        }
        let Some(effect) = effect else { return Ok(false) };
        env.coverage.transitions.told(Input::Ask, from, asked(&effect));
        trace!(env, "{self}: {effect:?}");
        match effect {
            Effect::Publish { batch, rows, records, progress } => {
                env.hit_times(Event::RowsPublished, rows);
                if progress.split.is_some() {
                    env.hit(Event::Split);
                }
                if rows == 0 {
                    env.hit(Event::IdleAdvance);
                    if env.bug != Some(Bug::ConfirmWithoutLook) {
                        self.require_same_publication(env)?;
                    }
                }
                if let Some(position) = &self.session.position {
                    let mut position = position.clone();
                    position.progress = progress;
                    position.chunk.clear();
                    if env.bug == Some(Bug::ArenaTooEarly)
                        && let Some(driver) = &mut self.session.driver
                    {
                        driver.give_back(records.clone());
                    }
                    self.publish(Some(batch), records, position, env);
                }
            }
            Effect::Mark(job) => self.mark(job, env)?,
            Effect::SendStatus => {
                if let Some(confirmed) = self.session.driver.as_ref().map(Driver::confirmed) {
                    self.confirm(confirmed, env);
                }
            }
            Effect::Reconnect => {
                env.hit(Event::Reconnect);
                // Marks that are under way may still take effect, or not.
                if let Some(driver) = &self.session.driver {
                    self.proved = Some((driver.machine.position().clone(), self.session.incarnation));
                }
                return Err(Error::new(Code::PostgresUnreachable, "reconnects to take the dropped rows again"));
            }
        }
        Ok(true)
    }

    fn mark(&mut self, job: MarkingJob<Vec<RowNo>>, env: &mut Env) -> Result<(), Error> {
        let MarkingJob { batches, marks, .. } = job;
        if let Some(driver) = &mut self.session.driver
            && env.bug == Some(Bug::ConfirmBeforeMark)
        {
            driver.job_done();
            driver.marked(&batches, Lsn::ZERO)?;
            return self.send_marks(Marks::Job, marks.concat(), env);
        }
        if self.session.marking.is_some() {
            return Err(Error::new(Code::Internal, "a second marking job before the first is done"));
        }
        self.session.marking = Some(batches.into_iter().zip(marks).collect());
        if self.session.tries_again { Ok(()) } else { self.begin_job(env) }
    }

    /// The marker does one thing at a time. Rows of a table that takes no marks wait with the earlier
    /// ones.
    pub(crate) fn begin_job(&mut self, env: &mut Env) -> Result<(), Error> {
        let Some(job) = self.session.marking.take() else { return Ok(()) };
        let refuses = !self.session.kept.is_empty();
        let is_tried = |row: &RowNo| !refuses || !takes_no_marks(*row);
        let rows = job.iter().flat_map(|(_, rows)| rows).copied().filter(is_tried).collect();
        let (job, kept): (Job, Job) = job.into_iter().partition(|(_, rows)| rows.iter().all(is_tried));
        self.keep(kept, true);
        self.session.marking = Some(job);
        self.send_marks(Marks::Job, rows, env)
    }

    /// Tries the marks again that are kept.
    fn try_again(&mut self, env: &mut Env) -> Result<(), Error> {
        let rows: Vec<RowNo> = self.session.kept.iter().flat_map(|(_, rows)| rows).copied().collect();
        if rows.is_empty() || self.session.marking.is_some() || std::mem::replace(&mut self.session.tries_again, true) {
            return Ok(());
        }
        env.hit(Event::TriedAgain);
        self.send_marks(Marks::Kept, rows, env)
    }

    /// The instance is told to stop. It finishes a stream first, and leaves a start where it is.
    pub(crate) fn drain(&mut self, env: &mut Env) {
        trace!(env, "{self}: is told to stop");
        let Some(driver) = &mut self.session.driver else {
            self.hang_up(env);
            self.life = Life::Down;
            self.proved = None;
            return;
        };
        let from = stands(&driver.machine);
        driver.drain();
        let made = if driver.is_drained() { Made::IsDone } else { Made::Finishes };
        env.coverage.transitions.told(Input::Drain, from, made);
        self.session.draining = true;
    }

    fn stop_if_drained(&mut self, env: &mut Env) {
        let Some(driver) = &self.session.driver else { return };
        if self.session.draining && driver.is_drained() {
            env.hit(Event::Drained);
            let confirmed: Lsn = driver.confirmed();
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

pub(crate) fn stands(machine: &Machine) -> From {
    (machine.place(), machine.owes_proof())
}

fn asked(effect: &EffectOf<Read>) -> Made {
    match effect {
        Effect::Publish { rows: 0, .. } => Made::Advance,
        Effect::Publish { progress, .. } if progress.split.is_some() => Made::Part,
        Effect::Publish { .. } => Made::Batch,
        Effect::Mark { .. } => Made::Mark,
        Effect::SendStatus => Made::Confirm,
        Effect::Reconnect => Made::Reconnect,
    }
}
