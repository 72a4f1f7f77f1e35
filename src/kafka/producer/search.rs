//! Finds the records that a broker refuses, after it has refused a batch.
//!
//! A broker takes or refuses records that travel together as a whole. So the search sends the
//! suspected ones again, in halves and halves of halves, down to the record that is refused alone:
//!
//! ```text
//!   refused together ─▶ each half ─┬─▶ accepted: no record of it is at fault
//!                         ▲        ├─▶ refused, one record: Rejected
//!                         └────────┴─▶ refused, more records
//!   both halves accepted: Crowded
//! ```
//!
//! - Every attempt is a Kafka transaction of its own, and is aborted. So no attempt is longer than
//!   a batch, however many there are, and no reader of committed records sees one. With at least
//!   once there is no transaction, and the records of an attempt come again later.
//! - The producer commits nothing afterwards. A request of the search that arrives late can only
//!   meet the search (rule 22).

use std::{
    iter,
    time::{Duration, Instant},
};

use rdkafka::producer::Producer as _;

use super::{Delivery, LOOK, Producer};
use crate::{
    error::{Code, Error},
    kafka::{
        batch::{Batch, Outgoing},
        context::Row,
        failure::PublishFailure,
    },
};

/// After this time the search ends with what it has found. While it has found nothing it goes on.
const SEARCH_WITHIN: Duration = Duration::from_secs(10);

impl Producer {
    /// Says which records are at fault if a broker has refused some together. Any other failure
    /// stays as it is.
    pub(super) fn explained<B: Batch>(&self, batch: &B, failure: PublishFailure) -> PublishFailure {
        let PublishFailure::Suspected { rows, error } = failure else { return failure };
        tracing::warn!(records = rows.len(), "looking for the records at fault: {}", error.detail());
        if !self.clear() {
            return PublishFailure::Aborted(Error::new(Code::KafkaTransactionFailed, error.to_string()));
        }
        Search { producer: self, batch, found: Vec::new(), began: Instant::now() }.run(rows, error)
    }

    /// Makes room for the next attempt. Returns whether that succeeded.
    fn clear(&self) -> bool {
        let deadline = Instant::now() + self.delivery_timeout;
        if self.delivery == Delivery::ExactlyOnce && !self.abort(self.delivery_timeout) {
            return false;
        }
        while self.native.in_flight_count() > 0 {
            if Instant::now() >= deadline || self.cancelled() {
                return false;
            }
            self.native.poll(LOOK);
        }
        self.take_events();
        self.native.context().failed().clear();
        true
    }
}

/// How often an attempt is made. A refused record leaves a gap in the sequence numbers, over which
/// the first transaction after it stumbles (`OutOfOrderSequenceNumber`). Its abort mends them.
const TRIES: u32 = 3;

/// Why the search ends.
enum Stop {
    /// What was refused is taken in parts of this size.
    Crowded { bytes: usize },
    /// It has looked long enough, and has found something.
    Enough,
    /// An attempt failed for another reason.
    Failed(PublishFailure),
}

/// One search.
struct Search<'a, B> {
    producer: &'a Producer,
    batch: &'a B,
    /// Records that were refused alone.
    found: Vec<(Row, Error)>,
    began: Instant,
}

