//! How to reach a server, parsed once at the door.
//!
//! Page: "Parameter Key Words" in "Database Connection Control Functions" (libpq).

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::url::{UrlParts, invalid, port_number, split};
use crate::{Result, config::Secret};

/// Everything needed to open a connection: hosts, login, TLS, timeouts. Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
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
}

/// One place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// Name or address, and port.
    Tcp(String, u16),
    /// The socket's path, `<directory>/.s.PGSQL.<port>`.
    Unix(PathBuf),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
                write!(f, "[{host}]:{port}")
            }
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// `sslmode` and its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsOptions {
    pub(super) mode: SslMode,
    pub(super) roots: Roots,
    /// Certificate chain and key of ours, PEM files.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// libpq's `sslmode`. `allow` is read as `prefer`: plain text first would gain nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `sslrootcert`. Where libpq falls back to `~/.postgresql/root.crt`, a daemon takes the system's store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Roots {
    #[default]
    System,
    File(PathBuf),
}

/// `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// `keepalives_*` and `tcp_user_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keepalive {
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
    /// Unacknowledged bytes break the connection after this long.
    pub(super) user_timeout: Duration,
}

impl Default for Keepalive {
    /// A dead peer is found within half a minute. (The kernel's own default is two hours.)
    fn default() -> Self {
        let [idle, interval, user_timeout] = [10, 5, 30].map(Duration::from_secs);
        Self { idle, interval, count: 4, user_timeout }
    }
}

impl ConnectOptions {
    /// Reads libpq's URL form; `password`, where given, goes before the URL's.
    ///
    /// Fails with `config-invalid` on anything that libpq would not understand or that we do not support, by name.
    pub fn parse(url: &str, password: Option<&Secret>) -> Result<Self> {
        let mut parts = split(url)?;
        let params = std::mem::take(&mut parts.params);
        let mut draft = Draft { parts, ..Draft::default() };
        for (name, value) in params {
            draft.set(&name, value)?;
        }
        let mut options = draft.finish()?;
        if let Some(password) = password {
            options.password = Some(password.clone());
        }
        Ok(options)
    }

    /// Bound of one attempt at one address, unless the URL has `connect_timeout`; 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, default: Duration) -> Self {
        if self.connect_timeout.is_zero() {
            self.connect_timeout = default;
        }
        self
    }

    /// Bound of one command on a replication connection, and `statement_timeout` of every session; 30 s.
    #[must_use]
    pub fn statement_timeout(mut self, bound: Duration) -> Self {
        self.statement_timeout = bound;
        self
    }

    /// Largest message taken from the server; 1 GiB.
    #[must_use]
    pub fn max_message_bytes(mut self, bound: usize) -> Self {
        self.max_message_bytes = bound;
        self
    }

    /// The database that is connected to.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The role that is connected as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn attempt_timeout(&self) -> Duration {
        if self.connect_timeout.is_zero() { Duration::from_secs(10) } else { self.connect_timeout }
    }

    /// Run-time parameters that make text output, and what else we stand on, the same whatever the role's or the database's
    /// own settings are.
    pub(super) fn session_parameters(&self) -> [(&'static str, String); 8] {
        let fixed = |value: &str| value.to_owned();
        [
            ("DateStyle", fixed("ISO")),
            ("TimeZone", fixed("UTC")),
            ("IntervalStyle", fixed("postgres")),
            ("extra_float_digits", fixed("3")),
            ("bytea_output", fixed("hex")),
            // Postgres 18 says only in a warning that it goes on without the publication.
            ("client_min_messages", fixed("warning")),
            // A session of ours rests for as long as nothing happens.
            ("idle_session_timeout", fixed("0")),
            ("statement_timeout", self.statement_timeout.as_millis().to_string()),
        ]
    }
}

/// The URL on its way to options.
#[derive(Default)]
struct Draft {
    parts: UrlParts,
    ports: Vec<Option<u16>>,
    sslmode: Option<SslMode>,
    sslrootcert: Option<String>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    channel_binding: Option<ChannelBinding>,
    keepalives_off: bool,
    keepalive: Keepalive,
    application_name: Option<String>,
    options: Option<String>,
    read_write: Option<bool>,
    connect_timeout: Duration,
}

