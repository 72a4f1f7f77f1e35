//! Sends spans to a collector: OTLP over HTTP, in JSON.
//!
//! The relay puts rows into a bounded queue and never waits. What finds no room, and what the
//! collector does not take, is dropped and counted.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::span::{RowSpan, request};
use crate::{
    config::{Endpoint, Tracing},
    telemetry::Metrics,
};

/// Rows that may wait for the collector, of all sources together.
const QUEUE: usize = 4096;

/// Rows of one request, at most.
const AT_ONCE: usize = 512;

/// How long a request may gather rows.
const GATHER: Duration = Duration::from_millis(500);

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of an answer is read.
const ANSWER_MAX: usize = 64 << 10;

/// How often the log says that the collector takes nothing.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The longest wait for the last spans when the daemon ends.
const LAST: Duration = Duration::from_secs(2);

/// Where the relay puts its rows. Cloning shares the queue.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    queue: mpsc::Sender<RowSpan>,
    /// What is traced, and how.
    pub(crate) config: std::sync::Arc<Tracing>,
}

/// The task that sends.
pub(crate) struct Exporter(JoinHandle<()>);

impl Traces {
    /// Starts the task.
    pub(crate) fn start(config: &Tracing, metrics: &Metrics) -> (Self, Exporter) {
        let (queue, rows) = mpsc::channel(QUEUE);
        let config = std::sync::Arc::new(config.clone());
        let sending = Sending { config: config.clone(), metrics: metrics.clone(), failing: None };
        (Self { queue, config }, Exporter(tokio::spawn(sending.run(rows))))
    }

    /// Takes a row, if there is room for it. It never waits.
    ///
    /// # Errors
    /// How many spans are lost.
    pub(crate) fn take(&self, row: RowSpan) -> Result<(), u64> {
        let spans = row.spans();
        self.queue.try_send(row).map_err(|_| spans)
    }
}

impl Exporter {
    /// Waits until the last rows are sent, but not for long. The relay has ended, and so has given
    /// its end of the queue away.
    pub(crate) async fn finish(mut self) {
        if timeout(LAST, &mut self.0).await.is_err() {
            self.0.abort();
        }
    }
}

struct Sending {
    config: std::sync::Arc<Tracing>,
    metrics: Metrics,
    /// When the log last said that the collector takes nothing.
    failing: Option<Instant>,
}

impl Sending {
    async fn run(mut self, mut rows: mpsc::Receiver<RowSpan>) {
        let mut batch = Vec::with_capacity(AT_ONCE);
        while rows.recv_many(&mut batch, AT_ONCE).await > 0 {
            let end = Instant::now() + GATHER;
            while batch.len() < AT_ONCE {
                let room = AT_ONCE - batch.len();
                // The queue is closed, or it is time.
                let (Ok(0) | Err(_)) = timeout_at(end, rows.recv_many(&mut batch, room)).await else { continue };
                break;
            }
            let body = request(&self.config.service_name, &batch).to_string();
            let sent = timeout(PATIENCE, post(&self.config.endpoint, body)).await;
            self.sent(sent.unwrap_or_else(|_| Err("it does not answer".to_owned())), &batch);
            batch.clear();
        }
    }

    /// Takes in how a request ended.
    fn sent(&mut self, outcome: Result<(), String>, batch: &[RowSpan]) {
        let endpoint = &self.config.endpoint;
        match outcome {
            Ok(()) if self.failing.take().is_some() => tracing::info!(%endpoint, "the collector takes spans again"),
            Ok(()) => {}
            Err(problem) => {
                batch.iter().for_each(|row| self.metrics.source(&row.source).trace_spans_dropped.inc_by(row.spans()));
                if self.failing.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    tracing::warn!(%endpoint, "the collector takes no spans, and they are dropped: {problem}");
                    self.failing = Some(Instant::now());
                }
            }
        }
    }
}

/// Sends one request on a connection of its own. There is at most one at a time.
async fn post(endpoint: &Endpoint, body: String) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect((endpoint.host(), endpoint.port)).await.map_err(|error| text(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(endpoint.path.as_str())
        .header(HOST, endpoint.authority.as_str())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| text(&error))?;
    let response = sender.send_request(request).await.map_err(|error| text(&error));
    let outcome = match response {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(refusal(response).await),
        Err(error) => Err(error),
    };
    connection.abort();
    outcome
}

/// What the collector says against a request.
async fn refusal(response: hyper::Response<hyper::body::Incoming>) -> String {
    let status: StatusCode = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map(http_body_util::Collected::to_bytes);
    let body = body.unwrap_or_default();
    let line: String = String::from_utf8_lossy(&body).chars().take(200).collect();
    format!("it answers {status}: {}", line.trim())
}