impl<B: Batch> Search<'_, B> {
    fn run(mut self, refused: Vec<Row>, error: Error) -> PublishFailure {
        let all: Vec<Row> = (0..self.batch.len()).collect();
        let stop = self.explore(all, Some(refused)).err();
        if !self.found.is_empty() {
            let (first, error) = self.found.remove(0);
            // Each row is to have its own reason. Those that have another one are found next time.
            let same = self.found.iter().filter(|(_, other)| other.detail() == error.detail());
            let mut rows: Vec<Row> = iter::once(first).chain(same.map(|(row, _)| *row)).collect();
            rows.sort_unstable();
            return PublishFailure::Rejected { rows, error };
        }
        let text = "records that were refused together are taken in smaller parts";
        let taken = Error::new(Code::KafkaTransactionFailed, text).because(error);
        match stop {
            Some(Stop::Crowded { bytes }) => PublishFailure::Crowded { bytes, error: taken },
            Some(Stop::Failed(failure)) => failure,
            // Nothing was refused again.
            Some(Stop::Enough) | None => PublishFailure::Aborted(taken),
        }
    }

    /// Finds the records of `rows` that are refused alone. `refused` are those that were refused
    /// together, if some were already. Returns whether any were.
    fn explore(&mut self, mut rows: Vec<Row>, mut refused: Option<Vec<Row>>) -> Result<bool, Stop> {
        let mut were_refused = false;
        while !rows.is_empty() {
            let together = match refused.take() {
                Some(together) => together,
                None => match self.attempt(&rows)? {
                    None => break,
                    Some((together, error)) => {
                        if let [row] = rows[..] {
                            self.found.push((row, error));
                            return Ok(true);
                        }
                        together
                    }
                },
            };
            were_refused = true;
            self.divide(&together)?;
            if !self.found.is_empty() && self.began.elapsed() > SEARCH_WITHIN {
                return Err(Stop::Enough);
            }
            rows.retain(|row| together.binary_search(row).is_err());
        }
        Ok(were_refused)
    }

    /// Looks at both halves of records that were refused together.
    fn divide(&mut self, together: &[Row]) -> Result<(), Stop> {
        let (left, right) = together.split_at(together.len() / 2);
        let is_left_refused = self.explore(left.to_vec(), None)?;
        let is_right_refused = self.explore(right.to_vec(), None)?;
        if !is_left_refused && !is_right_refused && !left.is_empty() {
            return Err(Stop::Crowded { bytes: self.bytes(left).max(self.bytes(right)) });
        }
        Ok(())
    }

    /// Sends these records. Returns those that were refused together, and why; `None` if all were
    /// taken.
    fn attempt(&self, rows: &[Row]) -> Result<Option<(Vec<Row>, Error)>, Stop> {
        let producer = self.producer;
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let (refused, failure) = match self.send(rows) {
                Ok(()) => (None, None),
                Err(PublishFailure::Suspected { rows, error }) => (Some((rows, error)), None),
                Err(failure @ PublishFailure::Aborted(_)) if tries > 0 && !producer.cancelled() => {
                    (None, Some(failure))
                }
                Err(failure) => return Err(Stop::Failed(failure)),
            };
            match failure {
                None if producer.clear() => return Ok(refused),
                None => {
                    let text = "the search for refused records could not abort its transaction";
                    return Err(Stop::Failed(PublishFailure::Aborted(Error::new(Code::KafkaTransactionFailed, text))));
                }
                Some(_) if producer.clear() => {}
                Some(failure) => return Err(Stop::Failed(failure)),
            }
        }
    }

    fn send(&self, rows: &[Row]) -> Result<(), PublishFailure> {
        let producer = self.producer;
        if producer.delivery == Delivery::ExactlyOnce {
            let begun = producer.native.begin_transaction();
            begun.map_err(|error| producer.failed_call("beginning a transaction", &error))?;
        }
        let mut outgoing = rows.iter().filter_map(|&row| Some((row, self.batch.record(row)?)));
        outgoing.try_for_each(|(row, outgoing)| producer.send_row(row, outgoing))?;
        producer.wait_acknowledged()
    }

    fn bytes(&self, rows: &[Row]) -> usize {
        rows.iter().filter_map(|&row| self.batch.record(row)).map(size).sum()
    }
}

/// Bytes of key, value and headers, without Kafka's framing.
fn size<'h>(outgoing: Outgoing<'_, impl Iterator<Item = crate::kafka::batch::Header<'h>>>) -> usize {
    let headers: usize = outgoing.headers.map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
    outgoing.key.map_or(0, <[u8]>::len) + outgoing.value.map_or(0, <[u8]>::len) + headers
}
