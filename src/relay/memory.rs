//! What outlives a session: how it ended, and the little that the next one may know of it.

use std::time::SystemTime;

use super::rows::Verdicts;
use crate::{
    Code,
    clock::now_millis,
    config::Kafka,
    kafka::{Batching, PublishFailure, topics},
    outbox::{Records, Times},
    source::position::Progress,
};

/// How a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The daemon stops, and has finished what was in flight.
    Stopped,
    /// The next session follows at once.
    Again,
    /// Another instance leads.
    StandBy,
}

/// What the next session of this process may know of the last one.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The life of the server that has shown what was published, up to this position. It is kept
    /// when rows were dropped for lack of room meanwhile, since the next session takes them again.
    pub(crate) trusted: Option<(ServerLife, Progress)>,
    /// How many records go together. Kafka has refused more.
    pub(crate) batching: Batching,
    /// The records that Kafka refused.
    pub(super) verdicts: Verdicts,
    /// The times that Kafka refused.
    pub(super) times: Times,
}

impl Memory {
    /// Learns from a failed publication. Returns whether some of its rows are to blame, so that the
    /// next session follows at once.
    pub(super) async fn learn(&mut self, kafka: &Kafka, records: &Records, failure: &PublishFailure) -> bool {
        self.learn_rows(records, failure)
            || self.learn_size(failure)
            || self.learn_topics(kafka, records, failure).await
    }

    /// The next session gives records another time where theirs was refused. It treats as poison each
    /// record that Kafka refused by itself for another reason.
    fn learn_rows(&mut self, records: &Records, failure: &PublishFailure) -> bool {
        let PublishFailure::Rejected { rows, error } = failure else { return false };
        tracing::warn!(code = error.code().as_str(), rows = rows.len(), "{}", error.detail());
        if error.code() == Code::KafkaClock {
            let refused =
                rows.iter().filter_map(|&row| records.get(row)).map(|record| (record.topic, record.timestamp));
            return self.times.refuse(refused, now_millis());
        }
        let mut learned = false;
        for record in rows.iter().filter_map(|&row| records.get(row)) {
            learned |= self.verdicts.add(record, error);
        }
        // A known verdict that did not help is a reason to stop. Otherwise we would try for ever.
        learned
    }

    /// The sessions to come send smaller parts, where Kafka refused records only because they went
    /// together. The parts stay small: the topic's limit is what it was.
    fn learn_size(&mut self, failure: &PublishFailure) -> bool {
        let PublishFailure::Crowded { bytes, error } = failure else { return false };
        if let Batching::AtMost(before) = self.batching
            && before <= *bytes
        {
            return false;
        }
        tracing::warn!(code = error.code().as_str(), bytes, "sending smaller parts: {}", error.detail());
        self.batching = Batching::AtMost(*bytes);
        true
    }

    /// After a batch that lacked a topic: asks the brokers which of the batch's topics they refuse
    /// for their names. Such a topic can never exist, so its rows are poison. Returns whether there
    /// are new ones. If nobody answers, the topic counts as one that somebody may yet make.
    async fn learn_topics(&mut self, kafka: &Kafka, records: &Records, failure: &PublishFailure) -> bool {
        if failure.error().code() != Code::TopicMissing {
            return false;
        }
        let names: Vec<&str> = records.topics().map(|(name, _)| name).collect();
        let refused = topics::refused(kafka, &names).await.unwrap_or_else(|error| {
            tracing::warn!(code = error.code().as_str(), "{}", error.detail());
            Vec::new()
        });
        let mut learned = false;
        for topic in refused {
            tracing::warn!("{}", topic.reason);
            learned |= self.verdicts.add_topic(topic.name, topic.reason);
        }
        learned
    }
}

/// One life of one server. A restored copy is another life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerLife {
    /// From IDENTIFY_SYSTEM.
    pub(crate) system_id: String,
    /// From IDENTIFY_SYSTEM.
    pub(crate) timeline: u32,
    /// `pg_postmaster_start_time()`.
    pub(crate) started: SystemTime,
}
