//! The right to publish for a source. It consists of the source's transactional ids, and every
//! start takes them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    Code, Error, Result,
    config::{Delivery, Kafka},
    kafka::{Batch, Batching, PositionRecord, Producer, PublishFailure},
    outbox::Records,
};

/// Transactional ids of a source: `outboxd-<source>-0` to `-2`. Every start initialises all of
/// them, whatever number is in use. So a successor fences a predecessor that used more of them.
/// Three take turns: one commits while the next one sends. When the first has its turn again, the
/// broker has written its markers. With fewer producers the broker would tell it to wait for them
/// (CONCURRENT_TRANSACTIONS, asked again every 20 ms).
pub(crate) const PRODUCERS: usize = 3;

/// Bound of `init_transactions`. The broker may have to abort a predecessor's transaction first.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The fenced-off right to publish for a source.
pub(crate) struct Producers {
    /// In the order of their turns. It is never empty.
    pub(crate) turns: Vec<Producer>,
    /// Setting it ends whatever they do.
    pub(crate) cancel: Arc<AtomicBool>,
}

impl Producers {
    /// Creates and initialises all producers of the source. From then on whoever published for it
    /// before is fenced.
    ///
    /// # Errors
    /// Kafka cannot be reached, refuses the credentials or the transactional ids, or a newer
    /// instance fenced us.
    pub(crate) async fn fence(kafka: &Kafka, source: &str, batching: Batching) -> Result<Self> {
        let ids = (0..PRODUCERS).map(|number| format!("outboxd-{source}-{number}")).collect();
        let mut producers = Self::take(kafka, ids, batching).await?;
        if kafka.delivery == Delivery::AtLeastOnce {
            // The others were initialised only to fence, and would cost threads and memory.
            let cancel = Arc::clone(&producers.cancel);
            producers.turns = vec![Producer::create(kafka, &format!("outboxd-{source}"), batching, cancel)?];
        }
        Ok(producers)
    }

    /// Creates and initialises a transactional producer for each of these ids, whatever `delivery`
    /// says. From then on whoever had one of them before is fenced.
    ///
    /// # Errors
    /// As [`Self::fence`].
    pub(crate) async fn take(kafka: &Kafka, ids: Vec<String>, batching: Batching) -> Result<Self> {
        let transactional = Kafka { delivery: Delivery::ExactlyOnce, ..kafka.clone() };
        let cancel = Arc::new(AtomicBool::new(false));
        let giving_up = CancelOnDrop::new(&cancel);
        let task = tokio::task::spawn_blocking(move || Self::take_blocking(&transactional, &ids, batching, cancel));
        let taken = task.await.map_err(|error| Error::new(Code::Internal, "initialising the producers").because(error));
        giving_up.disarm();
        taken?
    }

    fn take_blocking(kafka: &Kafka, ids: &[String], batching: Batching, cancel: Arc<AtomicBool>) -> Result<Self> {
        let init = |id: &str| -> Result<Producer> {
            let producer = Producer::create(kafka, id, batching, Arc::clone(&cancel))?;
            producer.init_transactions(INIT_TIMEOUT)?;
            Ok(producer)
        };
        let turns = thread::scope(|scope| {
            let threads: Vec<_> = ids.iter().map(|id| scope.spawn(move || init(id))).collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|_| Err(Error::new(Code::Internal, "a producer's thread panicked")))
                })
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { turns, cancel })
    }

    /// Publishes one batch, and waits for it.
    ///
    /// # Errors
    /// The transaction failed, nobody knows whether it was committed, or a newer instance fenced
    /// us. The records come back with the reason.
    pub(crate) async fn publish<B: Batch + Default + Send + 'static>(
        mut self,
        records: B,
        position: PositionBytes,
    ) -> Result<(Self, B), Unpublished<B>> {
        let giving_up = CancelOnDrop::new(&self.cancel);
        let task = tokio::task::spawn_blocking(move || {
            let outcome = match self.turns.first_mut() {
                Some(producer) => producer.publish(&records, position.record()),
                None => Err(PublishFailure::Aborted(Error::new(Code::Internal, "no producer"))),
            };
            (self, records, outcome)
        });
        let ended = task.await;
        giving_up.disarm();
        let (producers, records, outcome) = ended.map_err(|panic| {
            let error = Error::new(Code::Internal, "publishing").because(panic);
            Unpublished { records: B::default(), failure: PublishFailure::Unknown(error) }
        })?;
        match outcome {
            Ok(()) => Ok((producers, records)),
            Err(failure) => Err(Unpublished { records, failure }),
        }
    }
}

/// Tells a blocking call to end when nobody waits for it any more. Its thread goes on by itself.
/// Without this, a start that was given up could fence the start that followed it, half a minute
/// later.
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

/// A batch that was not published, or of which nobody knows whether it was.
pub(crate) struct Unpublished<B = Records> {
    /// Its records, some of which may be to blame.
    pub(crate) records: B,
    pub(crate) failure: PublishFailure,
}

/// A position as it goes into the topic.
#[derive(Debug, Clone)]
pub(crate) struct PositionBytes {
    /// The position topic.
    pub(crate) topic: Arc<str>,
    pub(crate) key: Arc<str>,
    /// The encoded position.
    pub(crate) value: Vec<u8>,
}

impl PositionBytes {
    /// As a producer takes it.
    pub(crate) fn record(&self) -> PositionRecord<'_> {
        PositionRecord { topic: &self.topic, key: self.key.as_bytes(), value: &self.value }
    }
}
