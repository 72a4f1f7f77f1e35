//! The producer of an instance. Batches go in order, one Kafka transaction each. Producers take
//! turns: one commits while the next one sends (rule 26). Without transactions the records go
//! first, and the position after their acknowledgement.

use outboxd::{Code, Error, relay::state::BatchId, source::position::Position};

use crate::{
    bugs::Bug,
    building::Arena,
    coverage::Event,
    instance::Instance,
    kafka::{Produce, Refusal},
    postgres::RowNo,
    schedule::{Env, trace},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Queued,
    /// Some of its rows were sent.
    Part(usize),
    /// All of its rows were sent and acknowledged.
    RowsSent,
    /// Without transactions: it was sent and is not acknowledged.
    Unacknowledged,
    /// The position was sent and acknowledged.
    PositionSent,
    /// EndTxn is under way.
    Ending,
    Ended(Result<(), Refusal>),
}

#[derive(Debug)]
pub(crate) struct Publishing {
    /// The batch. `None` for what the start writes.
    pub(crate) batch: Option<BatchId>,
    pub(crate) records: Arena,
    pub(crate) position: Box<Position>,
    pub(crate) producer: usize,
    pub(crate) transactional: bool,
    pub(crate) stage: Stage,
    /// The commit was sent a second time. What the first request will do is not known (rule 22).
    pub(crate) slow: bool,
    /// Whether the machine was told that the batch is acknowledged.
    pub(crate) told_sent: bool,
}

impl Publishing {
    pub(crate) fn is_sent(&self) -> bool {
        matches!(self.stage, Stage::PositionSent | Stage::Ending | Stage::Ended(_))
    }
}

impl Instance {
    pub(crate) fn publish(&mut self, batch: Option<BatchId>, records: Arena, position: Box<Position>, env: &mut Env) {
        let producer = self.session.published_batches % env.options.producers;
        self.session.published_batches += 1;
        self.session.position = Some(position.clone());
        // The set-up is fenced in either mode: a zombie must not write `creating` or `backfill`.
        let transactional = env.options.exactly_once || batch.is_none();
        let (stage, slow, told_sent) = (Stage::Queued, false, false);
        let publishing = Publishing { batch, records, position, producer, transactional, stage, slow, told_sent };
        self.session.publishing.push_back(publishing);
    }

    /// Takes one step of one of the batches under way. Returns the first of them if it is now
    /// committed.
    pub(crate) fn publish_on(&mut self, env: &mut Env) -> Result<Option<Publishing>, Error> {
        let Some(first) = self.session.publishing.front() else { return Ok(None) };
        // Rule 26: once this batch is acknowledged, the other producer sends the next one.
        let second = self
            .session
            .publishing
            .get(1)
            .is_some_and(|second| second.producer != first.producer && first.transactional && first.is_sent());
        let which = usize::from(second && env.random.chance(50));
        let first_is_sent = first.stage == Stage::PositionSent;
        let publishing = &mut self.session.publishing[which];
        let (producer, epoch) = (publishing.producer, self.epochs[publishing.producer]);
        match publishing.stage {
            Stage::Queued | Stage::Part(_) if publishing.transactional => {
                if which == 1 {
                    env.hit(Event::Pipelined);
                }
                let sent = if let Stage::Part(sent) = publishing.stage { sent } else { 0 };
                let rows = publishing.records.rows();
                let rest = rows.len().saturating_sub(sent);
                let more = if env.random.chance(70) { rest } else { env.random.index(rest + 1) };
                let result = env.kafka.send_rows(producer, epoch, &rows[rows.len() - rest..rows.len() - rest + more]);
                drop(rows);
                if accepted(result)? {
                    publishing.stage = if more == rest { Stage::RowsSent } else { Stage::Part(sent + more) };
                }
            }
            Stage::RowsSent if publishing.transactional => {
                let is_accepted = accepted(env.kafka.send_position(producer, epoch, publishing.position.clone()))?;
                publishing.stage = if is_accepted { Stage::PositionSent } else { Stage::RowsSent };
                if is_accepted {
                    self.tell_sent(which)?;
                }
            }
            Stage::PositionSent if which == 0 => {
                publishing.stage = Stage::Ending;
                trace!(env, "{self}: commits {:?}", self.session.publishing[0]);
                self.send_end(env);
            }
            Stage::PositionSent if env.bug == Some(Bug::CommitOutOfOrder) && first_is_sent => {
                self.session.publishing.swap(0, 1);
                // The machine would refuse the names in this order, so they are exchanged.
                let names = [self.session.publishing[1].batch, self.session.publishing[0].batch];
                (self.session.publishing[0].batch, self.session.publishing[1].batch) = (names[0], names[1]);
            }
            Stage::PositionSent if env.bug == Some(Bug::TellOutOfOrder) && first_is_sent => {
                self.session.publishing.swap(0, 1);
            }
            Stage::Ending => return self.wait_for_commit(env),
            Stage::Ended(result) => return self.ended(result, env),
            Stage::Unacknowledged
                if !env.kafka.produces.iter().any(|produce| produce.serial == self.session.serial) =>
            {
                return Err(Error::new(Code::KafkaTransactionFailed, "no acknowledgement came"));
            }
            Stage::Queued if which == 0 => {
                let rows = publishing.records.rows().clone();
                publishing.stage = Stage::Unacknowledged;
                self.send_loose(rows, None, env);
            }
            Stage::RowsSent if which == 0 => {
                let position = Some(publishing.position.clone());
                publishing.stage = Stage::Unacknowledged;
                publishing.slow = true; // now the position is sent
                self.send_loose(Vec::new(), position, env);
            }
            _ => {}
        }
        Ok(None)
    }

