//! The daemon's wrapper, shown with a shell in the daemon's place.

use std::time::Duration;

use anyhow::Result;
use testbed::Daemon;

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn lines_signals_and_exit_codes_are_seen() -> Result<()> {
    let script = r#"trap 'echo draining >&2; exit 3' TERM; cat "$0"; while :; do sleep 0.05; done"#;
    let daemon =
        Daemon::builder("/bin/sh")?.args(&["-c", script, "{config}"]).config("listen = \"{http}\"\n").start()?;
    let line = daemon.wait_for_line(|line| line.contains("listen"), SOON).await?;
    assert!(line.contains(&daemon.http_address()));
    daemon.pause()?;
    daemon.term()?;
    assert!(daemon.wait_exit(Duration::from_millis(200)).await.is_err(), "a paused process handled a signal");
    daemon.resume()?;
    assert_eq!(daemon.wait_exit(SOON).await?, 3);
    daemon.wait_for_line(|line| line == "draining", SOON).await?;

    daemon.start_again()?;
    assert!(daemon.resident()? > 0);
    daemon.kill9()?;
    assert!(!daemon.is_running()?);
    Ok(())
}

#[tokio::test]
async fn an_ended_process_has_all_its_lines() -> Result<()> {
    for _ in 0..20 {
        // More than a reader takes at once, and less than a pipe holds: the process ends before it is read.
        let daemon = Daemon::builder("/bin/sh")?.args(&["-c", "seq 1 12000; exit 3"]).start()?;
        assert_eq!(daemon.wait_exit(SOON).await?, 3);
        assert_eq!(daemon.lines().len(), 12_000);
        assert!(daemon.wait_for_line(|line| line == "12001", SOON).await.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_process_has_all_its_lines() -> Result<()> {
    for _ in 0..20 {
        let script = r#"seq 1 12000; rm "$0"; exec sleep 60"#;
        let daemon = Daemon::builder("/bin/sh")?.args(&["-c", script, "{config}"]).config("").start()?;
        let config = std::fs::read_link(format!("/proc/{}/cwd", daemon.pid()?))?.join("config.toml");
        while config.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        daemon.kill9()?;
        assert_eq!(daemon.lines().len(), 12_000);
    }
    Ok(())
}
