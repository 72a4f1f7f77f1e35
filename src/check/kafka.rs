//! The cluster, the position topic, and the topics whose names are known.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::OnceCell;

use super::Findings;
use crate::{
    Code, Config,
    config::{Delivery, Kafka},
    kafka::{
        broker,
        durability::{self, durability, topics_of},
        position_topic, topics,
    },
    setup::topics::constant_topics,
};

/// How many topics are looked at. Rows may go to any number of them.
const TOPICS: usize = 100;

/// Topics that rows go to, as far as they can be known, with the age of the oldest row that waits for
/// each.
pub(super) type Topics = BTreeMap<String, Option<Duration>>;

pub(super) async fn check(config: &Config, topics: &Topics, findings: &mut Findings) {
    let kafka = &config.kafka;
    let brokers = match topics::ping(kafka, topics::TIMEOUT).await {
        Ok(cluster) => {
            let id = cluster.cluster_id.as_deref().unwrap_or("unknown");
            findings.ok("connection", format!("{} brokers, cluster {id}", cluster.brokers));
            cluster.brokers
        }
        Err(error) => {
            findings.error("connection", &error);
            return;
        }
    };
    positions(kafka, findings).await;
    if kafka.delivery == Delivery::ExactlyOnce {
        transaction_timeout(kafka, findings).await;
    }
    let creates = OnceCell::new();
    for (name, oldest) in topics.iter().take(TOPICS) {
        if topic(kafka, name, &creates, findings).await
            && let Some(oldest) = oldest
        {
            age(kafka, name, *oldest, findings).await;
        }
    }
    if topics.len() > TOPICS {
        findings.ok("topics", format!("{} more, which were not looked at", topics.len() - TOPICS));
    }
    for topic in topics_of(kafka, config.sources.iter().flat_map(constant_topics)) {
        // What cannot be asked is told above.
        if let Ok(Some(found)) = durability(kafka, &topic).await {
            commits(&found, brokers, findings);
        }
    }
}

/// What the commits in a topic stand on. A cluster of one broker is no surprise to whoever has it.
fn commits(found: &durability::Durability, brokers: usize, findings: &mut Findings) {
    let about = format!("commits in {}", found.topic);
    let weak = found.weaknesses();
    if weak.is_empty() {
        return findings.ok(&about, found.to_string());
    }
    let text = format!("{found}: {}", weak.join("; "));
    if brokers == 1 {
        findings.note(&about, text, durability::HINT);
    } else {
        findings.warning(&about, text, durability::HINT);
    }
}

async fn positions(kafka: &Kafka, findings: &mut Findings) {
    let about = format!("topic {}", kafka.position_topic);
    match position_topic::exists(kafka).await {
        Ok(false) => findings.ok(&about, "does not exist yet: `setup` or `run` makes it"),
        Err(error) => findings.error(&about, &error),
        Ok(true) => match position_topic::validate(kafka).await {
            Ok(()) => findings.ok(&about, "one partition, compacted"),
            Err(error) => findings.error(&about, &error),
        },
    }
}

/// Whether the brokers make topics, asked when the first one is missing.
type Creates = OnceCell<Option<bool>>;

/// Whether it is there.
async fn topic(kafka: &Kafka, name: &str, creates: &Creates, findings: &mut Findings) -> bool {
    let about = format!("topic {name}");
    match topics::describe(kafka, &[name], topics::TIMEOUT).await {
        Err(error) => findings.error(&about, &error),
        Ok(found) => match found.get(name).cloned().flatten() {
            Some(info) => {
                findings.ok(&about, format!("{} partitions, {} replicas", info.partitions, info.replication));
                return true;
            }
            None => missing(kafka, name, creates, findings).await,
        },
    }
    false
}

/// Whether the topic takes the times of the rows that wait. Brokers that do not tell are no finding.
async fn age(kafka: &Kafka, name: &str, oldest: Duration, findings: &mut Findings) {
    let Ok(Some(settings)) = topics::told_configuration(kafka, name).await else { return };
    let setting = |name: &str| settings.get(name).map(String::as_str);
    let most = setting("message.timestamp.before.max.ms").and_then(|most| most.parse().ok()).map(Duration::from_millis);
    if setting("message.timestamp.type") == Some("CreateTime")
        && let Some(most) = most
        && oldest > most
    {
        let text = format!(
            "rows that wait are up to {} old, and it refuses times more than {} old (message.timestamp.before.max.ms)",
            humantime::format_duration(oldest),
            humantime::format_duration(most),
        );
        let hint = "raise it, or let the records of such rows have another time: that of the commit or of the sending, \
                    with the row's own in the header outboxd_event_time";
        findings.warning(&format!("topic {name}"), text, hint);
    }
}

/// A topic that is not there can be made, or the brokers refuse its name for ever.
async fn missing(kafka: &Kafka, name: &str, creates: &Creates, findings: &mut Findings) {
    let about = format!("topic {name}");
    // Whoever may not make topics gets no answer, and the warning is all there is to say.
    let refused = topics::refused(kafka, &[name]).await.unwrap_or_default();
    match refused.into_iter().next() {
        Some(topic) => {
            let hint = "correct `topic` or `dead_letter_topic` of the source";
            findings.failed_with(&about, Code::RowInvalid, topic.reason, hint);
        }
        None => match creates.get_or_init(|| broker::creates_topics(kafka)).await {
            Some(true) => findings.note(
                &about,
                "it does not exist; the brokers make it with its first record, by their defaults",
                "`outboxd setup` makes it with kafka.topic_partitions and kafka.topic_replication",
            ),
            Some(false) => findings.failed_with(
                &about,
                Code::TopicMissing,
                "it does not exist, and the brokers do not make topics (auto.create.topics.enable is off)",
                "run `outboxd setup`, which makes it",
            ),
            None => findings.warning(
                &about,
                "it does not exist",
                "run `outboxd setup`, unless the brokers create topics (auto.create.topics.enable)",
            ),
        },
    }
}

/// When the producer starts, the brokers refuse a transaction timeout above theirs.
async fn transaction_timeout(kafka: &Kafka, findings: &mut Findings) {
    const ABOUT: &str = "transaction timeout";
    let ours = kafka.transaction_timeout;
    let most = match broker::setting(kafka, "transaction.max.timeout.ms", topics::TIMEOUT).await {
        Ok(setting) => setting.and_then(|text| text.parse().ok()).map(Duration::from_millis),
        Err(error) if error.code() == Code::KafkaDenied => None,
        Err(error) => return findings.error(ABOUT, &error),
    };
    match most {
        Some(most) if ours > most => {
            let text = format!("{ours:?} is more than the brokers allow ({most:?})");
            let hint = "lower kafka.transaction_timeout, or raise transaction.max.timeout.ms of the brokers";
            findings.failed_with(ABOUT, Code::ConfigInvalid, text, hint);
        }
        Some(most) => findings.ok(ABOUT, format!("{ours:?}; the brokers allow {most:?}")),
        None => findings.ok(ABOUT, format!("{ours:?}; the brokers do not tell what they allow")),
    }
}
