//! Relays the stream. It tells the driver what arrives, and hands the driver's effects to those who
//! carry them out.
//!
//! ```text
//!   walsender ─▶ Intake (decode, encode) ─▶ Driver ─▶ Publisher threads ─▶ Kafka
//!       ▲                                   │ ▲  │            │
//!       └──────────── SendStatus ───────────┘ │  └▶ Marker    │ committed
//!                                             └─ marked ┴─────┘
//! ```
//!
//! One task owns all of it and waits in one place. Publishing and marking go on elsewhere, so
//! neither can keep the task from answering the server.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

use super::{
    context::Context,
    driver::{Driver, Effect},
    gathered::Gathered,
    intake::{Intake, Relaying},
    looks::{Look, Looks},
    marker::{Marked, Marker},
    marking::marking_sessions,
    memory::{End, Memory, ServerLife},
    preconditions::Watch,
    publisher::{Event, Job, Publisher},
    report::Report,
    rest::Rest,
    rows::{Policy, Rows},
    start::Started,
    state::{Bounds, Machine},
    traced::Traced,
};
use crate::{
    Code, Error, Lsn, Result,
    config::{Limits, Mark, Timeouts},
    kafka::PublishFailure,
    outbox::{Encoder, Records},
    postgres::{ReplicationStream, SqlSession, StandbyStatus},
    source::{position::Position, standing::SourceState},
};

/// Messages that are taken before the stream looks at events again.
const MESSAGES_AT_ONCE: usize = 4096;

/// Batches that may wait for the publisher. The state machine allows fewer.
const PUBLISH_QUEUE: usize = 8;

/// Metrics are updated at least this often.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// A session at work.
pub(super) struct Stream<'a> {
    context: &'a Context,
    report: Report,
    memory: &'a mut Memory,
    epoch: Instant,
    replication: ReplicationStream,
    sql: Arc<SqlSession>,
    intake: Intake,
    driver: Relaying,
    /// The rows that are traced, if any may be.
    traced: Option<Traced>,
    publisher: Publisher,
    marker: Option<Marker>,
    look: Arc<Look>,
    looks: Looks,
    watch: Watch,
    position: Position,
    life: ServerLife,
    rest: Rest,
    /// When the metrics were last updated.
    reported: Instant,
    /// What follows once the session is drained.
    then: End,
    ended: Option<End>,
}

impl<'a> Stream<'a> {
    /// Starts publisher and marker.
    ///
    /// # Errors
    /// The marker's session cannot be opened.
    pub(super) async fn new(context: &'a Context, memory: &'a mut Memory, started: Started) -> Result<Self> {
        let source = &context.source;
        let Started { stream, sql, producers, tables, relatives, position, doubts, confirmed, life } = started;
        let bounds = bounds(&source.limits, &source.timeouts);
        let mut machine = Machine::new(bounds, source.mark != Mark::None, position.progress.clone(), confirmed);
        if memory.trusted.take().is_some_and(|trusted| trusted == (life.clone(), position.progress.clone())) {
            machine = machine.trust_history();
        }
        let marker = match source.mark {
            Mark::None => None,
            Mark::Update | Mark::Delete => Some(Marker::start(marking_sessions(context, &tables, life.started).await?)),
        };
        let mut encoder = Encoder::new(&source.mapping, source.mark, &context.kafka.position_topic)?;
        encoder.times = memory.times.clone();
        let rows = Rows::new(encoder, Policy::of(source), memory.verdicts.clone());
        let look = Arc::new(Look::new(source, &sql, &tables, &position.publication));
        tracing::info!(lsn = %position.progress.lsn, confirmed = %confirmed, "streaming");
        let publisher = Publisher::start(producers, &source.name, PUBLISH_QUEUE)?;
        let traced = Traced::of(context);
        let mut building = Gathered::new(2 * source.limits.batch_bytes);
        if traced.is_some() {
            building = building.with_transactions();
        }
        // Now there is time for it.
        let replication = stream.release().await?;
        Ok(Self {
            context,
            report: Report::new(context.metrics.clone()),
            memory,
            epoch: Instant::now(),
            watch: Watch::start(context, &sql, doubts),
            sql,
            intake: Intake::new(rows, tables, relatives),
            driver: Driver::new(machine, building),
            traced,
            publisher,
            marker,
            looks: Looks::start(Arc::clone(&look)),
            look,
            position,
            life,
            rest: Rest::new(replication.room()),
            replication,
            reported: Instant::now(),
            then: End::Stopped,
            ended: None,
        })
    }

