//! A producer writes one batch at a time, with its position, as one Kafka transaction. It does so
//! in two halves, so that another producer can send while this one commits.
//!
//! ```text
//!   ├──────────────────── send ─────────────────────┤├─ commit ─┤
//!   begin ─▶ records ─▶ position ─▶ all acknowledged ─▶ commit ─▶ published
//!     │         │           │              │               │
//!     └─────────┴───────────┴──────────────┘               └─▶ Unknown, Fenced
//!                     └─▶ abort ─▶ Aborted, Fenced
//!                           └─▶ search ─▶ Rejected, Crowded
//! ```
//!
//! With `delivery = "at-least-once"` there is no transaction. The producer sends the records, waits
//! until all are acknowledged, and then sends the position.
//!
//! Everything blocks the calling thread, in waits short enough that `cancel` ends it within about
//! 100 ms. The producer polls by itself and waits until nothing is in flight before the commit.
//! librdkafka's own flush and rdkafka's poll would wait in steps of whole milliseconds up to 100 ms
//! while messages are in flight.

mod failing;
mod search;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header as NativeHeader, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use failing::ABORT_WITHIN;

use super::{
    batch::{Batch, Header, Outgoing},
    context::{POSITION, ProducerContext, Row},
    failure::{PublishFailure, code_of, explain},
    login, options,
};
use crate::{
    config::{Delivery, Kafka},
    error::{Code, Error, Result},
};

/// Longest single call into librdkafka, so that the producer sees `cancel` in time.
const SLICE: Duration = Duration::from_millis(100);
/// Shortest and longest pause between two looks at what is in flight.
const LOOK: Duration = Duration::from_micros(100);
const LOOK_MAX: Duration = Duration::from_millis(1);

/// After this time without any broker the caller is told, and tries again. A broker that is there
/// gets the caller's whole patience, since it may have to abort a predecessor's transaction.
const NOBODY_AFTER: Duration = Duration::from_secs(5);

/// How many records share a part of a request. A broker takes or refuses such a part as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Batching {
    /// As librdkafka packs them.
    #[default]
    Normal,
    /// So many bytes, or one record if it is larger.
    AtMost(usize),
}

/// The record that closes a transaction.
#[derive(Debug, Clone, Copy)]
pub struct PositionRecord<'a> {
    /// The position topic.
    pub topic: &'a str,
    /// The source's name.
    pub key: &'a [u8],
    /// The encoded position.
    pub value: &'a [u8],
}

/// Where a producer stands between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for the next batch.
    Ready,
    /// A batch is acknowledged and not committed.
    Sent,
    /// Rules 22 to 24: something failed.
    Spent,
}

/// One producer of a source, driven from a thread of its own. Dropping it does not block for long
/// and does not abort an open transaction. The next owner of the id aborts it.
pub struct Producer {
    native: BaseProducer<ProducerContext>,
    delivery: Delivery,
    delivery_timeout: Duration,
    cancel: Arc<AtomicBool>,
    state: State,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("delivery", &self.delivery).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Producer {
    /// A producer that is not yet connected. Whoever sets `cancel` ends what it does within about
    /// 100 ms.
    ///
    /// # Errors
    /// [`Code::KafkaOptionInvalid`]; [`Code::KafkaAuthFailed`] when there is no token to log in with.
    pub fn create(kafka: &Kafka, transactional_id: &str, batching: Batching, cancel: Arc<AtomicBool>) -> Result<Self> {
        let native: BaseProducer<ProducerContext> = options::producer(kafka, transactional_id, batching)
            .create_with_context(ProducerContext::of_source(kafka, options::source_of(transactional_id)))
            .map_err(|error| options::refused(&error))?;
        login::log_in(kafka, native.client())?;
        let (delivery, delivery_timeout) = (kafka.delivery, kafka.delivery_timeout);
        Ok(Self { native, delivery, delivery_timeout, cancel, state: State::Ready })
    }

    /// Takes the transactional.id. This fences whoever had it and aborts what they left open. With
    /// at-least-once it only waits for a broker.
    ///
    /// # Errors
    /// [`Code::KafkaUnreachable`] and the like when `timeout` has passed. The producer may then try
    /// again.
    pub fn init_transactions(&self, timeout: Duration) -> Result<()> {
        let began = Instant::now();
        let deadline = began + timeout;
        loop {
            let slice = SLICE.min(deadline.saturating_duration_since(Instant::now()));
            // After a time-out the call goes on in the background, and the next one resumes it.
            let error = match self.delivery {
                Delivery::ExactlyOnce => self.native.init_transactions(slice).err(),
                Delivery::AtLeastOnce => self
                    .native
                    .client()
                    .fetch_cluster_id(slice)
                    .is_none()
                    .then_some(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut)),
            };
            let Some(error) = error else { return Ok(()) };
            self.take_events();
            let nobody = self.native.context().all_down() && began.elapsed() >= NOBODY_AFTER;
            if !retriable(&error) || nobody || Instant::now() >= deadline || self.cancelled() {
                let trouble = &self.native.context().trouble;
                return Err(explain("taking the transactional.id", &error, trouble, Code::KafkaTransactionFailed));
            }
        }
    }

