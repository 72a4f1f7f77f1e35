//! Arguments to command to exit code, nothing else.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    outboxd::cli::Cli::parse().execute()
}
