//! librdkafka's error codes as an operator meets them, and how a publication can fail.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Kafka};

use super::context::{FailedDelivery, POSITION, Row, Trouble};
use crate::error::{Code, Error};

/// Why a batch was not published, or why nobody knows whether it was. The producer is spent in
/// every case (rules 22 to 24).
#[derive(Debug)]
pub enum PublishFailure {
    /// Another producer has the transactional.id, or the broker gave up this one's transaction. The
    /// source goes back to standby.
    Fenced(Error),
    /// Nobody knows whether it was committed (rule 23). The position tells.
    Unknown(Error),
    /// It was not committed and never will be. Nobody asked the coordinator for more than to abort.
    Aborted(Error),
    /// It was not committed, and a broker refused records together: one of them is at fault, or
    /// they are too many. The producer searches at once, so nobody else meets this.
    Suspected {
        /// Indexes in the batch, ascending.
        rows: Vec<usize>,
        /// As in [`PublishFailure::Rejected`].
        error: Error,
    },
    /// It was not committed, and the rows themselves are the cause.
    Rejected {
        /// Indexes in the batch, ascending. Each was refused on its own, and there may be more. With
        /// [`Code::KafkaClock`] at least one of them was refused.
        rows: Vec<usize>,
        /// [`Code::RowTooLarge`] or [`Code::RowInvalid`]. With [`Code::KafkaClock`] only the times of
        /// the records are at fault.
        error: Error,
    },
    /// It was not committed. A broker refused records together that it takes in smaller parts.
    Crowded {
        /// The size of a part that it took.
        bytes: usize,
        /// [`Code::KafkaTransactionFailed`], with the broker's reason.
        error: Error,
    },
}

impl PublishFailure {
    /// The error, whatever became of the batch.
    #[must_use]
    pub fn error(&self) -> &Error {
        match self {
            Self::Fenced(error) | Self::Unknown(error) | Self::Aborted(error) => error,
            Self::Suspected { error, .. } | Self::Rejected { error, .. } | Self::Crowded { error, .. } => error,
        }
    }

    /// The same, owned.
    #[must_use]
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Fenced(error) | Self::Unknown(error) | Self::Aborted(error) => error,
            Self::Suspected { error, .. } | Self::Rejected { error, .. } | Self::Crowded { error, .. } => error,
        }
    }
}

/// The code for an operator. `otherwise` is for what has no code of its own. Which code blames a
/// row only [`row_fault`] says, as whoever asks about something else has no row.
pub(super) fn code_of(code: Kafka, otherwise: Code) -> Code {
    match code {
        Kafka::Fenced | Kafka::ProducerFenced | Kafka::InvalidProducerEpoch => Code::KafkaFenced,
        Kafka::BrokerTransportFailure
        | Kafka::AllBrokersDown
        | Kafka::Resolve
        | Kafka::OperationTimedOut
        | Kafka::MessageTimedOut
        | Kafka::TimedOutQueue
        | Kafka::RequestTimedOut
        | Kafka::NetworkException
        | Kafka::BrokerNotAvailable
        | Kafka::LeaderNotAvailable
        | Kafka::CoordinatorNotAvailable
        | Kafka::WaitingForCoordinator => Code::KafkaUnreachable,
        Kafka::Authentication
        | Kafka::SSL
        | Kafka::SaslAuthenticationFailed
        | Kafka::UnsupportedSASLMechanism
        | Kafka::IllegalSASLState => Code::KafkaAuthFailed,
        Kafka::TopicAuthorizationFailed
        | Kafka::ClusterAuthorizationFailed
        | Kafka::GroupAuthorizationFailed
        | Kafka::TransactionalIdAuthorizationFailed => Code::KafkaDenied,
        Kafka::UnknownTopicOrPartition | Kafka::UnknownTopic | Kafka::UnknownTopicId => Code::TopicMissing,
        _ => otherwise,
    }
}

