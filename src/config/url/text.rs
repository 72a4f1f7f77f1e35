//! Takes libpq's URL form apart: pure text, no meaning yet. Errors never show what could be a
//! password.
//!
//! Page: "Connection URIs" in "Database Connection Control Functions".

use percent_encoding::percent_decode_str;

/// The pieces of a connection URL, percent-decoded.
#[derive(Default)]
pub(super) struct UrlParts {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// Host and port; the host may be empty.
    pub(super) hosts: Vec<(String, Option<u16>)>,
    pub(super) database: Option<String>,
    /// In order. The names are plain words.
    pub(super) params: Vec<(String, String)>,
    /// The URL as it was written, without the password.
    pub(super) shown: String,
}

/// What is wrong with a URL. It never repeats a part of the URL that could be a password.
pub(super) type Result<T> = std::result::Result<T, String>;

/// Takes `postgres://user:password@host:port,host:port/database?name=value&…` apart.
pub(super) fn split(url: &str) -> Result<UrlParts> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or("not a URL of the form postgres://user@host:5432/database?sslmode=verify-full")?;
    let scheme = &url[..url.len() - rest.len()];
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = location.split_once('/').unwrap_or((location, ""));
    if database.contains('@') {
        return invalid("a / in the user or the password must be written %2F, an @ in the database name %40");
    }
    let mut parts = UrlParts { database: filled(database, "database")?, ..UrlParts::default() };
    let path = &location[authority.len()..];
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            if login.contains('@') {
                return invalid("an @ in the user or the password must be written %40");
            }
            parts.user = filled(user, "user")?;
            parts.password = filled(password, "password")?;
            parts.shown = format!("{user}@");
            hosts
        }
    };
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        parts.hosts.push(host_and_port(host)?);
    }
    let mut shown = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let parameter = parameter(pair)?;
        if parameter.0 != "password" {
            shown.push(pair);
        }
        parts.params.push(parameter);
    }
    let query = if shown.is_empty() { String::new() } else { format!("?{}", shown.join("&")) };
    parts.shown = format!("{scheme}{}{hosts}{path}{query}", parts.shown);
    Ok(parts)
}

fn parameter(pair: &str) -> Result<(String, String)> {
    let Some((name, value)) = pair.split_once('=') else {
        return invalid("a parameter after the ? has no value (expected key=value)");
    };
    // Any other name may be the tail of a password that holds an & or a ?.
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return invalid("a parameter after the ? has no valid name (is a special character not percent-encoded?)");
    }
    Ok((name.to_owned(), decode(value, name)?))
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or("an IPv6 address lacks its ]")?;
            match rest.strip_prefix(':') {
                Some(port) => (address, port),
                None if rest.is_empty() => (address, ""),
                None => return invalid("only :port may follow the ] of an IPv6 address"),
            }
        }
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    Ok((decode(host, "host")?, port_number(port)?))
}

/// The port; `None` for the empty text. The error does not show the text, which is a part of the
/// password where the URL was cut at the wrong place.
pub(super) fn port_number(text: &str) -> Result<Option<u16>> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(port @ 1..) => Ok(Some(port)),
        _ => invalid("a port is not a number from 1 to 65535 (is a special character not percent-encoded?)"),
    }
}

fn filled(text: &str, what: &str) -> Result<Option<String>> {
    if text.is_empty() { Ok(None) } else { decode(text, what).map(Some) }
}

fn decode(text: &str, what: &str) -> Result<String> {
    let mut escapes = text.split('%');
    escapes.next();
    let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    if !escapes.all(|after| after.as_bytes().get(..2).is_some_and(is_hex)) {
        return invalid("a % is not followed by two hexadecimal digits; write %25 for the character itself");
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| format!("{what} is not UTF-8"))?;
    // The protocol's strings end at a zero byte.
    if decoded.contains('\0') {
        return invalid(format!("{what} holds a zero byte"));
    }
    Ok(decoded.into_owned())
}

/// Makes an error out of its text.
pub(super) fn invalid<T>(text: impl Into<String>) -> Result<T> {
    Err(text.into())
}
