//! Table against topic, as `outboxd verify` audits it: nothing missing, nothing twice, in order,
//! marked, nothing unknown.
//!
//! ```text
//!   Postgres: tables ── rows of one snapshot ──┐
//!                                              ├▶ sorter, by id and topic ─▶ merge
//!   Kafka: topics ── read_committed records ───┘                               │
//!      ┌───────────────────────────────────────────────────────────────────────┘
//!      ├▶ duplicated, dead-lettered ─────────────────────▶ counted
//!      ├▶ missing, unmarked, unknown ─▶ a second look ───▶ counted
//!      └▶ sorter, by key ─▶ out of order ────────────────▶ counted
//! ```
//!
//! What must hold:
//! - an audit changes nothing on either side: it uses no slot and no transactional id, commits no
//!   offset, and reads in a read-only transaction;
//! - memory is bounded whatever the number of rows: it grows only with the number of topics;
//! - a live system raises no false alarm. The audit takes the ends of the topics just after the
//!   snapshot. It looks again at what seems missing, unmarked or unknown then: at rows by their
//!   ids, at topics by reading on (`again`).
//!
//! `sort`, `entry`, `compare`, `order`, `plan`, `routes` and `query` know neither server; `rows`,
//! `records` and `again` do.

mod again;
pub(crate) mod compare;
mod content;
mod entry;
mod id;
mod order;
mod plan;
mod progress;
mod query;
mod records;
mod report;
mod routes;
mod rows;
mod sort;
mod subject;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use again::Again;
use entry::{NO_TOPIC, RecordEntry};
use plan::{Plan, Setting};
use query::Shape;
use records::{Cluster, Held, Match, Reading, TopicToRead};
use report::Kind;
use routes::TopicNumbers;
use rows::OpenSource;
use sort::Sorter;
use subject::{SourceRules, Stranger, Strangers, Subject};

pub(crate) use progress::Progress;
pub(crate) use report::{Offender, Outcome, Report};

use crate::{
    Code, Config, Error, Result,
    config::{Backfill, Source},
    kafka::topic_reader::Span,
    postgres::catalog::TableInfo,
};

/// How many records without an event id the report names, for each topic.
const NAMELESS_NAMED: usize = 5;

/// Up to this number of partitions the audit asks for all ends before it knows which of them
/// matter.
const EARLY_ENDS: usize = 500;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Only this source.
    pub(crate) source: Option<String>,
    /// Topics to read besides those that rows are meant for.
    pub(crate) topics: Vec<String>,
    /// Only rows and records from then on, in milliseconds since the Unix epoch.
    pub(crate) since: Option<i64>,
    /// How long the audit waits for what is under way.
    pub(crate) wait: Duration,
    /// Judge order by this column, strictly.
    pub(crate) order_by: Option<String>,
    /// Without such a column, an inversion of creation times up to this is no difference.
    pub(crate) order_tolerance: Duration,
    /// Compare what records hold with what their rows make.
    pub(crate) content: bool,
    /// Where sorted runs go.
    pub(crate) temp_dir: PathBuf,
    /// Bytes that are sorted in memory.
    pub(crate) memory: usize,
}

/// Compares what the tables hold with what a `read_committed` consumer sees.
///
/// # Errors
/// [`Code::ConfigInvalid`] for what cannot be asked of these sources; [`Code::TempDirUnusable`];
/// what an unreachable server or a missing right brings. A difference is not an error: the outcome
/// tells it.
pub(crate) async fn audit(config: &Config, options: &Options, progress: &Progress) -> Result<Outcome> {
    let (chosen, others) = choose(config, options)?;
    // This comes before anything that takes long: a full disk shows later, a wrong directory now.
    tempfile::tempfile_in(&options.temp_dir).map_err(disk)?;
    let cluster = Cluster::open(&config.kafka, options.since, options.content)?;
    let sources = open_sources(&chosen, options, &config.kafka.position_topic).await?;
    let audit = Audit { config, options, progress, chosen, others, cluster, sources };
    let outcome = audit.run().await;
    progress.end();
    outcome
}

