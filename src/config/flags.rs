//! Flags and their variables. They describe a whole sidecar without a file, or override what a file
//! says.

use std::path::PathBuf;

use clap::Args;

use super::section::{Entry, Origin, Section, Value};
use crate::{Code, Error, Result};

/// What the command line or the environment may say. A flag wins over its variable, a variable over
/// the file, and the file over the default.
#[derive(Clone, Default, Args)]
pub struct Flags {
    /// The configuration file.
    #[arg(long, short, env = "OUTBOXD_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    pub(crate) config: Option<PathBuf>,

    /// Kafka's bootstrap servers, host:port with commas.
    #[arg(long, env = "OUTBOXD_BROKERS", value_name = "HOST:PORT", help_heading = "Configuration")]
    pub(crate) brokers: Option<String>,
    /// exactly-once or at-least-once.
    #[arg(long, env = "OUTBOXD_DELIVERY", value_name = "MODE", help_heading = "Configuration")]
    pub(crate) delivery: Option<String>,
    /// The compacted topic of the positions.
    #[arg(long, env = "OUTBOXD_POSITION_TOPIC", value_name = "TOPIC", help_heading = "Configuration")]
    pub(crate) position_topic: Option<String>,
    /// A librdkafka option; repeat it, or put one a line into the variable.
    #[arg(
        long = "kafka-option",
        env = "OUTBOXD_KAFKA_OPTIONS",
        value_name = "KEY=VALUE",
        value_delimiter = '\n',
        hide_env_values = true,
        help_heading = "Configuration"
    )]
    pub(crate) kafka_options: Vec<String>,
    /// Address of /metrics, /livez, /readyz and /status, or off.
    #[arg(long, env = "OUTBOXD_HTTP_LISTEN", value_name = "IP:PORT", help_heading = "Configuration")]
    pub(crate) http_listen: Option<String>,
    /// json or text.
    #[arg(long, env = "OUTBOXD_LOG_FORMAT", value_name = "FORMAT", help_heading = "Configuration")]
    pub(crate) log_format: Option<String>,
    /// error, warn, info, debug, trace, or a filter such as info,outboxd::relay=debug.
    #[arg(long, env = "OUTBOXD_LOG", value_name = "LEVEL", help_heading = "Configuration")]
    pub(crate) log_level: Option<String>,

    /// A source without a file.
    #[command(flatten)]
    pub(crate) source: SourceFlags,
}

/// One source without a file.
#[derive(Clone, Default, Args)]
#[command(next_help_heading = "A source without a file")]
pub(crate) struct SourceFlags {
    /// The database, postgres://user@host:5432/database?sslmode=verify-full.
    #[arg(long, env = "OUTBOXD_SOURCE_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) source_url: Option<String>,
    /// Its name in metrics, slot and publication [default: the database's].
    #[arg(long, env = "OUTBOXD_SOURCE_NAME", value_name = "NAME")]
    pub(crate) source_name: Option<String>,
    /// A file that holds the password (OUTBOXD_PASSWORD holds it itself).
    #[arg(long, env = "OUTBOXD_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) password_file: Option<String>,
    /// An outbox table; repeat it, or use commas.
    #[arg(long = "table", env = "OUTBOXD_TABLES", value_name = "TABLE", value_delimiter = ',')]
    pub(crate) tables: Vec<String>,
    /// A column that the table calls otherwise; repeat it, or use commas.
    #[arg(long = "column", env = "OUTBOXD_COLUMNS", value_name = "KEY=COLUMN", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// update, delete or none.
    #[arg(long, env = "OUTBOXD_MARK", value_name = "HOW")]
    pub(crate) mark: Option<String>,
    /// unpublished or none.
    #[arg(long, env = "OUTBOXD_BACKFILL", value_name = "WHAT")]
    pub(crate) backfill: Option<String>,
    /// Topic template [default: {aggregate_type}.events].
    #[arg(long, env = "OUTBOXD_TOPIC", value_name = "TEMPLATE")]
    pub(crate) topic: Option<String>,
    /// Key template [default: {aggregate_id}].
    #[arg(long, env = "OUTBOXD_KEY", value_name = "TEMPLATE")]
    pub(crate) key: Option<String>,
    /// event, payload, cloudevents, cloudevents-structured or debezium.
    #[arg(long, env = "OUTBOXD_ENVELOPE", value_name = "ENVELOPE")]
    pub(crate) envelope: Option<String>,
    /// The source attribute of CloudEvents.
    #[arg(long, env = "OUTBOXD_CLOUDEVENTS_SOURCE", value_name = "URI")]
    pub(crate) cloudevents_source: Option<String>,
    /// stop or dead-letter.
    #[arg(long, env = "OUTBOXD_ON_POISON", value_name = "WHAT")]
    pub(crate) on_poison: Option<String>,
    /// Dead-letter topic template [default: {topic}.dead-letter].
    #[arg(long, env = "OUTBOXD_DEAD_LETTER_TOPIC", value_name = "TEMPLATE")]
    pub(crate) dead_letter_topic: Option<String>,
    /// The replication slot [default: outboxd_<name>].
    #[arg(long, env = "OUTBOXD_SLOT", value_name = "SLOT")]
    pub(crate) slot: Option<String>,
    /// The publication [default: outboxd_<name>].
    #[arg(long, env = "OUTBOXD_PUBLICATION", value_name = "PUBLICATION")]
    pub(crate) publication: Option<String>,
}

