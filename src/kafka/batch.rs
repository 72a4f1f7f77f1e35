//! What a producer needs of a batch.

use crate::outbox::Records;

/// Records in the order in which they are to be sent.
pub trait Batch {
    /// Number of rows, including those without a record.
    fn len(&self) -> usize;

    /// Whether there are no rows. The transaction then carries the position alone.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record of row `index`; `None` when the row is not to be sent.
    fn record(&self, index: usize) -> Option<Outgoing<'_, impl ExactSizeIterator<Item = Header<'_>>>>;
}

/// A header's name and value; `None` is Kafka's null.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// One record, borrowed from its batch.
#[derive(Debug, Clone)]
pub struct Outgoing<'a, H> {
    /// Topic.
    pub topic: &'a str,
    /// Key; `None` is Kafka's null.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; `None`: the time of sending.
    pub timestamp: Option<i64>,
    /// `None`: the key decides.
    pub partition: Option<i32>,
    /// Headers in order.
    pub headers: H,
}

impl Batch for Records {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn record(&self, index: usize) -> Option<Outgoing<'_, impl ExactSizeIterator<Item = Header<'_>>>> {
        let record = self.get(index).filter(|record| !record.mark_only)?;
        Some(Outgoing {
            topic: record.topic,
            key: record.key,
            value: record.value,
            timestamp: record.timestamp,
            partition: record.partition,
            headers: record.headers(),
        })
    }
}
