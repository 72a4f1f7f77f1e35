//! Makes and removes topics, and waits until the cluster answers.

use std::{
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rdkafka::{
    admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    config::ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

use super::{Broker, Kafka};
use crate::postgres::blocking;

/// A JVM takes three seconds to start on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

impl Kafka {
    /// Creates a topic, replicated on up to three brokers, and waits until every partition has a
    /// leader.
    pub async fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        let replicas = i32::try_from(self.len().clamp(1, 3))?;
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let results = self.admin()?.create_topics([&topic], &options()).await?;
        for result in results {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot create topic {topic}: {code}"))?;
        }
        self.wait_for_leaders(name, partitions).await
    }

    /// A topic with a name of its own, which is returned.
    pub async fn fresh_topic(&self, prefix: &str, partitions: i32) -> Result<String> {
        let name = crate::unique(prefix);
        self.create_topic(&name, partitions, &[]).await?;
        Ok(name)
    }

    /// Makes this the one setting of a topic's own, and waits until the brokers show it.
    pub async fn set_topic(&self, name: &str, key: &str, value: &str) -> Result<()> {
        let topic = ResourceSpecifier::Topic(name);
        let admin = self.admin()?;
        for result in admin.alter_configs([&AlterConfig::new(topic).set(key, value)], &options()).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot alter {topic:?}: {code}"))?;
        }
        crate::eventually(Duration::from_secs(20), || async {
            for result in admin.describe_configs([&topic], &options()).await? {
                let resource = result.map_err(|code| anyhow::anyhow!("cannot describe {name}: {code}"))?;
                if resource.get(key).and_then(|entry| entry.value.as_deref()) != Some(value) {
                    bail!("{key} of {name} is not yet {value}");
                }
            }
            Ok(())
        })
        .await;
        Ok(())
    }

    /// Deletes a topic and waits until the metadata no longer shows it.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        for result in self.admin()?.delete_topics(&[name], &options()).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot delete topic {topic}: {code}"))?;
        }
        let (brokers, name) = (self.brokers(), name.to_owned());
        blocking(move || {
            let client = metadata_client(&brokers)?;
            until(Duration::from_secs(10), || {
                // This asks for all topics. A broker that creates topics by itself would create one
                // that a request names.
                let metadata = client.fetch_metadata(None, Duration::from_secs(5))?;
                if metadata.topics().iter().any(|t| t.name() == name) {
                    bail!("topic {name} is still there");
                }
                Ok(())
            })
        })
        .await
    }

    /// Raises the number of partitions.
    pub async fn add_partitions(&self, name: &str, total: usize) -> Result<()> {
        for result in self.admin()?.create_partitions(&[NewPartitions::new(name, total)], &options()).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot raise the partitions of {topic}: {code}"))?;
        }
        self.wait_for_leaders(name, i32::try_from(total)?).await
    }

    /// Sets one setting of a topic, and puts its others back to the brokers' own.
    pub async fn configure_topic(&self, name: &str, key: &str, value: &str) -> Result<()> {
        let config = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        for result in self.admin()?.alter_configs([&config], &options()).await? {
            result.map_err(|(_, code)| anyhow::anyhow!("cannot set {key} of topic {name}: {code}"))?;
        }
        Ok(())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(ClientConfig::new().set("bootstrap.servers", self.brokers()).create()?)
    }

    async fn wait_for_leaders(&self, topic: &str, partitions: i32) -> Result<()> {
        let (brokers, topic) = (self.brokers(), topic.to_owned());
        blocking(move || {
            let client = metadata_client(&brokers)?;
            until(Duration::from_secs(20), || {
                let metadata = client.fetch_metadata(None, Duration::from_secs(5))?;
                let found = metadata.topics().iter().find(|t| t.name() == topic).context("no such topic yet")?;
                let led = found.partitions().iter().filter(|p| p.leader() >= 0 && p.error().is_none()).count();
                if i32::try_from(led)? < partitions {
                    bail!("{led} of {partitions} partitions of {topic} have a leader");
                }
                Ok(())
            })
        })
        .await
    }

    /// Waits until the metadata shows every broker of ours.
    pub async fn wait_ready(&self) -> Result<()> {
        let started = Instant::now();
        for broker in &self.brokers {
            // librdkafka backs off after a refused connection. So we wait for the open port first.
            while TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port())).is_err() {
                broker.check_running()?;
                if started.elapsed() > READY_WITHIN {
                    bail!("the broker does not listen; its log is {}", broker.log_path().display());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let (brokers, expected) = (self.brokers(), self.brokers.len());
        let ready = blocking(move || {
            let client = metadata_client(&brokers)?;
            until(READY_WITHIN, || {
                let found = client.fetch_metadata(None, Duration::from_secs(2))?.brokers().len();
                if found < expected {
                    bail!("{found} of {expected} brokers have joined");
                }
                Ok(())
            })
        })
        .await;
        self.brokers.iter().try_for_each(Broker::check_running)?;
        ready
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(20))).request_timeout(Some(Duration::from_secs(20)))
}

fn metadata_client(brokers: &str) -> Result<BaseConsumer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .create()?)
}

/// Repeats `attempt` until it succeeds. When it does not in time, the last error is the result.
fn until(within: Duration, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > within => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
