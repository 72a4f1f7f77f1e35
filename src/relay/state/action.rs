//! What the machine answers to its inputs, and what it asks the session to do.

use crate::source::position::Progress;

/// The name of a batch in this session. The numbers count up from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub(crate) u64);

/// What to do with a streamed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowIs {
    /// Encode it, then call [`super::Machine::published_row`]. Call [`super::Machine::passed_over`]
    /// instead if the row is marked already.
    New,
    /// It was published before. Keep its id for the mark, then call
    /// [`super::Machine::redelivered_row`] (or [`super::Machine::passed_over`]).
    Redelivered,
    /// It was redelivered, and there is no room to keep it. It will come again after a reconnect.
    Dropped,
}

/// Where in the stream the next message is read: between two transactions, or inside one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// No transaction is open.
    Between,
    /// In a transaction that ends at or before the position.
    Redelivered,
    /// In the transaction that is split at the position.
    Resumed,
    /// In a transaction that ends after the position.
    New,
}

/// What the session must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take the first `rows` rows of the building batch, and publish them with `progress` as the
    /// position. If `rows` is 0, publish the position alone.
    Publish {
        /// The batch.
        batch: BatchId,
        /// Rows from the front of the building records.
        rows: usize,
        /// What the position says once Kafka has committed it.
        progress: Progress,
    },
    /// Take the first `rows` ids of the building batch. Their rows were published before, and wait
    /// for [`Action::Mark`].
    Hold {
        /// The batch.
        batch: BatchId,
        /// Ids from the front of the building batch.
        rows: usize,
    },
    /// Mark the rows of this batch, then call [`super::Machine::marked`].
    Mark {
        /// The batch.
        batch: BatchId,
    },
    /// Tell the server that everything before [`super::Machine::confirmed`] is published and
    /// marked.
    Confirm,
    /// The history is proved, but rows were dropped in the meantime. Reconnect and take them again,
    /// with [`super::Machine::trust_history`].
    Reconnect,
}
