//! Answers, failures, and how a process listens.

mod client;

pub use client::{Answer, Http};

use std::time::Duration;

use anyhow::{Context, Result};
use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_postgres::error::SqlState;

/// An answer: a status and JSON. The JSON mostly comes from Postgres as text, so that a number
/// keeps its digits.
#[derive(Debug)]
pub struct Reply(pub u16, pub String);

impl Reply {
    /// 200 with this JSON.
    pub fn ok(body: impl Into<Json>) -> Self {
        Self(200, body.into().0)
    }

    /// 201 with this JSON.
    pub fn created(body: impl Into<Json>) -> Self {
        Self(201, body.into().0)
    }
}

/// JSON as text.
#[derive(Debug)]
pub struct Json(String);

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(value.to_string())
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/json")], self.1).into_response()
    }
}

/// Why a request is not granted.
#[derive(Debug)]
pub enum Failure {
    /// 404
    NotFound(&'static str),
    /// 401
    Unauthorized,
    /// 409
    Conflict(String),
    /// 422
    Invalid(String),
    /// 402, of a payment
    Refused(String),
    /// 421: this process is not the one that writes the module, now.
    Elsewhere(&'static str),
    /// 503: worth trying again
    Unavailable(String),
    /// 500, or 503 when the database was the reason
    Internal(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Internal(error.into())
    }
}

impl Failure {
    fn status_and_text(self) -> (u16, String) {
        match self {
            Self::NotFound(what) => (404, format!("no such {what}")),
            Self::Unauthorized => (401, "wrong email or password".to_owned()),
            Self::Conflict(text) => (409, text),
            Self::Invalid(text) => (422, text),
            Self::Refused(text) => (402, text),
            Self::Elsewhere(module) => (421, format!("{module} are written elsewhere")),
            Self::Unavailable(text) => (503, text),
            Self::Internal(error) if is_put_away(&error) => (421, format!("{error:#}")),
            Self::Internal(error) if is_temporary(&error) => (503, format!("{error:#}")),
            Self::Internal(error) => {
                tracing::error!("{error:#}");
                (500, format!("{error:#}"))
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = self.status_and_text();
        Reply(status, json!({ "error": text }).to_string()).into_response()
    }
}

/// Whether the table was put away by the migration while the request was on its way here. The facade
/// sends such a request again, to where the domain is now.
fn is_put_away(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    code == Some(&SqlState::UNDEFINED_TABLE)
}

/// Whether the database was away, or asked for another attempt.
fn is_temporary(error: &anyhow::Error) -> bool {
    if error.downcast_ref::<deadpool_postgres::PoolError>().is_some() {
        return true;
    }
    let Some(error) = error.downcast_ref::<tokio_postgres::Error>() else { return false };
    let again = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::ADMIN_SHUTDOWN];
    let said = error.as_db_error();
    error.is_closed() || said.is_none() || said.is_some_and(|e| e.severity() == "FATAL" || again.contains(e.code()))
}

/// Listens until the process ends. A process that takes the place of a killed one waits for its
/// port.
pub async fn serve(address: &str, router: Router) -> Result<()> {
    let router = router.route("/health", axum::routing::get(async || Reply::ok(json!({ "ok": true }))));
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(address).await {
            tracing::info!("listening on {address}");
            return Ok(axum::serve(listener, router).await?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    TcpListener::bind(address).await.map(|_| ()).with_context(|| format!("cannot listen on {address}"))
}
