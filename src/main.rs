//! Arguments to command to exit code, nothing else.

use std::process::ExitCode;

use clap::Parser;

/// Measured against glibc's, mimalloc and tcmalloc: docs/performance.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    outboxd::cli::Cli::parse().execute()
}
