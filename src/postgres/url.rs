//! libpq's URL form, taken apart: pure text, no meaning yet. Errors never show what could be a password.
//!
//! Page: "Connection URIs" in "Database Connection Control Functions".

use percent_encoding::percent_decode_str;

use crate::{Code, Error, Result};

/// The pieces of a connection URL, percent-decoded.
#[derive(Default)]
pub(super) struct UrlParts {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// Host and port; the host may be empty.
    pub(super) hosts: Vec<(String, Option<u16>)>,
    pub(super) database: Option<String>,
    /// In order; names are known to be plain words.
    pub(super) params: Vec<(String, String)>,
}

/// An error about the URL.
pub(super) fn invalid(text: impl std::fmt::Display) -> Error {
    Error::new(Code::ConfigInvalid, format!("the Postgres URL: {text}"))
}

/// Takes `postgres://user:password@host:port,host:port/database?name=value&…` apart.
pub(super) fn split(url: &str) -> Result<UrlParts> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or_else(|| invalid("it must begin with postgres:// or postgresql://"))?;
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = location.split_once('/').unwrap_or((location, ""));
    if database.contains('@') {
        return Err(invalid("a / in the user or the password must be written %2F, an @ in the database name %40"));
    }
    let mut parts = UrlParts { database: filled(database, "database")?, ..UrlParts::default() };
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            parts.user = filled(user, "user")?;
            parts.password = filled(password, "password")?;
            hosts
        }
    };
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        parts.hosts.push(host_and_port(host)?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        parts.params.push(parameter(pair)?);
    }
    Ok(parts)
}

fn parameter(pair: &str) -> Result<(String, String)> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    // Anything else may be the tail of a password that holds an & or a ?.
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return Err(invalid("a parameter after the ? has no valid name (is a special character not percent-encoded?)"));
    }
    Ok((name.to_owned(), decode(value, name)?))
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(|| invalid("an IPv6 address lacks its ]"))?;
            match rest.strip_prefix(':') {
                Some(port) => (address, port),
                None if rest.is_empty() => (address, ""),
                None => return Err(invalid("only :port may follow the ] of an IPv6 address")),
            }
        }
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    Ok((decode(host, "host")?, port_number(port)?))
}

/// `None` for the empty text. The text itself is not shown: in a URL cut wrongly it is a part of the password.
pub(super) fn port_number(text: &str) -> Result<Option<u16>> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(port @ 1..) => Ok(Some(port)),
        _ => Err(invalid("a port is not a number from 1 to 65535 (is a special character not percent-encoded?)")),
    }
}

fn filled(text: &str, what: &str) -> Result<Option<String>> {
    if text.is_empty() { Ok(None) } else { decode(text, what).map(Some) }
}

fn decode(text: &str, what: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| invalid(format!("{what} is not UTF-8")))?;
    // The protocol's strings end at a zero byte.
    if decoded.contains('\0') {
        return Err(invalid(format!("{what} holds a zero byte")));
    }
    Ok(decoded.into_owned())
}
