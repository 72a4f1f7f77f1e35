//! The login by token: SASL/OAUTHBEARER (RFC 7628, KIP-255). librdkafka asks for a new token at 80 %
//! of the time that the last one has left. So a source that streams for weeks logs in again and
//! again (KIP-368), and a token that is refused for a while heals by itself.

use std::{
    error::Error as StdError,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    },
};
use rdkafka::{
    ClientContext,
    client::{Client, OAuthToken},
};
use serde_json::{Map, Value};

use crate::{
    clock::now_millis,
    config::{Kafka, TokenSource},
    error::{Code, Error, Result},
    program,
};

/// How long a program may take to print a token.
const WITHIN: Duration = Duration::from_secs(10);

/// How long a token is given to other clients. All clients of a start ask for one at about the same
/// time, and programs of clouds take a second. Whoever starts anew after a refusal gets a new one.
const SHARED: Duration = Duration::from_secs(10);

/// The same for a failure.
const SHARED_FAILURE: Duration = Duration::from_secs(1);

/// The principal's name where nothing tells it. librdkafka only shows it in its log.
const UNKNOWN: &str = "outboxd";

/// A JWT has no padding (RFC 7515), and some programs write it all the same.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A token as librdkafka takes it. It has no `Debug`, as it is a secret.
#[derive(Clone)]
struct Bearer {
    token: String,
    principal: String,
    /// In milliseconds since the Unix epoch.
    expires: i64,
}

/// The newest answer of a source of tokens. There is one cluster in a process, so it keeps one.
struct Answer {
    source: TokenSource,
    at: Instant,
    outcome: Result<Bearer, String>,
}

static NEWEST: Mutex<Option<Answer>> = Mutex::new(None);

/// What a client's context needs to answer librdkafka when a token grows old.
#[derive(Debug, Default)]
pub(super) struct Login(Option<TokenSource>);

impl Login {
    pub(super) fn of(kafka: &Kafka) -> Self {
        Self(kafka.token.clone())
    }

    /// A new token. librdkafka asks again after 10 s when there is none.
    pub(super) fn refreshed(&self) -> std::result::Result<OAuthToken, Box<dyn StdError>> {
        let Some(source) = &self.0 else { return Err("neither token_file nor token_command is set".into()) };
        match current(source) {
            Ok(bearer) => Ok(bearer.native()),
            Err(error) => {
                tracing::warn!(code = %error.code(), "{}", error.detail());
                Err(error.detail().into())
            }
        }
    }
}

/// Gives a new client the token for its first connection. librdkafka would ask for it only once
/// somebody polls. It blocks while a program runs.
///
/// # Errors
/// [`Code::KafkaAuthFailed`].
pub(super) fn log_in<C: ClientContext>(kafka: &Kafka, client: &Client<C>) -> Result<()> {
    let Some(source) = &kafka.token else { return Ok(()) };
    let bearer = current(source)?;
    librdkafka_token::set_token(client, &bearer.native()).map_err(|reason| refused(source, &reason))
}

/// The token of this moment. Whoever comes while a program runs waits for the same answer.
fn current(source: &TokenSource) -> Result<Bearer> {
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let known = newest.as_ref().filter(|answer| {
        let shared = if answer.outcome.is_ok() { SHARED } else { SHARED_FAILURE };
        answer.source == *source && answer.at.elapsed() < shared
    });
    let outcome = match known {
        Some(answer) => answer.outcome.clone(),
        None => {
            let outcome = obtain(source).and_then(|text| parse(&text, now_millis()));
            *newest = Some(Answer { source: source.clone(), at: Instant::now(), outcome: outcome.clone() });
            outcome
        }
    };
    outcome.map_err(|problem| refused(source, &problem))
}

fn obtain(source: &TokenSource) -> std::result::Result<String, String> {
    match source {
        TokenSource::File(path) => {
            std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        }
        TokenSource::Command(line) => program::printed(line, WITHIN),
    }
}

fn refused(source: &TokenSource, problem: &str) -> Error {
    Error::new(Code::KafkaAuthFailed, format!("{}: {problem}", source.key()))
}

impl Bearer {
    fn native(&self) -> OAuthToken {
        let Self { token, principal, expires } = self.clone();
        OAuthToken { token, principal_name: principal, lifetime_ms: expires }
    }
}

