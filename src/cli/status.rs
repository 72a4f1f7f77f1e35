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
    /// End with 1 where something keeps a source from publishing.
    #[arg(long)]
    pub(super) exit_code: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// Without `exit_code` the exit code is always 0: what the command could not learn is part of the
/// answer.
pub(super) async fn status(config: Config, json: bool, exit_code: bool) -> Result<ExitCode> {
    let mut tasks = Vec::new();
    for source in config.sources.clone() {
        let kafka = config.kafka.clone();
        tasks.push(tokio::spawn(async move { status::of(&source, &kafka).await }));
    }
    let mut standings = Vec::new();
    for task in tasks {
        standings.push(task.await.map_err(|panic| Error::new(Code::Internal, "asking a source").because(panic))?);
    }
    if let Some(listen) = config.http.listen {
        status::add_daemon(listen, &mut standings).await;
    }
    status::add_stops(&config.sources, &config.kafka.position_topic, &mut standings).await;
    print(|out| {
        if json {
            serde_json::to_writer_pretty(&mut *out, &standings).map_err(io::Error::from).and_then(|()| writeln!(out))
        } else {
            status::print(&standings, out)
        }
    })?;
    let is_bad = standings.iter().any(|standing| !standing.problems.is_empty());
    Ok(ExitCode::from(u8::from(exit_code && is_bad)))
}