    /// Tells the machine once for each batch. A bug that sends a batch again does not tell it
    /// again.
    fn tell_sent(&mut self, which: usize) -> Result<(), Error> {
        let publishing = &mut self.session.publishing[which];
        if let (false, Some(batch), Some(driver)) = (publishing.told_sent, publishing.batch, &mut self.session.driver) {
            driver.sent(batch)?;
        }
        publishing.told_sent = true;
        Ok(())
    }

    fn send_end(&mut self, env: &mut Env) {
        let producer = self.session.publishing[0].producer;
        let (epoch, owner, serial) = (self.epochs[producer], self.number, self.session.serial);
        env.kafka.send_end(producer, epoch, owner, serial);
    }

    fn send_loose(&mut self, rows: Vec<RowNo>, position: Option<Box<Position>>, env: &mut Env) {
        let (owner, serial) = (self.number, self.session.serial);
        env.kafka.produces.push(Produce { owner, serial, rows, position });
    }

    /// The broker has acknowledged what was sent without a transaction.
    pub(crate) fn acknowledged(&mut self) {
        if let Some(first) = self.session.publishing.front_mut()
            && first.stage == Stage::Unacknowledged
        {
            first.stage = if first.slow { Stage::Ended(Ok(())) } else { Stage::RowsSent };
        }
    }

    /// The answer to an EndTxn.
    pub(crate) fn end_answered(&mut self, result: Result<(), Refusal>) {
        if let Some(first) = self.session.publishing.front_mut()
            && first.stage == Stage::Ending
        {
            first.stage = Stage::Ended(result);
        }
    }

    /// The answer to the commit is late. The session waits on, sends the commit again, or gives up.
    fn wait_for_commit(&mut self, env: &mut Env) -> Result<Option<Publishing>, Error> {
        let serial = self.session.serial;
        let (mut under_way, mut held_up) = (0, 0);
        for end in env.kafka.ends.iter().filter(|end| end.serial == serial) {
            under_way += 1;
            held_up += usize::from(end.held);
        }
        if under_way > held_up && !env.kafka.is_moving || env.random.chance(80) {
            return Ok(None);
        }
        if env.random.chance(50) {
            self.commit_again(env);
            return Ok(None);
        }
        self.failed(Error::new(Code::KafkaCommitUnknown, "no answer to the commit"), env)
    }

    /// Sends the commit a second time, as a client does when it no longer waits for the first
    /// answer.
    pub(crate) fn commit_again(&mut self, env: &mut Env) {
        env.hit(Event::CommitSlow);
        trace!(env, "{self}: sends the commit again");
        self.session.publishing[0].slow = true;
        self.send_end(env);
    }

    fn ended(&mut self, result: Result<(), Refusal>, env: &mut Env) -> Result<Option<Publishing>, Error> {
        match result {
            Ok(()) => {}
            Err(Refusal::Fenced) => return Err(Error::new(Code::KafkaFenced, "the producer is fenced")),
            Err(_) => {
                return self.failed(Error::new(Code::KafkaTransactionFailed, "the commit was refused"), env);
            }
        }
        // Rule 22: a slow commit may have left a request under way, and that request must find
        // another epoch.
        let keeps = env.bug == Some(Bug::KeepProducers);
        if self.session.publishing[0].slow && self.session.publishing[0].transactional && !keeps {
            return Err(Error::new(Code::KafkaTransactionFailed, "the commit was slow"));
        }
        // Without transactions, only the acknowledgement of the position follows.
        self.tell_sent(0)?;
        Ok(self.session.publishing.pop_front())
    }

    /// Rules 22 to 24: nothing in memory can be trusted, and the position will tell.
    pub(crate) fn failed(&mut self, error: Error, env: &mut Env) -> Result<Option<Publishing>, Error> {
        if error.code() == Code::KafkaCommitUnknown {
            env.hit(Event::CommitUnknown);
        }
        match env.bug {
            Some(Bug::RepublishFromMemory) => {
                self.republish(env);
                Ok(None)
            }
            Some(Bug::KeepProducers) => {
                self.keeps_producers = true;
                Err(error)
            }
            Some(Bug::CommitSecondAfterFailure) if self.session.publishing.len() > 1 => {
                Ok(self.session.publishing.pop_front())
            }
            _ => Err(error),
        }
    }
}

impl Instance {
    /// Sends the same batches again with fresh producers. No session may do that.
    pub(crate) fn republish(&mut self, env: &mut Env) {
        for producer in 0..self.epochs.len() {
            self.epochs[producer] = env.kafka.init(producer);
        }
        for publishing in &mut self.session.publishing {
            publishing.stage = Stage::Queued;
        }
    }
}

fn accepted(result: Result<(), Refusal>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(Refusal::Busy) => Ok(false),
        Err(Refusal::Fenced) => Err(Error::new(Code::KafkaFenced, "the producer is fenced")),
        Err(Refusal::Unknown) => Err(Error::new(Code::KafkaTransactionFailed, "the producer's id has expired")),
        Err(Refusal::Invalid) => Err(Error::new(Code::KafkaTransactionFailed, "the transaction is not open")),
    }
}
