//! Every query of the dashboard and of the alerts, on a run in which everything happens that they show.

use std::{ops::Range, time::SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Daemon, Prometheus, eventually, prometheus::Series};

use super::{alerts, kafka, now, rule, value, wait_alert};
use crate::scene::{PATIENCE, QUICK, Scene, metric, stop, tail, wait_ready};

const DASHBOARD: &str = include_str!("../../../config/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../config/prometheus-alerts.yml");

/// The step of the range queries, in seconds.
const STEP: u32 = 5;

/// What Grafana takes for the interval between scrapes where its data source does not say, in seconds.
const DATASOURCE_INTERVAL: u32 = 15;

/// The counter of processor time has whole seconds, and a short run may take less than one.
const MAY_BE_ZERO: &[&str] = &["Processor A"];

/// A query of a panel.
struct Query {
    panel: String,
    expression: String,
    legend: String,
    is_instant: bool,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn queries(dashboard: &Value) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let targets = panel["targets"].as_array().with_context(|| format!("no queries in {panel}"))?;
        queries.extend(targets.iter().map(|target| Query {
            panel: format!("{} {}", text(&panel["title"]), text(&target["refId"])),
            expression: text(&target["expr"]),
            legend: text(&target["legendFormat"]),
            is_instant: target["instant"] == true,
        }));
    }
    ensure!(queries.len() > 20, "the dashboard has {} queries", queries.len());
    Ok(queries)
}

/// The values of the dashboard's one variable.
async fn sources(prometheus: &Prometheus, dashboard: &Value) -> Result<Vec<String>> {
    let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
    let variable = variables.iter().find(|variable| variable["name"] == "source").context("no $source")?;
    let query = text(&variable["query"]["query"]);
    let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (selector, label) = inside.and_then(|inside| inside.rsplit_once(", ")).with_context(|| query.clone())?;
    prometheus.label_values(label, selector).await
}

impl Query {
    /// The expression with its variables as Grafana fills them in.
    /// Source: Grafana documentation, "Prometheus template variables".
    fn filled_in(&self, sources: &[String]) -> Result<String> {
        let rate_interval = (STEP + DATASOURCE_INTERVAL).max(4 * DATASOURCE_INTERVAL);
        let filled = self
            .expression
            .replace("$__rate_interval", &format!("{rate_interval}s"))
            .replace("$source", &format!("({})", sources.join("|")));
        ensure!(!filled.contains('$'), "{}: a variable is unknown: {filled}", self.panel);
        Ok(filled)
    }

    async fn run(&self, prometheus: &Prometheus, sources: &[String], window: Range<f64>) -> Result<()> {
        let expression = self.filled_in(sources)?;
        let found = match self.is_instant {
            true => prometheus.query(&expression).await?,
            false => prometheus.range(&expression, window, STEP).await?,
        };
        // A panel in which all is NaN is as empty as one without a series. One that never leaves zero has not been seen
        // to show anything.
        let may_be_zero = MAY_BE_ZERO.contains(&&*self.panel);
        let is_shown = |value: f64| value > 0.0 || may_be_zero && !value.is_nan();
        let shows = |series: &Series| series.samples.iter().any(|sample| is_shown(sample.value));
        ensure!(found.iter().any(shows), "{} shows nothing: {expression}\n{found:?}", self.panel);
        for label in self.legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
            let has_it = found.iter().all(|series| series.labels.contains_key(label));
            ensure!(has_it, "{}: the legend names {label}, which the series do not have: {found:?}", self.panel);
        }
        Ok(())
    }
}

/// The series that an expression selects, each with its matchers: `name{label="value"}`.
fn selectors(expression: &str) -> Vec<String> {
    let starts = expression.match_indices("outboxd_").map(|(at, _)| at);
    starts
        .map(|at| {
            let rest = &expression[at..];
            let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let matchers = rest[name..].starts_with('{').then(|| rest[name..].find('}')).flatten();
            rest[..matchers.map_or(name, |end| name + end + 1)].to_owned()
        })
        .collect()
}

/// The rules are loaded, none is in error, and what they select is there.
async fn assert_rules(prometheus: &Prometheus) {
    let alerts = ALERTS.matches("- alert: ").count();
    eventually(PATIENCE, || async {
        let rules = prometheus.rules().await?;
        ensure!(rules.len() == 2 * alerts && alerts > 5, "{} of twice {alerts} rules are loaded", rules.len());
        for rule in rules {
            ensure!(rule["health"] == "ok", "a rule is not well: {rule}");
            let expression = text(&rule["query"]);
            prometheus.query(&expression).await?;
            let selectors = selectors(&expression);
            ensure!(!selectors.is_empty(), "{expression} selects nothing of ours");
            for selector in selectors {
                let found = prometheus.query(&selector).await?;
                ensure!(!found.is_empty(), "{} asks for {selector}, which nobody exposes", rule["name"]);
            }
        }
        Ok(())
    })
    .await;
}

