//! How to reach a server: what the URL says, with the bounds that the source sets.

use std::time::Duration;

use super::credentials::Credentials;
pub(super) use crate::config::url::{ChannelBinding, Host, Keepalive, Roots, SslMode, TlsOptions};
use crate::config::{PostgresUrl, Secret, Source};

/// Everything needed to open a connection: hosts, login, TLS, timeouts. Its `Debug` shows no
/// password.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    /// The password of a connection that is being opened.
    pub(super) password: Option<Secret>,
    /// Where it comes from.
    pub(super) credentials: Credentials,
    pub(super) database: String,
    pub(super) tls: TlsOptions,
    pub(super) channel_binding: ChannelBinding,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) application_name: String,
    pub(super) options: Option<String>,
    /// Only a server that accepts writes will do.
    pub(super) read_write: bool,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
    pub(super) max_message_bytes: usize,
    /// Sessions have TimeZone UTC, and not what the server, the database or the role sets.
    pub(super) in_utc: bool,
}

impl ConnectOptions {
    /// How the sessions of a source reach its database.
    #[must_use]
    pub(crate) fn of(source: &Source) -> Self {
        let by_url = Self::to(&source.url);
        Self {
            credentials: source.password.as_ref().map_or(by_url.credentials, Credentials::of),
            connect_timeout: source.url.connect_timeout.unwrap_or(source.timeouts.connect),
            statement_timeout: source.timeouts.statement,
            max_message_bytes: source.limits.message_bytes,
            ..by_url
        }
    }

    /// What the URL alone says. An attempt at one address may take 10 s, a statement 30 s, and a
    /// message 1 GiB.
    #[must_use]
    pub fn to(url: &PostgresUrl) -> Self {
        Self {
            hosts: url.hosts.clone(),
            user: url.user.clone(),
            password: None,
            credentials: match &url.password {
                Some(password) => Credentials::Written(password.clone()),
                None => Credentials::Passfile(url.passfile.clone()),
            },
            database: url.database().to_owned(),
            tls: url.tls.clone(),
            channel_binding: url.channel_binding,
            keepalive: url.keepalive,
            application_name: url.application_name.clone(),
            options: url.options.clone(),
            read_write: url.read_write,
            connect_timeout: url.connect_timeout.unwrap_or(Duration::from_secs(10)),
            statement_timeout: Duration::from_secs(30),
            max_message_bytes: 1 << 30,
            in_utc: true,
        }
    }

    /// The same for a caller that waits for the answer: neither an attempt nor a statement takes
    /// longer than `bound`.
    #[must_use]
    pub(crate) fn within(mut self, bound: Duration) -> Self {
        self.connect_timeout = self.connect_timeout.min(bound);
        self.statement_timeout = self.statement_timeout.min(bound);
        self
    }

    /// The same in the time zone that the server, the database or the role sets.
    #[must_use]
    pub(crate) fn in_its_own_zone(mut self) -> Self {
        self.in_utc = false;
        self
    }

    #[must_use]
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// The role that is connected as.
    #[must_use]
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Run-time parameters for what outboxd relies on, such as the text output of values. With them
    /// it is the same whatever the role's or the database's own settings are.
    /// `docs/operating/sessions.md` goes through all of them.
    pub(super) fn session_parameters(&self) -> impl Iterator<Item = (&'static str, String)> {
        let fixed = |value: &str| value.to_owned();
        let parameters = [
            ("DateStyle", fixed("ISO")),
            ("TimeZone", fixed("UTC")),
            ("IntervalStyle", fixed("postgres")),
            ("extra_float_digits", fixed("3")),
            ("bytea_output", fixed("hex")),
            // When the publication is missing, Postgres 18 goes on without it and says so only in a
            // warning.
            ("client_min_messages", fixed("warning")),
            // The catalog prints names and expressions as it does by default.
            ("quote_all_identifiers", fixed("off")),
            ("standard_conforming_strings", fixed("on")),
            // No snapshot of ours waits for a safe one, and no statement fails for what others read.
            ("default_transaction_isolation", fixed("read committed")),
            ("default_transaction_deferrable", fixed("off")),
            // Our sessions idle for as long as nothing happens.
            ("idle_session_timeout", fixed("0")),
            // A row that row security hides looks like one that is gone. With this the statement
            // fails instead.
            ("row_security", fixed("off")),
            ("idle_in_transaction_session_timeout", fixed("0")),
            // Whoever waits for a lock sets a bound of its own.
            ("lock_timeout", fixed("0")),
            ("statement_timeout", self.statement_timeout.as_millis().to_string()),
        ];
        let in_utc = self.in_utc;
        parameters.into_iter().filter(move |(name, _)| in_utc || *name != "TimeZone")
    }
}

/// For sessions of servers that have it ([`has_transaction_timeout`]): an older server refuses a
/// session that names it while it logs in. A walsender that relays a long transaction, and a
/// backfill, last longer than what the role allows others.
pub(super) const NO_TRANSACTION_TIMEOUT: &str = "SET transaction_timeout = 0";

/// Whether a server of this version, as `server_version_num` has it, has `transaction_timeout`.
pub(super) fn has_transaction_timeout(version: u32) -> bool {
    version >= 170_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Flags};

    fn source(url: &str) -> Source {
        let mut flags = Flags { brokers: Some("k:9092".to_owned()), ..Flags::default() };
        flags.source.source_url = Some(url.to_owned());
        flags.source.tables = vec!["outbox".to_owned()];
        let mut source = Config::load_with(&flags, &|_| None).unwrap().sources.remove(0);
        source.timeouts.connect = Duration::from_secs(9);
        source
    }

    #[test]
    fn an_attempt_takes_as_long_as_the_url_says_or_else_the_source_or_else_ten_seconds() {
        let bound = |url: &str| ConnectOptions::of(&source(url)).connect_timeout.as_secs();
        assert_eq!(bound("postgres://me@h/db?connect_timeout=3"), 3);
        assert_eq!(bound("postgres://me@h/db"), 9);
        assert_eq!(bound("postgres://me@h/db?connect_timeout=0"), 9);
        let alone = ConnectOptions::to(&"postgres://me@h".parse().unwrap());
        assert_eq!(alone.connect_timeout.as_secs(), 10);
        assert_eq!((alone.user(), alone.database()), ("me", "me"));
        let hurried = alone.within(Duration::from_secs(2));
        assert_eq!((hurried.connect_timeout.as_secs(), hurried.statement_timeout.as_secs()), (2, 2));
    }

    #[test]
    fn the_password_of_the_source_goes_before_the_urls_and_is_not_shown() {
        let mut source = source("postgres://me:hunter2@h/db");
        let password = |source: &Source| {
            let options = ConnectOptions::of(source);
            assert!(!format!("{options:?}").contains("hunter"));
            let Credentials::Written(password) = options.credentials else { panic!("no password") };
            password.expose().to_owned()
        };
        assert_eq!(password(&source), "hunter2");
        source.url = "postgres://me:hunter3@h/db".parse().unwrap();
        assert_eq!(password(&source), "hunter2");
        source.password = None;
        assert_eq!(password(&source), "hunter3");
    }
}
