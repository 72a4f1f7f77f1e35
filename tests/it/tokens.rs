//! A login by tokens that expire while the daemon runs (SASL/OAUTHBEARER).

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use testbed::{Daemon, Kafka, eventually};

use crate::scene::{PATIENCE, QUICK, Scene, insert_one, start, stop, wait_ready};

/// Prints a JWT that lives for so many seconds, and counts. `base64` knows no URL alphabet.
fn program(lives: u32, count: &Path) -> String {
    let script = format!(
        r#"echo >> {count}
b() {{ base64 -w0 | tr '+/' '-_' | tr -d '='; }}
exp=$(( $(date +%s) + {lives} ))
printf '%s.%s.' "$(printf '{{"alg":"none"}}' | b)" "$(printf '{{"sub":"outboxd","exp":%d}}' $exp | b)""#,
        count = count.display()
    );
    format!("token_command = ['sh', '-c', '''{script}''']")
}

async fn scene(token: &str) -> Result<(Scene, String)> {
    let scene = Scene::on_own_kafka(Kafka::builder(1).tokens().never_fenced()).await?;
    let options = "[kafka.options]\n\"security.protocol\" = \"sasl_plaintext\"";
    let scene = scene.with(QUICK).with_kafka(token).with_kafka(options);
    let config = scene.config_through(&scene.postgres.url(&scene.database), &scene.kafka.proxied_brokers()?);
    Ok((scene, config))
}

fn printed(count: &Path) -> Result<usize> {
    Ok(std::fs::read_to_string(count)?.lines().count())
}

fn no_token_in(daemon: &Daemon) {
    // The beginning of each JWT with this header.
    assert!(!daemon.lines().iter().any(|line| line.contains("eyJ")), "a token is in the log");
}

#[tokio::test]
async fn rows_flow_while_one_token_after_the_other_expires() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let count = folder.path().join("count");
    let (mut scene, config) = scene(&program(8, &count)).await?;
    let daemon = start(&config)?;
    wait_ready(&daemon).await;
    let load = scene.load_at(50);
    tokio::time::sleep(Duration::from_secs(20)).await;
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    // Nothing is published while the next ones expire.
    tokio::time::sleep(Duration::from_secs(12)).await;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    assert!(printed(&count)? >= 4, "{} tokens in more than half a minute", printed(&count)?);
    no_token_in(&daemon);
    stop(&daemon).await
}

#[tokio::test]
async fn a_token_that_the_brokers_refuse_is_replaced_without_a_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, count) = (folder.path().join("token"), folder.path().join("count"));
    let write = |header: &str, lives: u64| -> Result<()> {
        let url = |text: &str| {
            use base64::Engine as _;
            base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text)
        };
        let exp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + lives;
        Ok(std::fs::write(&file, format!("{}.{}.", url(header), url(&format!(r#"{{"sub":"outboxd","exp":{exp}}}"#))))?)
    };
    write(r#"{"alg":"none"}"#, 25)?;
    let (mut scene, config) = scene(&format!("token_file = {file:?}")).await?;
    let daemon = start(&config)?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.wait_records(3).await;
    // No validator of unsigned tokens takes one that claims to be signed.
    write(r#"{"alg":"RS256"}"#, 3600)?;
    eventually(PATIENCE, || async {
        insert_one(&scene, &scene.client).await?;
        let told = daemon.lines().iter().any(|line| line.contains("\"code\":\"kafka-auth-failed\""));
        ensure!(told, "it is not told");
        Ok(())
    })
    .await;
    write(r#"{"alg":"none"}"#, 3600)?;
    scene.oracle().await?.assert_clean();
    wait_ready(&daemon).await;
    no_token_in(&daemon);
    assert!(!count.exists());
    stop(&daemon).await
}

#[tokio::test]
async fn check_and_setup_log_in_with_a_token_and_say_what_is_wrong_with_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let count = folder.path().join("count");
    let (scene, config) = scene(&program(3600, &count)).await?;
    let (code, out, err) = scene.command_on(&config, &["setup"]).await?;
    assert_eq!(code, 0, "{out}{err}");
    let made = format!("created  topic {}", scene.position_topic);
    assert!(out.contains(&made), "{out}");
    let (code, out, err) = scene.command_on(&config, &["check"]).await?;
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(printed(&count)?, 2, "each command asked once");

    let broken = config.replace("b() {", "exit 7; b() {");
    let (code, out, err) = scene.command_on(&broken, &["check"]).await?;
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("kafka-auth-failed") && out.contains("token_command: sh ended with exit status: 7"), "{out}");
    Ok(())
}