async fn reaches(daemon: &Daemon, series: &str) {
    eventually(PATIENCE, || async {
        let value = metric(daemon, series).await?;
        ensure!(value > 0.0, "{series} is {value}\n{}", tail(daemon));
        Ok(())
    })
    .await;
}

/// A row with a topic and a mark that a row should not have.
const ODD: &str = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, published_at) \
                   VALUES ($1, gen_random_uuid(), 'Odd', '{}', $2)";

/// A dead letter, a row that comes with its mark, and a transaction that the walsender has to write to disk.
async fn odd_rows(scene: &mut Scene) -> Result<()> {
    scene.client.execute(ODD, &[&"not a topic!", &None::<SystemTime>]).await?;
    scene.client.execute(ODD, &[&scene.aggregate, &Some(SystemTime::now())]).await?;
    scene.insert(3000).await.map(drop)
}

#[tokio::test]
async fn every_query_of_the_dashboard_and_of_the_alerts_finds_what_a_run_exposes() -> Result<()> {
    let scene = Scene::on_kafka(kafka().await?).await?;
    let letters = format!("{}.letters", scene.aggregate);
    scene.kafka.create_topic(&letters, 1, &[]).await?;
    let poison = format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{letters}\"");
    let mut scene = scene.with(&poison).with(QUICK).with_kafka("delivery_timeout = \"8s\"");
    let small = format!("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'", scene.database);
    scene.client.batch_execute(&small).await?;
    // The alert on the lag, with bounds that a test can wait for.
    let quickly = ALERTS.replace("name: outboxd", "name: quickly").replace("> 60", "> 6").replace("for: 5m", "for: 2s");
    let rules = tempfile::tempdir()?;
    let path = rules.path().join("quickly.yml");
    std::fs::write(&path, quickly)?;

    // Rows from before the slot are taken by a backfill. A dead letter from before the first scrape is told as well.
    scene.insert(50).await?;
    scene.client.execute(ODD, &[&"not a topic!", &None::<SystemTime>]).await?;
    let began = now();
    let daemon = scene.daemon()?;
    reaches(&daemon, "outboxd_dead_letters_total").await;
    let prometheus = Prometheus::start(&[daemon.http_address()], &[&alerts(), &path]).await?;
    wait_ready(&daemon).await;
    assert_rules(&prometheus).await;
    wait_alert(&prometheus, "outboxd", "OutboxdDeadLetters", "firing").await;
    let load = scene.load_at(10);
    odd_rows(&mut scene).await?;
    for series in ["outboxd_rows_passed_over_total", "outboxd_slot_spilled_bytes", "outboxd_rows_marked_total"] {
        reaches(&daemon, series).await;
    }

    // A broker that is stopped under load can leave a transaction open (`position-unstable`), and no start goes on then.
    scene.kafka.pause(0)?;
    wait_alert(&prometheus, "outboxd", "OutboxdNotStreaming", "pending").await;
    wait_alert(&prometheus, "quickly", "OutboxdLagging", "firing").await;
    eventually(PATIENCE, || async {
        let errors = value(&prometheus, "sum(increase(outboxd_errors_total[1m]))").await?;
        let counted = prometheus.query("outboxd_errors_total > 0").await?;
        ensure!(errors > 0.0, "no error came since the first scrape: {counted:?}\n{}", tail(&daemon));
        Ok(())
    })
    .await;
    let lagging = rule(&prometheus, "quickly", "OutboxdLagging").await?;
    ensure!(text(&lagging["alerts"][0]["labels"]["source"]) == scene.source, "{lagging}");
    scene.kafka.resume(0)?;
    wait_ready(&daemon).await;
    wait_alert(&prometheus, "quickly", "OutboxdLagging", "inactive").await;
    wait_alert(&prometheus, "outboxd", "OutboxdNotStreaming", "inactive").await;
    load.stop().await?;
    scene.wait_marked("order_outbox").await;

    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let sources = sources(&prometheus, &dashboard).await?;
    ensure!(sources == [scene.source.clone()], "{sources:?}");
    for query in queries(&dashboard)? {
        // The last step is not before what came last.
        query.run(&prometheus, &sources, began..now() + f64::from(STEP)).await?;
    }
    stop(&daemon).await?;
    wait_alert(&prometheus, "outboxd", "OutboxdDown", "pending").await;
    wait_alert(&prometheus, "quickly", "OutboxdSourceGone", "firing").await;

    // The two rows that were never meant for the topic.
    scene.client.batch_execute("DELETE FROM order_outbox WHERE event_type = 'Odd'").await?;
    scene.oracle_whatever_the_order().await?.assert_clean();
    Ok(())
}

#[test]
fn selectors_are_found_with_their_matchers() {
    let found = selectors("max by (source) (outboxd_a{state=~\"b|c\"}) == 0 unless outboxd_d > rate(outboxd_e[1m])");
    assert_eq!(found, ["outboxd_a{state=~\"b|c\"}", "outboxd_d", "outboxd_e"]);
}
