//! Calls to other processes, each with a time limit.

use std::time::Duration;

use anyhow::{Context, Result};
use axum::{
    body::Bytes,
    http::{Method, Request},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// A client that keeps its connections.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }
}

impl Http {
    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: Request<Full<Bytes>>, within: Duration) -> Result<Answer> {
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        tokio::time::timeout(within, exchange).await.with_context(|| format!("no answer within {within:?}"))?
    }

    /// Sends JSON.
    pub async fn json(&self, method: Method, url: &str, body: &Value, within: Duration) -> Result<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        self.send(request, within).await
    }

    /// Asks for something.
    pub async fn get(&self, url: &str, within: Duration) -> Result<Answer> {
        self.send(Request::builder().uri(url).body(Full::default())?, within).await
    }
}
