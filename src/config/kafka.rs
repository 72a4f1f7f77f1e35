//! `[kafka]` as written → [`Kafka`].

use std::time::{Duration, SystemTime};

use super::{
    Delivery, Kafka, Secret, names,
    section::{Item, Section, Value, show_duration},
};
use crate::{Code, Error, Result};

/// The keys of `[kafka]`.
pub(super) const KEYS: &[&str] = &[
    "brokers",
    "delivery",
    "position_topic",
    "topic_partitions",
    "topic_replication",
    "transaction_timeout",
    "delivery_timeout",
    "options",
];

/// Takes the name and the value of a librdkafka option. The error says why `[kafka.options]` cannot
/// hold it.
pub(crate) type Judge = fn(&str, &str) -> std::result::Result<(), String>;

/// Reads the cluster.
pub(super) fn read(mut section: Section, judge: Judge) -> Result<Kafka> {
    section.only(KEYS)?;
    let brokers = section.text("brokers")?.ok_or_else(|| section.lacks("brokers"))?;
    check_brokers(&brokers.value).map_err(|problem| brokers.refuse(problem))?;
    let delivery = section
        .choice("delivery", &[("exactly-once", Delivery::ExactlyOnce), ("at-least-once", Delivery::AtLeastOnce)])?;
    let position_topic = read_position_topic(&mut section)?;
    let place = section.origin.clone();
    let options = section.table("options", "[kafka.options]")?;
    let options = read_options(options, judge)?;
    let kafka = Kafka {
        brokers: brokers.value,
        delivery: delivery.map_or(Delivery::ExactlyOnce, |item| item.value),
        position_topic,
        topic_partitions: number(&mut section, "topic_partitions", 100_000)?,
        // The protocol counts replicas in 16 bits.
        topic_replication: number(&mut section, "topic_replication", 32_767)?,
        transaction_timeout: timeout(&mut section, "transaction_timeout", 60)?,
        delivery_timeout: timeout(&mut section, "delivery_timeout", 30)?,
        files: files(&options),
        options,
    };
    // Rule 25: a record that is still being sent when its transaction times out could end up in the
    // next transaction.
    if kafka.delivery_timeout >= kafka.transaction_timeout {
        return Err(Error::new(
            Code::ConfigInvalid,
            format!(
                "{place}: delivery_timeout in [kafka] is {}, not below transaction_timeout, which is {}; allowed: less",
                show_duration(kafka.delivery_timeout),
                show_duration(kafka.transaction_timeout)
            ),
        ));
    }
    Ok(kafka)
}

/// Reads the topic of the positions.
pub(super) fn read_position_topic(section: &mut Section) -> Result<String> {
    let Some(item) = section.text("position_topic")? else { return Ok("outboxd.positions".to_owned()) };
    names::topic(&item.value).map_err(|problem| item.refuse(problem))?;
    Ok(item.value)
}

/// When each file was written that an option names. `None`: the file is not there.
fn files(options: &[(String, Secret)]) -> Vec<Option<SystemTime>> {
    let is_file = |key: &str| key.ends_with(".location") || key.ends_with(".keytab");
    let written = |path: &str| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    options.iter().filter(|(key, _)| is_file(key)).map(|(_, path)| written(path.expose())).collect()
}

fn number(section: &mut Section, key: &str, most: u32) -> Result<u32> {
    // `count` allows no more than `most`, so the number has 32 bits.
    section.count(key, 0, 0..=most as usize).map(|number| u32::try_from(number).unwrap_or(most))
}

fn timeout(section: &mut Section, key: &str, default: u64) -> Result<Duration> {
    section.duration(key, Duration::from_secs(default), Duration::from_secs(1)..=Duration::from_secs(86_400))
}

fn check_brokers(brokers: &str) -> Result<(), String> {
    let is_broker = |broker: &str| {
        let address = broker.rsplit_once("://").map_or(broker, |(_, address)| address);
        let port = address.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let (host, port) = port.map_or((address, None), |(host, port)| (host, Some(port)));
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    if brokers.split(',').all(|broker| is_broker(broker.trim())) {
        return Ok(());
    }
    Err(format!("found {brokers:?}; allowed: host:port, several with commas"))
}

fn read_options(section: Section, judge: Judge) -> Result<Vec<(String, Secret)>> {
    let mut options = Vec::new();
    flatten(section, "", &mut options)?;
    let mut seen: Vec<(String, Secret)> = Vec::with_capacity(options.len());
    for (key, item) in options {
        let refuse = |problem: String| item.refuse_as(Code::KafkaOptionInvalid, format!("{key:?}: {problem}"));
        if seen.iter().any(|(other, _)| *other == key) {
            return Err(refuse("stands twice".to_owned()));
        }
        judge(&key, &item.value).map_err(refuse)?;
        seen.push((key, Secret::new(item.value)));
    }
    Ok(seen)
}

/// `"ssl.ca.location" = …` and `ssl.ca.location = …` are the same option.
fn flatten(mut section: Section, prefix: &str, options: &mut Vec<(String, Item<String>)>) -> Result<()> {
    section.title = "[kafka.options]".to_owned();
    let keys: Vec<_> = section.entries.iter().map(|(key, _)| key.clone()).collect();
    for key in keys {
        let name = format!("{prefix}{key}");
        let Some(mut item) = section.take(&key) else { continue };
        item.relabel("[kafka.options]");
        let text = match &item.value {
            Value::Table(table) => {
                flatten(table.clone(), &format!("{name}."), options)?;
                continue;
            }
            Value::Text(text) | Value::Other(_, text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Bool(bool) => bool.to_string(),
            Value::List(_) => {
                let problem = format!("{name:?}: found a list; expected a string, with commas where it is one");
                return Err(item.refuse_as(Code::KafkaOptionInvalid, problem));
            }
        };
        options.push((name, item.map(|_| text)));
    }
    Ok(())
}