    /// Relays until something ends it.
    ///
    /// # Errors
    /// Whatever ended it.
    pub(super) async fn run(mut self) -> Result<End> {
        let timeouts = self.context.source.timeouts.clone();
        let mut status = tokio::time::interval(timeouts.status);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut give_up = None;
        if !self.context.metrics.has_to_prove_itself() {
            self.context.metrics.set_state(SourceState::Streaming);
        }
        loop {
            self.carry_out().await?;
            if let Some(end) = self.ended {
                return Ok(end);
            }
            if give_up.is_none() && self.intake.has_refused() {
                tracing::info!("finishing what was read before the source stops");
                give_up = Some(Instant::now() + timeouts.shutdown);
            }
            if let Some(give_up) = give_up
                && self.driver.is_drained()
            {
                if !self.awaits_look() || Instant::now() >= give_up {
                    return self.close().await;
                }
                self.looks.hurry();
            }
            if self.read_buffered()? {
                continue;
            }
            self.rest();
            self.wait(&mut status, &mut give_up).await?;
        }
    }

    /// Whether a look is still to come that lets more be confirmed.
    fn awaits_look(&self) -> bool {
        self.driver.machine.awaits_look() && self.looks.go_on()
    }

    /// Ends a session that is drained.
    async fn close(mut self) -> Result<End> {
        self.send_status().await?;
        // If closing fails, no harm is done: the status has told the server what matters.
        let _ = self.replication.close().await;
        tracing::info!(lsn = %self.driver.confirmed(), "drained");
        self.intake.take_refusal().map_or(Ok(self.then), Err)
    }

    /// Takes messages that are buffered, up to a bound. Returns whether there were any.
    fn read_buffered(&mut self) -> Result<bool> {
        let now = self.epoch.elapsed();
        let (mut taken, before) = (0, self.replication.bytes_taken());
        while taken < MESSAGES_AT_ONCE && self.driver.machine.wants_input() {
            match self.replication.next_message() {
                Ok(Some(message)) => self.intake.take(message, &mut self.driver, now)?,
                Ok(None) => break,
                Err(error) => {
                    self.intake.refuse_message(error, &mut self.driver)?;
                    break;
                }
            }
            taken += 1;
        }
        self.rest.took(taken, self.replication.bytes_taken() - before);
        Ok(taken > 0)
    }

    /// Behind a backlog, lets more messages gather before it reads them. The thread sleeps, not
    /// only the task, so that nobody waits on the socket. So short a rest hurts nothing else on
    /// this thread.
    fn rest(&mut self) {
        let machine = &self.driver.machine;
        if let Some(pause) = self.rest.due(machine.behind())
            && machine.wants_input()
        {
            std::thread::sleep(pause);
        }
    }

    /// Waits for the next thing to happen, whatever it is.
    async fn wait(&mut self, status: &mut Interval, give_up: &mut Option<Instant>) -> Result<()> {
        let wants_input = self.driver.machine.wants_input();
        let wake = self.driver.machine.next_deadline().map(|deadline| self.epoch + deadline);
        tokio::select! {
            filled = self.replication.fill(), if wants_input => {
                filled.or_else(|error| self.intake.refuse_message(error, &mut self.driver))?;
            }
            event = self.publisher.event() => self.published(event?).await?,
            marked = marked(&mut self.marker) => self.marked(&marked?)?,
            found = self.looks.found() => self.looked(found)?,
            // As with a look: what was read is finished first.
            error = self.watch.found() => self.intake.refuse(error, &mut self.driver),
            error = self.sql.closed() => return Err(error),
            _ = status.tick() => self.driver.ask_for_status(),
            // The metrics must show that the lag grows while nothing happens.
            () = sleep_until(self.reported + REPORT_EVERY) => self.report(),
            () = sleep_until(wake.unwrap_or_else(far_future)), if wake.is_some() => {}
            () = self.context.stopping(), if give_up.is_none() => *give_up = Some(self.drain(End::Stopped)),
            () = self.context.reloaded(), if give_up.is_none() => *give_up = Some(self.drain(End::Again)),
            () = sleep_until(give_up.unwrap_or_else(far_future)), if give_up.is_some() => {
                if !self.driver.is_drained() {
                    return self.gave_up();
                }
            }
        }
        Ok(())
    }

    /// Finishes what is in flight, and then ends the session. Returns when to give that up.
    fn drain(&mut self, then: End) -> Instant {
        tracing::info!("draining");
        self.driver.drain();
        self.then = then;
        Instant::now() + self.context.source.timeouts.shutdown
    }

    /// The drain takes too long, which is an error of a source that stops. The next session does what
    /// was left. A refused row is met again by it, so that what came before the row is tried again.
    fn gave_up(&mut self) -> Result<()> {
        match (self.intake.take_refusal(), self.then) {
            (None, End::Again) => {
                self.ended = Some(End::Again);
                Ok(())
            }
            (None, _) => Err(Error::new(Code::ShutdownTimeout, "closing down with rows in flight")),
            (Some(refusal), _) => {
                let what = "rows in flight that were read before the source had to stop";
                Err(Error::new(Code::ShutdownTimeout, what).because(refusal))
            }
        }
    }

