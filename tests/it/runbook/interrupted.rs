//! `recover` itself under faults: killed at each of its steps, interrupted half-way, and asked on a terminal.

use std::{io::Write, process::Stdio};

use anyhow::{Context, Result, ensure};
use testbed::{Daemon, Expect, unique};

use crate::{
    recover::{difference, goes_on},
    scene::{PATIENCE, Scene, TABLE, halts_again, wait_true},
};

/// The command as a process that can be killed.
fn recovering(scene: &Scene, strategy: &str, more: &[&str]) -> Result<Daemon> {
    let arguments = ["recover", "--config", "{config}", "--source", &scene.source, "--strategy", strategy, "--yes"];
    let config = scene.config().replace("{http}", "off");
    Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&[&arguments[..], more].concat()).config(&config).start()
}

/// How often a step is tried to be met.
const TRIES: usize = 20;

#[tokio::test]
async fn a_recovery_that_is_killed_at_each_of_its_steps_is_run_again_and_loses_and_repeats_nothing() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.advance_slot().await?;
    scene.insert(5).await?;
    halts_again(&daemon, "slot-ahead").await?;
    let mut killed = 0;
    for step in ["fencing every daemon", "writing the position", "dropping the slot"] {
        // On a busy machine the command may have ended before the signal comes. It is run again then,
        // as a person might: no daemon runs meanwhile.
        for _ in 0..TRIES {
            // Once the position says `creating`, recover finds no halt, and goes on only with --force.
            let command = recovering(&scene, "republish-unmarked", &["--force"])?;
            command.wait_for_line(|line| line.contains(step), PATIENCE).await?;
            if command.kill9().is_ok() {
                killed += 1;
                break;
            }
        }
    }
    // The last step is the shortest.
    assert!(killed > 1, "{killed} were killed");
    // Killed at the last step, it needs no other run: the daemon goes on from `creating`.
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly_whatever_the_order(14).await
}

/// Postgres makes no slot while a transaction is open. There `recover` is killed: it has dropped the old slot, and the
/// position says `creating`.
async fn from_now_killed_half_way() -> Result<(Scene, Daemon)> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.drop_slot().await?;
    halts_again(&daemon, "slot-missing").await?;
    let open = scene.postgres.client(&scene.database).await?;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
    let command = recovering(&scene, "from-now", &[])?;
    command.wait_for_line(|line| line.contains("making the slot anew"), PATIENCE).await?;
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
                 AND backend_type = 'walsender' AND wait_event_type = 'Lock'";
    wait_true(&scene.client, waits).await;
    command.kill9()?;
    ensure!(!command.lines().iter().any(|line| line.contains("done:")), "it was done before it was killed");
    open.batch_execute("ROLLBACK").await?;
    // The walsender may make the slot all the same, before it finds that its client is gone.
    wait_true(&scene.client, &waits.replace("> 0", "= 0")).await;
    Ok((scene, daemon))
}

#[tokio::test]
async fn from_now_that_was_interrupted_is_run_again_and_loses_exactly_what_it_said() -> Result<()> {
    let (mut scene, daemon) = from_now_killed_half_way().await?;
    let arguments = ["recover", "--source", &scene.source, "--strategy", "from-now", "--yes", "--force"];
    let (code, said, err) = scene.command(&arguments).await?;
    assert_eq!(code, 0, "{said}{err}");
    goes_on(&mut scene, &daemon).await?;
    let audit = scene.audit(Expect::UnmarkedTables(TABLE)).await?;
    assert_eq!(difference(&audit), (4, 0), "{audit}");
    Ok(())
}

#[tokio::test]
async fn from_now_that_was_interrupted_and_not_run_again_loses_nothing() -> Result<()> {
    let (mut scene, daemon) = from_now_killed_half_way().await?;
    goes_on(&mut scene, &daemon).await?;
    scene.oracle_whatever_the_order().await?.assert_clean();
    Ok(())
}

/// Runs `recover` on a terminal and types this. Gives back the exit code and everything that the terminal showed.
fn on_a_terminal(scene: &Scene, typed: &str) -> Result<(i32, String)> {
    let path = std::env::temp_dir().join(format!("outboxd-{}.toml", unique("terminal")));
    std::fs::write(&path, scene.config().replace("{http}", "off"))?;
    let command = format!(
        "{} recover --config {} --source {} --strategy republish-unmarked",
        env!("CARGO_BIN_EXE_outboxd"),
        path.display(),
        scene.source
    );
    let mut terminal = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    terminal.stdin.take().context("no stdin")?.write_all(format!("{typed}\n").as_bytes())?;
    let output = terminal.wait_with_output()?;
    std::fs::remove_file(&path)?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_only_the_name_of_the_source_lets_recover_go_on() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.stopped().await?;
    scene.insert(4).await?;
    scene.advance_slot().await?;
    halts_again(&daemon, "slot-ahead").await?;
    let before = scene.positions().await?;
    for typed in ["no", "yes", ""] {
        let (code, said) = on_a_terminal(&scene, typed)?;
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("Type the source's name") && said.contains("recover-refused"), "{said}");
    }
    assert_eq!(scene.positions().await?, before);
    halts_again(&daemon, "slot-ahead").await?;
    let (code, said) = on_a_terminal(&scene, &scene.source)?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("LOSES nothing") && said.contains("done: start the daemon"), "{said}");
    goes_on(&mut scene, &daemon).await?;
    scene.assert_exactly_whatever_the_order(9).await
}
