//! The configuration. `document` and `flags` hold what a person wrote, and `load` turns it into the
//! validated [`Config`], once. No other module checks a string again.

mod document;
mod flags;
mod kafka;
mod level;
mod load;
mod mapping;
pub(crate) mod names;
pub(crate) mod password;
mod reload;
mod retention;
mod section;
mod show;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod token;
mod tracing;
pub(crate) mod url;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

pub use flags::Flags;
pub use level::LogFilter;
pub(crate) use mapping::cloudevents_extension;
pub use mapping::{CloudEvents, CloudEventsMode, Columns, Debezium, Envelope, Mapping};
pub use password::Password;
pub(crate) use reload::Reloaded;
pub use retention::{Retention, RetentionBy};
pub(crate) use show::ShownSource;
pub use template::Template;
pub use template::TemplatePart;
pub use token::TokenSource;
pub(crate) use tracing::Endpoint;
pub use tracing::Tracing;
pub(crate) use url::PostgresUrl;

use crate::{Code, Error, Result};

/// Everything `run` needs, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// One entry for each database. The list is never empty, and the names are unique.
    pub sources: Vec<Source>,
    /// The cluster that all sources publish to.
    pub kafka: Kafka,
    /// Metrics and health.
    pub http: Http,
    /// Logs.
    pub log: Log,
    /// Spans of single rows. `None`: nobody asks for them.
    pub tracing: Option<Tracing>,
}

/// What a command needs that touches Postgres alone.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// As in [`Config`].
    pub(crate) sources: Vec<Source>,
    /// The topic to which no row may go.
    pub(crate) position_topic: String,
}

impl Config {
    /// The source of this name.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] when no source has the name. The message lists the names that exist.
    pub(crate) fn source(&self, name: &str) -> Result<&Source> {
        named(&self.sources, name)
    }
}

impl Sources {
    /// The same with the source of this name alone.
    ///
    /// # Errors
    /// As [`Config::source`].
    pub(crate) fn only(self, name: &str) -> Result<Self> {
        Ok(Self { sources: vec![named(&self.sources, name)?.clone()], ..self })
    }
}

fn named<'a>(sources: &'a [Source], name: &str) -> Result<&'a Source> {
    sources.iter().find(|source| source.name == name).ok_or_else(|| {
        let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        let text = format!("there is no source {name:?}; the configuration has {}", names.join(", "));
        Error::new(Code::ConfigInvalid, text)
    })
}

/// One outbox: a database, its tables, and where their rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// 1 to 54 characters of `[a-z0-9_]`, so that slot `outboxd_<name>` is a legal Postgres name
    /// (63 bytes).
    pub name: String,
    /// Where the database is and how to log in. The password is not here: `password` holds it.
    pub url: PostgresUrl,
    /// Where the password comes from; never logged.
    pub password: Option<Password>,
    /// The outbox tables in the order of the configuration; at least one.
    pub tables: Vec<TableName>,
    /// Replication slot, default `outboxd_<name>`.
    pub slot: String,
    /// Publication, default `outboxd_<name>`.
    pub publication: String,
    /// Whether the slot is made as a failover slot (Postgres 17+).
    pub failover: bool,
    /// Whether `run` creates what is missing.
    pub auto_setup: bool,
    /// How a published row is marked.
    pub mark: Mark,
    /// What of the table existed before the slot.
    pub backfill: Backfill,
    /// A monotonic column to order the backfill by.
    pub backfill_order_by: Option<String>,
    /// How a row becomes a record.
    pub mapping: Mapping,
    /// What happens to a row that cannot become a record.
    pub on_poison: OnPoison,
    /// Bounds of one Kafka transaction and of what is held in memory.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How long published rows stay. `None`: for ever, as far as the daemon is concerned.
    pub retention: Option<Retention>,
}

impl Source {
    /// Whether the daemon deletes rows, when they are published or later.
    #[must_use]
    pub(crate) fn deletes(&self) -> bool {
        self.mark == Mark::Delete || self.retention.is_some_and(|retention| retention.by == RetentionBy::Delete)
    }
}

