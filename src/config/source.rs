//! `[[source]]` as written → [`Source`].

use std::{path::Path, time::Duration};

use super::{
    Backfill, CloudEvents, CloudEventsMode, Columns, Debezium, Envelope, Limits, Mapping, Mark, OnPoison, Password,
    PostgresUrl, Secret, Source, TableName, Template, Timeouts, cloudevents_extension,
    mapping::check_cloudevents_source,
    names, password, retention,
    section::{Item, Section, show_bytes},
};
use crate::{Error, Result};

/// The keys of `[[source]]`.
pub(super) const KEYS: &[&str] = &[
    "name",
    "url",
    "password",
    "password_file",
    "password_command",
    "password_ttl",
    "tables",
    "slot",
    "publication",
    "failover",
    "auto_setup",
    "mark",
    "backfill",
    "backfill_order_by",
    "topic",
    "key",
    "envelope",
    "cloudevents_source",
    "on_poison",
    "dead_letter_topic",
    "columns",
    "headers",
    "limits",
    "timeouts",
    "retention",
];

/// The keys of `[source.columns]`.
pub(super) const COLUMN_KEYS: &[&str] =
    &["id", "aggregate_type", "aggregate_id", "event_type", "payload", "created_at", "published_at"];

/// The keys of `[source.limits]`.
pub(super) const LIMIT_KEYS: &[&str] = &[
    "batch_rows",
    "batch_bytes",
    "linger",
    "in_flight_bytes",
    "unmarked_rows",
    "backfill_chunk_rows",
    "marker_connections",
    "message_bytes",
];

/// The keys of `[source.timeouts]`.
pub(super) const TIMEOUT_KEYS: &[&str] =
    &["connect", "statement", "lock", "status", "idle_advance", "shutdown", "backoff_max"];

/// Headers that every record has.
const OWN_HEADERS: [&str; 5] = ["event_id", "event_type", "aggregate_type", "aggregate_id", "content-type"];

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
/// How long a printed password is used again. Tokens of RDS are good for 15 minutes.
const PASSWORD_TTL: Duration = Duration::from_secs(600);

/// What reading a source needs besides its section.
pub(super) struct Around<'a> {
    /// Relative paths start here.
    pub(super) folder: &'a Path,
    /// Rule 3: no row may go to this topic.
    pub(super) position_topic: &'a str,
}

/// Reads one source. The caller has checked that its keys are of [`KEYS`].
pub(super) fn read(mut section: Section, around: &Around<'_>) -> Result<Source> {
    let name = section.text("name")?.ok_or_else(|| section.lacks("name"))?;
    names::source(&name.value).map_err(|problem| name.refuse(problem))?;
    let (url, password) = connection(&mut section, around.folder)?;
    let tables = tables(&mut section)?;
    let by_default = format!("outboxd_{}", name.value);
    let slot = checked(&mut section, "slot", names::slot)?.unwrap_or_else(|| by_default.clone());
    let publication = checked(&mut section, "publication", names::column)?.unwrap_or(by_default);
    let (mark, backfill) = marking(&mut section)?;
    let mapping = mapping(&mut section, around)?;
    let on_poison = section.choice("on_poison", &[("stop", OnPoison::Stop), ("dead-letter", OnPoison::DeadLetter)])?;
    Ok(Source {
        name: name.value,
        url,
        password,
        tables,
        slot,
        publication,
        failover: section.bool("failover", false)?,
        auto_setup: section.bool("auto_setup", true)?,
        mark,
        backfill,
        backfill_order_by: checked(&mut section, "backfill_order_by", names::column)?,
        mapping,
        on_poison: on_poison.map_or(OnPoison::Stop, |item| item.value),
        limits: limits(section.table("limits", "[source.limits]")?)?,
        timeouts: timeouts(section.table("timeouts", "[source.timeouts]")?)?,
        retention: retention::read(section.table("retention", "[source.retention]")?, mark)?,
    })
}

/// A string that `check` accepts.
fn checked(section: &mut Section, key: &str, check: fn(&str) -> Result<(), String>) -> Result<Option<String>> {
    let Some(item) = section.text(key)? else { return Ok(None) };
    check(&item.value).map_err(|problem| item.refuse(problem))?;
    Ok(Some(item.value))
}

