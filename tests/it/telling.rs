//! What a person reads of a daemon: its log, its state, its build, and why it waits.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Daemon, Kafka, Postgres, Version};

use crate::scene::{Host, PATIENCE, QUICK, Scene, start, stop, wait_code, wait_state};

/// The log lines with this message, as objects.
fn said(daemon: &Daemon, message: &str) -> Vec<Value> {
    let lines = daemon.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

/// The sum of a field over these lines.
fn sum(lines: &[Value], field: &str) -> u64 {
    lines.iter().filter_map(|line| line[field].as_u64()).sum()
}

#[tokio::test]
async fn the_log_says_how_many_rows_were_published_and_marked() -> Result<()> {
    let mut scene = Scene::shared().await?.with(QUICK);
    let daemon = scene.published(7).await?;
    stop(&daemon).await?;
    let lines = said(&daemon, "rows published and marked");
    assert_eq!((sum(&lines, "published"), sum(&lines, "marked")), (7, 7), "{:?}", daemon.lines());
    assert!(lines.iter().all(|line| line["source"] == scene.source.as_str()), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn draining_is_said_once() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(1).await?;
    stop(&daemon).await?;
    assert_eq!(said(&daemon, "draining").len(), 1, "{:?}", daemon.lines());
    assert_eq!(said(&daemon, "stopping")[0]["reason"], "SIGTERM", "{:?}", daemon.lines());
    Ok(())
}

#[tokio::test]
async fn the_first_lines_have_the_facts_as_fields() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let banner = said(&daemon, "outboxd starts");
    assert_eq!(banner[0]["version"], env!("CARGO_PKG_VERSION"), "{banner:?}");
    assert!(banner[0]["commit"].is_string(), "{banner:?}");
    let sources = said(&daemon, "source");
    let source = sources.first().with_context(|| format!("no line about the source in {:?}", daemon.lines()))?;
    let slot = format!("outboxd_{}", scene.source);
    let facts = [
        ("source", scene.source.as_str()),
        ("tables", "order_outbox"),
        ("slot", &slot),
        ("publication", &slot),
        ("topic", "{aggregate_type}.events"),
        ("brokers", &scene.kafka.brokers()),
        ("delivery", "exactly-once"),
        ("mark", "update"),
    ];
    for (field, value) in facts {
        assert_eq!(source[field], value, "{field} in {source}");
    }
    assert!(source["url"].as_str().unwrap_or_default().starts_with("postgres"), "{source}");
    Ok(())
}

#[tokio::test]
async fn a_build_from_a_clone_knows_its_commit() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let (_, text) = daemon.http_get("/metrics").await?;
    let commit = text.split_once("commit=\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
    let is_clone = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists();
    let is_hash = commit.len() >= 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(if is_clone { is_hash } else { commit == "unknown" }, "the commit is {commit:?}");
    Ok(())
}

#[tokio::test]
async fn a_start_without_kafka_is_retrying_and_says_why() -> Result<()> {
    let scene = Scene::shared().await?.with(QUICK);
    let nobody = format!("127.0.0.1:{}", testbed::ports::free()?);
    let daemon = start(&scene.config_through(&scene.postgres.url(&scene.database), &nobody))?;
    wait_state(&daemon, "retrying").await;
    // It stays in that state, whatever step of the next start it is at, until it has failed again.
    wait_code(&daemon, "kafka-unreachable").await?;
    let seen = daemon.lines().len();
    let again = daemon.wait_for_line_after(seen, |line| line.contains("kafka-unreachable"), PATIENCE);
    let looks = async {
        loop {
            let (_, body) = daemon.http_get("/status").await?;
            ensure!(body.contains("\"retrying\"") && body.contains("kafka-unreachable"), "the status is {body}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        line = again => line.map(drop),
        look = looks => look,
    }
}

#[tokio::test]
async fn a_refused_broker_is_told_from_a_name_that_nobody_knows() -> Result<()> {
    let scene = Scene::shared().await?;
    let nobody = format!("127.0.0.1:{}", testbed::ports::free()?);
    let ask = async |command: &str, (brokers, reason): (&str, &str)| {
        let (_, out, err) = scene.command(&[command, "--brokers", brokers]).await?;
        let text = format!("{out}{err}").to_lowercase();
        ensure!(text.contains("kafka-unreachable") && text.contains(reason), "{command} at {brokers}: {text}");
        ensure!(!text.contains("no answer in time"), "{command} at {brokers}: {text}");
        Ok(())
    };
    // Each of them is patient for a while.
    let (refused, unknown) = ((nobody.as_str(), "refused"), ("nobody.invalid:9092", "resolve"));
    tokio::try_join!(
        ask("status", refused),
        ask("check", refused),
        ask("setup", refused),
        ask("verify", refused),
        ask("status", unknown),
        ask("check", unknown),
        ask("setup", unknown),
        ask("verify", unknown),
    )?;
    Ok(())
}

#[tokio::test]
async fn no_command_hangs_up_without_goodbye() -> Result<()> {
    let postgres = Postgres::builder(Version::V15).setting("log_min_messages", "debug1");
    let mut scene = Scene::on_own_postgres(postgres).await?;
    for command in ["setup", "check", "status", "verify"] {
        let (code, out, err) = scene.command(&[command]).await?;
        ensure!(code == 0 || command != "setup", "{command}: {out}{err}");
        assert_eq!(hung_up(&scene)?, Vec::<String>::new(), "after {command}");
    }
    let daemon = scene.published(2).await?;
    stop(&daemon).await?;
    assert_eq!(hung_up(&scene)?, Vec::<String>::new(), "after run");
    scene.command(&["setup", "--source", &scene.source.clone()]).await?;
    let name = scene.source.clone();
    scene.command(&["recover", "--source", &name, "--strategy", "republish-unmarked", "--yes", "--force"]).await?;
    assert_eq!(hung_up(&scene)?, Vec::<String>::new(), "after recover");
    Ok(())
}

#[tokio::test]
async fn a_slot_of_our_name_in_another_database_is_said_and_not_waited_for() -> Result<()> {
    let scene = Scene::shared().await?;
    let slot = format!("outboxd_{}", scene.source);
    let (postgres, kafka) = (Postgres::shared(Version::V15).await?, Kafka::shared().await?);
    let database = postgres.fresh_database("books").await?;
    let books = Scene::within(Host::Shared(postgres), Host::Shared(kafka), database.clone()).await?;
    let books = books.with(&format!("slot = \"{slot}\""));
    let other = books.streaming().await?;
    for what in ["while another streams from it", "while nobody does"] {
        let daemon = scene.daemon()?;
        let line = wait_code(&daemon, "config-invalid").await?;
        assert!(line.contains(&slot) && line.contains(&database), "{what}: {line}");
        assert_eq!(daemon.wait_exit(PATIENCE).await?, 2, "{what}");
        for command in [["status"], ["setup"], ["check"]] {
            let (_, out, err) = scene.command(&command).await?;
            let text = format!("{out}{err}");
            assert!(text.contains("config-invalid") && text.contains(&database), "{what}, {command:?}: {text}");
        }
        if other.is_running()? {
            stop(&other).await?;
        }
    }
    Ok(())
}

/// The lines of the server's log about clients that went without a word.
fn hung_up(scene: &Scene) -> Result<Vec<String>> {
    let log = std::fs::read_to_string(scene.postgres.log_path()?)?;
    Ok(log.lines().filter(|line| line.contains("unexpected EOF")).map(str::to_owned).collect())
}
