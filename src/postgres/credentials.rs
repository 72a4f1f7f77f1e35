//! The password of a connection, looked up for each connection. So a password that is changed on the
//! server, or a token that expires, needs no restart.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{options::Host, passfile};
use crate::{
    Code, Error, Result,
    config::{Password, Secret, password},
    program,
};

/// Where the password of a connection comes from. Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    /// From the configuration.
    Written(Secret),
    /// From libpq's password file: the one that the URL names, or the usual one, which need not be
    /// there.
    Passfile(Option<PathBuf>),
    File(PathBuf),
    Command(Arc<Printer>),
}

/// A program that prints the password.
#[derive(Debug)]
pub(super) struct Printer {
    line: Vec<String>,
    ttl: Duration,
    /// What it printed, and when.
    last: Mutex<Option<(Instant, Secret)>>,
}

impl Credentials {
    pub(super) fn of(password: &Password) -> Self {
        match password {
            Password::Written(secret) => Self::Written(secret.clone()),
            Password::File(path) => Self::File(path.clone()),
            Password::Command { line, ttl } => {
                Self::Command(Arc::new(Printer { line: line.clone(), ttl: *ttl, last: Mutex::default() }))
            }
        }
    }

    /// The password of this moment for a connection. A program has until `bound` to print it.
    pub(super) async fn current(
        &self,
        bound: Duration,
        host: &Host,
        database: &str,
        user: &str,
    ) -> Result<Option<Secret>> {
        match self {
            Self::Written(secret) => Ok(Some(secret.clone())),
            Self::Passfile(Some(path)) => passfile::password(path, host, database, user).map_err(refused),
            // A server that asks for no password needs no file.
            Self::Passfile(None) => {
                let found = passfile::usual().map(|path| passfile::password(&path, host, database, user));
                Ok(found.and_then(|found| {
                    found.unwrap_or_else(|problem| {
                        tracing::debug!(problem, "no password file");
                        None
                    })
                }))
            }
            Self::File(path) => password::in_file(path).map(Some).map_err(refused),
            Self::Command(printer) => printer.current(bound).await.map(Some),
        }
    }

    /// The server has refused the password, so a program is asked again.
    pub(super) fn was_refused(&self) {
        if let Self::Command(printer) = self {
            *printer.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

impl Printer {
    async fn current(&self, bound: Duration) -> Result<Secret> {
        if let Some((printed, secret)) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && printed.elapsed() < self.ttl
        {
            return Ok(secret.clone());
        }
        let line = self.line.clone();
        let printed = tokio::task::spawn_blocking(move || program::printed(&line, bound)).await;
        let printed = printed.map_err(|panic| Error::new(Code::Internal, "asking for a password").because(panic))?;
        let text = printed.map_err(|problem| refused(format!("password_command: {problem}")))?;
        let secret = password::one_line(&text).map_err(|_| self.refused("printed no password"))?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), secret.clone()));
        Ok(secret)
    }

    /// The arguments may hold secrets, so only the program is named.
    fn refused(&self, what: &str) -> Error {
        refused(format!("password_command: {} {what}", self.line.first().map_or("", String::as_str)))
    }
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(Code::PostgresAuthFailed, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    fn printed_by(script: &str, ttl: Duration) -> Credentials {
        let line = ["sh", "-c", script].map(str::to_owned).into();
        Credentials::of(&Password::Command { line, ttl })
    }

    async fn current(credentials: &Credentials) -> Result<String> {
        let host = Host::Tcp("db".to_owned(), 5432);
        Ok(credentials.current(BOUND, &host, "shop", "me").await?.unwrap().expose().to_owned())
    }

    #[tokio::test]
    async fn a_file_is_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pw");
        let credentials = Credentials::of(&Password::File(path.clone()));
        for password in ["old", "new"] {
            std::fs::write(&path, format!("{password}\n")).unwrap();
            assert_eq!(current(&credentials).await.unwrap(), password);
        }
        std::fs::remove_file(&path).unwrap();
        let error = current(&credentials).await.unwrap_err();
        assert_eq!(error.code(), Code::PostgresAuthFailed);
        assert!(error.detail().contains("cannot read"), "{error}");
    }

    #[tokio::test]
    async fn a_program_is_asked_again_when_its_answer_is_old_or_refused() {
        let once = printed_by("date +%N", Duration::from_secs(3600));
        let first = current(&once).await.unwrap();
        assert_eq!(current(&once).await.unwrap(), first);
        once.was_refused();
        assert_ne!(current(&once).await.unwrap(), first);
        let always = printed_by("date +%N", Duration::ZERO);
        assert_ne!(current(&always).await.unwrap(), current(&always).await.unwrap());
    }

    #[tokio::test]
    async fn a_program_that_fails_is_told_without_what_it_printed() {
        let cases = [
            ("echo s3cret; exit 3", "ended with exit status: 3"),
            ("printf ''", "printed no password"),
            ("printf 's3cret\\0'", "printed no password"),
        ];
        for (script, says) in cases {
            let error = current(&printed_by(script, Duration::ZERO)).await.unwrap_err();
            assert_eq!(error.code(), Code::PostgresAuthFailed, "{script}");
            assert!(error.detail().contains(says) && !error.detail().contains("s3cret"), "{script}: {error}");
        }
        let slow = printed_by("sleep 60", Duration::ZERO);
        let host = Host::Tcp("db".to_owned(), 5432);
        let error = slow.current(Duration::from_millis(50), &host, "shop", "me").await.unwrap_err();
        assert!(error.detail().contains("in time"), "{error}");
        let line = vec!["/no/such/program".to_owned()];
        let missing = Credentials::of(&Password::Command { line, ttl: Duration::ZERO });
        assert!(current(&missing).await.unwrap_err().detail().contains("/no/such/program cannot be run"));
    }
}