fn connection(section: &mut Section, folder: &Path) -> Result<(PostgresUrl, Option<Password>)> {
    let item = section.text("url")?.ok_or_else(|| section.lacks("url"))?;
    let mut url: PostgresUrl = item.value.parse().map_err(|problem: String| item.refuse(problem))?;
    let in_url = url.password.take();
    let written = section.text("password")?;
    let file = section.text("password_file")?;
    if let Some(item) = &file {
        if written.is_some() {
            return Err(given_twice(item, "password"));
        }
        if in_url.is_some() {
            return Err(given_twice(item, "the URL"));
        }
    }
    if let (Some(item), Some(_)) = (&written, &in_url) {
        return Err(given_twice(item, "the URL"));
    }
    // The protocol's strings end at a zero byte. The URL's parser refuses it, too.
    if let Some(item) = written.as_ref().filter(|item| item.value.contains('\0')) {
        return Err(item.refuse("found a zero byte; allowed: any other character"));
    }
    let command = password_command(section)?;
    if let Some(item) = &command {
        let other = match (&written, &file, &in_url) {
            (Some(_), _, _) => Some("password"),
            (_, Some(_), _) => Some("password_file"),
            (_, _, Some(_)) => Some("the URL"),
            _ => None,
        };
        if let Some(other) = other {
            return Err(given_twice(item, other));
        }
    }
    let from_file = file.map(|item| password_file(&item, folder)).transpose()?;
    let written = written.map(|item| Secret::new(item.value)).or(in_url).map(Password::Written);
    Ok((url, command.map(|item| item.value).or(from_file).or(written)))
}

fn given_twice<T>(item: &Item<T>, other: &str) -> Error {
    item.refuse(format!("the password is given twice, here and in {other}"))
}

/// A program that prints the password, and how long that is used again.
fn password_command(section: &mut Section) -> Result<Option<Item<Password>>> {
    let ttl = section.duration("password_ttl", PASSWORD_TTL, Duration::ZERO..=24 * HOUR)?;
    let Some(item) = section.texts("password_command")? else { return Ok(None) };
    let line: Vec<String> = item.value.iter().map(|word| word.value.clone()).collect();
    if line.first().is_none_or(String::is_empty) {
        return Err(item.refuse("found no program; allowed: a program and its arguments, each a string of its own"));
    }
    Ok(Some(item.map(|_| Password::Command { line, ttl })))
}

/// The file is read for each connection. What is wrong with it now, the start of a command says.
fn password_file(item: &Item<String>, folder: &Path) -> Result<Password> {
    let path = folder.join(&item.value);
    password::in_file(&path).map_err(|problem| item.refuse(problem))?;
    Ok(Password::File(path))
}

fn tables(section: &mut Section) -> Result<Vec<TableName>> {
    let list = section.texts("tables")?.ok_or_else(|| section.lacks("tables"))?;
    let mut tables: Vec<TableName> = Vec::with_capacity(list.value.len());
    for item in &list.value {
        let table = names::table(&item.value).map_err(|problem| item.refuse(problem))?;
        if tables.contains(&table) {
            return Err(item.refuse(format!("{table} stands twice")));
        }
        tables.push(table);
    }
    if tables.is_empty() {
        return Err(list.refuse("found an empty list; allowed: one table or more"));
    }
    Ok(tables)
}

fn marking(section: &mut Section) -> Result<(Mark, Backfill)> {
    let mark = section.choice("mark", &[("update", Mark::Update), ("delete", Mark::Delete), ("none", Mark::None)])?;
    let backfill = section.choice("backfill", &[("unpublished", Backfill::Unpublished), ("none", Backfill::None)])?;
    let chosen = backfill.as_ref().map_or(Backfill::Unpublished, |item| item.value);
    match mark {
        // Without a mark nothing tells which rows of the table are published already.
        Some(mark) if mark.value == Mark::None && chosen == Backfill::Unpublished => Err(mark.refuse(
            "found \"none\" with backfill = \"unpublished\"; rows that are never marked cannot be told apart, so write backfill = \"none\" too",
        )),
        mark => Ok((mark.map_or(Mark::Update, |item| item.value), chosen)),
    }
}

fn mapping(section: &mut Section, around: &Around<'_>) -> Result<Mapping> {
    let columns = columns(section.table("columns", "[source.columns]")?)?;
    let default = Mapping::of_columns(columns);
    let envelope = envelope(section)?.unwrap_or(default.envelope);
    let topic = |text: &str| Template::parse(text)?.checked_for_topics(around.position_topic);
    let dead_letter = |text: &str| Template::parse_dead_letter(text)?.checked_for_topics(around.position_topic);
    Ok(Mapping {
        topic: template(section, "topic", default.topic, topic)?,
        key: template(section, "key", default.key, Template::parse)?,
        dead_letter_topic: template(section, "dead_letter_topic", default.dead_letter_topic, dead_letter)?,
        headers: headers(section.table("headers", "[source.headers]")?, &envelope)?,
        envelope,
        columns: default.columns,
    })
}

/// The envelopes by name. Their options are read afterwards.
#[derive(Clone, Copy)]
enum EnvelopeName {
    Event,
    Payload,
    CloudEvents(CloudEventsMode),
    Debezium,
}

