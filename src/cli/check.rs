//! `outboxd check`: every precondition, one line each.

use std::process::ExitCode;

use crate::{Code, Config, Error, Result};

/// 0 when nothing failed, 1 otherwise.
#[expect(clippy::unused_async, reason = "the preconditions are not connected yet")]
pub(super) async fn check(config: Config) -> Result<ExitCode> {
    let _ = config;
    Err(Error::new(Code::Internal, "check is not part of this build"))
}
