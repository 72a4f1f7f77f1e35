//! The two threads that publish the batches of one source, with producers that take turns.
//!
//! ```text
//!            ┌───────────── free producers ◀────────────┐
//!   jobs ─▶ send ── acknowledged, one at a time ─▶ commit ─▶ Event::Sent, then Event::Committed
//!                                                     └─▶ Event::Failed: the last word
//! ```
//!
//! While one batch commits, another producer sends the next one. Four things must hold for that
//! (rule 26):
//! - B is sent only after all of A is acknowledged. One thread sends, and waits.
//! - B is committed only after A is committed. One thread commits, and takes B when it is done with
//!   A.
//! - A failure of A gives B up. The thread that commits ends, and the thread that sends finds
//!   nobody to hand B to.
//! - All producers are initialised anew before the position is read. The session is rebuilt for
//!   that (rules 22 to 24).
//!
//! Only the thread that commits reports events. So a batch is `Sent` before it is `Committed`, and
//! the state machine may insist on it.
//!
//! A batch goes in with the position that is published with it. Its records come back for reuse
//! once Kafka has committed both.

use std::{
    collections::VecDeque,
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

/// How often the producers are looked at while there is nothing to publish.
const IDLE: Duration = Duration::from_secs(1);

/// A Kafka transaction that is to be published.
pub(super) struct Job {
    /// The events that answer the job name this batch.
    pub(crate) batch: BatchId,
    /// Its records. There are none if only the position moves on.
    pub(crate) records: Records,
    /// Its position, which is sent last.
    pub(crate) position: PositionBytes,
}

/// What became of a job.
pub(super) enum Event {
    /// Records and position are acknowledged, and the commit is under way. The next batch may
    /// follow.
    Sent { batch: BatchId },
    /// Records and position are committed.
    Committed {
        batch: BatchId,
        /// Its records, to be used again.
        records: Records,
        /// The time from the first record sent to the answer to the commit.
        took: Duration,
    },
    /// They are not committed, or nobody knows. Nothing follows.
    Failed {
        /// The job's records. Some of them may be to blame.
        records: Records,
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
        // Each job that may be under way brings two events.
        let (events, told) = mpsc::channel(2 * queue);
        let (free, free_queue) = blocking::sync_channel(turns.len());
        for producer in turns {
            // The channel has room for all of them.
            let _ = free.send(producer);
        }
        // The channel between the threads has no room. So a batch is handed over only when the one
        // before it is committed.
        let (acknowledged, to_commit) = blocking::sync_channel(0);
        let sending = Sending { jobs: job_queue, free: free_queue, idle: VecDeque::new(), acknowledged };
        let committing = Committing { acknowledged: to_commit, free, events };
        spawn(format!("send-{source}"), move || sending.run())?;
        spawn(format!("commit-{source}"), move || committing.run())?;
        Ok(Self { jobs: Some(jobs), events: told, cancel })
    }

    /// Queues a job. It never blocks.
    ///
    /// # Errors
    /// `internal`: more jobs wait than the state machine allows.
    pub(super) fn publish(&self, job: Job) -> Result<()> {
        let Some(jobs) = &self.jobs else { return Ok(()) };
        match jobs.try_send(job) {
            // A thread that has ended has sent its reason, and the session will meet it as an
            // event.
            Ok(()) | Err(blocking::TrySendError::Disconnected(_)) => Ok(()),
            Err(blocking::TrySendError::Full(_)) => {
                Err(Error::new(Code::Internal, "more batches are being published than the state machine allows"))
            }
        }
    }

    /// Waits for the next event. It is cancel-safe.
    ///
    /// # Errors
    /// The threads ended without a word.
    pub(super) async fn event(&mut self) -> Result<Event> {
        self.events.recv().await.ok_or_else(|| Error::new(Code::Internal, "the publisher's threads ended"))
    }
}

impl Drop for Publisher {
    /// Interrupts what is under way. Nobody then knows what became of it, and the next start reads
    /// that from the topic. The threads end by themselves within a poll interval. To join them here
    /// would block the runtime.
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.jobs = None;
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name).spawn(run);
    thread.map(drop).map_err(|error| Error::new(Code::Internal, "starting a publishing thread").because(error))
}

/// What the thread that sends hands to the thread that commits.
enum Handover {
    /// Everything is acknowledged.
    Acknowledged { producer: Producer, batch: BatchId, records: Records, began: Instant },
    /// The batch could not be sent. This is reported once the batch before it has ended.
    Failed { records: Records, failure: PublishFailure },
}

/// The thread that sends.
struct Sending {
    jobs: blocking::Receiver<Job>,
    free: blocking::Receiver<Producer>,
    /// Those that were free when there was no job, in the order of their turns. They come before
    /// what is in `free`.
    idle: VecDeque<Producer>,
    acknowledged: blocking::SyncSender<Handover>,
}

impl Sending {
    fn run(mut self) {
        while let Some(Job { batch, records, position }) = self.next_job() {
            let Some(mut producer) = self.next_producer() else { return };
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

impl Sending {
    /// The producer whose turn it is; `None` after a failed commit, when nobody gives one back.
    fn next_producer(&mut self) -> Option<Producer> {
        self.idle.pop_front().or_else(|| self.free.recv().ok())
    }

    fn look_at_idle_producers(&mut self) {
        self.idle.extend(self.free.try_iter());
        self.idle.iter().for_each(Producer::idle);
    }

    /// Waits for a job; `None` when the session is gone. While there is none, librdkafka's events
    /// are taken, which would else wait in the memory of this process.
    fn next_job(&mut self) -> Option<Job> {
        loop {
            match self.jobs.recv_timeout(IDLE) {
                Ok(job) => return Some(job),
                Err(blocking::RecvTimeoutError::Disconnected) => return None,
                Err(blocking::RecvTimeoutError::Timeout) => self.look_at_idle_producers(),
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
            // Both receivers are gone when the session is.
            if self.events.blocking_send(committed).is_err() || self.free.send(producer).is_err() {
                return;
            }
        }
    }
}
