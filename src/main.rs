//! Turns the arguments into a command and the command into an exit code, nothing else.

use std::process::ExitCode;

use clap::Parser;

/// docs/performance.md compares it with glibc's allocator, mimalloc and tcmalloc.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    outboxd::cli::Cli::parse().execute()
}
