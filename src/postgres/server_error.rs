//! What the server reports (ErrorResponse, NoticeResponse), and which of our codes that is.
//!
//! Pages: "Error and Notice Message Fields", "PostgreSQL Error Codes".

use std::{error::Error as StdError, fmt};

use super::transport::is_tls;
use crate::{Code, Error};

/// An error or notice as the server sent it. It is the cause of the [`Error`] made from it; see
/// [`server_error`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, or for a notice `WARNING`, `NOTICE`, …. It is never translated.
    pub(crate) severity: String,
    /// Five characters.
    pub(crate) sqlstate: String,
    /// In the server's language.
    pub(crate) message: String,
    /// More, where there is more.
    pub(crate) detail: Option<String>,
    /// What to do, in the server's words.
    pub(crate) hint: Option<String>,
    /// Where in a plugin or function it happened.
    pub(crate) context: Option<String>,
    /// The C function that reported it. Unlike `message` it is never translated.
    pub(crate) routine: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " (detail: {detail})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl StdError for ServerError {}

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse. What is missing or cut off stays
    /// empty.
    pub(super) fn parse(mut body: &[u8]) -> Self {
        let mut error = Self::default();
        while let Some((&field, rest)) = body.split_first().filter(|(field, _)| **field != 0) {
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            let text = String::from_utf8_lossy(&rest[..end]).into_owned();
            match field {
                // S is the severity translated, V the severity as it is. V is there from 9.6 on,
                // always after S.
                b'S' | b'V' => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'W' => error.context = Some(text),
                b'R' => error.routine = Some(text),
                _ => {}
            }
            body = rest.get(end + 1..).unwrap_or_default();
        }
        error
    }

    /// The code that an operator meets.
    #[must_use]
    pub(crate) fn code(&self) -> Code {
        let routine = self.routine.as_deref().unwrap_or_default();
        match self.sqlstate.as_str() {
            "3D000" => Code::PostgresAuthFailed,
            // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout
            "57P01" | "57P02" | "57P03" | "57P05" => Code::PostgresUnavailable,
            "53300" | "53400" => Code::PostgresExhausted,
            "42501" => Code::PostgresDenied,
            "42P01" => Code::TableMissing,
            "42703" => Code::ColumnInvalid,
            "55006" => Code::SlotInUse,
            "42704" if routine.contains("ReplicationSlot") => Code::SlotMissing,
            "42704" if routine.to_lowercase().contains("publication") => Code::PublicationMissing,
            // Every translation has the parameter's name.
            "55000" if self.message.contains("wal_level") => Code::WalLevel,
            "55000" if self.says_slot_invalidated(routine) => Code::SlotLost,
            "58P01" if routine == "WalSndSegmentOpen" || self.message.contains("WAL segment") => Code::SlotLost,
            state if state.starts_with("28") => Code::PostgresAuthFailed,
            // Postgres has no such error. PgBouncer knows no other parameters than some: not `replication`
            // before 1.23, not `options` before 1.20, and of those in `options` only a few.
            "08P01" if self.message.starts_with("unsupported startup parameter") => Code::PostgresPooler,
            state if state.starts_with("08") => Code::PostgresUnavailable,
            _ => Code::PostgresQueryFailed,
        }
    }

    /// Whether the server says that a slot is invalidated. 13–15 say "cannot read from logical
    /// replication slot", 16–17 "can no longer get changes from replication slot", 18 "can no
    /// longer access replication slot" (in ReplicationSlotAcquire, which reports nothing else as
    /// 55000).
    fn says_slot_invalidated(&self, routine: &str) -> bool {
        routine == "ReplicationSlotAcquire"
            || self.message.starts_with("can no longer ")
            || self.message.starts_with("cannot read from logical replication slot")
            || self.detail.as_ref().is_some_and(|detail| detail.contains("has been invalidated"))
    }

    /// The error that `context` ran into. Its code comes from the SQLSTATE, and this is its cause.
    pub(super) fn during(self, context: impl Into<String>) -> Error {
        Error::new(self.code(), context).because(self)
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        Self {
            severity: error.severity().to_owned(),
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            context: error.where_().map(str::to_owned),
            routine: error.routine().map(str::to_owned),
        }
    }
}

/// What the server said, if `error` came from the server.
#[must_use]
pub fn server_error(error: &Error) -> Option<&ServerError> {
    error.source()?.downcast_ref()
}

