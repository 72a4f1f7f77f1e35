//! `outboxd check`: every precondition, one line each.

use std::process::ExitCode;

use clap::Args;

use super::output::print;
use crate::{Config, Result, check, config::Flags};

/// The arguments of `check`.
#[derive(Args)]
pub(super) struct CheckArgs {
    /// Print the findings as a JSON array.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The exit code is 0 when nothing failed, and 1 otherwise.
pub(super) async fn check(config: Config, json: bool) -> Result<ExitCode> {
    let findings = check::check(&config).await;
    print(|out| if json { findings.print_json(out) } else { findings.print(out) })?;
    Ok(ExitCode::from(u8::from(findings.has_failed())))
}
