//! A row that cannot become a record because of what it holds, not because of brokers or network.
//! It would fail again the next time, so the source stops at it or sets it aside (`on_poison`).

use std::fmt;

use crate::Error;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal;)*) => {
        /// Why a row cannot become a record. Logs and the header `outboxd_error_code` show it in
        /// kebab-case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum PoisonReason { $($(#[doc = $doc])* $name,)* }

        impl PoisonReason {
            /// Every reason there is.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            #[must_use]
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

reasons! {
    /// The id column is NULL, so nothing can tell the row from others or mark it.
    NullId = "null-id";
    /// A column that the topic template names is NULL.
    NullTopicColumn = "null-topic-column";
    /// The topic template gives a name that Kafka does not allow or that is not for events.
    TopicInvalid = "topic-invalid";
    /// A column that the key template names beside others is NULL.
    NullKeyColumn = "null-key-column";
    /// `created_at` is infinite, before Christ or not a timestamp.
    TimestampInvalid = "timestamp-invalid";
    /// The payload cannot be what its column's type says.
    PayloadInvalid = "payload-invalid";
    /// A column that a header is made of cannot be read.
    HeaderInvalid = "header-invalid";
    /// A column that the envelope must have is NULL or empty.
    AttributeMissing = "attribute-missing";
    /// A column has characters that the envelope does not allow in an attribute.
    AttributeInvalid = "attribute-invalid";
    /// A column's value is not UTF-8, was not sent, or came in a binary form that has no known
    /// text.
    ColumnUnreadable = "column-unreadable";
    /// The record is larger than Kafka takes. Whether it fits the brokers' own, smaller limit shows
    /// only when it is sent.
    TooLarge = "too-large";
    /// The brokers refuse the record for another reason of its own, such as a timestamp that lies
    /// too far ahead.
    Refused = "refused";
}

impl fmt::Display for PoisonReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row that cannot become a record, and why. It shows names of columns and topics, never a
/// payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Poison {
    /// The stable reason.
    pub(crate) reason: PoisonReason,
    /// What is wrong with which column.
    pub(crate) detail: String,
}

impl Poison {
    pub(crate) fn new(reason: PoisonReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The same finding with the reason of the part that it spoils, such as a header.
    pub(super) fn with_reason(mut self, reason: PoisonReason) -> Self {
        self.reason = reason;
        self
    }
}

/// Why a row was not encoded.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The fault is the row's own: stop at it or set it aside.
    #[error(transparent)]
    Poison(#[from] Poison),
    /// The fault is the stream's ([`crate::Code::PostgresProtocol`]). No Relation message described
    /// the row's table, or the row does not fit the description. No other row can be trusted
    /// either.
    #[error(transparent)]
    Protocol(#[from] Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_kebab_case_and_unique() {
        let mut seen = std::collections::HashSet::new();
        for reason in PoisonReason::ALL {
            assert!(seen.insert(reason.as_str()), "{reason} stands twice");
            assert!(reason.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{reason}");
        }
    }
}