/// The SQLSTATE, if `error` came from the server.
#[must_use]
pub fn sqlstate(error: &Error) -> Option<&str> {
    server_error(error).map(|server| server.sqlstate.as_str())
}

/// Maps an error of an SQL session. `context` says what was being done, and to what.
///
/// What the server reported becomes a [`ServerError`] as the cause. A broken or closed connection
/// is `postgres-unavailable`.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "called as map_err(|error| sql_error(context, error))")]
pub fn sql_error(context: &str, error: tokio_postgres::Error) -> Error {
    if let Some(server) = error.as_db_error() {
        return ServerError::from(server).during(context);
    }
    let text = error.to_string();
    let io = error.source().and_then(<dyn StdError>::downcast_ref::<std::io::Error>);
    // The library does not show its kinds of error, so only its texts tell them apart. A SCRAM
    // failure has an `io::Error` inside.
    let code = if text.starts_with("authentication error") || text.starts_with("invalid configuration") {
        Code::PostgresAuthFailed
    } else if io.is_some_and(is_tls) {
        Code::PostgresTlsFailed
    } else if error.is_closed() || io.is_some() {
        Code::PostgresUnavailable
    } else {
        Code::PostgresQueryFailed
    };
    Error::new(code, context).because(text_of(&error))
}

/// The library's text with its causes. The library's error itself does not become a cause of ours,
/// since it may hold the rows of a query.
fn text_of(error: &tokio_postgres::Error) -> String {
    let text = error.to_string();
    match error.source().map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (field, text) in fields {
            body.push(*field);
            body.extend(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }

    fn code(sqlstate: &str, message: &str, routine: &str) -> Code {
        ServerError::parse(&body(&[(b'C', sqlstate), (b'M', message), (b'R', routine)])).code()
    }

    #[test]
    fn every_field_is_read_and_shown() {
        let fields = [
            (b'S', "FEHLER"),
            (b'V', "ERROR"),
            (b'C', "55006"),
            (b'M', "replication slot \"s\" is active for PID 7"),
            (b'D', "d"),
            (b'H', "h"),
            (b'P', "12"),
        ];
        let error = ServerError::parse(&body(&fields)).during("slot s");
        assert_eq!(
            error.to_string(),
            "slot-in-use: slot s: ERROR 55006: replication slot \"s\" is active for PID 7 (detail: d) (hint: h)"
        );
        assert_eq!(sqlstate(&error), Some("55006"));
        assert_eq!(sqlstate(&Error::new(Code::Internal, "x")), None);
    }

    #[test]
    fn a_report_cut_anywhere_is_read_as_far_as_it_goes() {
        let whole = body(&[(b'C', "57P01"), (b'M', "terminating")]);
        for end in 0..whole.len() {
            ServerError::parse(&whole[..end]);
        }
        assert_eq!(ServerError::parse(&whole[..7]).sqlstate, "57P01");
    }

    #[test]
    fn the_states_that_matter_have_their_codes() {
        for (state, message, routine, expected) in [
            ("28P01", "", "", Code::PostgresAuthFailed),
            ("28000", "", "", Code::PostgresAuthFailed),
            ("3D000", "", "", Code::PostgresAuthFailed),
            ("57P01", "", "", Code::PostgresUnavailable),
            ("57P03", "", "", Code::PostgresUnavailable),
            ("08006", "", "", Code::PostgresUnavailable),
            ("53300", "", "", Code::PostgresExhausted),
            ("53400", "", "", Code::PostgresExhausted),
            ("42501", "", "", Code::PostgresDenied),
            ("42P01", "", "", Code::TableMissing),
            ("42703", "", "", Code::ColumnInvalid),
            ("55006", "", "", Code::SlotInUse),
            ("42704", "", "ReplicationSlotAcquire", Code::SlotMissing),
            ("42704", "", "get_publication_oid", Code::PublicationMissing),
            ("42704", "type \"x\" does not exist", "typenameType", Code::PostgresQueryFailed),
            ("55000", "logical decoding requires wal_level >= logical", "", Code::WalLevel),
            ("55000", "can no longer get changes from replication slot \"s\"", "", Code::SlotLost),
            ("55000", "sequence not yet used", "", Code::PostgresQueryFailed),
            ("58P01", "requested WAL segment 0001 has already been removed", "", Code::SlotLost),
            ("58P01", "could not access file \"$libdir/x\"", "", Code::PostgresQueryFailed),
            ("23505", "", "", Code::PostgresQueryFailed),
        ] {
            assert_eq!(code(state, message, routine), expected, "{state} {message}");
        }
    }
}