/// The sources that are audited, and the rest.
fn choose<'c>(config: &'c Config, options: &Options) -> Result<(Vec<&'c Source>, Vec<&'c Source>)> {
    let is_chosen = |source: &&Source| options.source.as_ref().is_none_or(|name| *name == source.name);
    if let Some(name) = &options.source {
        config.source(name)?;
    }
    let (chosen, others): (Vec<_>, Vec<_>) = config.sources.iter().partition(is_chosen);
    let can_make = |topic: &&String| chosen.iter().any(|source| source.mapping.topic.can_make(topic));
    if let Some(topic) = options.topics.iter().find(|topic| !can_make(topic)) {
        let text = format!("--also-read {topic}: no source that is audited has a template that makes this name");
        return Err(Error::new(Code::ConfigInvalid, text));
    }
    Ok((chosen, others))
}

/// The column that a source's order is judged by in place of the creation time.
fn order_by<'a>(source: &'a Source, options: &'a Options) -> Option<&'a str> {
    options.order_by.as_deref().or(source.backfill_order_by.as_deref())
}

/// One snapshot for each source.
async fn open_sources<'c>(
    chosen: &[&'c Source],
    options: &'c Options,
    position_topic: &'c str,
) -> Result<Vec<OpenSource<'c>>> {
    let mut sources = Vec::with_capacity(chosen.len());
    for (number, source) in (0..).zip(chosen) {
        let Options { since, content, .. } = *options;
        let shape = Shape { source, order_by: order_by(source, options), since, content };
        let open = OpenSource::open(number, shape, position_topic)
            .await
            .map_err(|error| error.about(format_args!("source {}", source.name)));
        sources.push(open?);
    }
    Ok(sources)
}

struct Audit<'c> {
    config: &'c Config,
    options: &'c Options,
    progress: &'c Progress,
    chosen: Vec<&'c Source>,
    others: Vec<&'c Source>,
    cluster: Cluster,
    sources: Vec<OpenSource<'c>>,
}

/// What the reading thread fills.
struct Sink {
    sorter: Sorter,
    scratch: Vec<u8>,
    /// By topic.
    nameless: HashMap<u32, Nameless>,
}

/// The records of one topic that have no event id.
#[derive(Default)]
struct Nameless {
    count: u64,
    first: Vec<RecordEntry>,
}

/// What was read of all topics.
struct ReadRecords {
    sink: Sink,
    numbers: TopicNumbers,
    topics: Vec<TopicToRead>,
    notes: Vec<String>,
    /// Topics that no longer have their first record.
    trimmed: Vec<String>,
}

