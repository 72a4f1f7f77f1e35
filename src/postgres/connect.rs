//! One door for every session. It tries each host in turn, does TLS as `sslmode` says, and opens
//! the kind of session asked for.

use tokio::time::timeout;

use super::{
    client::ReplicationClient,
    options::{ConnectOptions, Host, SslMode},
    session::SqlSession,
    tls,
    transport::{Stream, Transport, dial},
};
use crate::{Code, Error, Result};

/// A kind of session that can be opened over a transport.
pub(super) trait Session: Sized {
    /// Logs in. `purpose` goes into the application name.
    async fn open(transport: Transport, options: &ConnectOptions, purpose: &str) -> Result<Self>;
    /// Whether the server takes writes.
    async fn is_writable(&mut self) -> Result<bool>;
}

impl ConnectOptions {
    /// Opens a connection that can stream a slot.
    ///
    /// Fails with `postgres-unreachable`, `postgres-auth-failed`, `postgres-tls-failed`,
    /// `postgres-exhausted` (no walsender left), `postgres-denied` (no REPLICATION attribute) or
    /// `postgres-unavailable`.
    pub(crate) async fn replication(&self) -> Result<ReplicationClient> {
        self.connect("").await
    }

    /// Opens an ordinary SQL session; its application name is `outboxd <purpose>`. Fails as
    /// [`Self::replication`].
    pub async fn sql(&self, purpose: &str) -> Result<SqlSession> {
        self.connect(purpose).await
    }

    /// Connects to the first host that will do. As in libpq, a refused login ends the search: the
    /// next host would refuse it, too, or is not the one that was meant.
    async fn connect<S: Session>(&self, purpose: &str) -> Result<S> {
        let mut failures: Vec<Error> = Vec::new();
        for host in &self.hosts {
            let password = self.credentials.current(self.connect_timeout, host, &self.database, &self.user).await?;
            let options = Self { password, ..self.clone() };
            match options.connect_to(host, purpose).await {
                Ok(session) => return Ok(session),
                Err(error) if error.code() == Code::PostgresAuthFailed => {
                    self.credentials.was_refused();
                    return Err(error);
                }
                Err(error) => failures.push(error),
            }
        }
        // Of several errors the last is returned, with the others in its text.
        let Some(last) = failures.pop() else { return Err(Error::new(Code::Internal, "no host to connect to")) };
        if failures.is_empty() {
            return Err(last);
        }
        let others: Vec<String> = failures.iter().map(Error::detail).collect();
        Err(last.about(format_args!("{}; then", others.join("; "))))
    }

    async fn connect_to<S: Session>(&self, host: &Host, purpose: &str) -> Result<S> {
        let first = self.attempt(host, purpose, self.tls.mode).await;
        let mut session: S = match first {
            // As in libpq, `prefer` takes plain text where encryption fails or pg_hba.conf does not
            // let it in.
            Err(error) if self.tls.mode == SslMode::Prefer && tls::may_fall_back(&error) => {
                match self.attempt(host, purpose, SslMode::Disable).await {
                    Ok(session) => session,
                    Err(_) => return Err(error),
                }
            }
            other => other?,
        };
        if !self.read_write {
            return Ok(session);
        }
        match timeout(self.connect_timeout, session.is_writable()).await {
            Ok(Ok(true)) => Ok(session),
            Ok(Ok(false)) => {
                let text = format!("{host}: the server is read-only (target_session_attrs=read-write)");
                Err(Error::new(Code::PostgresUnavailable, text))
            }
            Ok(Err(error)) => Err(error.about(host)),
            Err(_) => Err(silent(host)),
        }
    }

    async fn attempt<S: Session>(&self, host: &Host, purpose: &str, mode: SslMode) -> Result<S> {
        let stream = dial(host, self).await?;
        let login = async {
            let transport = match (stream, host) {
                (Stream::Tcp(stream), Host::Tcp(name, _)) if mode != SslMode::Disable => {
                    tls::secure(stream, name, &self.tls).await?
                }
                (stream, _) => Transport { stream, endpoint: None },
            };
            S::open(transport, self, purpose).await
        };
        match timeout(self.connect_timeout, login).await {
            Ok(outcome) => outcome.map_err(|error| error.about(host)),
            Err(_) => Err(silent(host)),
        }
    }
}

fn silent(host: &Host) -> Error {
    let text = format!("{host}: the server took the connection and did not answer in time");
    Error::new(Code::PostgresUnreachable, text)
}
