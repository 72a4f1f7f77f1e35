//! What a commit stands on: how many copies of a topic there are, how many of them a broker waits
//! for, and whether a copy that lacks records may lead. Exactly once is no more durable than that.

use std::{fmt, time::Duration};

use super::topics;
use crate::{
    config::{Delivery, Kafka},
    error::Result,
};

/// Where the brokers keep which transactions were committed.
const TRANSACTIONS: &str = "__transaction_state";

/// How often [`tell`] asks about a topic that is not there yet, or cannot be asked about, and the
/// pause between.
const ATTEMPTS: usize = 30;
const PAUSE: Duration = Duration::from_secs(10);

/// What a topic's records stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Durability {
    pub(crate) topic: String,
    /// Replicas of its first partition.
    pub(crate) replication: usize,
    /// `min.insync.replicas`. `None` where the brokers do not tell us.
    pub(crate) min_insync: Option<usize>,
    /// `unclean.leader.election.enable`. `None` where the brokers do not tell us.
    pub(crate) unclean: Option<bool>,
}

impl Durability {
    /// What can lose committed records, one sentence each.
    pub(crate) fn weaknesses(&self) -> Vec<&'static str> {
        let weak = [
            (
                self.replication < 3,
                "fewer than 3 replicas: a lost broker takes committed records along or stops the topic",
            ),
            (self.min_insync.is_some_and(|least| least < 2), "a commit may be on one broker alone"),
            (self.unclean == Some(true), "a replica that lacks committed records may become the leader"),
        ];
        weak.into_iter().filter_map(|(is_so, text)| is_so.then_some(text)).collect()
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "unknown".to_owned();
        let least = self.min_insync.map_or_else(unknown, |least| least.to_string());
        let unclean = self.unclean.map_or_else(unknown, |unclean| unclean.to_string());
        write!(
            f,
            "replication factor {}, min.insync.replicas = {least}, unclean.leader.election.enable = {unclean}",
            self.replication
        )
    }
}

/// What a person does about it.
pub(crate) const HINT: &str = "replication factor 3 (kafka-reassign-partitions.sh), min.insync.replicas=2, \
                               unclean.leader.election.enable=false";

/// The topics on which the commits of these `names` stand.
pub(crate) fn topics_of(kafka: &Kafka, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all = vec![kafka.position_topic.clone()];
    if kafka.delivery == Delivery::ExactlyOnce {
        all.push(TRANSACTIONS.to_owned());
    }
    all.extend(names);
    let mut seen = std::collections::HashSet::new();
    all.retain(|name| seen.insert(name.clone()));
    all
}

/// What a topic's records stand on; `None` when there is no such topic.
///
/// # Errors
/// As [`topics::describe`].
pub(crate) async fn durability(kafka: &Kafka, topic: &str) -> Result<Option<Durability>> {
    let Some(info) = topics::describe(kafka, &[topic], topics::TIMEOUT).await?.remove(topic).flatten() else {
        return Ok(None);
    };
    let settings = topics::told_configuration(kafka, topic).await?.unwrap_or_default();
    let setting = |name: &str| settings.get(name).map(String::as_str);
    Ok(Some(Durability {
        topic: topic.to_owned(),
        replication: info.replication,
        min_insync: setting("min.insync.replicas").and_then(|least| least.parse().ok()),
        unclean: setting("unclean.leader.election.enable").and_then(|unclean| unclean.parse().ok()),
    }))
}

/// Says in the log what each topic's records stand on, once the topic is there.
pub(crate) async fn tell(kafka: Kafka, mut topics: Vec<String>) {
    for _ in 0..ATTEMPTS {
        let mut later = Vec::new();
        for topic in topics {
            match durability(&kafka, &topic).await {
                Ok(Some(found)) => say(&found),
                Ok(None) | Err(_) => later.push(topic),
            }
        }
        if later.is_empty() {
            return;
        }
        topics = later;
        tokio::time::sleep(PAUSE).await;
    }
    tracing::info!(topics = topics.join(", "), "what these topics stand on could not be learned");
}

fn say(found: &Durability) {
    let (topic, weak) = (&found.topic, found.weaknesses());
    if weak.is_empty() {
        tracing::info!(topic, "{found}");
    } else {
        tracing::warn!(topic, hint = HINT, "{found}: {}", weak.join("; "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_lose_committed_records_is_named() {
        let safe = Durability { topic: "t".into(), replication: 3, min_insync: Some(2), unclean: Some(false) };
        assert!(safe.weaknesses().is_empty());
        let unknown = Durability { min_insync: None, unclean: None, ..safe.clone() };
        assert!(unknown.weaknesses().is_empty() && unknown.to_string().contains("= unknown"), "{unknown}");
        let weak = Durability { replication: 2, min_insync: Some(1), unclean: Some(true), ..safe };
        assert_eq!(weak.weaknesses().len(), 3);
    }
}
