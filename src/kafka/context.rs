//! What librdkafka tells us besides the answers to calls: log lines, errors about connections, and
//! the deliveries that failed.

use std::{
    error::Error,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::Message,
    producer::DeliveryResult,
};

use super::login::Login;
use crate::config::Kafka;

/// Why the last call may have failed. It keeps the most telling of librdkafka's errors about its
/// connections.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl Trouble {
    pub(super) fn note(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut kept = lock(&self.0);
        // "All brokers are down" follows every refused login and says less.
        if kept.as_ref().is_none_or(|(before, _)| weight(code) >= weight(*before)) {
            *kept = Some((code, reason.to_owned()));
        }
    }

    /// A client that tried again would only lock the account.
    pub(super) fn is_authentication(&self) -> bool {
        lock(&self.0).as_ref().is_some_and(|(code, _)| weight(*code) == AUTHENTICATION)
    }

    pub(super) fn take(&self) -> Option<(RDKafkaErrorCode, String)> {
        lock(&self.0).take()
    }
}

const AUTHENTICATION: u8 = 3;

fn weight(code: RDKafkaErrorCode) -> u8 {
    match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::SaslAuthenticationFailed => {
            AUTHENTICATION
        }
        RDKafkaErrorCode::Resolve | RDKafkaErrorCode::BrokerTransportFailure => 2,
        _ => 1,
    }
}

/// The context of readers and of clients that ask for metadata. Their log lines come on the thread
/// that polls, so the span of the source that asks is around them (`blocking` in `kafka`).
#[derive(Debug, Default)]
pub(super) struct ReaderContext {
    pub(super) trouble: Trouble,
    login: Login,
}

impl ReaderContext {
    pub(super) fn of(kafka: &Kafka) -> Self {
        Self { login: Login::of(kafka), ..Self::default() }
    }
}

impl ClientContext for ReaderContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.login.refreshed()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(None, level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note(&self.trouble, None, &error, reason);
    }
}

impl ConsumerContext for ReaderContext {}

/// A context that logs nothing. It is for clients that are made only to see whether they can be
/// made.
#[derive(Debug, Default)]
pub(super) struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for QuietContext {}

/// A row of the batch, or [`POSITION`].
pub(super) type Row = usize;

/// The row number that stands for the position record.
pub(super) const POSITION: Row = usize::MAX;

/// A record that was not delivered.
#[derive(Debug, Clone)]
pub(super) struct FailedDelivery {
    pub(super) code: RDKafkaErrorCode,
    pub(super) topic: String,
    pub(super) row: Row,
}

/// The context of producers. librdkafka reports a delivery only when it fails.
#[derive(Debug, Default)]
pub(super) struct ProducerContext {
    pub(super) trouble: Trouble,
    login: Login,
    /// The source that the producer belongs to.
    source: String,
    failed: Mutex<Vec<FailedDelivery>>,
    lost_requests: AtomicU64,
    lines: AtomicU64,
    all_down: AtomicBool,
}

impl ProducerContext {
    /// The context of a source's producer. Its log lines name the source.
    pub(super) fn of_source(kafka: &Kafka, source: &str) -> Self {
        Self { login: Login::of(kafka), source: source.to_owned(), ..Self::default() }
    }

    pub(super) fn failed(&self) -> MutexGuard<'_, Vec<FailedDelivery>> {
        lock(&self.failed)
    }

    /// How often librdkafka has given up requests without an answer so far, because their
    /// connection was lost or their time was up. It sends them again and reports nothing. Only its
    /// log tells, and with `broker` in `debug` it tells at once and every time
    /// (`rd_kafka_broker_set_error`). Its errors about connections would not do: it reports them
    /// only where `log.connection.close` asks for it, and not when one is like the one before.
    pub(super) fn lost_requests(&self) -> u64 {
        self.lost_requests.load(Ordering::Relaxed)
    }

    /// Whether librdkafka has said that it has no connection to any broker. One may have come back
    /// since.
    pub(super) fn all_down(&self) -> bool {
        self.all_down.load(Ordering::Relaxed)
    }

    /// How many log lines and errors have come so far.
    pub(super) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }
}

impl ClientContext for ProducerContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.login.refreshed()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        if matches!(facility, "FAIL" | "REQTMOUT") {
            self.lost_requests.fetch_add(1, Ordering::Relaxed);
        }
        log(Some(&self.source), level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.all_down.store(true, Ordering::Relaxed);
        }
        note(&self.trouble, Some(&self.source), &error, reason);
    }
}

impl rdkafka::producer::ProducerContext for ProducerContext {
    type DeliveryOpaque = Row;

    fn delivery(&self, result: &DeliveryResult<'_>, row: Row) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            // The list cannot grow beyond the batch.
            lock(&self.failed).push(FailedDelivery { code, topic: message.topic().to_owned(), row });
        }
    }
}

fn note(trouble: &Trouble, source: Option<&str>, error: &KafkaError, reason: &str) {
    tracing::debug!(target: "librdkafka", source, %error, reason, "client error");
    if let Some(code) = error.rdkafka_error_code() {
        trouble.note(code, reason);
    }
}

fn log(source: Option<&str>, level: RDKafkaLogLevel, facility: &str, line: &str) {
    // "X is a producer property and will be ignored by this consumer" is no news: one set of
    // options serves both.
    let level = if facility == "CONFWARN" { RDKafkaLogLevel::Debug } else { level };
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "librdkafka", source, facility, "{line}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", source, facility, "{line}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", source, facility, "{line}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", source, facility, "{line}"),
    }
}

/// Nothing that holds these locks can panic half-way, so what a poisoned lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
