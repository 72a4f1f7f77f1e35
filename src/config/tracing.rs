//! `[tracing]` as written → [`Tracing`].

use std::fmt;

use super::section::{Section, Value};
use crate::Result;

/// The keys of `[tracing]`.
pub(super) const KEYS: &[&str] = &["endpoint", "sample", "service_name", "header", "key"];

/// The port and the path that collectors have by default.
const PORT: u16 = 4318;
const PATH: &str = "/v1/traces";

/// Where spans of rows go, and of which rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The collector.
    pub(crate) endpoint: Endpoint,
    /// The share of the traces that applications record, from 0 to 1; 1.
    pub(crate) sample: f64,
    /// `service.name` of the spans; `outboxd`.
    pub(crate) service_name: String,
    /// The header of a record that names its parent; `traceparent`.
    pub(crate) header: String,
    /// Whether spans show the key of the record; `false`.
    pub(crate) key: bool,
}

/// A collector that takes OTLP over HTTP, without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As the header `host` has it.
    pub(crate) authority: String,
    host_length: usize,
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl Endpoint {
    /// A name or an address, for the socket.
    pub(crate) fn host(&self) -> &str {
        self.authority[..self.host_length].trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("found {text:?}; allowed: a URL such as \"http://127.0.0.1:{PORT}{PATH}\"");
        if text.starts_with("https://") {
            return Err(format!("found {text:?}; allowed: http, to a collector nearby that takes the spans further"));
        }
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (authority, PORT),
        };
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_host =
            !host.is_empty() && !host.contains(['@', '?', '#']) && (host.starts_with('[') || !host.contains(':'));
        if !is_host || !is_plain(text) || path.contains('#') {
            return Err(wrong());
        }
        let path = if path.is_empty() || path == "/" { PATH } else { path };
        Ok(Self { authority: authority.to_owned(), host_length: host.len(), port, path: path.to_owned() })
    }
}

/// Reads the section. Without an endpoint nothing is traced.
pub(super) fn read(mut section: Section) -> Result<Option<Tracing>> {
    section.only(KEYS)?;
    let endpoint = section.text("endpoint")?;
    let endpoint =
        endpoint.map(|item| item.value.parse().map_err(|problem: String| item.refuse(problem))).transpose()?;
    let sample = sample(&mut section)?;
    let service_name = section.text("service_name")?.map(|item| item.value);
    let header = section.text("header")?;
    if let Some(item) = header.as_ref().filter(|item| item.value.is_empty()) {
        return Err(item.refuse("found \"\"; allowed: the name of a header"));
    }
    let key = section.bool("key", false)?;
    Ok(endpoint.map(|endpoint| Tracing {
        endpoint,
        sample,
        service_name: service_name.unwrap_or_else(|| "outboxd".to_owned()),
        header: header.map_or_else(|| "traceparent".to_owned(), |item| item.value),
        key,
    }))
}

fn sample(section: &mut Section) -> Result<f64> {
    let Some(item) = section.take("sample") else { return Ok(1.0) };
    let number = match &item.value {
        Value::Integer(0) => Some(0.0),
        Value::Integer(1) => Some(1.0),
        Value::Other(_, text) => text.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| {
        item.refuse(format!("found {}; allowed: a number from 0 to 1, such as 0.01", item.value.found()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_the_port_and_the_path_of_collectors_by_default() {
        for (text, host, port, shown) in [
            ("http://collector:4318/v1/traces", "collector", 4318, "http://collector:4318/v1/traces"),
            ("http://collector", "collector", 4318, "http://collector/v1/traces"),
            ("http://10.0.0.1:80/", "10.0.0.1", 80, "http://10.0.0.1:80/v1/traces"),
            ("http://[::1]:9/otlp?tenant=a", "::1", 9, "http://[::1]:9/otlp?tenant=a"),
            ("http://[::1]", "::1", 4318, "http://[::1]/v1/traces"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port, endpoint.to_string().as_str()), (host, port, shown), "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "collector:4318",
            "http://",
            "http://:4318",
            "http://c:port",
            "http://u@c",
            "http://a b",
            "http://::1",
            "https://c",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?} was taken for an endpoint");
        }
    }
}
