//! The daemon's page in a real browser, through an outage of Kafka, a halt, and the daemon's own end.

use anyhow::{Result, ensure};
use testbed::{Browser, Daemon, Kafka, documents, eventually};

use crate::scene::{Host, PATIENCE, Scene, metric, start, wait_code, wait_ready};

/// The number in the page's own words for a lag: `0.3 s`, `1 min 5 s`.
fn seconds(text: &str) -> Option<f64> {
    let mut words = text.split(' ');
    let mut seconds = 0.0;
    while let (Some(number), Some(unit)) = (words.next(), words.next()) {
        let number: f64 = number.parse().ok()?;
        seconds += number
            * match unit {
                "s" => 1.0,
                "min" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
    }
    Some(seconds)
}

/// What the page says the lag is, held against what the daemon's metric says at the same time.
async fn lag_is_true(browser: &mut Browser, daemon: &Daemon, source: &str) -> Result<f64> {
    let lag = format!(
        "[...document.querySelectorAll('#source-{source} dt')].find(dt => dt.innerText == 'Lag').nextElementSibling.innerText"
    );
    let before = metric(daemon, &format!("outboxd_replication_lag_seconds{{source=\"{source}\"}}")).await?;
    let text = browser.text(&lag).await?;
    let shown = seconds(&text);
    // The page may be as old as its pause and a slow answer.
    let is_true = shown.is_some_and(|shown| (shown - before).abs() < 8.0);
    ensure!(is_true, "the page says {text}, and the metric {before}");
    Ok(shown.unwrap_or_default())
}

#[tokio::test]
async fn the_page_says_what_is_true_while_kafka_is_away_and_after_a_halt_and_when_nobody_answers() -> Result<()> {
    let mut scene =
        Scene::on_kafka(Host::Own(Kafka::start().await?)).await?.with("[source.timeouts]\nbackoff_max = \"1s\"");
    let source = format!("#source-{}", scene.source);
    let ours = |what: &str| format!("{source} {what}");
    // A daemon goes on beside a halted source as long as it has another one.
    let other = Scene::shared().await?;
    let daemon = start(&scene.config_with(&other))?;
    wait_ready(&daemon).await;
    scene.insert(20).await?;
    scene.oracle().await?.assert_clean();
    let mut browser = Browser::open(&format!("http://{}/", daemon.http_address())).await?;
    browser.resize(900, 1000).await?;
    browser.wait(&ours("h2"), |text| text == scene.source).await?;
    browser.wait(&ours(".state"), |text| text.starts_with("streaming for")).await?;
    ensure!(browser.text("document.querySelectorAll('.why').length").await? == "0", "trouble without trouble");
    lag_is_true(&mut browser, &daemon, &scene.source).await?;
    // What a person has marked or opened stays as it is while the page changes.
    browser.text("document.body.dataset.kept = 'yes'").await?;
    let scheme = "getComputedStyle(document.body).backgroundColor";
    let light = browser.text(scheme).await?;
    browser.prefer_dark(true).await?;
    ensure!(browser.text(scheme).await? != light, "there is no dark mode");
    browser.prefer_dark(false).await?;

    scene.kafka.stop(0).await?;
    scene.insert(3).await?;
    browser.wait(&ours(".why"), |text| text.contains("kafka-") && text.contains("Next step:")).await?;
    browser.wait(&ours(".state"), |text| text.starts_with("retrying")).await?;
    eventually(PATIENCE, || async {
        let lag = metric(&daemon, &format!("outboxd_replication_lag_seconds{{source=\"{}\"}}", scene.source)).await?;
        ensure!(lag > 12.0, "the lag is {lag}");
        Ok(())
    })
    .await;
    browser
        .wait(&ours("dl"), |text| seconds(text.lines().nth(1).unwrap_or_default()).is_some_and(|lag| lag > 12.0))
        .await?;
    lag_is_true(&mut browser, &daemon, &scene.source).await?;
    let picture = browser.screenshot().await?;
    if documents::are_written() {
        std::fs::write(documents::path("docs/operating/page.png"), picture)?;
    }

    scene.kafka.start_again(0)?;
    browser.wait(&ours(".state"), |text| text.starts_with("streaming")).await?;
    browser.wait(&ours(""), |text| !text.contains("Next step:") && text.contains("Last errors")).await?;
    scene.oracle().await?.assert_clean();
    ensure!(browser.text("document.body.dataset.kept").await? == "yes", "the page was loaded anew");
    let svg = format!("document.querySelector('{}').getAttribute('aria-label')", ours("svg"));
    let outage = browser.text(&svg).await?;
    ensure!(outage.starts_with("Lag over the last hour: now"), "{outage}");

    scene.drop_publication().await?;
    wait_code(&daemon, "publication-changed").await?;
    browser.wait(&ours(".state"), |text| text.starts_with("halted")).await?;
    browser.wait(&ours(".why a"), |text| text == "publication-changed").await?;
    let link = format!("document.querySelector('{}').getAttribute('href')", ours(".why a"));
    let link = browser.text(&link).await?;
    ensure!(link == "/runbook#publication-changed", "{link}");
    browser.click(&ours(".why a")).await?;
    browser.wait("#publication-changed + p", |text| text == "Class: halt.").await?;
    Ok(())
}

/// A page that nobody feeds any more must not look like one that is up to date.
#[tokio::test]
async fn a_page_whose_daemon_is_gone_says_so() -> Result<()> {
    let scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    let mut browser = Browser::open(&format!("http://{}/", daemon.http_address())).await?;
    browser.wait(".state", |text| text.starts_with("streaming")).await?;
    ensure!(browser.text("document.querySelector('#silent').hidden").await? == "true", "it says so beforehand");
    daemon.kill9()?;
    browser.wait("#silent:not([hidden])", |text| text.starts_with("The daemon does not answer.")).await?;
    browser.wait("#silent time", |text| !text.is_empty()).await?;
    daemon.start_again()?;
    wait_ready(&daemon).await;
    browser.wait("#silent:not([hidden])", str::is_empty).await?;
    browser.wait(".state", |text| text.starts_with("streaming")).await
}