/// Reads a token: a JWT (RFC 7519), or a JSON object with the token, its expiry and its principal,
/// under the names that OAuth (RFC 6749) and the clouds' programs give them. No error shows any of
/// it.
fn parse(text: &str, now: i64) -> std::result::Result<Bearer, String> {
    let text = text.trim();
    let object = if text.starts_with('{') {
        serde_json::from_str(text).map_err(|_| "found a broken JSON object; expected a JWT or JSON".to_owned())?
    } else {
        Map::from_iter([("token".to_owned(), Value::from(text))])
    };
    let named = |names: &[&str]| names.iter().find_map(|name| object.get(*name));
    let token = named(&["token", "access_token", "accessToken"]).and_then(Value::as_str).unwrap_or_default();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("found no token; expected a JWT, or JSON with \"token\"".to_owned());
    }
    let claims = claims(token);
    let claim = |name: &str| claims.as_ref().and_then(|claims| claims.get(name));
    let at = named(&["expiry", "expires_at", "expires_on"]).or_else(|| claim("exp")).and_then(moment);
    let lasts = named(&["expires_in"]).and_then(number).map(|seconds| now.saturating_add(millis(seconds)));
    let Some(expires) = at.or(lasts) else {
        return Err("found a token that does not tell when it expires; expected a JWT with `exp`, \
                    or JSON with \"expiry\" (a Unix time or RFC 3339) or \"expires_in\" (seconds)"
            .to_owned());
    };
    if expires <= now {
        return Err(format!("found a token that expired {} s ago", (now - expires) / 1000));
    }
    let principal = named(&["principal"]).or_else(|| claim("sub")).and_then(Value::as_str).unwrap_or(UNKNOWN);
    Ok(Bearer { token: token.to_owned(), principal: principal.to_owned(), expires })
}

/// What a JWT says of itself. Only the brokers can tell whether it is true.
fn claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&BASE64_URL.decode(payload).ok()?).ok()
}

/// A Unix time, in seconds or in milliseconds, or a time of RFC 3339, as milliseconds.
fn moment(value: &Value) -> Option<i64> {
    if let Some(at) = value.as_str().and_then(|text| humantime::parse_rfc3339(text).ok()) {
        return i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok();
    }
    /// Seconds reach it in the year 5138, and milliseconds passed it in 1973.
    const MILLISECONDS: f64 = 1e11;
    let number = number(value)?;
    Some(if number < MILLISECONDS { millis(number) } else { millis(number / 1000.0) })
}

/// Some programs write numbers as text.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

#[expect(clippy::cast_possible_truncation, reason = "a float that is out of range becomes the nearest number")]
fn millis(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn jwt(claims: &str) -> String {
        format!("{}.{}.", BASE64_URL.encode(r#"{"alg":"none"}"#), BASE64_URL.encode(claims))
    }

    fn parsed(text: &str) -> (String, i64) {
        let bearer = parse(text, NOW).map_err(|problem| panic!("{text}: {problem}")).unwrap();
        (bearer.principal, bearer.expires)
    }

    #[test]
    fn a_token_is_a_jwt_or_json_in_the_words_of_the_clouds() {
        let token = jwt(r#"{"sub":"relay","exp":1800000060.5}"#);
        assert_eq!(parsed(&format!("{token}\n")), ("relay".to_owned(), NOW + 60_500));
        let cases = [
            (format!(r#"{{"token":"{token}","principal":"me"}}"#), "me", NOW + 60_500),
            (
                r#"{"access_token":"opaque","expires_in":3600,"token_type":"Bearer"}"#.to_owned(),
                UNKNOWN,
                NOW + 3_600_000,
            ),
            (r#"{"accessToken":"opaque","expires_on":"1800000010"}"#.to_owned(), UNKNOWN, NOW + 10_000),
            (r#"{"token":"opaque","expires_at":"2027-01-15T08:00:10Z"}"#.to_owned(), UNKNOWN, NOW + 10_000),
            (r#"{"token":"opaque","expiry":1800000010000,"principal":"arn"}"#.to_owned(), "arn", NOW + 10_000),
        ];
        for (text, principal, expires) in cases {
            assert_eq!(parsed(&text), (principal.to_owned(), expires), "{text}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_showing_it() {
        let cases = [
            ("", "no token"),
            ("s3cret with spaces", "no token"),
            ("{\"token\": \"s3cret\"", "broken JSON"),
            ("{\"password\": \"s3cret\"}", "no token"),
            ("s3cret", "does not tell when it expires"),
            ("{\"token\": \"s3cret\", \"expiry\": 1799999990}", "expired 10 s ago"),
        ];
        for (text, says) in cases {
            let Err(problem) = parse(text, NOW) else { panic!("{text} is a token") };
            assert!(problem.contains(says) && !problem.contains("s3cret"), "{text}: {problem}");
        }
    }

    #[test]
    fn clients_that_ask_together_share_an_answer_and_a_failure_only_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = TokenSource::File(path.clone());
        let Err(error) = current(&source) else { panic!("there is no file") };
        assert_eq!(error.code(), Code::KafkaAuthFailed);
        assert!(error.detail().starts_with("token_file: cannot read"), "{}", error.detail());
        std::fs::write(&path, jwt(r#"{"sub":"a","exp":99999999999}"#)).unwrap();
        std::thread::sleep(SHARED_FAILURE);
        assert!(current(&source).is_ok_and(|bearer| bearer.principal == "a"));
        std::fs::write(&path, jwt(r#"{"sub":"b","exp":99999999999}"#)).unwrap();
        assert!(current(&source).is_ok_and(|bearer| bearer.principal == "a"));
        let other = TokenSource::Command(vec!["cat".to_owned(), path.display().to_string()]);
        assert!(current(&other).is_ok_and(|bearer| bearer.principal == "b"));
    }
}