/// A table as configured: `name` or `schema.name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    /// `None`: the role's search_path finds the table.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
}

impl std::str::FromStr for TableName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        names::table(text)
    }
}

/// How a published row is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `published_at` is set.
    Update,
    /// The row is deleted.
    Delete,
    /// The row stays as it is.
    None,
}

/// What of the table existed before the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backfill {
    /// Unpublished rows are read from the slot's snapshot.
    Unpublished,
    /// Rows that were there before the slot are left as they are.
    None,
}

/// What happens to a row that cannot become a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPoison {
    /// The source halts at the row.
    Stop,
    /// The row goes to the dead-letter topic, and the stream goes on.
    DeadLetter,
}

/// Bounds of one Kafka transaction and of what is held in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one Kafka transaction; 10,000.
    pub batch_rows: usize,
    /// Bytes of one Kafka transaction; 16 MiB.
    pub batch_bytes: usize,
    /// How long a batch may wait for more rows while the producer is idle; 0.
    pub linger: Duration,
    /// Encoded records held in memory for one source; 32 MiB.
    pub in_flight_bytes: usize,
    /// Rows published and not yet marked; 100,000.
    pub unmarked_rows: usize,
    /// Rows of one backfill chunk; 5,000.
    pub backfill_chunk_rows: usize,
    /// Connections that mark; 2.
    pub marker_connections: usize,
    /// Largest protocol message taken from Postgres; 1 GiB.
    pub message_bytes: usize,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// One host of Postgres; 10 s.
    pub connect: Duration,
    /// A statement on the daemon's own sessions; 30 s.
    pub statement: Duration,
    /// Longest wait for a table lock, also while a slot is created; 10 s.
    pub lock: Duration,
    /// Standby status updates are sent at least this often; 5 s.
    pub status: Duration,
    /// At most one position-only transaction for an idle advance in this time; 10 s.
    pub idle_advance: Duration,
    /// Bound of the drain at SIGTERM; 20 s.
    pub shutdown: Duration,
    /// Longest pause of the backoff; 30 s.
    pub backoff_max: Duration,
}

/// The Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// bootstrap.servers
    pub brokers: String,
    /// Transactions, or only idempotence.
    pub delivery: Delivery,
    /// Compacted topic of the positions; `outboxd.positions`.
    pub position_topic: String,
    /// Partitions of topics that setup creates; 0 means the broker's default.
    pub topic_partitions: u32,
    /// Replication factor of topics that setup creates; 0 means the broker's default.
    pub topic_replication: u32,
    /// transaction.timeout.ms; 60 s.
    pub transaction_timeout: Duration,
    /// delivery.timeout.ms; 30 s. It is always below the transaction's timeout (rule 25).
    pub delivery_timeout: Duration,
    /// Where the token of SASL/OAUTHBEARER comes from.
    pub token: Option<TokenSource>,
    /// Options that are passed to librdkafka. None of them is one that outboxd sets itself.
    pub options: Vec<(String, Secret)>,
    /// When the files were written that the options name. librdkafka reads them when a session
    /// begins.
    pub files: Vec<Option<SystemTime>>,
}

/// What a crash may do to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Kafka transactions: every row becomes one record.
    ExactlyOnce,
    /// Idempotent producer: every row becomes at least one record, with lower latency.
    AtLeastOnce,
}

/// The HTTP listener.
#[derive(Debug, Clone)]
pub struct Http {
    /// `None` with `listen = "off"`; default `127.0.0.1:9464`.
    pub listen: Option<SocketAddr>,
}

/// Logs.
#[derive(Debug, Clone)]
pub struct Log {
    /// `None`: text on a terminal, JSON elsewhere.
    pub format: Option<LogFormat>,
    /// Which lines are written; all from `info` up by default.
    pub level: LogFilter,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for a person.
    Text,
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, for the place that sends it.
    #[must_use]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
