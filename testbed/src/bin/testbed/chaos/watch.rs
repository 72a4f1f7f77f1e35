//! What the daemons say about themselves.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::Value;
use testbed::Daemon;
use tokio::task::JoinHandle;

use super::stage::Stage;
use crate::sources::SOURCES;

/// The state of each source; nothing while the daemon does not answer.
pub(crate) async fn states(daemon: &Daemon) -> Vec<(String, String)> {
    let Ok((_, body)) = daemon.http_get("/status").await else { return Vec::new() };
    let status: Value = serde_json::from_str(&body).unwrap_or_default();
    let sources = status["sources"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    sources.iter().map(|source| (text(&source["source"]), text(&source["state"]))).collect()
}

/// Whether it streams from every source.
pub(crate) async fn is_ready(daemon: &Daemon) -> bool {
    matches!(daemon.http_get("/readyz").await, Ok((200, _)))
}

/// Waits until every source of the daemon is in this state.
pub(crate) async fn wait_state(daemon: &Daemon, wanted: &str, within: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        let states = states(daemon).await;
        if !states.is_empty() && states.iter().all(|(_, state)| state == wanted) {
            return Ok(());
        }
        if started.elapsed() > within {
            bail!("no {wanted} within {within:?}, but {states:?}:\n{}", tail(daemon));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Its last lines, for the message of a failure.
pub(crate) fn tail(daemon: &Daemon) -> String {
    let lines = daemon.lines();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Looks at every daemon twice a second, as long as this value lives.
pub(crate) struct Watch {
    stop: tokio::sync::watch::Sender<bool>,
    halted: Arc<Mutex<Option<String>>>,
    task: JoinHandle<AllSeen>,
}

const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Watch {
    pub(crate) fn start(stage: &Arc<Stage>) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let halted: Arc<Mutex<Option<String>>> = Arc::default();
        let (stage, told) = (Arc::clone(stage), Arc::clone(&halted));
        let task = tokio::spawn(async move {
            let mut seen = AllSeen::default();
            let mut leaders = AllSeen::default().map(|_| None);
            while !*stopped.borrow() {
                leaders.fill(None);
                let [first, second, third] = [0, 1, 2].map(|number| states(&stage.daemons[number]));
                let (first, second, third) = tokio::join!(first, second, third);
                for (number, states) in [first, second, third].into_iter().enumerate() {
                    for (source, state) in states {
                        let Some(index) = SOURCES.iter().position(|known| known.name == source) else { continue };
                        if state == "streaming" {
                            leaders[index] = Some(number);
                        }
                        if state == "halted" {
                            let text = format!("source {source} of daemon {number}");
                            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                        }
                    }
                }
                seen.iter_mut().zip(leaders).for_each(|(seen, leader)| seen.look(leader));
                tokio::time::sleep(LOOK_EVERY).await;
            }
            seen
        });
        Self { stop, halted, task }
    }

    /// A source that halted, if there is one.
    pub(crate) fn halted(&self) -> Option<String> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn stop(self) -> AllSeen {
        self.stop.send_replace(true);
        self.task.await.unwrap_or_default()
    }
}

/// What [`Watch`] saw of a source.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// The number of looks at the daemons, and of those looks at which one of them streamed.
    pub(crate) looks: usize,
    pub(crate) streaming: usize,
    /// How often the leader was another instance than before.
    pub(crate) takeovers: usize,
    leader: Option<usize>,
}

impl Seen {
    /// Takes one look: who streams?
    pub(crate) fn look(&mut self, leader: Option<usize>) {
        self.looks += 1;
        self.streaming += usize::from(leader.is_some());
        if leader.is_some() && self.leader.is_some() && leader != self.leader {
            self.takeovers += 1;
        }
        self.leader = leader.or(self.leader);
    }
}

/// What was seen of each source.
pub(crate) type AllSeen = [Seen; SOURCES.len()];
