//! What the daemon of this configuration says of its sources, if one runs on this machine.
//!
//! A daemon asks too, when its address is taken: whoever has it may be another instance.
//!
//! Both servers tell how far a source is, but not why it stands still: a row that cannot be
//! published halts a daemon, and neither Postgres nor Kafka knows. So the command asks `/status` of
//! the address that the configuration gives to the daemon. Nobody has to answer.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    Code,
    source::standing::{DaemonState, LastError, Problem, SourceState, Standing},
};

/// Longest wait for the answer of a process on this machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// The largest answer that is read: some kilobytes for each source.
const ANSWER_MAX: usize = 4 << 20;

#[derive(Deserialize)]
struct Answer {
    sources: Vec<Said>,
}

/// A source, as `/status` shows it.
#[derive(Deserialize)]
struct Said {
    source: String,
    state: String,
    since: String,
    last_error: Option<SaidError>,
}

#[derive(Deserialize)]
struct SaidError {
    code: String,
    message: String,
    at: String,
    healed_at: Option<String>,
}

/// Adds to each standing what the daemon at this address does with the source. An error that has not
/// healed becomes a problem.
pub(crate) async fn add(listen: SocketAddr, standings: &mut [Standing]) {
    let Ok(Some(answer)) = timeout(PATIENCE, ask(reachable(listen))).await else { return };
    for said in answer.sources {
        if let Some(standing) = standings.iter_mut().find(|standing| standing.source == said.source)
            && let Some(daemon) = said.understood()
        {
            take(standing, daemon);
        }
    }
}

/// Whether a daemon answers at this address that has one of these sources.
pub(crate) async fn has_one_of(listen: SocketAddr, sources: &[&str]) -> bool {
    let answer = timeout(PATIENCE, ask(reachable(listen))).await.ok().flatten();
    answer.is_some_and(|answer| answer.sources.iter().any(|said| sources.contains(&said.source.as_str())))
}

fn take(standing: &mut Standing, daemon: DaemonState) {
    let stands_still = matches!(daemon.state, SourceState::Retrying | SourceState::Halted);
    if let Some(error) = daemon.last_error.as_ref().filter(|error| stands_still && error.healed_at.is_none())
        && standing.problems.iter().all(|problem| problem.code != error.problem.code)
    {
        standing.problems.push(error.problem.clone());
    }
    standing.daemon = Some(daemon);
}

/// Where a daemon that listens there can be reached from the same machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(loopback, listen.port())
}

/// `None` where nobody answers, or somebody else does.
async fn ask(address: SocketAddr) -> Option<Answer> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/status").header(HOST, address.to_string()).body(Empty::<Bytes>::new()).ok()?;
    let answer = async {
        let answer = sender.send_request(request).await.ok()?;
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    tokio::pin!(connection);
    tokio::select! {
        answer = answer => answer,
        _ = &mut connection => None,
    }
}

impl Said {
    /// The same in our own words. `None` if a daemon of another version has a state of which we do
    /// not know.
    fn understood(self) -> Option<DaemonState> {
        let state = SourceState::ALL.into_iter().find(|state| state.as_str() == self.state)?;
        let last_error = self.last_error.and_then(SaidError::understood);
        Some(DaemonState { state, since: moment(&self.since)?, last_error })
    }
}

impl SaidError {
    fn understood(self) -> Option<LastError> {
        let code = Code::ALL.iter().find(|code| code.as_str() == self.code)?;
        let problem = Problem { code: code.as_str(), message: self.message, hint: code.advice() };
        let healed_at = self.healed_at.as_deref().and_then(moment);
        Some(LastError { problem, at: moment(&self.at)?, healed_at })
    }
}

fn moment(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(state: &str, healed_at: Option<&str>) -> DaemonState {
        let (code, message) = ("row-invalid".to_owned(), "event \"7\"".to_owned());
        let (since, at) = ("2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:00:00Z".to_owned());
        let last_error = Some(SaidError { code, message, at, healed_at: healed_at.map(str::to_owned) });
        Said { source: "order".to_owned(), state: state.to_owned(), since, last_error }.understood().unwrap()
    }

    #[test]
    fn why_a_source_stands_still_is_a_problem_until_it_has_healed() {
        let problems = |daemon: DaemonState| {
            let mut standing = Standing::default();
            take(&mut standing, daemon);
            standing.problems.iter().map(|problem| problem.code).collect::<Vec<_>>()
        };
        assert_eq!(problems(said("halted", None)), ["row-invalid"]);
        assert_eq!(problems(said("retrying", None)), ["row-invalid"]);
        assert_eq!(problems(said("streaming", None)), [""; 0]);
        assert_eq!(problems(said("retrying", Some("2026-01-01T00:01:00Z"))), [""; 0]);
    }

    #[test]
    fn a_daemon_that_listens_everywhere_is_asked_here() {
        for (listen, asked) in [("0.0.0.0:9464", "127.0.0.1:9464"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[tokio::test]
    async fn whoever_else_answers_is_passed_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let other = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
        });
        let mut standings = [Standing { source: "order".to_owned(), ..Standing::default() }];
        add(address, &mut standings).await;
        assert!(standings[0].daemon.is_none());
        other.await.unwrap();
        assert!(!has_one_of(address, &["order"]).await);
        add(address, &mut standings).await;
        assert!(standings[0].daemon.is_none());
    }
}
