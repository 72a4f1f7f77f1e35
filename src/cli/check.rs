//! `outboxd check`: every precondition, one line each.

use std::{io, process::ExitCode};

use clap::Args;

use crate::{Code, Config, Error, Result, check, config::Flags};

/// The arguments of `check`.
#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) flags: Flags,
    /// Print the findings as a JSON array.
    #[arg(long)]
    pub(super) json: bool,
}

/// The exit code is 0 when nothing failed, and 1 otherwise.
pub(super) async fn check(config: Config, json: bool) -> Result<ExitCode> {
    let findings = check::check(&config).await;
    let mut out = io::stdout().lock();
    let written = if json { findings.print_json(&mut out) } else { findings.print(&mut out) };
    written.map_err(|error| Error::new(Code::Internal, "standard output is closed").because(error))?;
    Ok(ExitCode::from(u8::from(findings.has_failed())))
}
