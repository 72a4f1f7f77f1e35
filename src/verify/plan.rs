//! Which topics are read, and what is judged in each. It is pure: the rows' topics and the
//! cluster's come in.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    records::TopicToRead,
    routes::TopicNumbers,
    subject::{Stranger, Strangers, TopicRules},
};
use crate::config::{Envelope, Mark, OnPoison, Source, names::FALLBACK_TOPIC};

/// What the plan is made from.
pub(super) struct Setting<'a> {
    /// The sources that are audited.
    pub(super) chosen: &'a [&'a Source],
    /// The configuration's other sources.
    pub(super) others: &'a [&'a Source],
    /// Topics that the rows of each chosen source are meant for.
    pub(super) routed: &'a [BTreeSet<u32>],
    /// Every topic of the cluster.
    pub(super) existing: &'a BTreeMap<String, Vec<i32>>,
    /// Topics that a person named. No row needs to be meant for them any more.
    pub(super) named: &'a [String],
}

/// What is read and judged.
#[derive(Default)]
pub(super) struct Plan {
    /// For every number of a topic.
    pub(super) rules: Vec<TopicRules>,
    /// Without spans.
    pub(super) read: Vec<TopicToRead>,
    /// For each chosen source, notes for the report.
    pub(super) notes: Vec<Vec<String>>,
    /// For each chosen source, whether there is a topic in which unknown records are seen.
    pub(super) judges_unknown: Vec<bool>,
}

/// Whether the sources' rows may have made records in this topic, as far as the configuration alone
/// tells.
pub(super) fn may_be_read(sources: &[&Source], topic: &str) -> bool {
    let dead = |source: &&Source| source.mapping.dead_letter_topic.can_make(topic);
    topic == FALLBACK_TOPIC
        || sources.iter().any(|source| source.mapping.topic.can_make(topic))
        || sources.iter().filter(|source| source.on_poison == OnPoison::DeadLetter).any(dead)
}

pub(super) fn plan(setting: &Setting<'_>, topics: &mut TopicNumbers) -> Plan {
    let mut plan = Plan::default();
    let mut seen = BTreeSet::new();
    let mut owners: BTreeMap<u32, Stranger> = BTreeMap::new();
    for (number, source) in (0_u16..).zip(setting.chosen) {
        let (mut notes, mut judges) = (Vec::new(), false);
        let mains = main_topics(setting, usize::from(number), topics);
        for (name, &topic) in &mains {
            let strangers = strangers(setting, source, name, &mut notes);
            judges |= strangers == Strangers::Unknown;
            owners
                .entry(topic)
                .or_insert_with(|| Stranger { source: owner(setting, number, name, strangers), what: strangers });
            if setting.existing.contains_key(name) {
                plan.add(&mut seen, setting.to_read(topic, name, false));
            } else {
                notes.push(format!("topic {name} does not exist"));
            }
        }
        for (name, what) in dead_topics(setting, source, &mains) {
            let topic = topics.number(&name);
            owners.entry(topic).or_insert(Stranger { source: number, what });
            plan.add(&mut seen, setting.to_read(topic, &name, true));
        }
        if source.mark == Mark::Delete {
            let text = "published rows are deleted: a record whose row is gone is not called unknown, and a row that was \
                        deleted without a record is not seen";
            notes.push(text.to_owned());
            if setting.named.is_empty() && source.mapping.topic.constant().is_none() {
                let text = "only topics that a row is still meant for were read; --also-read names others";
                notes.push(text.to_owned());
            }
        }
        plan.notes.push(notes);
        plan.judges_unknown.push(judges || mains.is_empty());
    }
    let rules = |(number, name): (u32, &String)| {
        let owner = owners.get(&number);
        let strangers = owner.map_or(Strangers::Elsewhere, |stranger| stranger.what);
        TopicRules { name: name.clone(), owner: owner.map(|stranger| stranger.source), strangers }
    };
    plan.rules = (0..).zip(topics.names()).map(rules).collect();
    plan
}