    /// Carries out what the driver asks for.
    async fn carry_out(&mut self) -> Result<()> {
        while let Some(effect) = self.driver.next_effect(self.epoch.elapsed())? {
            match effect {
                Effect::Publish { batch, rows, records, progress } => {
                    if rows == 0 {
                        // The position must not pass rows over either.
                        let look = Arc::clone(&self.look);
                        self.answering(async move { look.now().await }).await?;
                    }
                    if let (Some(traced), Some(of)) = (&mut self.traced, &self.driver.building.transactions) {
                        traced.publishing(batch, &records, of);
                    }
                    self.position.progress = progress;
                    let position = self.context.record_of(&self.position);
                    self.publisher.publish(Job { batch, records, position })?;
                }
                Effect::Mark(job) => {
                    let marker = self.marker.as_ref().ok_or_else(|| {
                        Error::new(Code::Internal, "marks are to be made in a session that has no marker")
                    })?;
                    marker.mark(job)?;
                }
                Effect::SendStatus => self.send_status().await?,
                Effect::Reconnect => {
                    let position = self.driver.machine.position().clone();
                    self.memory.trusted = Some((self.life.clone(), position));
                    self.ended = Some(End::Again);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes in what a look has found. After one that found something, what was read is published
    /// and marked before the session ends, so that nothing is published without its mark.
    fn looked(&mut self, found: Result<Lsn>) -> Result<()> {
        match found {
            Ok(end) => {
                self.prove(end);
                self.driver.machine.looked(end)
            }
            Err(error) if self.sql.is_closed() => Err(error),
            Err(error) => {
                self.intake.refuse(error, &mut self.driver);
                Ok(())
            }
        }
    }

    /// After a failure, a session is a success once it has published, or has read up to where the log
    /// ended and has nothing to publish. Until then the source goes on to say that it fails.
    fn prove(&mut self, end: Lsn) {
        if !self.context.metrics.has_to_prove_itself() {
            return;
        }
        if self.driver.machine.is_idle() && self.intake.received() >= end {
            self.context.metrics.set_state(SourceState::Streaming);
        } else {
            // A server with nothing to send answers, and so says how far it has read its log.
            self.driver.ask_for_status();
        }
    }

    async fn published(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Sent { batch } => self.driver.sent(batch),
            Event::Committed { batch, records, took } => {
                if !records.is_empty() && self.context.metrics.has_to_prove_itself() {
                    self.context.metrics.set_state(SourceState::Streaming);
                }
                let oldest = self.driver.machine.oldest_unpublished();
                self.report.committed(&records, took, oldest);
                self.traced.iter_mut().for_each(|traced| traced.published(batch));
                self.driver.give_back(records);
                self.driver.committed(batch)
            }
            Event::Failed { records, failure } => self.failed(&records, failure).await,
        }
    }

    /// Ends the session after a failed transaction. If rows are to blame, the next session follows
    /// at once.
    async fn failed(&mut self, records: &Records, failure: PublishFailure) -> Result<()> {
        self.report.failed(&failure);
        if !self.memory.learn(&self.context.kafka, records, &failure).await {
            return Err(failure.into_error());
        }
        self.ended = Some(End::Again);
        Ok(())
    }

    fn marked(&mut self, marked: &Marked) -> Result<()> {
        self.report.marked(marked.rows, marked.since.map(|since| self.epoch.elapsed().saturating_sub(since)));
        self.report.unmarkable(&marked.failures, marked.kept);
        if marked.is_answer {
            self.driver.job_done();
        }
        self.traced.iter_mut().for_each(|traced| traced.marked(&marked.batches));
        self.driver.marked(&marked.batches, marked.behind)
    }

    /// Waits for `work`, and answers the walsender meanwhile.
    async fn answering<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut tick = tokio::time::interval(self.context.source.timeouts.status);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = tick.tick() => self.send_status().await?,
            }
        }
    }

    async fn send_status(&mut self) -> Result<()> {
        let flushed = self.driver.confirmed();
        let written = self.intake.received().max(flushed);
        let reply_requested = self.context.metrics.has_to_prove_itself();
        self.replication.send_status(StandbyStatus { written, flushed, applied: flushed, reply_requested }).await?;
        self.report();
        Ok(())
    }

    /// Tells the metrics and the status page where the source stands.
    fn report(&mut self) {
        self.reported = Instant::now();
        let counts = self.intake.take_counts();
        self.report.progress(&self.driver.machine, &counts);
    }
}

async fn marked(marker: &mut Option<Marker>) -> Result<Marked> {
    match marker {
        Some(marker) => marker.done().await,
        None => std::future::pending().await,
    }
}

fn bounds(limits: &Limits, timeouts: &Timeouts) -> Bounds {
    Bounds {
        batch_rows: limits.batch_rows,
        batch_bytes: limits.batch_bytes,
        linger: limits.linger,
        in_flight_bytes: limits.in_flight_bytes,
        unmarked_rows: limits.unmarked_rows,
        idle_advance: timeouts.idle_advance,
    }
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}
