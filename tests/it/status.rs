//! `outboxd status` on real servers.

use anyhow::Result;
use serde_json::Value;

use crate::scene::{PATIENCE, Scene, halts, start, stop};

/// The one source, as `--json` shows it.
async fn status(scene: &Scene) -> Result<Value> {
    let (code, out, err) = scene.command(&["status", "--json"]).await?;
    assert_eq!(code, 0, "{out}{err}");
    Ok(serde_json::from_str::<Vec<Value>>(&out)?.remove(0))
}

fn codes(status: &Value) -> Vec<&str> {
    status["problems"].as_array().unwrap().iter().filter_map(|problem| problem["code"].as_str()).collect()
}

#[tokio::test]
async fn status_shows_a_source_before_while_and_after_a_daemon_runs() -> Result<()> {
    let mut scene = Scene::shared().await?;
    scene.insert(2).await?;
    let before = status(&scene).await?;
    assert_eq!((&before["phase"], &before["slot"]), (&Value::Null, &Value::Null), "{before}");
    assert_eq!(before["unpublished_rows"], 2, "{before}");

    let daemon = scene.streaming().await?;
    scene.oracle().await?.assert_clean();
    let running = status(&scene).await?;
    assert_eq!(running["phase"], "streaming", "{running}");
    assert_eq!(running["slot"]["active"], true, "{running}");
    assert_eq!(running["unpublished_rows"], 0, "{running}");
    assert!(codes(&running).is_empty(), "{running}");
    // The daemon goes on: status has fenced none of its producers.
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    assert!(!daemon.lines().iter().any(|line| line.contains("kafka-fenced")), "status fenced the daemon");

    stop(&daemon).await?;
    scene.insert(4).await?;
    let down = status(&scene).await?;
    assert_eq!(down["slot"]["active"], false, "{down}");
    assert_eq!(down["unpublished_rows"], 4, "{down}");
    assert!(down["lag_bytes"].as_u64().unwrap() > 0 && down["lag_seconds"].as_f64().unwrap() > 0.0, "{down}");
    let (code, table, _) = scene.command(&["status"]).await?;
    assert_eq!(code, 0);
    assert!(table.starts_with("SOURCE") && table.contains("streaming") && table.contains("inactive"), "{table}");
    Ok(())
}

#[tokio::test]
async fn a_side_that_cannot_be_reached_takes_only_its_own_numbers_away() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    stop(&daemon).await?;
    let nobody = testbed::ports::free()?;
    let broker = format!("127.0.0.1:{nobody}");
    let (code, out, _) = scene.command(&["status", "--json", "--brokers", &broker]).await?;
    assert_eq!(code, 0);
    let without_kafka = serde_json::from_str::<Vec<Value>>(&out)?.remove(0);
    assert_eq!(codes(&without_kafka), ["kafka-unreachable"], "{without_kafka}");
    assert!(without_kafka["slot"].is_object() && without_kafka["lag_bytes"].is_u64(), "{without_kafka}");

    scene.drop_slot().await?;
    assert_eq!(codes(&status(&scene).await?), ["slot-missing"]);
    scene
        .client
        .batch_execute(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", scene.slot()))
        .await?;
    assert_eq!(codes(&status(&scene).await?), ["slot-ahead"]);
    Ok(())
}

#[tokio::test]
async fn a_publication_that_changed_is_told_before_anybody_starts() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    stop(&daemon).await?;
    assert_eq!(codes(&status(&scene).await?), Vec::<&str>::new());
    scene.alter_publication("SET (publish = 'insert, update')").await?;
    assert_eq!(codes(&status(&scene).await?), ["publication-changed"]);
    Ok(())
}

/// The daemon answers with the same fields as the command, and says besides what it does.
#[tokio::test]
async fn the_daemon_and_the_command_give_one_answer() -> Result<()> {
    let mut scene = Scene::shared().await?;
    scene.insert(3).await?;
    let daemon = scene.streaming().await?;
    scene.oracle().await?.assert_clean();
    let command = status(&scene).await?;
    let own = testbed::eventually(PATIENCE, async || {
        let (_, body) = daemon.http_get("/status").await?;
        let own = serde_json::from_str::<Value>(&body)?["sources"][0].clone();
        anyhow::ensure!(own["slot"].is_object() && own["position"] == command["position"], "{own}");
        anyhow::Ok(own)
    })
    .await;
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let beside = ["last_error", "since", "state"];
    let shared: Vec<_> = names(&own).into_iter().filter(|name| !beside.contains(&name.as_str())).collect();
    assert_eq!(shared, names(&command));
    assert_eq!((&own["phase"], &own["slot"]["name"]), (&command["phase"], &command["slot"]["name"]));
    assert_eq!((&own["state"], &own["problems"]), (&Value::from("streaming"), &serde_json::json!([])), "{own}");
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_halted_beside_another_source_is_told_with_its_reason() -> Result<()> {
    let (scene, mut other) = (Scene::shared().await?, Scene::shared().await?);
    let listen = format!("127.0.0.1:{}", testbed::ports::free()?);
    let both = scene.config_with(&other).replace("{http}", &listen);
    let daemon = start(&both)?;
    testbed::eventually(PATIENCE, || async {
        tokio::net::TcpStream::connect(&listen).await?;
        anyhow::Ok(())
    })
    .await;
    let bad = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload)
               VALUES ('a/b', gen_random_uuid(), 'Bad', '{}')";
    scene.client.execute(bad, &[]).await?;
    daemon.wait_for_line(|line| line.contains("halted: ") && line.contains("row-invalid"), PATIENCE).await?;

    let ask = async |arguments: &[&str]| {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("outboxd.toml");
        std::fs::write(&file, &both)?;
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outboxd"));
        let output = command.arg("status").args(arguments).arg("--config").arg(&file).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output).await??;
        anyhow::Ok((output.status.code(), String::from_utf8(output.stdout)?))
    };
    let (code, out) = ask(&["--json"]).await?;
    assert_eq!(code, Some(0), "{out}");
    let told: Vec<Value> = serde_json::from_str(&out)?;
    assert_eq!((told[0]["state"].as_str(), codes(&told[0])), (Some("halted"), vec!["row-invalid"]), "{out}");
    assert_eq!((told[1]["state"].as_str(), codes(&told[1])), (Some("streaming"), vec![]), "{out}");
    let (code, out) = ask(&["--exit-code"]).await?;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("halted") && out.contains("row-invalid"), "{out}");
    other.insert(1).await?;
    other.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_row_that_halted_a_daemon_is_told_by_status_and_check_when_the_daemon_has_ended() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let bad = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload)
               VALUES ('a/b', gen_random_uuid(), 'Bad', '{}')";
    scene.client.execute(bad, &[]).await?;
    halts(&daemon, "row-invalid").await?;
    let told = status(&scene).await?;
    assert_eq!(codes(&told), ["row-invalid"], "{told}");
    assert!(told["problems"][0]["message"].as_str().is_some_and(|text| text.contains("order_outbox")), "{told}");
    let (code, out, _) = scene.command(&["status", "--exit-code"]).await?;
    assert_eq!(code, 1, "{out}");
    let (code, out, _) = scene.command(&["check"]).await?;
    let line = out.lines().find(|line| line.contains("rows that wait")).unwrap_or_default();
    assert!(code == 1 && line.contains("failed") && line.contains("[row-invalid]"), "{code}: {out}");

    Ok(())
}
