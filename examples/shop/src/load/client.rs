//! One customer's browser: it knows the facade, and connects again when that is replaced.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use axum::{
    body::Bytes,
    http::{Method, Request},
};
use http_body_util::Full;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Ledger;
use crate::web::{Answer, Http};

/// The facade itself tries for 15 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long a browser looks for a facade that is away.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// How long something that comes by events may take, also while a process is down.
const COMES_WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug, Clone)]
pub struct Shopper {
    http: Http,
    facade: String,
    number: u64,
    pub(super) ledger: Arc<Ledger>,
}

impl Shopper {
    #[must_use]
    pub fn new(facade: &str, ledger: Arc<Ledger>) -> Self {
        Self { http: Http::default(), facade: facade.to_owned(), number: fastrand::u64(..), ledger }
    }

    /// What this customer remembers.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Sends a request. Only a facade that does not answer at all is asked again.
    pub async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Answer> {
        self.send_with_key(method, path, body, Uuid::new_v4()).await
    }

    /// Sends a request with an `Idempotency-Key` of the caller's.
    pub async fn send_with_key(&self, method: Method, path: &str, body: &impl Serialize, key: Uuid) -> Result<Answer> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        self.ledger.begin(self.number, format!("{method} {path}"));
        let started = Instant::now();
        loop {
            let request = Request::builder()
                .method(method.clone())
                .uri(format!("http://{}{path}", self.facade))
                .header("content-type", "application/json")
                .header("idempotency-key", key.to_string())
                .body(Full::new(body.clone()))?;
            match self.http.send(request, ANSWER_WITHIN).await {
                Ok(answer) => {
                    let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.ledger.answered(took);
                    return Ok(answer);
                }
                Err(error) if started.elapsed() > CONNECT_WITHIN => bail!("{method} {path}: {error:#}"),
                Err(_) => {
                    self.ledger.reconnected();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Sends a request that has to succeed. Returns the body.
    pub async fn must(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Value> {
        let answer = self.send(method.clone(), path, body).await?;
        match answer.status {
            200..=202 => Ok(answer.json()),
            // Deleted already: an earlier attempt was carried out, and its answer was lost.
            404 if method == Method::DELETE => Ok(Value::Null),
            status => bail!("{method} {path}: {status} {}", answer.body),
        }
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &Value::Null).await
    }

    /// Reads again and again until it is as wanted. 404 means that it has not come yet.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let started = Instant::now();
        loop {
            let answer = self.get(path).await?;
            match answer.status {
                200 if wanted(&answer.json()) => return Ok(answer.json()),
                200 | 404 => {}
                status => bail!("GET {path}: {status} {}", answer.body),
            }
            if started.elapsed() > COMES_WITHIN {
                bail!("GET {path}: not as it should be within {COMES_WITHIN:?}: {}", answer.body);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// An id from an answer, as a path needs it: the monolith gives a number, a service a UUID.
pub(super) fn id(value: &Value) -> String {
    value["id"].as_str().map_or_else(|| value["id"].to_string(), str::to_owned)
}
