//! Nothing outlives the process that started it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use testbed::{Postgres, Version, eventually};

#[tokio::test]
async fn servers_and_directories_go_when_their_parent_is_killed() -> Result<()> {
    let mut parent = Command::new(env!("CARGO_BIN_EXE_testbed")).arg("up").stdout(Stdio::piped()).spawn()?;
    let (mut pids, mut dirs) = (Vec::new(), Vec::new());
    for line in BufReader::new(parent.stdout.take().context("no stdout")?).lines() {
        let line = line?;
        if let Some((_, place)) = line.split_once("pid ") {
            let (pid, log) = place.trim_end_matches(')').split_once(", log ").context("no log")?;
            pids.push(pid.to_owned());
            dirs.push(Path::new(log).parent().context("no directory")?.to_owned());
        }
        if line.starts_with("ready") {
            break;
        }
    }
    assert_eq!(pids.len(), 2, "a Postgres and a broker");
    assert!(dirs.iter().all(|dir| dir.exists()));

    parent.kill()?;
    parent.wait()?;

    eventually(Duration::from_secs(10), async || gone(&pids, &dirs)).await;
    Ok(())
}

#[tokio::test]
async fn a_dropped_server_is_gone_at_once_even_when_paused() -> Result<()> {
    let server = Postgres::start(Version::V15).await?;
    let session = server.client("postgres").await?;
    let (pid, dir) = (server.pid()?.to_string(), server.socket_dir()?);
    let backend: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    server.pause()?;
    drop(server);
    gone(&[pid], &[dir])?;
    eventually(Duration::from_secs(5), async || gone(&[backend.to_string()], &[])).await;
    Ok(())
}

fn gone(pids: &[String], dirs: &[PathBuf]) -> Result<()> {
    for pid in pids {
        // A zombie that nobody reaps yet (an orphan in a container without an init) holds nothing any more.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if !state.is_empty() && !state.contains(") Z ") {
            bail!("process {pid} still runs");
        }
    }
    match dirs.iter().find(|dir| dir.exists()) {
        Some(dir) => bail!("{} still exists", dir.display()),
        None => Ok(()),
    }
}
