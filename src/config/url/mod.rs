//! A connection URL as a typed value. The configuration parses it once, and after that it cannot be
//! wrong.
//!
//! Page: "Connection URIs" and "Parameter Key Words" in "Database Connection Control Functions"
//! (libpq).

mod others;
mod text;

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use self::text::{Result, UrlParts, invalid, port_number, split};
use super::Secret;

/// Where a database is and how to log in to it. A log may show its `Display`, and its `Debug` hides
/// the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// As written, without the password.
    shown: String,
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    /// `None` in a [`Source`](super::Source), which holds the password itself.
    pub(crate) password: Option<Secret>,
    /// libpq's password file, where the URL names one.
    pub(crate) passfile: Option<PathBuf>,
    /// As written; see [`PostgresUrl::database`].
    database: Option<String>,
    pub(crate) tls: TlsOptions,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) application_name: String,
    pub(crate) options: Option<String>,
    /// Whether only a server that accepts writes will do.
    pub(crate) read_write: bool,
    pub(crate) connect_timeout: Option<Duration>,
}

impl PostgresUrl {
    /// The database to connect to. As in libpq, it is the user's name where the URL names no
    /// database.
    #[must_use]
    pub(crate) fn database(&self) -> &str {
        self.database.as_ref().unwrap_or(&self.user)
    }

    /// The database, where the URL names one.
    pub(super) fn named_database(&self) -> Option<&str> {
        self.database.as_deref()
    }
}

/// The error says what libpq would not understand or what outboxd does not support. It shows no
/// password.
impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self> {
        let mut parts = split(url)?;
        let params = std::mem::take(&mut parts.params);
        let mut draft = Draft { parts, ..Draft::default() };
        for (name, value) in params {
            draft.set(&name, value)?;
        }
        draft.finish()
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// One place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// Name or address, and port.
    Tcp(String, u16),
    /// The socket's path, `<directory>/.s.PGSQL.<port>`.
    Unix(PathBuf),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
pub(crate) struct TlsOptions {
    pub(crate) mode: SslMode,
    pub(crate) roots: Roots,
    /// Our certificate chain and our key, as PEM files.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// libpq's `sslmode`. `allow` means `prefer` here: plain text first would gain nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `sslrootcert`. Where libpq falls back to `~/.postgresql/root.crt`, outboxd takes the system's
/// store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Roots {
    #[default]
    System,
    File(PathBuf),
}

/// `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// `keepalives_*` and `tcp_user_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
    /// Bytes that the peer does not acknowledge break the connection after this time.
    pub(crate) user_timeout: Duration,
}

impl Default for Keepalive {
    /// With these a dead peer is found within half a minute. (The kernel's own default is two
    /// hours.)
    fn default() -> Self {
        let [idle, interval, user_timeout] = [10, 5, 30].map(Duration::from_secs);
        Self { idle, interval, count: 4, user_timeout }
    }
}

/// The URL on its way to its typed form.
#[derive(Default)]
struct Draft {
    parts: UrlParts,
    ports: Vec<Option<u16>>,
    sslmode: Option<SslMode>,
    passfile: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    channel_binding: Option<ChannelBinding>,
    keepalives_off: bool,
    keepalive: Keepalive,
    application_name: Option<String>,
    options: Option<String>,
    read_write: Option<bool>,
    connect_timeout: Option<Duration>,
}

