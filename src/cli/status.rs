//! `outboxd status` shows where each source stands, also while no daemon runs.

use std::{io, process::ExitCode};

use clap::Args;

use super::output::print;
use crate::{Code, Config, Error, Result, config::Flags, status};

/// The arguments of `status`.
#[derive(Args)]
pub(super) struct StatusArgs {
    /// Print a JSON array.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The exit code is always 0: what the command could not learn is part of the answer.
pub(super) async fn status(config: Config, json: bool) -> Result<ExitCode> {
    let mut tasks = Vec::new();
    for source in config.sources {
        let kafka = config.kafka.clone();
        tasks.push(tokio::spawn(async move { status::of(&source, &kafka).await }));
    }
    let mut standings = Vec::new();
    for task in tasks {
        standings.push(task.await.map_err(|panic| Error::new(Code::Internal, "asking a source").because(panic))?);
    }
    print(|out| {
        if json {
            serde_json::to_writer_pretty(&mut *out, &standings).map_err(io::Error::from).and_then(|()| writeln!(out))
        } else {
            status::print(&standings, out)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
