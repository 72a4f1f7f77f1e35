//! Serves `/metrics`, `/livez`, `/readyz`, `/status` and a page at `/`, which a scraper, an
//! orchestrator and a person ask of a running daemon.
//!
//! Rule 33: readiness follows the stream, not the process. An instance that stands by, retries or
//! has halted is alive and not ready.

mod page;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    Code, Error, Result,
    source::standing::SourceState,
    telemetry::{Metrics, history},
};

/// A source is stuck when its supervisor has not moved for this time. By default every pause of the
/// backoff is shorter.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What is served.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// The metrics, and the state of each source.
    pub(crate) metrics: Metrics,
    /// True once the daemon drains. It is not ready any more.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Takes the address.
///
/// # Errors
///
/// [`Code::ConfigInvalid`] when the address is not this machine's, is taken, or may not be used.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let text = format!(
            "listen in [http]: cannot listen on {address}; allowed: a free address of this machine, or \"off\""
        );
        Error::new(Code::ConfigInvalid, text).because(error)
    })
}

/// Whether [`bind`] failed because somebody else has the address.
pub(crate) fn is_taken(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::AddrInUse)
}

/// Answers until `until` is done and the requests that are under way are answered.
///
/// # Errors
///
/// When the listener fails for good.
pub(crate) async fn serve(
    listener: TcpListener,
    served: Served,
    until: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/", get(index))
        .route("/runbook", get(async || html(page::runbook_page())))
        .route("/page.css", get(async || asset("text/css; charset=utf-8", page::STYLE)))
        .route("/page.js", get(async || asset("text/javascript; charset=utf-8", page::SCRIPT)))
        .with_state(served.clone());
    let serve = axum::serve(listener, routes).with_graceful_shutdown(until).into_future();
    let mut sample = tokio::time::interval(history::EVERY);
    tokio::pin!(serve);
    loop {
        tokio::select! {
            ended = &mut serve => return ended,
            _ = sample.tick() => served.metrics.sample(),
        }
    }
}

async fn index(State(served): State<Served>) -> Response {
    let stopping = *served.stopping.borrow();
    html(page::page(&served.metrics.views(), stopping, SystemTime::now()))
}

/// A page, which may load nothing but what the daemon serves.
fn html(page: maud::Markup) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
                          form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, page.into_string()).into_response()
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, text).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    match served.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn livez(State(served): State<Served>) -> Response {
    let stuck = served.metrics.stuck(STUCK_AFTER);
    answer(stuck.is_empty(), &json!({ "live": stuck.is_empty(), "stuck": stuck }))
}

/// With `?standby=ok` a source that stands by is as good as one that streams. An orchestrator that
/// takes unready pods out of service asks so.
async fn readyz(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    let standby_is_ok = query.is_some_and(|query| query.split('&').any(|pair| pair == "standby=ok"));
    let ready = is_ready(&served, standby_is_ok);
    let states: Vec<_> = served
        .metrics
        .standings()
        .iter()
        .map(|source| json!({ "source": source.source, "state": source.state() }))
        .collect();
    answer(ready, &json!({ "ready": ready, "stopping": *served.stopping.borrow(), "sources": states }))
}

async fn status(State(served): State<Served>) -> Response {
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": is_ready(&served, false),
        "stopping": *served.stopping.borrow(),
        "sources": served.metrics.standings(),
    });
    answer(true, &body)
}

fn is_ready(served: &Served, standby_is_ok: bool) -> bool {
    let sources = served.metrics.standings();
    let is_good = |state: SourceState| state.is_ready() || standby_is_ok && state == SourceState::Standby;
    !*served.stopping.borrow()
        && !sources.is_empty()
        && sources.iter().all(|source| source.state().is_some_and(is_good))
}

