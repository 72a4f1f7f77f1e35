//! Ordinary SQL sessions, through the same door as the stream.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    ops::Deref,
    pin::pin,
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_postgres::{
    Client, Config, SimpleQueryMessage,
    config::{ChannelBinding as TheirBinding, SslMode, SslNegotiation},
    tls::{ChannelBinding, TlsConnect, TlsStream},
};

use super::{
    connect::Session,
    farewell,
    login::version_number,
    options::{self, ConnectOptions, NO_TRANSACTION_TIMEOUT, has_transaction_timeout},
    server_error::{ServerError, sql_error},
    transport::Transport,
};
use crate::{Code, Error, Result};

/// How long a session that was dropped may take to finish what it was doing and say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

/// An ordinary session, which derefs to [`Client`]. Dropping it closes it.
#[derive(Debug)]
pub struct SqlSession {
    client: Client,
    /// `None` while the session lives. Dropping this end closes the session.
    ended: watch::Receiver<Option<Ending>>,
    /// It carries the session, and says goodbye when the session was dropped.
    task: Option<JoinHandle<()>>,
}

impl Drop for SqlSession {
    fn drop(&mut self) {
        self.task.take().into_iter().for_each(farewell::leaves);
    }
}

/// Why the server ended a session. Each caller that asks gets an [`Error`] made of it.
#[derive(Debug, Clone)]
enum Ending {
    Server(ServerError),
    Connection(Code, String),
}

impl Deref for SqlSession {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl SqlSession {
    /// Waits until the session has ended and says why: `postgres-unavailable` when the server stops
    /// (57P01) or the connection breaks. Cancel-safe.
    pub(crate) async fn closed(&self) -> Error {
        let mut ended = self.ended.clone();
        let ending = ended.wait_for(Option::is_some).await.ok().and_then(|ending| ending.clone());
        match ending {
            Some(Ending::Server(error)) => error.during("the server ended the session"),
            Some(Ending::Connection(code, text)) => Error::new(code, text),
            None => Error::new(Code::PostgresUnavailable, "the session has ended"),
        }
    }
}

impl Session for SqlSession {
    async fn open(transport: Transport, options: &ConnectOptions, purpose: &str) -> Result<Self> {
        let config = configuration(options, purpose);
        let (client, connection) =
            config.connect_raw(transport, Secured).await.map_err(|error| sql_error("opening an SQL session", error))?;
        let version = connection.parameter("server_version").map_or(0, version_number);
        let (end, ended) = watch::channel(None);
        let task = tokio::spawn(async move {
            let mut connection = pin!(connection);
            let outcome = tokio::select! {
                outcome = &mut connection => outcome,
                // The session was dropped. The connection finishes by itself, unless the server
                // keeps it waiting.
                () = end.closed() => return drop(timeout(FAREWELL, connection).await),
            };
            drop(end.send(Some(ending(outcome))));
        });
        let session = Self { client, ended, task: Some(task) };
        if has_transaction_timeout(version) {
            let set = session.batch_execute(NO_TRANSACTION_TIMEOUT).await;
            set.map_err(|error| sql_error("setting up an SQL session", error))?;
        }
        Ok(session)
    }

    async fn is_writable(&mut self) -> Result<bool> {
        let answer = self.client.simple_query("SHOW transaction_read_only").await;
        let rows = answer.map_err(|error| sql_error("SHOW transaction_read_only", error))?;
        Ok(rows.iter().any(|row| matches!(row, SimpleQueryMessage::Row(row) if row.get(0) == Some("off"))))
    }
}

fn ending(outcome: Result<(), tokio_postgres::Error>) -> Ending {
    let Err(error) = outcome else {
        return Ending::Connection(Code::PostgresUnavailable, "the session has ended".to_owned());
    };
    match error.as_db_error() {
        Some(server) => Ending::Server(server.into()),
        None => {
            let error = sql_error("the session was lost", error);
            Ending::Connection(error.code(), error.detail())
        }
    }
}

fn configuration(options: &ConnectOptions, purpose: &str) -> Config {
    let mut config = Config::new();
    // The transport is open and secured by now. With "direct" TLS the library takes it as a TLS
    // stream, together with what SCRAM binds itself to, and sends no SSLRequest of its own.
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    config.channel_binding(match options.channel_binding {
        options::ChannelBinding::Disable => TheirBinding::Disable,
        options::ChannelBinding::Prefer => TheirBinding::Prefer,
        options::ChannelBinding::Require => TheirBinding::Require,
    });
    config.user(&options.user).dbname(&options.database);
    config.application_name(format!("{} {purpose}", options.application_name).trim_end());
    if let Some(password) = &options.password {
        config.password(password.expose());
    }
    // The library has no other way to set parameters. Ours come last and win.
    let mut parameters = options.options.clone().unwrap_or_default();
    for (name, value) in options.session_parameters() {
        parameters.push_str(&format!(" -c {name}={}", value.replace(' ', "\\ ")));
    }
    config.options(parameters);
    config
}

/// Hands the open transport over as it is.
struct Secured;

impl TlsConnect<Transport> for Secured {
    type Stream = Transport;
    type Error = Infallible;
    type Future = Ready<Result<Transport, Infallible>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.endpoint {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.clone()),
            None => ChannelBinding::none(),
        }
    }
}