impl Audit<'_> {
    async fn run(&self) -> Result<Outcome> {
        let existing = self.cluster.topics().await?;
        let mut spans = self.ends(&existing).await?;
        let mut sorter = self.sorter();
        let mut numbers = TopicNumbers::default();
        let routed = self.scan(&mut numbers, &mut sorter).await?;
        let setting = Setting {
            chosen: &self.chosen,
            others: &self.others,
            routed: &routed,
            existing: &existing,
            named: &self.options.topics,
        };
        let plan = plan::plan(&setting, &mut numbers);
        let Plan { rules, mut read, notes, judges_unknown } = plan;
        self.add_spans(&mut read, &mut spans, &existing).await?;
        let subject = Subject {
            sources: self.rules(),
            topics: rules,
            since: self.options.since.is_some(),
            content: self.options.content,
        };
        let records = self.read(read, sorter, numbers).await?;
        let ReadRecords { sink, numbers, topics, notes: of_reading, trimmed } = records;

        self.progress.begin("comparing", 0);
        let sorted = sink.sorter.finish().map_err(disk)?;
        let compared = compare::compare(&subject, sorted, self.sorter(), self.options.memory / 2)?;
        let (mut reports, candidates) = (compared.reports, compared.candidates);
        order::judge(&subject, compared.order.finish().map_err(disk)?, &mut reports)?;
        count_nameless(&subject, &mut reports, &sink.nameless);
        let left_out = candidates.left_out;
        let (sources, cluster) = (&self.sources, &self.cluster);
        let again = Again { subject: &subject, sources, cluster, topics, numbers, candidates, reports };
        let mut reports = again.look(self.options.wait, self.progress).await?;

        for ((report, notes), judges) in reports.iter_mut().zip(notes).zip(judges_unknown) {
            report.unknown = report.unknown.filter(|_| judges);
            notes.into_iter().chain(of_reading.iter().cloned()).for_each(|note| report.note(note));
        }
        self.explain(&mut reports, &trimmed, left_out);
        Ok(Outcome::of(reports))
    }

    /// A sorter with half of the memory, since two sorters live at a time.
    fn sorter(&self) -> Sorter {
        Sorter::new(self.options.memory / 2, &self.options.temp_dir)
    }

    fn rules(&self) -> Vec<SourceRules> {
        let rules = |open: &OpenSource<'_>| {
            let by_column = order_by(open.config, self.options).is_some();
            SourceRules {
                name: open.config.name.clone(),
                tables: open.tables.iter().map(TableInfo::display_name).collect(),
                mark: open.config.mark,
                order_by_table: by_column,
                tolerance: if by_column { 0 } else { self.options.order_tolerance.as_micros() },
            }
        };
        self.sources.iter().map(rules).collect()
    }

    /// The ends of all topics that may matter, right after the snapshots. Younger records are of no
    /// concern. Where there would be very many ends, the audit asks for them when the rows have
    /// told which topics matter.
    async fn ends(&self, existing: &BTreeMap<String, Vec<i32>>) -> Result<HashMap<String, Vec<Span>>> {
        let ours = |name: &&String| {
            !name.starts_with("__")
                && **name != self.config.kafka.position_topic
                && plan::may_be_read(&self.chosen, name)
        };
        let wanted: Vec<_> = existing.iter().filter(|(name, _)| ours(name)).collect();
        if wanted.iter().map(|(_, partitions)| partitions.len()).sum::<usize>() > EARLY_ENDS {
            return Ok(HashMap::new());
        }
        let owned = |(name, partitions): (&String, &Vec<i32>)| (name.clone(), partitions.clone());
        self.cluster.spans(wanted.into_iter().map(owned).collect()).await
    }

    /// Reads all rows, and gives the topics that each source's rows are meant for.
    async fn scan(&self, numbers: &mut TopicNumbers, sorter: &mut Sorter) -> Result<Vec<BTreeSet<u32>>> {
        let mut routed = Vec::new();
        for source in &self.sources {
            self.progress.begin(&format!("rows of {}", source.config.name), source.estimate().await);
            let (mut topics, mut last) = (BTreeSet::new(), NO_TOPIC);
            let route = |topic| {
                if topic != last {
                    last = topic;
                    topics.insert(topic);
                }
            };
            source.scan(numbers, sorter, self.progress, route).await?;
            topics.remove(&NO_TOPIC);
            source.end_snapshot().await?;
            routed.push(topics);
        }
        Ok(routed)
    }

    async fn add_spans(
        &self,
        read: &mut [TopicToRead],
        known: &mut HashMap<String, Vec<Span>>,
        existing: &BTreeMap<String, Vec<i32>>,
    ) -> Result<()> {
        let unknown = read.iter().filter(|topic| !known.contains_key(&topic.name));
        let partitions = |name: &String| existing.get(name).cloned().unwrap_or_default();
        let asked: Vec<_> = unknown.map(|topic| (topic.name.clone(), partitions(&topic.name))).collect();
        known.extend(self.cluster.spans(asked).await?);
        for topic in read {
            topic.spans = known.remove(&topic.name).unwrap_or_default();
        }
        Ok(())
    }

    async fn read(&self, read: Vec<TopicToRead>, sorter: Sorter, numbers: TopicNumbers) -> Result<ReadRecords> {
        let sink = Sink { sorter, scratch: Vec::new(), nameless: HashMap::new() };
        let mut done = ReadRecords { sink, numbers, topics: Vec::new(), notes: Vec::new(), trimmed: Vec::new() };
        let total = |topic: &TopicToRead| topic.spans.iter().map(|span| span.end.abs_diff(span.first)).sum::<u64>();
        let deadline = Instant::now() + self.options.wait;
        for topic in read {
            if topic.spans.iter().any(|span| span.first > 0) {
                done.trimmed.push(topic.name.clone());
            }
            let topic = self.cluster.skip_old(topic).await?;
            self.progress.begin(&format!("records of {}", topic.name), total(&topic));
            let reading = Reading { topic, numbers: done.numbers, sink: done.sink };
            let (reading, held) = self.cluster.read(reading, deadline, self.progress, Sink::take).await?;
            let Reading { topic, numbers, sink } = reading;
            (done.numbers, done.sink) = (numbers, sink);
            for Held { partition, offset } in held {
                done.notes.push(format!(
                    "{}-{partition}: another producer's transaction has been open since offset {offset}; what lies behind \
                     it is not readable, and rows whose records are there count as missing",
                    topic.name
                ));
            }
            done.topics.push(topic);
        }
        Ok(done)
    }

    /// Notes what a person should know when reading the numbers.
    fn explain(&self, reports: &mut [Report], trimmed: &[String], left_out: u64) {
        for (report, open) in reports.iter_mut().zip(&self.sources) {
            let created = &open.config.mapping.columns.created_at;
            let by_column = order_by(open.config, self.options).is_some();
            if !by_column && open.tables.iter().any(|table| table.column(created).is_none()) {
                report.note(format!(
                    "order is not judged where a table has no column {created}; --order-by names another"
                ));
            }
            if left_out > 0 {
                report.note(format!(
                    "{left_out} differences of all sources were counted without a second look: there were more than --memory holds"
                ));
            }
            if report.differing.is_some_and(|differing| differing > 0) {
                let text = "a row that was changed after its commit differs from its record, and so does every row from before \
                            a change of the mapping";
                report.note(text.to_owned());
            }
            if report.missing > 0 && self.options.since.is_none() {
                if open.config.backfill == Backfill::None {
                    let text = "backfill = \"none\": rows from before the slot was made count as missing; --since leaves them out";
                    report.note(text.to_owned());
                }
                for topic in trimmed {
                    report.note(format!(
                        "the first records of {topic} have been removed (retention); --since leaves their rows out"
                    ));
                }
            }
        }
    }
}