impl Draft {
    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "host" => self.parts.hosts = value.split(',').map(|host| (host.to_owned(), None)).collect(),
            "port" => self.ports = value.split(',').map(port_number).collect::<Result<_>>()?,
            "user" => self.parts.user = Some(value),
            "password" => self.parts.password = Some(value),
            "dbname" => self.parts.database = Some(value),
            "sslmode" => self.sslmode = Some(one_of(name, &value, SSL_MODES)?),
            "sslrootcert" => self.sslrootcert = Some(value),
            "sslcert" => self.sslcert = Some(value.into()),
            "sslkey" => self.sslkey = Some(value.into()),
            "channel_binding" => self.channel_binding = Some(one_of(name, &value, CHANNEL_BINDINGS)?),
            "application_name" => self.application_name = Some(value),
            "options" => self.options = Some(value),
            "target_session_attrs" => self.read_write = Some(one_of(name, &value, TARGETS)?),
            "connect_timeout" => self.connect_timeout = Duration::from_secs(number(name, &value)?),
            "keepalives" => self.keepalives_off = number(name, &value)? == 0,
            "keepalives_idle" => self.keepalive.idle = at_least_a_second(name, &value)?,
            "keepalives_interval" => self.keepalive.interval = at_least_a_second(name, &value)?,
            "keepalives_count" => self.keepalive.count = number(name, &value)?.clamp(1, 127) as u32,
            "tcp_user_timeout" => self.keepalive.user_timeout = Duration::from_millis(number(name, &value)?),
            _ => return Err(invalid(format!("it has a parameter {name:?} that outboxd does not know"))),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ConnectOptions> {
        let tls = self.tls()?;
        let hosts = self.hosts()?;
        let user = self.parts.user.ok_or_else(|| invalid("it names no user"))?;
        Ok(ConnectOptions {
            read_write: self.read_write.unwrap_or(hosts.len() > 1),
            hosts,
            database: self.parts.database.unwrap_or_else(|| user.clone()),
            user,
            password: self.parts.password.map(Secret::new),
            tls,
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            keepalive: (!self.keepalives_off).then_some(self.keepalive),
            application_name: self.application_name.unwrap_or_else(|| "outboxd".to_owned()),
            options: self.options,
            connect_timeout: self.connect_timeout,
            statement_timeout: Duration::from_secs(30),
            max_message_bytes: 1 << 30,
        })
    }

    fn hosts(&mut self) -> Result<Vec<Host>> {
        let hosts = std::mem::take(&mut self.parts.hosts);
        if hosts.is_empty() {
            return Err(invalid("it names no host"));
        }
        if !matches!(self.ports.len(), 0 | 1) && self.ports.len() != hosts.len() {
            return Err(invalid(format!("it has {} ports for {} hosts", self.ports.len(), hosts.len())));
        }
        let mut all = Vec::new();
        for (index, (host, port)) in hosts.into_iter().enumerate() {
            let listed = self.ports.get(index).or(self.ports.first()).copied().flatten();
            let port = port.or(listed).unwrap_or(5432);
            all.push(match host.as_str() {
                "" => return Err(invalid("one of its hosts is empty")),
                path if path.starts_with('/') => Host::Unix(PathBuf::from(path).join(format!(".s.PGSQL.{port}"))),
                _ => Host::Tcp(host, port),
            });
        }
        Ok(all)
    }

    fn tls(&mut self) -> Result<TlsOptions> {
        let identity = match (self.sslcert.take(), self.sslkey.take()) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(invalid("sslcert and sslkey need each other")),
        };
        let (mode, roots) = match (self.sslrootcert.take(), self.sslmode) {
            // As in libpq: the public authorities vouch for a name, never for less.
            (Some(root), None | Some(SslMode::VerifyFull)) if root == "system" => (SslMode::VerifyFull, Roots::System),
            (Some(root), Some(_)) if root == "system" => {
                return Err(invalid("sslrootcert=system needs sslmode=verify-full"));
            }
            // As in libpq: `require` with a root certificate at hand checks the chain.
            (Some(root), Some(SslMode::Require)) => (SslMode::VerifyCa, Roots::File(root.into())),
            (Some(root), mode) => (mode.unwrap_or_default(), Roots::File(root.into())),
            (None, mode) => (mode.unwrap_or_default(), Roots::System),
        };
        Ok(TlsOptions { mode, roots, identity })
    }
}

const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Prefer),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];
const CHANNEL_BINDINGS: &[(&str, ChannelBinding)] =
    &[("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];
const TARGETS: &[(&str, bool)] = &[("any", false), ("read-write", true)];

fn one_of<T: Copy>(name: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
    match known.iter().find(|(word, _)| *word == value) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            Err(invalid(format!("{name} must be one of {}", words.join(", "))))
        }
    }
}

fn number(name: &str, value: &str) -> Result<u64> {
    value.parse().map_err(|_| invalid(format!("{name} must be a number, 0 or more")))
}

fn at_least_a_second(name: &str, value: &str) -> Result<Duration> {
    Ok(Duration::from_secs(number(name, value)?.max(1)))
}

#[cfg(test)]
mod tests;
