//! The runtime of a command: its threads, and how they end.

use std::process::ExitCode;

use crate::{Code, Error, Result, postgres::farewell};

/// Runs a command on a runtime. The caller has read the configuration before, so that a wrong one
/// costs no threads.
pub(crate) fn on_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Code::Internal, "cannot start threads").because(error))?;
    let outcome = runtime.block_on(async {
        let outcome = command.await;
        farewell::said().await;
        outcome
    });
    // A thread that is inside a library's call must not delay the end of the process.
    runtime.shutdown_background();
    outcome
}
