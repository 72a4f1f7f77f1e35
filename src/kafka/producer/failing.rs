//! What a producer knows after a failure, and how it aborts.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{Producer as _, PurgeConfig},
};

use super::{LOOK, Producer, SLICE, retriable};
use crate::{
    error::{Code, Error},
    kafka::{
        context::{POSITION, Row},
        failure::{PublishFailure, code_of, consequence, explain, in_words, refused_position, rejected, row_fault},
    },
};

/// Longest wait for an abort. The abort only helps readers: the next `init_transactions` aborts,
/// too.
pub(super) const ABORT_WITHIN: Duration = Duration::from_secs(2);
/// How long a producer waits for the other reports once a record has failed.
const REPORTS_WITHIN: Duration = Duration::from_millis(100);

impl Producer {
    /// Lets readers go on at once, and not only when the transaction times out. Returns whether
    /// that succeeded.
    pub(super) fn abort(&self, within: Duration) -> bool {
        self.native.purge(PurgeConfig::default().queue().inflight());
        let deadline = Instant::now() + within;
        // The purged messages' reports must be taken before the abort can end.
        self.settle();
        while Instant::now() < deadline {
            self.native.poll(Duration::ZERO);
            match self.native.abort_transaction(SLICE) {
                Err(error) if retriable(&error) && !self.cancelled() => {}
                Err(error) => {
                    tracing::debug!(%error, "the transaction was left to the next producer to abort");
                    return false;
                }
                Ok(()) => return true,
            }
        }
        false
    }

    /// A record that librdkafka would not take.
    pub(super) fn failed_send(&self, row: Row, error: &KafkaError) -> PublishFailure {
        self.take_events();
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument);
        // In a failed transaction librdkafka refuses every record. The cause came before.
        if !self.native.context().failed().is_empty() {
            return self.failed_delivery();
        }
        match row_fault(code) {
            Some(fault) => {
                let message = format!("row {row} of the batch was refused before sending");
                PublishFailure::Rejected { rows: vec![row], error: Error::new(fault, message).because(in_words(code)) }
            }
            None => self.failed_call("sending a record", error),
        }
    }

    /// A position that librdkafka would not take.
    pub(super) fn failed_position(&self, topic: &str, error: &KafkaError) -> PublishFailure {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument);
        if row_fault(code).is_some() && self.native.context().failed().is_empty() {
            return aborted(refused_position(topic, code));
        }
        self.failed_send(POSITION, error)
    }

    /// What the failed deliveries say. It waits a little for the others of the same request.
    pub(super) fn failed_delivery(&self) -> PublishFailure {
        self.settle();
        if let Some((code, reason)) = self.native.client().fatal_error() {
            return self.fatal(code, reason);
        }
        let failed = std::mem::take(&mut *self.native.context().failed());
        if let Some(rejected) = rejected(&failed) {
            return rejected;
        }
        // Purged messages failed because something else did. That is another message, or the
        // transaction itself. Of the latter librdkafka tells whoever calls the transactional API
        // next.
        if let Some(cause) = failed.iter().find(|failed| !consequence(failed.code)) {
            let message = format!("a record for {} was not delivered", cause.topic);
            let error = KafkaError::MessageProduction(cause.code);
            let error = explain(message, &error, &self.native.context().trouble, Code::KafkaTransactionFailed);
            return aborted(error);
        }
        match self.native.begin_transaction() {
            Err(error) => self.failed_call("sending a batch", &error),
            Ok(()) => PublishFailure::Aborted(Error::new(Code::KafkaTransactionFailed, "the batch was purged")),
        }
    }

    /// Takes the reports that come within a moment.
    fn settle(&self) {
        let deadline = Instant::now() + REPORTS_WITHIN;
        while self.native.in_flight_count() > 0 && Instant::now() < deadline {
            self.native.poll(Duration::ZERO);
            thread::sleep(LOOK);
        }
    }

    pub(super) fn failed_call(&self, what: &str, error: &KafkaError) -> PublishFailure {
        if let Some((code, reason)) = self.native.client().fatal_error() {
            return self.fatal(code, reason);
        }
        aborted(self.explain(what, error))
    }

    pub(super) fn fatal(&self, code: RDKafkaErrorCode, reason: String) -> PublishFailure {
        aborted(Error::new(code_of(code, Code::KafkaTransactionFailed), "the producer failed").because(reason))
    }

    pub(super) fn explain(&self, what: &str, error: &KafkaError) -> Error {
        explain(what, error, &self.native.context().trouble, Code::KafkaTransactionFailed)
    }
}

fn aborted(error: Error) -> PublishFailure {
    if error.code() == Code::KafkaFenced { PublishFailure::Fenced(error) } else { PublishFailure::Aborted(error) }
}
