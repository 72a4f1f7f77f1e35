//! The bounds of memory and time that the machine keeps.

use std::time::Duration;

/// The bounds.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Rows of one Kafka transaction.
    pub batch_rows: usize,
    /// Bytes of one Kafka transaction.
    pub batch_bytes: usize,
    /// How long a batch may wait for more rows while the producer is idle.
    pub linger: Duration,
    /// Bytes of encoded records in memory.
    pub in_flight_bytes: usize,
    /// Rows that may be in memory and wait for their mark.
    pub unmarked_rows: usize,
    /// At most one transaction holds a position alone in this time, unless the server asks for a
    /// reply.
    pub idle_advance: Duration,
}