/// The code when the record itself is refused. It is the row's own fault, but for `InvalidTimestamp`:
/// the row's record can have another time.
pub(super) fn row_fault(code: Kafka) -> Option<Code> {
    match code {
        Kafka::MessageSizeTooLarge | Kafka::MessageBatchTooLarge | Kafka::InvalidMessageSize => Some(Code::RowTooLarge),
        // UnknownPartition: the row names a partition that its topic does not have.
        Kafka::InvalidTimestamp => Some(Code::KafkaClock),
        Kafka::InvalidRecord | Kafka::InvalidTopic | Kafka::UnknownPartition => Some(Code::RowInvalid),
        _ => None,
    }
}

/// What a refusal of a record means. The brokers' own names say little to whoever meets them for
/// the first time.
pub(super) fn in_words(code: Kafka) -> String {
    let words = match code {
        Kafka::InvalidTimestamp => {
            "the record's time is further from the broker's clock than the topic allows \
             (message.timestamp.before.max.ms, message.timestamp.after.max.ms)"
        }
        Kafka::InvalidRecord => {
            "the broker finds the record invalid, as it does where a compacted topic gets one without a key"
        }
        Kafka::MessageSizeTooLarge | Kafka::MessageBatchTooLarge | Kafka::InvalidMessageSize => {
            "the record is larger than the broker or the topic takes (max.message.bytes)"
        }
        Kafka::InvalidTopic => "Kafka takes no topic of this name",
        Kafka::UnknownPartition => "the topic has no such partition",
        _ => return code.to_string(),
    };
    format!("{words}: {code}")
}

/// The rows that may be at fault. A broker refuses records that travel together as a whole. So the
/// fault is certain only for a record that librdkafka itself refused.
pub(super) fn rejected(failed: &[FailedDelivery]) -> Option<PublishFailure> {
    let (first, fault) = failed.iter().find_map(|failed| Some((failed, row_fault(failed.code)?)))?;
    let mut rows: Vec<Row> = failed.iter().filter(|f| row_fault(f.code) == Some(fault)).map(|f| f.row).collect();
    rows.sort_unstable();
    let error = Error::new(fault, format!("records for {} were refused", first.topic)).because(in_words(first.code));
    if let Some(position) = failed.iter().find(|failed| failed.row == POSITION && row_fault(failed.code) == Some(fault))
    {
        rows.retain(|row| *row != POSITION);
        if rows.is_empty() {
            // No row is at fault, so none becomes a dead letter.
            return Some(PublishFailure::Aborted(refused_position(&position.topic, position.code)));
        }
    }
    // A clock is no fault of one row, so nobody looks for that row.
    let by_itself = matches!(first.code, Kafka::InvalidTopic | Kafka::UnknownPartition) || fault == Code::KafkaClock;
    Some(if by_itself { PublishFailure::Rejected { rows, error } } else { PublishFailure::Suspected { rows, error } })
}

/// The position topic refuses a position.
pub(super) fn refused_position(topic: &str, code: Kafka) -> Error {
    let text = format!("position topic {topic} refuses the position");
    Error::new(Code::KafkaTransactionFailed, text).because(in_words(code))
}

/// Whether a record with this code failed only because something else did.
pub(super) fn consequence(code: Kafka) -> bool {
    matches!(
        code,
        Kafka::PurgeQueue | Kafka::PurgeInflight | Kafka::Fatal | Kafka::State | Kafka::InvalidDifferentRecord
    )
}

/// The error of a call. A time-out says less than what librdkafka has noted about its connections.
pub(super) fn explain(what: impl Into<String>, error: &KafkaError, trouble: &Trouble, otherwise: Code) -> Error {
    let code = error.rdkafka_error_code().unwrap_or(Kafka::Unknown);
    let noted = trouble.take();
    if matches!(code_of(code, otherwise), Code::KafkaUnreachable)
        && let Some((noted, reason)) = noted
    {
        let noted = code_of(noted, Code::KafkaUnreachable);
        let noted = if noted == Code::KafkaAuthFailed { noted } else { Code::KafkaUnreachable };
        return Error::new(noted, what).because(reason);
    }
    Error::new(code_of(code, otherwise), what).because(text(error))
}

