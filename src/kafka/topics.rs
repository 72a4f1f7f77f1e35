//! Topics: describing those that exist, and creating those that are missing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{self, AdminClient, AdminOptions, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};

use super::{
    blocking,
    context::{QuietContext, ReaderContext},
    failure::explain,
    login, options,
};
use crate::{
    config::Kafka,
    error::{Code, Error, Result},
};

/// How long a question to the cluster may take where the caller has no bound of its own.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// How long the brokers may take to say whether a topic may be made. A session waits for it.
const ASKING: Duration = Duration::from_secs(5);

/// One question for the ends of a partition. A connection that was lost answers nothing.
const ASK: Duration = Duration::from_secs(5);

/// The question that makes librdkafka look for the leader anew. It only helps the next one.
const ASK_METADATA: Duration = Duration::from_secs(1);

/// librdkafka takes 0 for "at once".
const SHORTEST: Duration = Duration::from_millis(1);

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Number of partitions.
    pub partitions: usize,
    /// Replicas of the first partition.
    pub replication: usize,
}

/// A topic that the brokers refuse to make.
#[derive(Debug)]
pub(crate) struct RefusedTopic {
    /// Name.
    pub(crate) name: String,
    /// Why, in their words, and beside which topic.
    pub(crate) reason: String,
}

impl RefusedTopic {
    /// `there` are the topics that exist. The brokers' metrics do not tell a point from an
    /// underscore, so they refuse a name that differs from another one only in these
    /// (`Topic.hasCollision`). librdkafka does not pass on which one it is.
    fn new(name: String, there: &[&str]) -> Self {
        let unified = |name: &str| name.replace('.', "_");
        let other = there.iter().find(|other| **other != name && unified(other) == unified(&name));
        let beside = other.map(|other| format!(", it collides with {other} ('.' and '_' count as the same)"));
        let refused = RDKafkaErrorCode::InvalidTopic;
        Self { reason: format!("the brokers refuse topic {name}: {refused}{}", beside.unwrap_or_default()), name }
    }
}

/// A topic to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: String,
    /// 0 means the broker's default.
    pub partitions: u32,
    /// 0 means the broker's default.
    pub replication: u32,
    /// Topic configuration, as the broker names it.
    pub configs: Vec<(String, String)>,
}

/// The cluster that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// `cluster.id`.
    pub cluster_id: Option<String>,
    /// Brokers that are up.
    pub brokers: usize,
}

/// Whether the cluster answers, and which cluster it is.
///
/// # Errors
/// [`Code::KafkaUnreachable`] or [`Code::KafkaAuthFailed`], with what librdkafka says about its
/// connections.
pub async fn ping(kafka: &Kafka, timeout: Duration) -> Result<ClusterInfo> {
    let kafka = kafka.clone();
    blocking(move || {
        let client = client(&kafka)?;
        // The question is about a topic that does not exist. So the answer stays small, however
        // many topics there are.
        let metadata = metadata(&client, Some("outboxd.ping"), timeout)?;
        let cluster_id = client.client().fetch_cluster_id(Duration::from_secs(1));
        Ok(ClusterInfo { cluster_id, brokers: metadata.brokers().len() })
    })
    .await
}

/// Each topic by name; `None` when it does not exist.
///
/// # Errors
/// As [`ping`], and [`Code::KafkaDenied`] for a topic that we may not see.
pub async fn describe(kafka: &Kafka, names: &[&str], timeout: Duration) -> Result<BTreeMap<String, Option<TopicInfo>>> {
    let (kafka, names): (_, Vec<String>) = (kafka.clone(), names.iter().map(|&name| name.to_owned()).collect());
    blocking(move || {
        let client = client(&kafka)?;
        let deadline = Instant::now() + timeout;
        names
            .into_iter()
            .map(|name| {
                let info = describe_one(&client, &name, deadline)?;
                Ok((name, info))
            })
            .collect()
    })
    .await
}

