//! The producers of one source, and the thread that publishes batches with them.
//!
//! A batch goes in with the position that is published with it; the records come back for reuse once Kafka has
//! committed both. The first failure is the last word: the thread ends, its producers are thrown away, and the session
//! is rebuilt from the position in Kafka (rules 22 to 24).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::state::BatchId;
use crate::{
    Code, Error, Result,
    config::{Delivery, Kafka},
    kafka::{Batching, PositionRecord, Producer, PublishFailure},
    outbox::Records,
};

/// Transactional ids of a source: `outboxd-<source>-0` to `-2`. All are initialised at every start, whatever number is
/// in use, so that a successor fences a predecessor that used more of them.
const PRODUCERS: usize = 3;

/// Bound of `init_transactions`: the broker may have to abort a predecessor's transaction first.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The fenced-off right to publish for a source.
pub(super) struct Producers {
    publishing: Producer,
    cancel: Arc<AtomicBool>,
}

impl Producers {
    /// Creates and initialises all producers of the source; whoever published for it before is fenced from here on.
    ///
    /// # Errors
    /// Kafka cannot be reached, refuses the credentials or the transactional ids, or a newer instance fenced us.
    pub(super) async fn fence(kafka: &Kafka, source: &str, batching: Batching) -> Result<Self> {
        let (kafka, source) = (kafka.clone(), source.to_owned());
        let cancel = Arc::new(AtomicBool::new(false));
        let giving_up = CancelOnDrop::new(&cancel);
        let task = tokio::task::spawn_blocking(move || Self::fence_blocking(&kafka, &source, batching, cancel));
        let fenced =
            task.await.map_err(|error| Error::new(Code::Internal, "initialising the producers").because(error));
        giving_up.disarm();
        fenced?
    }

    fn fence_blocking(kafka: &Kafka, source: &str, batching: Batching, cancel: Arc<AtomicBool>) -> Result<Self> {
        let transactional = Kafka { delivery: Delivery::ExactlyOnce, ..kafka.clone() };
        let init = |number: usize| -> Result<Producer> {
            let id = format!("outboxd-{source}-{number}");
            let producer = Producer::create(&transactional, &id, batching, Arc::clone(&cancel))?;
            producer.init_transactions(INIT_TIMEOUT)?;
            Ok(producer)
        };
        let mut producers = thread::scope(|scope| {
            let threads: Vec<_> = (0..PRODUCERS).map(|number| scope.spawn(move || init(number))).collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|_| Err(Error::new(Code::Internal, "a producer's thread panicked")))
                })
                .collect::<Result<Vec<_>>>()
        })?;
        // One producer publishes; the others were initialised to fence, and cost threads and memory.
        producers.truncate(1);
        let mut publishing = producers.pop().ok_or_else(|| Error::new(Code::Internal, "no producer"))?;
        if kafka.delivery == Delivery::AtLeastOnce {
            publishing = Producer::create(kafka, &format!("outboxd-{source}"), batching, Arc::clone(&cancel))?;
        }
        Ok(Self { publishing, cancel })
    }

    /// Publishes one batch during set-up, and waits for it.
    ///
    /// # Errors
    /// The transaction failed, is unknown, or a newer instance fenced us; the records come back with the reason.
    pub(super) async fn publish(
        mut self,
        records: Records,
        position: PositionBytes,
    ) -> Result<(Self, Records), Unpublished> {
        let giving_up = CancelOnDrop::new(&self.cancel);
        let task = tokio::task::spawn_blocking(move || {
            let outcome = self.publishing.publish(&records, position.record());
            (self, records, outcome)
        });
        let ended = task.await;
        giving_up.disarm();
        let (producers, records, outcome) = ended.map_err(|panic| {
            let error = Error::new(Code::Internal, "publishing").because(panic);
            Unpublished { records: Records::default(), failure: PublishFailure::Unknown(error) }
        })?;
        match outcome {
            Ok(_) => Ok((producers, records)),
            Err(failure) => Err(Unpublished { records, failure }),
        }
    }

    /// Starts the thread that publishes from here on. At most `queue` jobs wait for it.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(self, source: &str, queue: usize) -> Result<Publisher> {
        let (jobs, job_queue) = blocking::sync_channel(queue);
        let (event_queue, events) = mpsc::channel(queue);
        let cancel = Arc::clone(&self.cancel);
        let thread = thread::Builder::new()
            .name(format!("publish-{source}"))
            .spawn(move || publish_all(self.publishing, &job_queue, &event_queue))
            .map_err(|error| Error::new(Code::Internal, "starting the publisher's thread").because(error))?;
        Ok(Publisher { jobs: Some(jobs), events, cancel, thread: Some(thread) })
    }
}

