//! The two threads that publish the batches of one source, with producers that take turns.
//!
//! ```text
//!            ┌───────────── free producers ◀────────────┐
//!   jobs ─▶ send ── acknowledged, one at a time ─▶ commit ─▶ Event::Sent, then Event::Committed
//!                                                     └─▶ Event::Failed: the last word
//! ```
//!
//! While one batch commits, the next one is sent by another producer. What must hold for that (rule 26):
//! - B is sent only after all of A is acknowledged: one thread sends, and waits;
//! - B is committed only after A is: one thread commits, and takes B when it is done with A;
//! - a failure of A gives B up: the thread that commits ends, and the one that sends finds nobody to hand B to;
//! - all producers are initialised anew before the position is read: the session is rebuilt (rules 22 to 24).
//!
//! Only the thread that commits tells events, so a batch is `Sent` before it is `Committed`, and the state machine may
//! insist on it.
//!
//! A batch goes in with the position that is published with it; the records come back for reuse once Kafka has committed
//! both.

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
    kafka::{Producer, PublishFailure},
    outbox::Records,
    source::producers::{PositionBytes, Producers},
};

/// One Kafka transaction to be.
pub(super) struct Job {
    /// Names it in the event that answers it.
    pub(crate) batch: BatchId,
    /// Its records; none for a position alone.
    pub(crate) records: Records,
    /// Its position, which goes last.
    pub(crate) position: PositionBytes,
}

/// What became of a job.
pub(super) enum Event {
    /// Records and position are acknowledged, and the commit is under way: the next batch may follow.
    Sent {
        /// The job's batch.
        batch: BatchId,
    },
    /// Records and position are committed.
    Committed {
        /// The job's batch.
        batch: BatchId,
        /// Its records, to be used again.
        records: Records,
        /// From the first record sent to the commit's answer.
        took: Duration,
    },
    /// They are not, or nobody knows; nothing follows.
    Failed {
        /// The job's records, some of which may be to blame.
        records: Records,
        /// What happened.
        failure: PublishFailure,
    },
}

/// The publishing threads, as the session sees them.
pub(super) struct Publisher {
    jobs: Option<blocking::SyncSender<Job>>,
    events: mpsc::Receiver<Event>,
    cancel: Arc<AtomicBool>,
}

impl Publisher {
    /// Starts the threads. At most `queue` jobs wait for them.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(producers: Producers, source: &str, queue: usize) -> Result<Self> {
        let Producers { turns, cancel } = producers;
        let (jobs, job_queue) = blocking::sync_channel(queue);
        // Two events for each job that may be under way.
        let (events, told) = mpsc::channel(2 * queue);
        let (free, free_queue) = blocking::sync_channel(turns.len());
        for producer in turns {
            // There is room for all of them.
            let _ = free.send(producer);
        }
        // No room between the threads: a batch is handed over when the one before it is committed.
        let (acknowledged, to_commit) = blocking::sync_channel(0);
        let sending = Sending { jobs: job_queue, free: free_queue, acknowledged };
        let committing = Committing { acknowledged: to_commit, free, events };
        spawn(format!("send-{source}"), move || sending.run())?;
        spawn(format!("commit-{source}"), move || committing.run())?;
        Ok(Self { jobs: Some(jobs), events: told, cancel })
    }

    /// Queues a job; never blocks.
    ///
    /// # Errors
    /// The queue is longer than the state machine promised, or the thread has ended.
    pub(super) fn publish(&self, job: Job) -> Result<()> {
        let Some(jobs) = &self.jobs else { return Ok(()) };
        match jobs.try_send(job) {
            // A thread that has ended has sent its reason, which the session will meet as an event.
            Ok(()) | Err(blocking::TrySendError::Disconnected(_)) => Ok(()),
            Err(blocking::TrySendError::Full(_)) => {
                Err(Error::new(Code::Internal, "more batches are being published than the state machine allows"))
            }
        }
    }

    /// The next event; cancel-safe.
    ///
    /// # Errors
    /// The threads ended without a word.
    pub(super) async fn event(&mut self) -> Result<Event> {
        self.events.recv().await.ok_or_else(|| Error::new(Code::Internal, "the publisher's threads ended"))
    }
}

impl Drop for Publisher {
    /// Interrupts what is under way. Its fate is then unknown, and the next start reads it from the topic. The threads
    /// end by themselves within a poll interval; joining them here would block the runtime.
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.jobs = None;
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name).spawn(run);
    thread.map(drop).map_err(|error| Error::new(Code::Internal, "starting a publishing thread").because(error))
}

/// From the thread that sends to the one that commits.
enum Handover {
    /// Everything is acknowledged.
    Acknowledged { producer: Producer, batch: BatchId, records: Records, began: Instant },
    /// It could not be sent, which is told once the batch before it has ended.
    Failed { records: Records, failure: PublishFailure },
}

/// The thread that sends.
struct Sending {
    jobs: blocking::Receiver<Job>,
    free: blocking::Receiver<Producer>,
    acknowledged: blocking::SyncSender<Handover>,
}

impl Sending {
    fn run(self) {
        while let Ok(Job { batch, records, position }) = self.jobs.recv() {
            // Nobody gives a producer back once a commit has failed.
            let Ok(mut producer) = self.free.recv() else { return };
            let began = Instant::now();
            let handover = match producer.send(&records, position.record()) {
                Ok(()) => Handover::Acknowledged { producer, batch, records, began },
                Err(failure) => Handover::Failed { records, failure },
            };
            let failed = matches!(handover, Handover::Failed { .. });
            if let Err(blocking::SendError(refused)) = self.acknowledged.send(handover) {
                if let Handover::Acknowledged { producer, .. } = refused {
                    producer.give_up();
                }
                return;
            }
            if failed {
                return;
            }
        }
    }
}

/// The thread that commits.
struct Committing {
    acknowledged: blocking::Receiver<Handover>,
    free: blocking::SyncSender<Producer>,
    events: mpsc::Sender<Event>,
}

impl Committing {
    fn run(self) {
        while let Ok(handover) = self.acknowledged.recv() {
            let (mut producer, batch, records, began) = match handover {
                Handover::Acknowledged { producer, batch, records, began } => (producer, batch, records, began),
                Handover::Failed { records, failure } => {
                    let _ = self.events.blocking_send(Event::Failed { records, failure });
                    return;
                }
            };
            if self.events.blocking_send(Event::Sent { batch }).is_err() {
                producer.give_up();
                return;
            }
            if let Err(failure) = producer.commit() {
                let _ = self.events.blocking_send(Event::Failed { records, failure });
                return;
            }
            let committed = Event::Committed { batch, records, took: began.elapsed() };
            // Either is gone when the session is.
            if self.events.blocking_send(committed).is_err() || self.free.send(producer).is_err() {
                return;
            }
        }
    }
}