const URL: &str = "--source-url (OUTBOXD_SOURCE_URL)";
const TABLES: &str = "--table (OUTBOXD_TABLES)";
const COLUMNS: &str = "--column (OUTBOXD_COLUMNS)";
const BROKERS: &str = "--brokers (OUTBOXD_BROKERS)";
const OPTIONS: &str = "--kafka-option (OUTBOXD_KAFKA_OPTIONS)";

/// A key of `[[source]]`, the flag that stands for it, and its value.
type Given<'a> = (&'static str, &'static str, Option<&'a String>);

impl SourceFlags {
    fn texts(&self) -> [Given<'_>; 13] {
        [
            ("name", "--source-name (OUTBOXD_SOURCE_NAME)", self.source_name.as_ref()),
            ("url", URL, self.source_url.as_ref()),
            ("password_file", "--password-file (OUTBOXD_PASSWORD_FILE)", self.password_file.as_ref()),
            ("mark", "--mark (OUTBOXD_MARK)", self.mark.as_ref()),
            ("backfill", "--backfill (OUTBOXD_BACKFILL)", self.backfill.as_ref()),
            ("topic", "--topic (OUTBOXD_TOPIC)", self.topic.as_ref()),
            ("key", "--key (OUTBOXD_KEY)", self.key.as_ref()),
            ("envelope", "--envelope (OUTBOXD_ENVELOPE)", self.envelope.as_ref()),
            (
                "cloudevents_source",
                "--cloudevents-source (OUTBOXD_CLOUDEVENTS_SOURCE)",
                self.cloudevents_source.as_ref(),
            ),
            ("on_poison", "--on-poison (OUTBOXD_ON_POISON)", self.on_poison.as_ref()),
            ("dead_letter_topic", "--dead-letter-topic (OUTBOXD_DEAD_LETTER_TOPIC)", self.dead_letter_topic.as_ref()),
            ("slot", "--slot (OUTBOXD_SLOT)", self.slot.as_ref()),
            ("publication", "--publication (OUTBOXD_PUBLICATION)", self.publication.as_ref()),
        ]
    }

    /// Refuses the flags of a source beside a file, which would have no effect there.
    pub(super) fn none_beside_a_file(&self) -> Result<()> {
        let given = self.texts().into_iter().find_map(|(_, flag, value)| present(value).map(|_| flag));
        let any = |list: &[String], flag| list.iter().any(|entry| !entry.is_empty()).then_some(flag);
        let lists = any(&self.tables, TABLES).or(any(&self.columns, COLUMNS));
        given.or(lists).map_or(Ok(()), |flag| {
            let text = format!("{flag} and --config exclude each other; the file's [[source]] describes the source");
            Err(Error::new(Code::ConfigInvalid, text))
        })
    }

