//! The consumer's half of an outbox.
//!
//! ```text
//!   Kafka ── poll (read_committed) ──▶ BEGIN
//!                                       INSERT INTO inbox … ON CONFLICT DO NOTHING
//!                                       the effect, when the row was new
//!                                      COMMIT
//!         ◀── commit of the offset ─────┘   (later, and maybe never)
//! ```
//! Events that have arrived together share a transaction.
//!
//! The producer side puts each row into the topic once. A consumer that dies between COMMIT and the
//! commit of the offset still reads the event again. The inbox makes that harmless, since the
//! memory of the event and its effect are one transaction.
//!
//! [`MIGRATION`] makes the table. A handler that fails is tried again with the same event after a
//! pause, because what comes later in the partition may depend on it.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result};
use deadpool_postgres::Pool;
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer as _, StreamConsumer},
    message::{BorrowedMessage, Headers},
};
use serde_json::Value;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

/// The table `inbox`.
pub const MIGRATION: &str = include_str!("../inbox.sql");

/// The longest pause before a failed event is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest wait between two looks at what has arrived.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Events of one transaction.
const LARGEST_BATCH: usize = 50;

/// What is consumed, and under which name.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// The consumer group, and the name in the inbox.
    pub consumer: String,
    /// The topics. They have to exist.
    pub topics: Vec<String>,
}

/// An event in the envelope `event`: `{"event_id", "event_type", "timestamp", "data"}`.
#[derive(Debug, Clone)]
pub struct Event {
    /// The id of the outbox row.
    pub id: Uuid,
    /// The type, such as `OrderConfirmed`.
    pub kind: String,
    /// The payload.
    pub data: Value,
}

impl Event {
    /// The text at this key of the payload.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.data[key].as_str().with_context(|| format!("{} {} has no text {key}", self.kind, self.id))
    }

    /// The UUID at this key of the payload.
    pub fn uuid(&self, key: &str) -> Result<Uuid> {
        Ok(self.text(key)?.parse()?)
    }
}

/// What an event does. The transaction is committed by the caller.
pub trait Handler: Send + Sync {
    /// Whether the consumer takes this type of event at all.
    fn wants(&self, kind: &str) -> bool;

    /// The effect. An error rolls it back, and the event is tried again.
    fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> impl Future<Output = Result<()>> + Send;
}

/// Consumes until the future is dropped.
pub async fn run(subscription: Subscription, pool: Pool, handler: impl Handler) {
    loop {
        // A consumer that cannot be made, or that has failed for good, is made anew.
        if let Err(error) = consume(&subscription, &pool, &handler).await {
            tracing::warn!(consumer = subscription.consumer, "{error:#}");
        }
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}

async fn consume(subscription: &Subscription, pool: &Pool, handler: &impl Handler) -> Result<()> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &subscription.brokers)
        .set("group.id", &subscription.consumer)
        // Others would see the records of aborted transactions.
        .set("isolation.level", "read_committed")
        // The offset of an event is stored after its effect, and committed some time later. Losing
        // that costs a second look into the inbox, and nothing else.
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "500")
        .set("auto.offset.reset", "earliest")
        // A killed consumer is replaced within this time.
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1000")
        // An event that has to wait for another one is tried again for as long as that takes.
        .set("max.poll.interval.ms", "86400000")
        .set("fetch.wait.max.ms", "50")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .create()?;
    let topics: Vec<&str> = subscription.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics)?;
    loop {
        let mut messages = Vec::new();
        // A look at least this often, whoever should have woken us.
        let Ok(first) = tokio::time::timeout(LOOK_EVERY, consumer.recv()).await else { continue };
        let mut next = Some(first);
        // What has arrived already goes into the same transaction.
        while let Some(received) = next {
            match received {
                Ok(message) => messages.push(message),
                Err(error) => tracing::warn!(consumer = subscription.consumer, "{error}"),
            }
            next = match messages.len() {
                LARGEST_BATCH.. => None,
                _ => tokio::time::timeout(Duration::ZERO, consumer.recv()).await.ok(),
            };
        }
        let events: Vec<Event> =
            messages.iter().filter_map(|message| parse(message, handler).transpose()).collect::<Result<_>>()?;
        take(&subscription.consumer, pool, handler, &events).await;
        for message in &messages {
            if let Err(error) = consumer.store_offset_from_message(message) {
                // The partition belongs to somebody else by now, who will find the inbox filled.
                tracing::info!(consumer = subscription.consumer, "{error}");
            }
        }
    }
}

/// The event, when the handler wants it. The type is a header, so that no other value is parsed.
fn parse(message: &BorrowedMessage<'_>, handler: &impl Handler) -> Result<Option<Event>> {
    let header = |name: &str| {
        let headers = message.headers()?;
        let value = headers.iter().find(|h| h.key == name)?.value?;
        std::str::from_utf8(value).ok()
    };
    let kind = header("event_type").context("a record without event_type")?;
    if !handler.wants(kind) {
        return Ok(None);
    }
    let id = header("event_id").context("a record without event_id")?.parse()?;
    let mut value: Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
    Ok(Some(Event { id, kind: kind.to_owned(), data: value["data"].take() }))
}

/// Gives the events their effects: all in one transaction, or one by one when that fails.
async fn take(consumer: &str, pool: &Pool, handler: &impl Handler, events: &[Event]) {
    if events.is_empty() || once(consumer, pool, handler, events).await.is_ok() {
        return;
    }
    for event in events {
        let mut pause = Duration::from_millis(20);
        while let Err(error) = once(consumer, pool, handler, std::slice::from_ref(event)).await {
            // The first pauses are told, and not those that all later ones are like.
            if pause < LONGEST_PAUSE {
                tracing::info!(consumer, kind = event.kind, id = %event.id, "tried again in {pause:?}: {error:#}");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Inserts the memory of the events and makes their effects, in one transaction.
pub async fn once(consumer: &str, pool: &Pool, handler: &impl Handler, events: &[Event]) -> Result<()> {
    let mut client = pool.get().await?;
    let client: &mut Client = &mut client;
    let transaction = client.transaction().await?;
    let remember = "INSERT INTO inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let remember = transaction.prepare(remember).await?;
    for event in events {
        if transaction.execute(&remember, &[&consumer, &event.id]).await? == 1 {
            handler.handle(&transaction, event).await?;
        }
    }
    Ok(transaction.commit().await?)
}