/// The text of an error, without rdkafka's own framing where librdkafka has said more.
fn text(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(native) => native.string(),
        other => other.rdkafka_error_code().map_or_else(|| other.to_string(), |code| code.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_librdkafka_code_becomes_the_operator_s() {
        let cases = [
            (Kafka::ProducerFenced, Code::KafkaFenced),
            (Kafka::Fenced, Code::KafkaFenced),
            (Kafka::InvalidProducerEpoch, Code::KafkaFenced),
            (Kafka::AllBrokersDown, Code::KafkaUnreachable),
            (Kafka::MessageTimedOut, Code::KafkaUnreachable),
            (Kafka::Authentication, Code::KafkaAuthFailed),
            (Kafka::SSL, Code::KafkaAuthFailed),
            (Kafka::TopicAuthorizationFailed, Code::KafkaDenied),
            (Kafka::TransactionalIdAuthorizationFailed, Code::KafkaDenied),
            (Kafka::UnknownTopicOrPartition, Code::TopicMissing),
            (Kafka::UnknownTopic, Code::TopicMissing),
            (Kafka::OutOfOrderSequenceNumber, Code::KafkaTransactionFailed),
        ];
        for (kafka, code) in cases {
            assert_eq!(code_of(kafka, Code::KafkaTransactionFailed), code, "{kafka:?}");
        }
    }

    #[test]
    fn only_a_record_can_be_to_blame() {
        for code in [Kafka::UnknownPartition, Kafka::InvalidTopic, Kafka::MessageSizeTooLarge, Kafka::InvalidRecord] {
            assert!(row_fault(code).is_some());
            let error = explain("reading", &KafkaError::OffsetFetch(code), &Trouble::default(), Code::KafkaUnreachable);
            assert_eq!(error.code(), Code::KafkaUnreachable, "{code:?}");
        }
    }

    #[test]
    fn a_missing_topic_or_a_missing_right_is_never_the_row_s_fault() {
        for code in [Kafka::UnknownTopic, Kafka::UnknownTopicOrPartition, Kafka::TopicAuthorizationFailed] {
            assert_eq!(row_fault(code), None);
        }
    }

    fn failed(code: Kafka, row: Row) -> FailedDelivery {
        FailedDelivery { code, topic: "events".to_owned(), row }
    }

    #[test]
    fn records_that_were_refused_together_are_suspected() {
        let deliveries = [
            failed(Kafka::PurgeQueue, 0),
            failed(Kafka::MessageSizeTooLarge, 4),
            failed(Kafka::MessageSizeTooLarge, 2),
        ];
        let Some(PublishFailure::Suspected { rows, error }) = rejected(&deliveries) else { panic!() };
        assert_eq!((rows, error.code()), (vec![2, 4], Code::RowTooLarge));
        let alone = rejected(&[failed(Kafka::UnknownPartition, 3)]);
        assert!(matches!(alone, Some(PublishFailure::Rejected { rows, .. }) if rows == [3]));
        assert!(rejected(&[failed(Kafka::UnknownTopic, 0)]).is_none());
    }

    #[test]
    fn a_refused_position_is_no_row_s_fault() {
        let alone = [failed(Kafka::PurgeQueue, 1), failed(Kafka::MessageSizeTooLarge, POSITION)];
        let Some(PublishFailure::Aborted(error)) = rejected(&alone) else { panic!() };
        assert!(error.detail().contains("position topic events refuses"), "{error}");
        let beside = [failed(Kafka::MessageSizeTooLarge, POSITION), failed(Kafka::MessageSizeTooLarge, 3)];
        assert!(matches!(rejected(&beside), Some(PublishFailure::Suspected { rows, .. }) if rows == [3]));
    }

    #[test]
    fn a_refused_login_explains_a_time_out() {
        let trouble = Trouble::default();
        trouble.note(Kafka::Authentication, "invalid credentials");
        trouble.note(Kafka::AllBrokersDown, "1/1 brokers are down");
        let error = KafkaError::MetadataFetch(Kafka::OperationTimedOut);
        let error = explain("reading metadata", &error, &trouble, Code::KafkaUnreachable);
        assert_eq!(error.code(), Code::KafkaAuthFailed);
        assert!(error.detail().contains("invalid credentials"), "{}", error.detail());
    }
}
