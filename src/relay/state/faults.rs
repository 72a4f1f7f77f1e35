//! The two ways in which the machine ends a session.

use crate::{Code, Error};

/// The server shows another history than the one that was published.
pub(super) fn diverged(what: String) -> Error {
    Error::new(Code::HistoryDiverged, what)
}

/// Something happened that cannot happen while machine and driver are right.
pub(super) fn internal(what: impl Into<String>) -> Error {
    Error::new(Code::Internal, what.into())
}

/// Ends the session if something that must hold does not.
#[cfg(debug_assertions)]
pub(super) fn require(holds: bool, what: &str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(internal(what)) }
}