impl Sink {
    fn take(&mut self, found: Match<'_>) -> Result<()> {
        let Match { key, record } = found;
        let Some(key) = key else {
            let nameless = self.nameless.entry(record.place.topic).or_default();
            nameless.count += 1;
            if nameless.first.len() < NAMELESS_NAMED {
                nameless.first.push(record);
            }
            return Ok(());
        };
        self.scratch.clear();
        record.write(entry::split_match(key), &mut self.scratch);
        self.sorter.push(&self.scratch).map_err(disk)
    }
}

/// Counts records without an event id as unknown, where unknown records are judged at all.
fn count_nameless(subject: &Subject, reports: &mut [Report], nameless: &HashMap<u32, Nameless>) {
    for Nameless { count, first } in nameless.values() {
        let Some(record) = first.first() else { continue };
        let Some(Stranger { source, what }) = subject.stranger(record) else { continue };
        let Some(report) = reports.get_mut(usize::from(source)) else { continue };
        report.records += count;
        if what != Strangers::Unknown {
            continue;
        }
        let mut named = first.iter();
        for _ in 0..*count {
            report.count(Kind::Unknown, || {
                let place = named.next().map(|record| subject.place(record.place));
                Offender { kind: Kind::Unknown, table: None, id: None, place, after: None }
            });
        }
    }
}

/// The error of the file that sorted runs go to.
fn disk(error: io::Error) -> Error {
    Error::new(Code::TempDirUnusable, "sorting on disk").because(error)
}