/// Reads the envelope with its options. An option of another envelope is checked and then ignored,
/// so that one variable may be set for all sources.
fn envelope(section: &mut Section) -> Result<Option<Envelope>> {
    let name = section.choice(
        "envelope",
        &[
            ("event", EnvelopeName::Event),
            ("payload", EnvelopeName::Payload),
            ("cloudevents", EnvelopeName::CloudEvents(CloudEventsMode::Binary)),
            ("cloudevents-structured", EnvelopeName::CloudEvents(CloudEventsMode::Structured)),
            ("debezium", EnvelopeName::Debezium),
        ],
    )?;
    let source = checked(section, "cloudevents_source", check_cloudevents_source)?;
    let Some(name) = name else { return Ok(None) };
    Ok(Some(match name.value {
        EnvelopeName::Event => Envelope::Event,
        EnvelopeName::Payload => Envelope::Payload,
        EnvelopeName::CloudEvents(mode) => {
            let missing = || name.refuse("CloudEvents need cloudevents_source, a URI reference such as \"/orders\"");
            let options = CloudEvents::new(mode, source.ok_or_else(missing)?);
            Envelope::CloudEvents(options.map_err(|problem| name.refuse(problem))?)
        }
        EnvelopeName::Debezium => Envelope::Debezium(Debezium::default()),
    }))
}

fn template(
    section: &mut Section,
    key: &str,
    default: Template,
    parse: impl Fn(&str) -> Result<Template, String>,
) -> Result<Template> {
    let Some(item) = section.text(key)? else { return Ok(default) };
    parse(&item.value).map_err(|problem| item.refuse(problem))
}

fn columns(mut section: Section) -> Result<Columns> {
    section.only(COLUMN_KEYS)?;
    let mut column = |key: &str, default: String| -> Result<String> {
        Ok(checked(&mut section, key, names::column)?.unwrap_or(default))
    };
    let default = Columns::default();
    Ok(Columns {
        id: column("id", default.id)?,
        aggregate_type: column("aggregate_type", default.aggregate_type)?,
        aggregate_id: column("aggregate_id", default.aggregate_id)?,
        event_type: column("event_type", default.event_type)?,
        payload: column("payload", default.payload)?,
        created_at: column("created_at", default.created_at)?,
        published_at: column("published_at", default.published_at)?,
    })
}

fn headers(section: Section, envelope: &Envelope) -> Result<Vec<(String, String)>> {
    let of_cloudevents = matches!(envelope, Envelope::CloudEvents(_));
    let mut headers = Vec::new();
    for (header, column) in section.all_texts()? {
        if OWN_HEADERS.contains(&header.as_str()) {
            return Err(column.refuse("every record carries this header already; allowed: any other name"));
        }
        if of_cloudevents {
            cloudevents_extension(&header).map_err(|problem| column.refuse(problem))?;
        }
        names::column(&column.value).map_err(|problem| column.refuse(problem))?;
        headers.push((header, column.value));
    }
    Ok(headers)
}

fn limits(mut section: Section) -> Result<Limits> {
    section.only(LIMIT_KEYS)?;
    let place = section.origin.clone();
    let section = &mut section;
    let limits = Limits {
        batch_rows: section.count("batch_rows", 10_000, 1..=1_000_000)?,
        batch_bytes: section.bytes("batch_bytes", 16 << 20, 1 << 10..=1 << 30)?,
        linger: section.duration("linger", Duration::ZERO, Duration::ZERO..=10_000 * MS)?,
        in_flight_bytes: section.bytes("in_flight_bytes", 32 << 20, 1 << 10..=64 << 30)?,
        unmarked_rows: section.count("unmarked_rows", 100_000, 1..=100_000_000)?,
        // The position carries the ids of a chunk, and it has to fit into a record of Kafka's
        // default size.
        backfill_chunk_rows: section.count("backfill_chunk_rows", 5_000, 1..=10_000)?,
        marker_connections: section.count("marker_connections", 2, 1..=64)?,
        // Postgres itself sends no message beyond 1 GiB.
        message_bytes: section.bytes("message_bytes", 1 << 30, 1 << 20..=1 << 30)?,
    };
    let refuse = |problem: String| Error::new(crate::Code::ConfigInvalid, format!("{place}: {problem}"));
    if limits.in_flight_bytes < limits.batch_bytes {
        return Err(refuse(format!(
            "in_flight_bytes in [source.limits] is {}, below batch_bytes, which is {}; allowed: at least as much",
            show_bytes(limits.in_flight_bytes),
            show_bytes(limits.batch_bytes)
        )));
    }
    if limits.unmarked_rows < limits.batch_rows {
        return Err(refuse(format!(
            "unmarked_rows in [source.limits] is {}, below batch_rows, which is {}; allowed: at least as many",
            limits.unmarked_rows, limits.batch_rows
        )));
    }
    Ok(limits)
}

fn timeouts(mut section: Section) -> Result<Timeouts> {
    section.only(TIMEOUT_KEYS)?;
    let mut seconds = |key: &str, default: u64| section.duration(key, Duration::from_secs(default), 100 * MS..=HOUR);
    Ok(Timeouts {
        connect: seconds("connect", 10)?,
        statement: seconds("statement", 30)?,
        lock: seconds("lock", 10)?,
        status: seconds("status", 5)?,
        idle_advance: seconds("idle_advance", 10)?,
        shutdown: seconds("shutdown", 20)?,
        backoff_max: seconds("backoff_max", 30)?,
    })
}
