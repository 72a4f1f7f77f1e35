//! What outlives a session: how it ended, and the little that the next one may know of it.

use std::time::SystemTime;

use super::rows::{Verdicts, now_millis};
use crate::{
    Code,
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
    /// How records are sent. After Kafka has refused a batch they go one by one, to learn which of
    /// them it refuses.
    pub(crate) batching: Batching,
    /// How far batches were handed to the publisher when that batch was refused. Rows after it are
    /// not to blame.
    pub(super) suspected: Option<Progress>,
    /// The records that Kafka refused.
    pub(super) verdicts: Verdicts,
    /// The times that Kafka refused.
    pub(super) times: Times,
}

impl Memory {
    /// Learns from a failed publication. Returns whether some of its rows are to blame, so that the
    /// next session follows at once.
    pub(super) async fn learn(&mut self, kafka: &Kafka, records: &Records, failure: &PublishFailure) -> bool {
        self.learn_rows(records, failure) || self.learn_topics(kafka, records, failure).await
    }

    /// The next session gives records another time where theirs was refused. Else it finds out which
    /// rows are to blame: it sends the same batch record by record if need be, and treats as poison
    /// each record that Kafka refused by itself.
    fn learn_rows(&mut self, records: &Records, failure: &PublishFailure) -> bool {
        let PublishFailure::Rejected { rows, error, certain } = failure else { return false };
        tracing::warn!(code = error.code().as_str(), rows = rows.len(), certain, "{}", error.detail());
        if error.code() == Code::KafkaClock {
            let refused =
                rows.iter().filter_map(|&row| records.get(row)).map(|record| (record.topic, record.timestamp));
            return self.times.refuse(refused, now_millis());
        }
        self.batching = Batching::OneByOne;
        if !certain {
            return true;
        }
        let mut learned = false;
        for record in rows.iter().filter_map(|&row| records.get(row)) {
            learned |= self.verdicts.add(record, error);
        }
        // A known verdict that did not help is a reason to stop. Otherwise we would try for ever.
        learned
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