    /// Makes the section `[[source]]` that a file would have had.
    pub(super) fn section(&self, password: Option<String>) -> Result<Section> {
        let mut section = Section::new("[[source]]", Origin::Flag(URL));
        for (key, flag, value) in self.texts() {
            if let Some(value) = present(value) {
                section.put(key, Value::Text(value.clone()), Origin::Flag(flag));
            }
        }
        let tables = self.tables.iter().map(|table| table.trim()).filter(|table| !table.is_empty());
        let entry = |table: &str| Entry { value: Value::Text(table.to_owned()), origin: Origin::Flag(TABLES) };
        let tables: Vec<_> = tables.map(entry).collect();
        if tables.is_empty() {
            return Err(missing(TABLES));
        }
        section.put("tables", Value::List(tables), Origin::Flag(TABLES));
        section.put("columns", Value::Table(self.columns()?), Origin::Flag(COLUMNS));
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            section.put("password", Value::Text(password), Origin::Flag("OUTBOXD_PASSWORD"));
        }
        Ok(section)
    }

    /// Makes the table `[source.columns]` that a file would have had.
    fn columns(&self) -> Result<Section> {
        let mut columns = Section::new("[source.columns]", Origin::Flag(COLUMNS));
        for entry in self.columns.iter().filter(|entry| !entry.trim().is_empty()) {
            let refuse = |problem| Error::new(Code::ConfigInvalid, format!("{COLUMNS}: found {entry:?}; {problem}"));
            let Some((key, column)) = entry.split_once('=') else {
                return Err(refuse("expected KEY=COLUMN, such as id=event_id"));
            };
            if columns.entries.iter().any(|(before, _)| before == key.trim()) {
                return Err(refuse("this key stands twice"));
            }
            columns.put(key.trim(), Value::Text(column.trim().to_owned()), Origin::Flag(COLUMNS));
        }
        Ok(columns)
    }
}

impl Flags {
    /// Puts the flags of the process and of the cluster in place of what the file says.
    pub(super) fn overlay(&self, kafka: &mut Section, http: &mut Section, log: &mut Section) -> Result<()> {
        let over = |section: &mut Section, key, flag, value: &Option<String>| {
            if let Some(value) = present(value.as_ref()) {
                section.put(key, Value::Text(value.clone()), Origin::Flag(flag));
            }
        };
        over(kafka, "brokers", BROKERS, &self.brokers);
        over(kafka, "delivery", "--delivery (OUTBOXD_DELIVERY)", &self.delivery);
        self.overlay_position_topic(kafka);
        over(http, "listen", "--http-listen (OUTBOXD_HTTP_LISTEN)", &self.http_listen);
        over(log, "format", "--log-format (OUTBOXD_LOG_FORMAT)", &self.log_format);
        over(log, "level", "--log-level (OUTBOXD_LOG)", &self.log_level);
        let lines = self.kafka_options.iter().filter(|line| !line.trim().is_empty());
        let mut options = kafka.table("options", "[kafka.options]")?;
        for line in lines {
            let Some((key, value)) = line.split_once('=') else {
                let text = format!("{OPTIONS}: expected KEY=VALUE, such as security.protocol=sasl_ssl");
                return Err(Error::new(Code::KafkaOptionInvalid, text));
            };
            options.put(key.trim(), Value::Text(value.trim().to_owned()), Origin::Flag(OPTIONS));
        }
        kafka.put("options", Value::Table(options.clone()), options.origin);
        Ok(())
    }

    /// Puts the flag of the position topic alone in place of what the file says.
    pub(super) fn overlay_position_topic(&self, kafka: &mut Section) {
        if let Some(topic) = present(self.position_topic.as_ref()) {
            let origin = Origin::Flag("--position-topic (OUTBOXD_POSITION_TOPIC)");
            kafka.put("position_topic", Value::Text(topic.clone()), origin);
        }
    }
}

/// Takes an empty variable for one that is not set.
pub(super) fn present(value: Option<&String>) -> Option<&String> {
    value.filter(|value| !value.is_empty())
}

/// The error for a sidecar that lacks a flag.
pub(super) fn missing(flag: &str) -> Error {
    Error::new(Code::ConfigInvalid, format!("{flag} is missing; without --config a source needs it"))
}

/// The error for a sidecar that names no brokers.
pub(super) fn missing_brokers() -> Error {
    missing(BROKERS)
}