/// Tells a blocking call to end when nobody waits for it any more: the thread goes on without us, and a start that was
/// given up would fence, half a minute later, the one that followed it.
struct CancelOnDrop(Option<Arc<AtomicBool>>);

impl CancelOnDrop {
    fn new(cancel: &Arc<AtomicBool>) -> Self {
        Self(Some(Arc::clone(cancel)))
    }

    /// The call has ended.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.store(true, Ordering::Relaxed);
        }
    }
}

/// A batch that was not published, or not known to be.
pub(super) struct Unpublished {
    /// Its records, some of which may be to blame.
    pub(super) records: Records,
    /// What happened.
    pub(super) failure: PublishFailure,
}

/// A position as it goes into the topic.
#[derive(Debug, Clone)]
pub(super) struct PositionBytes {
    /// The position topic.
    pub topic: Arc<str>,
    /// The source's name.
    pub key: Arc<str>,
    /// The encoded position.
    pub value: Vec<u8>,
}

impl PositionBytes {
    fn record(&self) -> PositionRecord<'_> {
        PositionRecord { topic: &self.topic, key: self.key.as_bytes(), value: &self.value }
    }
}

/// One Kafka transaction to be.
pub(super) struct Job {
    /// Names it in the event that answers it.
    pub batch: BatchId,
    /// Its records; none for a position alone.
    pub records: Records,
    /// Its position, which goes last.
    pub position: PositionBytes,
}

/// What became of a job.
pub(super) enum Event {
    /// Records and position are committed.
    Committed {
        /// The job's batch.
        batch: BatchId,
        /// Its records, to be used again.
        records: Records,
        /// From the first record sent to the commit's answer.
        took: Duration,
    },
    /// They are not, or nobody knows; the thread has ended.
    Failed {
        /// The job's records, some of which may be to blame.
        records: Records,
        /// What happened.
        failure: PublishFailure,
    },
}

/// The publishing thread, as the session sees it.
pub(super) struct Publisher {
    jobs: Option<blocking::SyncSender<Job>>,
    events: mpsc::Receiver<Event>,
    cancel: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Publisher {
    /// Queues a job; never blocks.
    ///
    /// # Errors
    /// The queue is longer than the state machine promised, or the thread has ended.
    pub(super) fn publish(&self, job: Job) -> Result<()> {
        let Some(jobs) = &self.jobs else { return Ok(()) };
        match jobs.try_send(job) {
            // An ended thread has sent its reason, which the session will meet as an event.
            Ok(()) | Err(blocking::TrySendError::Disconnected(_)) => Ok(()),
            Err(blocking::TrySendError::Full(_)) => {
                Err(Error::new(Code::Internal, "more batches are being published than the state machine allows"))
            }
        }
    }

    /// The next event; cancel-safe.
    ///
    /// # Errors
    /// The thread ended without a word.
    pub(super) async fn event(&mut self) -> Result<Event> {
        self.events.recv().await.ok_or_else(|| Error::new(Code::Internal, "the publisher's thread ended"))
    }
}

impl Drop for Publisher {
    /// Interrupts what is under way. Its fate is then unknown, and the next start reads it from the topic. The thread
    /// ends by itself within a poll interval; joining it here would block the runtime.
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.jobs = None;
        drop(self.thread.take());
    }
}

fn publish_all(mut producer: Producer, jobs: &blocking::Receiver<Job>, events: &mpsc::Sender<Event>) {
    while let Ok(Job { batch, records, position }) = jobs.recv() {
        let began = Instant::now();
        let event = match producer.publish(&records, position.record()) {
            Ok(_) => Event::Committed { batch, records, took: began.elapsed() },
            Err(failure) => {
                let _ = events.blocking_send(Event::Failed { records, failure });
                return;
            }
        };
        if events.blocking_send(event).is_err() {
            return; // The session is gone.
        }
    }
}