impl Plan {
    fn add(&mut self, seen: &mut BTreeSet<u32>, topic: TopicToRead) {
        if seen.insert(topic.number) {
            self.read.push(topic);
        }
    }
}

impl Setting<'_> {
    fn to_read(&self, number: u32, name: &str, dead: bool) -> TopicToRead {
        let router = self.chosen.iter().any(|source| matches!(source.mapping.envelope, Envelope::Debezium(_)));
        TopicToRead { number, name: name.to_owned(), dead, router, spans: Vec::new() }
    }
}

/// The topics that the source's rows are meant for, and those that a person named. Other topics
/// that the template could make may be another service's.
fn main_topics(setting: &Setting<'_>, number: usize, topics: &mut TopicNumbers) -> BTreeMap<String, u32> {
    let mut mains = BTreeMap::new();
    let Some(source) = setting.chosen.get(number) else { return mains };
    for &topic in setting.routed.get(number).into_iter().flatten() {
        if let Some(name) = topics.names().get(topic as usize) {
            mains.insert(name.clone(), topic);
        }
    }
    if let Some(name) = source.mapping.topic.constant() {
        let topic = topics.number(&name);
        mains.insert(name, topic);
    }
    for name in setting.named.iter().filter(|name| source.mapping.topic.can_make(name)) {
        mains.insert(name.clone(), topics.number(name));
    }
    mains
}

/// What a record of this topic is without its row.
fn strangers(setting: &Setting<'_>, source: &Source, topic: &str, notes: &mut Vec<String>) -> Strangers {
    let makes = |other: &&&Source| other.mapping.topic.can_make(topic);
    if let Some(other) = setting.others.iter().find(makes) {
        let text = format!(
            "unknown records are not judged in {topic}: source {}, which is not audited, may write there too",
            other.name
        );
        notes.push(text);
        return Strangers::Elsewhere;
    }
    let deletes = setting.chosen.iter().filter(makes).any(|source| source.mark == Mark::Delete);
    if deletes || source.mark == Mark::Delete { Strangers::Gone } else { Strangers::Unknown }
}

/// The source to which a record of this topic counts without its row. It is the first source that
/// writes there, or the one that deletes.
fn owner(setting: &Setting<'_>, first: u16, topic: &str, strangers: Strangers) -> u16 {
    let deletes = |source: &&Source| source.mark == Mark::Delete && source.mapping.topic.can_make(topic);
    let found = if strangers == Strangers::Gone { setting.chosen.iter().position(deletes) } else { None };
    found.and_then(|found| u16::try_from(found).ok()).unwrap_or(first)
}

/// The dead-letter topics that are there.
fn dead_topics(setting: &Setting<'_>, source: &Source, mains: &BTreeMap<String, u32>) -> Vec<(String, Strangers)> {
    if source.on_poison != OnPoison::DeadLetter {
        return Vec::new();
    }
    let template = &source.mapping.dead_letter_topic;
    let elsewhere = setting.others.iter().any(|other| {
        other.on_poison == OnPoison::DeadLetter && mains.keys().any(|main| other.mapping.topic.can_make(main))
    });
    let own = match source.mark {
        _ if elsewhere => Strangers::Elsewhere,
        Mark::Delete => Strangers::Gone,
        Mark::Update | Mark::None => Strangers::Unknown,
    };
    // For a row whose topic has no name, `{topic}` is empty.
    let named: Option<BTreeSet<String>> =
        mains.keys().map(String::as_str).chain([""]).map(|main| template.constant_for(main)).collect();
    let mut found: Vec<(String, Strangers)> = match named {
        Some(named) => named.into_iter().map(|name| (name, own)).collect(),
        // The columns of rows decide. So any topic that fits may hold dead letters of ours and of
        // others.
        None => {
            let fits = setting.existing.keys().filter(|name| template.can_make(name));
            fits.map(|name| (name.clone(), Strangers::Elsewhere)).collect()
        }
    };
    found.push((FALLBACK_TOPIC.to_owned(), Strangers::Elsewhere));
    found.retain(|(name, _)| setting.existing.contains_key(name) && !mains.contains_key(name));
    found
}
