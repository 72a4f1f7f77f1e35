//! What somebody outside sees: the records that a `read_committed` consumer gets, and the daemon's
//! own metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use testbed::{
    Daemon,
    reader::{Follower, From, Record},
};

use crate::sources::SOURCES;

/// A consumer that reads all topics from the beginning, and survives the broker's restart.
#[derive(Clone)]
pub(crate) struct Consumer {
    records: Arc<AtomicU64>,
    /// The first record of each type of event.
    first: Arc<Mutex<BTreeMap<String, Record>>>,
}

impl Consumer {
    pub(crate) async fn start(brokers: &str) -> Result<Self> {
        let topics: Vec<&str> = SOURCES.iter().map(|source| source.topic).collect();
        let mut follower = Follower::start(brokers, &topics, From::Beginning).await?;
        let consumer = Self { records: Arc::default(), first: Arc::default() };
        let seen = consumer.clone();
        tokio::spawn(async move {
            // An error means only that nothing came for a while. The task ends with the runtime.
            loop {
                if let Ok((record, _)) = follower.next(Duration::from_secs(3600)).await {
                    seen.take(record);
                }
            }
        });
        Ok(consumer)
    }

    fn take(&self, record: Record) {
        self.records.fetch_add(1, Ordering::Relaxed);
        let event = record.header_str("event_type").unwrap_or_default().to_owned();
        self.first.lock().unwrap_or_else(PoisonError::into_inner).entry(event).or_insert(record);
    }

    /// Records read so far.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// The first records of these types of event.
    pub(crate) fn first_of(&self, events: &[&str]) -> Vec<Record> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter_map(|&event| first.get(event).cloned()).collect()
    }
}

/// What `/metrics` says about all sources together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lag {
    /// Age of the oldest committed row that is not published, in seconds.
    pub(crate) seconds: f64,
    /// Sources in state `streaming`.
    pub(crate) streaming: usize,
}

/// The daemon's lag; `None` while it is down.
pub(crate) async fn lag(daemon: &Daemon) -> Option<Lag> {
    let (_, text) = daemon.http_get("/metrics").await.ok()?;
    let values = |start: &'static str, holds: &'static str| {
        let lines = text.lines().filter(move |line| line.starts_with(start) && line.contains(holds));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).collect::<Vec<_>>()
    };
    let seconds = values("outboxd_replication_lag_seconds{", "").into_iter().fold(0.0, f64::max);
    let streaming = values("outboxd_source_state{", r#"state="streaming""#).into_iter().filter(|on| *on > 0.0).count();
    Some(Lag { seconds, streaming })
}

/// A record as a console consumer would print it.
pub(crate) fn print(record: &Record) -> String {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"null")).into_owned();
    let headers: Vec<String> =
        record.headers.iter().map(|(name, value)| format!("{name}={}", text(value.as_deref()))).collect();
    format!(
        "{}  partition {}  offset {}\n    key      {}\n    headers  {}\n    value    {}",
        record.topic,
        record.partition,
        record.offset,
        text(record.key.as_deref()),
        headers.join("\n             "),
        text(record.value.as_deref())
    )
}