/// Describes one topic. It waits while the topic has no leader, as just after its creation.
pub(super) fn describe_one(
    client: &BaseConsumer<ReaderContext>,
    name: &str,
    deadline: Instant,
) -> Result<Option<TopicInfo>> {
    loop {
        let metadata = metadata(client, Some(name), deadline.saturating_duration_since(Instant::now()))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let error = topic.and_then(rdkafka::metadata::MetadataTopic::error).map(RDKafkaErrorCode::from);
        match (topic, error) {
            (None, _) | (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                return Ok(None);
            }
            (Some(topic), None) if topic.partitions().iter().all(|partition| partition.leader() >= 0) => {
                let replication = topic.partitions().first().map_or(0, |partition| partition.replicas().len());
                return Ok(Some(TopicInfo { partitions: topic.partitions().len(), replication }));
            }
            (_, None | Some(RDKafkaErrorCode::LeaderNotAvailable)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            (_, error) => {
                let error = KafkaError::MetadataFetch(error.unwrap_or(RDKafkaErrorCode::LeaderNotAvailable));
                let trouble = &client.context().trouble;
                return Err(explain(format!("topic {name}"), &error, trouble, Code::KafkaUnreachable));
            }
        }
    }
}

/// Creates topics. One that exists already stays as it is.
///
/// # Errors
/// As [`ping`]; [`Code::KafkaDenied`]; [`Code::ConfigInvalid`] for what the brokers refuse
/// (partitions, replication, configuration), in their words.
pub async fn create(kafka: &Kafka, topics: Vec<NewTopic>) -> Result<()> {
    if topics.is_empty() {
        return Ok(());
    }
    // The admin client does not tell why it timed out. This call does.
    ping(kafka, TIMEOUT).await?;
    let admin = admin_client(kafka).await?;
    let wanted: Vec<admin::NewTopic<'_>> = topics.iter().map(native).collect();
    let results = admin.create_topics(&wanted, &admin_options(TIMEOUT)).await;
    for result in results.map_err(|error| Error::new(Code::KafkaUnreachable, "creating topics").because(error))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                let code_for_us = super::failure::code_of(code, Code::ConfigInvalid);
                return Err(Error::new(code_for_us, format!("creating topic {name}")).because(code));
            }
        }
    }
    Ok(())
}

/// Which of these topics the brokers refuse for their names, whoever makes them. Nothing is made.
/// A topic for which we lack the right to ask is not among them.
///
/// # Errors
/// As [`ping`].
pub(crate) async fn refused(kafka: &Kafka, names: &[&str]) -> Result<Vec<RefusedTopic>> {
    let admin = admin_client(kafka).await?;
    let wanted: Vec<_> = names.iter().map(|name| admin::NewTopic::new(name, -1, TopicReplication::Fixed(-1))).collect();
    let asking = admin_options(ASKING).validate_only(true);
    let results = admin.create_topics(&wanted, &asking).await;
    let results = results
        .map_err(|error| Error::new(Code::KafkaUnreachable, "asking which topics may be made").because(error))?;
    let is_refused = |result| match result {
        Err((name, RDKafkaErrorCode::InvalidTopic)) => Some(name),
        _ => None,
    };
    let refused: Vec<String> = results.into_iter().filter_map(is_refused).collect();
    if refused.is_empty() {
        return Ok(Vec::new());
    }
    let kafka = kafka.clone();
    blocking(move || {
        let client = client(&kafka)?;
        let all = metadata(&client, None, ASKING)?;
        let there: Vec<&str> = all.topics().iter().map(rdkafka::metadata::MetadataTopic::name).collect();
        Ok(refused.into_iter().map(|name| RefusedTopic::new(name, &there)).collect())
    })
    .await
}

/// A topic's configuration in force, including the defaults.
///
/// # Errors
/// As [`ping`]; [`Code::KafkaDenied`]; [`Code::TopicMissing`].
pub async fn configuration(kafka: &Kafka, topic: &str) -> Result<BTreeMap<String, String>> {
    let admin = admin_client(kafka).await?;
    let what = || format!("reading the configuration of topic {topic}");
    let failed = |code: Option<RDKafkaErrorCode>| {
        let code = code.unwrap_or(RDKafkaErrorCode::Unknown);
        Error::new(super::failure::code_of(code, Code::KafkaUnreachable), what()).because(code)
    };
    let results = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &admin_options(TIMEOUT)).await;
    let mut entries = BTreeMap::new();
    for result in results.map_err(|error| failed(error.rdkafka_error_code()))? {
        let resource = result.map_err(|code| failed(Some(code)))?;
        entries.extend(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
    }
    Ok(entries)
}

