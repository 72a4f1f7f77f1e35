//! The bounds of memory and time that the machine keeps.

use std::time::Duration;

/// Bounds that the machine keeps.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Rows of one Kafka transaction.
    pub batch_rows: usize,
    /// Bytes of one Kafka transaction.
    pub batch_bytes: usize,
    /// How long a batch may wait for more rows while the producer is idle.
    pub linger: Duration,
    /// Encoded records in memory.
    pub in_flight_bytes: usize,
    /// Rows in memory that wait for their mark.
    pub unmarked_rows: usize,
    /// At most one position-only transaction in this time.
    pub idle_advance: Duration,
}
