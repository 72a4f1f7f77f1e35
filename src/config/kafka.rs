//! `[kafka]` as written → [`Kafka`].

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    Delivery, Kafka, Secret, TokenSource, names,
    section::{Item, Origin, Section, Value, show_duration},
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
    "token_file",
    "token_command",
    "options",
];

/// The mechanism of RFC 7628.
const OAUTHBEARER: &str = "OAUTHBEARER";

/// Takes the name and the value of a librdkafka option. The error says why `[kafka.options]` cannot
/// hold it.
pub(crate) type Judge = fn(&str, &str) -> std::result::Result<(), String>;

/// Reads the cluster.
pub(super) fn read(mut section: Section, folder: &Path, judge: Judge) -> Result<Kafka> {
    section.only(KEYS)?;
    let brokers = section.text("brokers")?.ok_or_else(|| section.lacks("brokers"))?;
    check_brokers(&brokers.value).map_err(|problem| brokers.refuse(problem))?;
    let delivery = section
        .choice("delivery", &[("exactly-once", Delivery::ExactlyOnce), ("at-least-once", Delivery::AtLeastOnce)])?;
    let position_topic = read_position_topic(&mut section)?;
    let place = section.origin.clone();
    let token = read_token(&mut section, folder)?;
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
        token: token.as_ref().map(|token| token.value.clone()),
        files: files(&options),
        options,
    };
    check_login(&kafka, token.as_ref(), &place)?;
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

/// A token comes from a file or from a program.
fn read_token(section: &mut Section, folder: &Path) -> Result<Option<Item<TokenSource>>> {
    let file = section.text("token_file")?;
    let Some(command) = section.texts("token_command")? else {
        return Ok(file.map(|item| item.map(|path| TokenSource::File(folder.join(path)))));
    };
    if file.is_some() {
        return Err(command.refuse("token_file is there as well; allowed: one of the two"));
    }
    let line: Vec<String> = command.value.iter().map(|word| word.value.clone()).collect();
    if line.first().is_none_or(String::is_empty) {
        return Err(command.refuse("found no program; allowed: a program and its arguments, each a string of its own"));
    }
    Ok(Some(command.map(|_| TokenSource::Command(line))))
}

/// A token and the options of a login have to fit each other.
fn check_login(kafka: &Kafka, token: Option<&Item<TokenSource>>, place: &Origin) -> Result<()> {
    let option = |names: &[&str]| {
        let named = kafka.options.iter().find(|(key, _)| names.contains(&key.as_str()));
        named.map(|(key, value)| (key.as_str(), value.expose()))
    };
    let mechanism = option(&["sasl.mechanism", "sasl.mechanisms"]);
    match (token, mechanism) {
        (Some(token), Some((key, name))) if !name.eq_ignore_ascii_case(OAUTHBEARER) => {
            Err(token.refuse(format!("{key} is {name:?}; a token needs {OAUTHBEARER:?}, or no {key}")))
        }
        (None, Some((key, name))) if name.eq_ignore_ascii_case(OAUTHBEARER) => {
            let text = format!("{place}: {key} is {OAUTHBEARER:?}, which needs token_file or token_command in [kafka]");
            Err(Error::new(Code::ConfigInvalid, text))
        }
        (Some(token), _) => match option(&["security.protocol"]) {
            Some((key, name)) if !name.to_ascii_lowercase().starts_with("sasl_") => {
                Err(token.refuse(format!("{key} is {name:?}; a token needs \"sasl_ssl\" or \"sasl_plaintext\"")))
            }
            _ => Ok(()),
        },
        (None, _) => Ok(()),
    }
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
