//! Topics that the rows decide, where the brokers make none by themselves.

use anyhow::{Result, ensure};
use testbed::unique;

use crate::scene::{Scene, wait_ready};

/// `check` says before the first row is stuck what `run` would wait for, and `setup` makes it.
#[tokio::test]
async fn the_topics_of_waiting_rows_are_missed_by_check_and_made_by_setup() -> Result<()> {
    let scene = Scene::shared().await?.with("on_poison = \"dead-letter\"");
    let (book, game) = (unique("book"), unique("game"));
    for kind in [&book, &game] {
        let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                      VALUES ($1, gen_random_uuid(), 'Changed', '{}')";
        scene.client.execute(insert, &[kind]).await?;
    }
    let missing = [&book, &game].map(|kind| [format!("{kind}.events"), format!("{kind}.events.dead-letter")]).concat();

    let (code, out, err) = scene.command(&["check"]).await?;
    ensure!(code == 1, "{code}: {out}{err}");
    for topic in &missing {
        let is_said = |line: &&str| line.contains(&format!("topic {topic} ")) && line.contains("[topic-missing]");
        ensure!(out.lines().any(|line| is_said(&line)), "{topic} is not missed: {out}{err}");
    }

    let (code, out, err) = scene.command(&["setup", "--dry-run"]).await?;
    ensure!(code == 0 && missing.iter().all(|topic| out.contains(topic)), "{code}: {out}{err}");
    let (code, out, err) = scene.command(&["setup"]).await?;
    ensure!(code == 0, "{code}: {out}{err}");
    ensure!(out.contains("auto.create.topics.enable is off"), "whose topics later rows need is not said: {out}");
    let (code, out, err) = scene.command(&["check"]).await?;
    ensure!(code == 0, "{code}: {out}{err}");

    let daemon = scene.daemon()?;
    wait_ready(&daemon).await;
    scene.wait_marked("order_outbox").await;
    Ok(())
}

/// A row without the column that names its dead-letter topic goes to a topic that `setup` has made.
#[tokio::test]
async fn a_row_too_broken_to_name_its_dead_letter_topic_has_one() -> Result<()> {
    let scene = Scene::shared().await?.with("on_poison = \"dead-letter\"");
    scene.client.batch_execute("ALTER TABLE order_outbox ALTER aggregate_type DROP NOT NULL").await?;
    let (code, out, err) = scene.command(&["setup"]).await?;
    ensure!(code == 0, "{code}: {out}{err}");
    let daemon = scene.daemon()?;
    wait_ready(&daemon).await;
    let insert =
        "INSERT INTO order_outbox (aggregate_id, event_type, payload) VALUES (gen_random_uuid(), 'Changed', '{}')";
    scene.client.batch_execute(insert).await?;
    scene.wait_marked("order_outbox").await;
    Ok(())
}