impl Draft {
    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            // As in libpq, `host` replaces the hosts of the authority and leaves their ports.
            "host" => {
                let named = std::mem::take(&mut self.parts.hosts);
                if self.ports.is_empty() && named.iter().any(|(_, port)| port.is_some()) {
                    self.ports = named.into_iter().map(|(_, port)| port).collect();
                }
                self.parts.hosts = value.split(',').map(|host| (host.to_owned(), None)).collect();
            }
            "port" => self.ports = value.split(',').map(port_number).collect::<Result<_>>()?,
            "user" => self.parts.user = Some(value),
            "password" => self.parts.password = Some(value),
            "dbname" => self.parts.database = Some(value),
            "sslmode" => self.sslmode = Some(one_of(name, &value, SSL_MODES)?),
            "passfile" => self.passfile = Some(value),
            "sslrootcert" => self.sslrootcert = Some(value),
            "sslcert" => self.sslcert = Some(value.into()),
            "sslkey" => self.sslkey = Some(value.into()),
            "channel_binding" => self.channel_binding = Some(one_of(name, &value, CHANNEL_BINDINGS)?),
            "application_name" => self.application_name = Some(value),
            "options" => self.options = Some(value),
            "target_session_attrs" => self.read_write = Some(target(&value)?),
            "connect_timeout" => self.connect_timeout = seconds_or_default(name, &value)?,
            "keepalives" => self.keepalives_off = number(name, &value)? == 0,
            "keepalives_idle" => self.keepalive.idle = at_least_a_second(name, &value)?,
            "keepalives_interval" => self.keepalive.interval = at_least_a_second(name, &value)?,
            "keepalives_count" => self.keepalive.count = number(name, &value)?.clamp(1, 127) as u32,
            "tcp_user_timeout" => self.keepalive.user_timeout = Duration::from_millis(number(name, &value)?),
            _ => others::pass_over(name, &value)?,
        }
        Ok(())
    }

    fn finish(mut self) -> Result<PostgresUrl> {
        let tls = self.tls()?;
        let hosts = self.hosts()?;
        let user = self.parts.user.ok_or("it names no user")?;
        Ok(PostgresUrl {
            shown: self.parts.shown,
            read_write: self.read_write.unwrap_or(hosts.len() > 1),
            hosts,
            user,
            password: self.parts.password.filter(|password| !password.is_empty()).map(Secret::new),
            passfile: self.passfile.map(PathBuf::from),
            database: self.parts.database,
            tls,
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            keepalive: (!self.keepalives_off).then_some(self.keepalive),
            application_name: self.application_name.unwrap_or_else(|| "outboxd".to_owned()),
            options: self.options,
            connect_timeout: self.connect_timeout,
        })
    }

    fn hosts(&mut self) -> Result<Vec<Host>> {
        let hosts = std::mem::take(&mut self.parts.hosts);
        if hosts.is_empty() {
            return invalid("it names no host");
        }
        if !matches!(self.ports.len(), 0 | 1) && self.ports.len() != hosts.len() {
            return invalid(format!("it has {} ports for {} hosts", self.ports.len(), hosts.len()));
        }
        let mut all = Vec::new();
        for (index, (host, port)) in hosts.into_iter().enumerate() {
            let listed = self.ports.get(index).or(self.ports.first()).copied().flatten();
            let port = port.or(listed).unwrap_or(5432);
            all.push(match host.as_str() {
                "" => return invalid("one of its hosts is empty"),
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
            _ => return invalid("sslcert and sslkey need each other"),
        };
        let (mode, roots) = match (self.sslrootcert.take(), self.sslmode) {
            // As in libpq: the public authorities vouch for a server's name and for nothing less.
            (Some(root), None | Some(SslMode::VerifyFull)) if root == "system" => (SslMode::VerifyFull, Roots::System),
            (Some(root), Some(_)) if root == "system" => {
                return invalid("sslrootcert=system needs sslmode=verify-full");
            }
            // As in libpq: `require` with a root certificate checks the chain.
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
/// `primary` means `read-write` here: outboxd has to write, and a primary that is read-only by
/// default would not do.
const TARGETS: &[(&str, bool)] = &[("any", false), ("read-write", true), ("primary", true)];

fn target(value: &str) -> Result<bool> {
    if ["read-only", "standby", "prefer-standby"].contains(&value) {
        return invalid(
            "target_session_attrs asks for a server that cannot be written, where outboxd can neither keep its slot \
             nor mark rows: it must be one of any, read-write, primary",
        );
    }
    one_of("target_session_attrs", value, TARGETS)
}

fn one_of<T: Copy>(name: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
    match known.iter().find(|(word, _)| *word == value) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            invalid(format!("{name} must be one of {}", words.join(", ")))
        }
    }
}

fn number(name: &str, value: &str) -> Result<u64> {
    value.parse().map_err(|_| format!("{name} must be a number, 0 or more"))
}

/// As in libpq, zero sets no bound of its own.
fn seconds_or_default(name: &str, value: &str) -> Result<Option<Duration>> {
    Ok(Some(Duration::from_secs(number(name, value)?)).filter(|bound| !bound.is_zero()))
}

fn at_least_a_second(name: &str, value: &str) -> Result<Duration> {
    Ok(Duration::from_secs(number(name, value)?.max(1)))
}

#[cfg(test)]
mod tests;
