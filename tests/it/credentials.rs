//! Passwords that change while the daemon runs.

use std::path::Path;

use anyhow::Result;
use testbed::{Postgres, Version};

use crate::scene::{QUICK, Scene, stop, wait_code, wait_ready};

/// The role's password changes while rows stream, and the file is changed late. `line` is how the
/// configuration names the file.
async fn rotates(line: impl Fn(&Path) -> String) -> Result<()> {
    let postgres = Postgres::builder(Version::V15).hba("host all vera 127.0.0.1/32 scram-sha-256");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    std::fs::write(&file, "old\n")?;
    let mut scene = Scene::on_own_postgres(postgres).await?.with(&line(&file)).with(QUICK);
    scene
        .client
        .batch_execute("CREATE ROLE vera LOGIN REPLICATION PASSWORD 'old'; GRANT ALL ON order_outbox TO vera")
        .await?;
    let daemon = scene.daemon_as("vera")?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;

    scene
        .client
        .batch_execute(
            "ALTER ROLE vera PASSWORD 'new';
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'vera'",
        )
        .await?;
    scene.insert(3).await?;
    wait_code(&daemon, "postgres-auth-failed").await?;
    std::fs::write(&file, "new\n")?;
    scene.oracle().await?.assert_clean();
    wait_ready(&daemon).await;
    let shown = daemon.lines().iter().any(|line| line.contains("\"old\"") || line.contains("\"new\""));
    assert!(!shown, "a password is in the log");
    stop(&daemon).await
}

#[tokio::test]
async fn a_password_is_read_anew_for_each_connection() -> Result<()> {
    rotates(|file| format!("password_file = {file:?}")).await
}

#[tokio::test]
async fn a_password_is_printed_anew_once_it_was_refused() -> Result<()> {
    rotates(|file| format!("password_command = [\"cat\", {file:?}]\npassword_ttl = \"1h\"")).await
}
