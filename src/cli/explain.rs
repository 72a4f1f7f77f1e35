//! `outboxd explain` prints the runbook's section of an error code.

use std::process::ExitCode;

use clap::{Args, builder::PossibleValuesParser};

use super::output::print;
use crate::{Code, Result, runbook};

/// The arguments of `explain`.
#[derive(Args)]
pub(super) struct ExplainArgs {
    /// A code as the log and `status` have it, or `ways-back`. Without it, all codes are listed.
    #[arg(value_parser = PossibleValuesParser::new(runbook::names()), hide_possible_values = true)]
    code: Option<String>,
}

/// Prints the section, or the list of codes with the first step of each.
pub(super) fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    print(|out| match args.code.as_deref().and_then(runbook::section) {
        Some(section) => writeln!(out, "{section}"),
        None => Code::ALL.iter().try_for_each(|code| writeln!(out, "{:<24} {}", code.as_str(), code.advice())),
    })?;
    Ok(ExitCode::SUCCESS)
}
