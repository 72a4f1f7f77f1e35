//! A real Prometheus scrapes a real run: what the dashboard and the alerts make of it, and what the lag
//! looks like there.

mod dashboard;
mod lag;
mod picture;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Kafka, Prometheus, eventually, prometheus::Series};

use crate::scene::{Host, PATIENCE};

/// Seconds since 1970, as Prometheus counts them.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The alert rules as they are delivered.
fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus-alerts.yml")
}

/// Waits until an alert of this group is `inactive`, `pending` or `firing`.
async fn wait_alert(prometheus: &Prometheus, group: &str, name: &str, state: &str) {
    eventually(PATIENCE, || async {
        let rule = rule(prometheus, group, name).await?;
        ensure!(rule["state"] == state, "{name} is not {state}: {rule}");
        Ok(())
    })
    .await;
}

async fn rule(prometheus: &Prometheus, group: &str, name: &str) -> Result<Value> {
    let rules = prometheus.rules().await?;
    let rule = rules.into_iter().find(|rule| rule["group"] == group && rule["name"] == name);
    rule.with_context(|| format!("there is no rule {name} in {group}"))
}

/// A broker that can be paused under load: not the controller as well, which can break Kafka's own promises
/// (docs/guarantees.md, known limits).
async fn kafka() -> Result<Host<Kafka>> {
    Ok(Host::Own(Kafka::builder(1).separate_controller().never_fenced().start().await?))
}

/// The value of the one series that the expression finds.
async fn value(prometheus: &Prometheus, expression: &str) -> Result<f64> {
    let found = prometheus.query(expression).await?;
    let [Series { samples, .. }] = &found[..] else { anyhow::bail!("{expression} finds {found:?}") };
    Ok(samples.last().context("no sample")?.value)
}