    /// Publishes a batch with its position, the position last. An empty batch carries the position
    /// alone.
    ///
    /// # Errors
    /// See [`PublishFailure`]. The producer is then spent and refuses everything.
    pub fn publish<B: Batch>(&mut self, batch: &B, position: PositionRecord<'_>) -> Result<(), PublishFailure> {
        self.send(batch, position)?;
        self.commit()
    }

    /// The first half: sends a batch and its position, and waits until Kafka has acknowledged all
    /// of it. With at-least-once that is everything.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    pub(crate) fn send<B: Batch>(&mut self, batch: &B, position: PositionRecord<'_>) -> Result<(), PublishFailure> {
        self.step(State::Ready, State::Sent)?;
        let sent = match self.delivery {
            Delivery::ExactlyOnce => self.send_transaction(batch, position),
            Delivery::AtLeastOnce => self.acknowledge(batch, position),
        };
        sent.map_err(|failure| self.explained(batch, failure))?;
        self.state = State::Sent;
        Ok(())
    }

    /// The second half: commits what was sent.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    pub(crate) fn commit(&mut self) -> Result<(), PublishFailure> {
        self.step(State::Sent, State::Ready)?;
        if self.delivery == Delivery::ExactlyOnce {
            self.commit_transaction()?;
        }
        self.state = State::Ready;
        Ok(())
    }

    /// Takes what librdkafka has to say while there is nothing to publish: lines for the log, and
    /// that a token grows old.
    pub(crate) fn idle(&self) {
        self.take_events();
    }

    /// Gives up what was sent, because the transaction before it was not committed (rule 26).
    pub(crate) fn give_up(mut self) {
        if self.step(State::Sent, State::Spent).is_ok() && self.delivery == Delivery::ExactlyOnce {
            let _ = self.abort(ABORT_WITHIN);
        }
    }

    /// Goes from one state to the next, by way of [`State::Spent`]. The producer is spent until the
    /// step has succeeded.
    fn step(&mut self, from: State, to: State) -> Result<(), PublishFailure> {
        if std::mem::replace(&mut self.state, State::Spent) == from {
            return Ok(());
        }
        let text = format!("a producer that is not {from:?} was asked to become {to:?}");
        Err(PublishFailure::Aborted(Error::new(Code::Internal, text)))
    }

    fn send_transaction<B: Batch>(&self, batch: &B, position: PositionRecord<'_>) -> Result<(), PublishFailure> {
        self.native.begin_transaction().map_err(|error| self.failed_call("beginning a transaction", &error))?;
        // Rules 2 and 3: the position is sent last, and any failure aborts all.
        let sent = self
            .send_all(batch, position.topic)
            .and_then(|()| self.send_position(position))
            .and_then(|()| self.wait_acknowledged());
        if let Err(failure) = &sent
            // Before it searches, the search aborts.
            && !matches!(failure, PublishFailure::Fenced(_) | PublishFailure::Suspected { .. })
        {
            // Nothing needs it to succeed.
            let _ = self.abort(ABORT_WITHIN);
        }
        sent
    }

    /// At least once: nobody may read the position before the records that it covers.
    fn acknowledge<B: Batch>(&self, batch: &B, position: PositionRecord<'_>) -> Result<(), PublishFailure> {
        self.send_all(batch, position.topic)?;
        self.wait_acknowledged()?;
        self.send_position(position)?;
        // The position may or may not have been written, so this is an unknown commit.
        self.wait_acknowledged().map_err(|failure| match failure {
            PublishFailure::Fenced(error) => PublishFailure::Fenced(error),
            other => PublishFailure::Unknown(other.into_error()),
        })
    }

    fn send_all<B: Batch>(&self, batch: &B, position_topic: &str) -> Result<(), PublishFailure> {
        for row in 0..batch.len() {
            let Some(outgoing) = batch.record(row) else { continue };
            // Rule 3: only positions go to the position topic.
            if outgoing.topic == position_topic {
                let error = Error::new(Code::RowInvalid, format!("row {row} is meant for the position topic"));
                return Err(PublishFailure::Rejected { rows: vec![row], error });
            }
            self.send_row(row, outgoing)?;
        }
        Ok(())
    }

    fn send_row<'h>(
        &self,
        row: Row,
        outgoing: Outgoing<'_, impl ExactSizeIterator<Item = Header<'h>>>,
    ) -> Result<(), PublishFailure> {
        self.hand_over(record(row, outgoing)).map_err(|error| self.failed_send(row, &error))?;
        if row % 1024 == 1023 {
            // This takes failures and log lines.
            self.native.poll(Duration::ZERO);
            self.check()?;
        }
        Ok(())
    }

    fn send_position(&self, position: PositionRecord<'_>) -> Result<(), PublishFailure> {
        let record = BaseRecord::with_opaque_to(position.topic, POSITION).key(position.key).payload(position.value);
        // The topic has one partition. With a second one, positions would have no order (rule 2).
        self.hand_over(record.partition(0)).map_err(|error| self.failed_position(position.topic, &error))
    }

    /// Hands a record to librdkafka, waiting while its queue is full.
    fn hand_over(&self, mut record: BaseRecord<'_, [u8], [u8], Row>) -> Result<(), KafkaError> {
        let deadline = Instant::now() + self.delivery_timeout;
        let mut waited = false;
        loop {
            match self.native.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    if Instant::now() >= deadline || self.cancelled() || !self.native.context().failed().is_empty() {
                        return Err(error);
                    }
                    if !std::mem::replace(&mut waited, true) {
                        tracing::trace!(target: "outboxd::kafka", "librdkafka's queue is full, waiting for room");
                    }
                    record = back;
                    self.native.poll(Duration::ZERO);
                    thread::sleep(LOOK);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Waits until nothing is in flight. librdkafka ends every message within `message.timeout.ms`,
    /// so this ends, too.
    fn wait_acknowledged(&self) -> Result<(), PublishFailure> {
        let mut in_flight = self.native.in_flight_count();
        let started = Instant::now();
        for look in 1_u32.. {
            self.native.poll(Duration::ZERO);
            self.check()?;
            let now = self.native.in_flight_count();
            if now == 0 {
                break;
            }
            // A fatal error purges nothing by itself.
            if look.is_multiple_of(64)
                && let Some((code, reason)) = self.native.client().fatal_error()
            {
                return Err(self.fatal(code, reason));
            }
            // While the number falls, more events are waiting. They are taken before any sleep.
            if now >= in_flight {
                // This notices a lone row within 0.1 ms, and a full batch does not wake the thread
                // hundreds of times.
                thread::sleep((started.elapsed() / 16).clamp(LOOK, LOOK_MAX));
            }
            in_flight = now;
        }
        self.check()
    }

    /// The failure, when a record has failed or the session ends.
    fn check(&self) -> Result<(), PublishFailure> {
        if !self.native.context().failed().is_empty() {
            return Err(self.failed_delivery());
        }
        if self.cancelled() {
            return Err(PublishFailure::Aborted(cancelled()));
        }
        Ok(())
    }

    fn commit_transaction(&self) -> Result<(), PublishFailure> {
        let deadline = Instant::now() + self.delivery_timeout;
        let lost_before = self.lost_requests();
        loop {
            let Err(error) = self.native.commit_transaction(SLICE) else { break };
            self.take_events();
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            if code_of(code, Code::KafkaCommitUnknown) == Code::KafkaFenced {
                return Err(PublishFailure::Fenced(self.explain("committing", &error)));
            }
            // This is only the time-out of our own slice. The request is still under way, and
            // asking again resumes the wait.
            let waiting = code == RDKafkaErrorCode::OperationTimedOut && retriable(&error);
            if !waiting || Instant::now() >= deadline || self.cancelled() {
                // Rule 23. librdkafka's "requires abort" proves nothing: the broker may have
                // committed before the answer was lost (rdkafka_txnmgr.c,
                // rd_kafka_txn_handle_EndTxn).
                let error = Error::new(Code::KafkaCommitUnknown, "committing").because(error);
                return Err(PublishFailure::Unknown(error));
            }
        }
        // Rule 22 (KAFKA-17754): librdkafka commits again over a new connection, with the same
        // epoch, and reports nothing. The first request may still arrive at any later time. It
        // would then end whatever transaction this producer has open. A new epoch refuses it.
        if self.lost_requests() > lost_before {
            let why = "the request may have been lost on its way, and could end a later transaction if it arrives then";
            return Err(PublishFailure::Unknown(Error::new(Code::KafkaCommitUnknown, "committing").because(why)));
        }
        Ok(())
    }

    /// How often requests were lost so far. Events that wait are taken first.
    fn lost_requests(&self) -> u64 {
        self.take_events();
        self.native.context().lost_requests()
    }

    /// Takes all events that wait. A poll takes one event, and an error may stand behind many log
    /// lines.
    fn take_events(&self) {
        let context = self.native.context();
        loop {
            let lines = context.lines();
            self.native.poll(Duration::ZERO);
            if context.lines() == lines {
                return;
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

fn cancelled() -> Error {
    Error::new(Code::KafkaTransactionFailed, "the batch was given up, as its session ends")
}

fn retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(native) => native.is_retriable(),
        other => other.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut),
    }
}

fn record<'a, 'h>(
    row: Row,
    outgoing: Outgoing<'a, impl ExactSizeIterator<Item = Header<'h>>>,
) -> BaseRecord<'a, [u8], [u8], Row> {
    let mut record = BaseRecord::with_opaque_to(outgoing.topic, row);
    record.key = outgoing.key;
    record.payload = outgoing.value;
    record.partition = outgoing.partition;
    // Kafka has no time before 1970, and librdkafka takes 0 for "now".
    record.timestamp = outgoing.timestamp.map(|timestamp| timestamp.max(1));
    if outgoing.headers.len() > 0 {
        let headers = OwnedHeaders::new_with_capacity(outgoing.headers.len());
        record.headers =
            Some(outgoing.headers.fold(headers, |headers, (key, value)| headers.insert(NativeHeader { key, value })));
    }
    record
}