/// The same, and `None` without the right to ask.
///
/// # Errors
/// As [`configuration`], but for [`Code::KafkaDenied`].
pub(crate) async fn told_configuration(kafka: &Kafka, topic: &str) -> Result<Option<BTreeMap<String, String>>> {
    match configuration(kafka, topic).await {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if error.code() == Code::KafkaDenied => Ok(None),
        Err(error) => Err(error),
    }
}

fn native(topic: &NewTopic) -> admin::NewTopic<'_> {
    let count = |number: u32| i32::try_from(number).ok().filter(|&number| number > 0).unwrap_or(-1);
    let replication = TopicReplication::Fixed(count(topic.replication));
    topic
        .configs
        .iter()
        .fold(admin::NewTopic::new(&topic.name, count(topic.partitions), replication), |new, (key, value)| {
            new.set(key, value)
        })
}

pub(super) async fn admin_client(kafka: &Kafka) -> Result<AdminClient<QuietContext>> {
    let kafka = kafka.clone();
    blocking(move || {
        let admin: AdminClient<QuietContext> =
            options::admin(&kafka).create_with_context(QuietContext).map_err(|error| options::refused(&error))?;
        login::log_in(&kafka, admin.inner())?;
        Ok(admin)
    })
    .await
}

pub(super) fn admin_options(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

/// A client for metadata. Unlike a producer, it never makes a broker create the topic that it asks
/// about.
pub(super) fn client(kafka: &Kafka) -> Result<BaseConsumer<ReaderContext>> {
    options::consumer(kafka, &options::admin(kafka))
}

/// Metadata within `timeout`. librdkafka waits for a usable broker and reports nothing meanwhile,
/// so this looks in between. It reports a refused login at once and tries again after everything
/// else. The waits grow, for a broker that is merely slow.
pub(super) fn metadata(
    client: &BaseConsumer<ReaderContext>,
    topic: Option<&str>,
    timeout: Duration,
) -> Result<Metadata> {
    let deadline = Instant::now() + timeout;
    let mut slice = Duration::from_millis(250);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match client.client().fetch_metadata(topic, left.min(slice)) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        // Takes the log lines and the errors about connections.
        while client.poll(Duration::ZERO).is_some() {}
        slice *= 2;
        if Instant::now() >= deadline || client.context().trouble.is_authentication() {
            return Err(explain("asking the cluster", &error, &client.context().trouble, Code::KafkaUnreachable));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// First and next offset of a partition, as `client` may read it. It asks again until `deadline`:
/// the leader may just be moving.
///
/// # Errors
/// [`Code::KafkaUnreachable`] at the deadline; at once [`Code::KafkaDenied`] and
/// [`Code::KafkaAuthFailed`], as a right does not come while we wait, and whoever can grant it
/// should read of it.
pub(super) fn ends(
    client: &BaseConsumer<ReaderContext>,
    topic: &str,
    partition: i32,
    deadline: Instant,
) -> Result<(i64, i64)> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match client.fetch_watermarks(topic, partition, left.clamp(SHORTEST, ASK)) {
            Ok(ends) => return Ok(ends),
            Err(error) => error,
        };
        while client.poll(Duration::ZERO).is_some() {}
        let trouble = &client.context().trouble;
        // A right on the group does not count: librdkafka asks for it though we join none.
        let denied = error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed);
        if denied || trouble.is_authentication() || Instant::now() >= deadline {
            return Err(explain(format!("reading the ends of topic {topic}"), &error, trouble, Code::KafkaUnreachable));
        }
        // What librdkafka was told while the partition had no leader it believes for minutes
        // ("unknown partition"), unless it is made to ask anew.
        let _ = client.client().fetch_metadata(Some(topic), left.clamp(SHORTEST, ASK_METADATA));
        std::thread::sleep(Duration::from_millis(20));
    }
}
