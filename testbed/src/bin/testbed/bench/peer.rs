//! The reference: `pg_recvlogical`, which throws away what it reads.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::setting::{Setting, say};

/// Longest time for a drain.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Measures how long it takes, from its start, to read the slot up to `end` with this publication.
pub(crate) async fn drain(
    setting: &Setting,
    database: &str,
    slot: &str,
    publication: &str,
    end: &str,
) -> Result<Duration> {
    say("pg_recvlogical drains");
    // Maven's servers come without it. The one on the path will do, since the protocol is the same.
    let beside = setting.version.install()?.join("bin/pg_recvlogical");
    let program = if beside.exists() { beside } else { PathBuf::from("pg_recvlogical") };
    let started = Instant::now();
    let mut reader = Command::new(program)
        .args(["--dbname", &setting.postgres.url(database), "--slot", slot, "--start", "--no-loop"])
        .args(["--endpos", end, "--file", "-", "--option", "proto_version=1"])
        .args(["--option", &format!("publication_names={publication}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let status = tokio::time::timeout(PATIENCE, reader.wait()).await.context("pg_recvlogical does not end")??;
    let took = started.elapsed();
    ensure!(status.success(), "pg_recvlogical ended with {status}");
    Ok(took)
}