fn answer(good: bool, body: &Value) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;
    use crate::Lsn;

    struct Server {
        address: SocketAddr,
        metrics: Metrics,
        stopping: watch::Sender<bool>,
        end: tokio::sync::oneshot::Sender<()>,
        task: JoinHandle<std::io::Result<()>>,
    }

    async fn start() -> Server {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new();
        let (stopping, receiver) = watch::channel(false);
        let (end, ended) = tokio::sync::oneshot::channel();
        let served = Served { metrics: metrics.clone(), stopping: receiver };
        let task = tokio::spawn(serve(listener, served, async {
            let _ = ended.await;
        }));
        Server { address, metrics, stopping, end, task }
    }

    impl Server {
        /// The status code, the headers and the body.
        async fn get(&self, path: &str) -> (u16, String, String) {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), head.to_lowercase(), body.trim_end().to_owned())
        }
    }

    #[tokio::test]
    async fn readiness_follows_the_stream_of_every_source() {
        let server = start().await;
        assert_eq!(server.get("/readyz").await.0, 503);
        let (order, user) = (server.metrics.source("order"), server.metrics.source("user"));
        order.set_state(SourceState::Streaming);
        user.set_state(SourceState::Standby);
        let (code, _, body) = server.get("/readyz").await;
        assert_eq!(code, 503);
        assert_eq!(
            body,
            r#"{"ready":false,"sources":[{"source":"order","state":"streaming"},{"source":"user","state":"standby"}],"stopping":false}"#
        );
        user.set_state(SourceState::Streaming);
        assert_eq!(server.get("/readyz").await.0, 200);
        user.set_state(SourceState::Halted);
        assert_eq!(server.get("/readyz").await.0, 503);
        assert_eq!(server.get("/livez").await.0, 200);
        user.set_state(SourceState::Streaming);
        server.stopping.send(true).unwrap();
        assert_eq!(server.get("/readyz").await.0, 503);
    }

    #[tokio::test]
    async fn metrics_are_in_the_text_format() {
        let server = start().await;
        server.metrics.source("order").rows_marked.inc_by(7);
        let (code, head, body) = server.get("/metrics").await;
        assert_eq!(code, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("outboxd_rows_marked_total{source=\"order\"} 7"), "{body}");
    }

    #[tokio::test]
    async fn a_standby_is_ready_for_whoever_asks_so() {
        let server = start().await;
        let source = server.metrics.source("order");
        source.set_state(SourceState::Standby);
        assert_eq!(server.get("/readyz").await.0, 503);
        assert_eq!(server.get("/readyz?standby=ok").await.0, 200);
        assert_eq!(server.get("/readyz?standby=no").await.0, 503);
        source.set_state(SourceState::Retrying);
        assert_eq!(server.get("/readyz?standby=ok").await.0, 503);
        source.set_state(SourceState::Standby);
        server.stopping.send(true).unwrap();
        assert_eq!(server.get("/readyz?standby=ok").await.0, 503);
    }

    #[tokio::test]
    async fn status_shows_the_last_error_with_its_hint() {
        let server = start().await;
        let order = server.metrics.source("order");
        order.set_state(SourceState::Halted);
        order.set_position(Lsn(16));
        order.error(&Error::new(Code::SlotMissing, "slot outboxd_order"));
        let (code, _, body) = server.get("/status").await;
        assert_eq!(code, 200);
        let body: Value = serde_json::from_str(&body).unwrap();
        let source = &body["sources"][0];
        assert_eq!((source["state"].as_str(), source["position"].as_str()), (Some("halted"), Some("0/10")));
        assert_eq!(source["last_error"]["code"], "slot-missing");
        assert_eq!(source["last_error"]["hint"], Code::SlotMissing.hint());
        assert_eq!(server.get("/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn it_ends_when_told_to() {
        let server = start().await;
        // An idle connection must not delay the end.
        let _idle = TcpStream::connect(server.address).await.unwrap();
        server.end.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_a_configuration_error() {
        let server = start().await;
        let error = bind(server.address).await.unwrap_err();
        assert!(is_taken(&error));
        assert_eq!(
            error.to_string(),
            format!(
                "config-invalid: listen in [http]: cannot listen on {}; allowed: a free address of this machine, or \
                 \"off\": Address already in use (os error 98)",
                server.address
            )
        );
    }
}
