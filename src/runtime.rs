//! The runtime of a command: its threads, how they end, and the signals that end the command.

use std::process::ExitCode;

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{Code, Error, Result, postgres::farewell};

/// Runs a command on a runtime. The caller has read the configuration before, so that a wrong one
/// costs no threads.
pub(crate) fn on_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Code::Internal, "cannot start threads").because(error))?;
    run_to_end(runtime, command)
}

/// Runs `work` and ends its runtime, once the goodbyes to the servers are said.
pub(crate) fn run_to_end<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(async {
        let outcome = work.await;
        farewell::said().await;
        outcome
    });
    // A thread that is inside a library's call must not delay the end of the process.
    runtime.shutdown_background();
    outcome
}

/// Resolves when SIGTERM or SIGINT comes, with its name. From now on neither ends the process by
/// itself.
///
/// # Errors
/// [`Code::Internal`]: the system does not tell of signals.
pub(crate) fn stop_signal() -> Result<impl Future<Output = &'static str> + Send + 'static> {
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    })
}

/// SIGHUP, which from now on does not end the process.
///
/// # Errors
/// As [`stop_signal`].
pub(crate) fn reload_signal() -> Result<Signal> {
    listen(SignalKind::hangup())
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::new(Code::Internal, "cannot listen for signals").because(error))
}
