//! A real Prometheus, which scrapes daemons and evaluates alert rules every second.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::daemon::{Daemon, http_get_unchunked};

/// How often it scrapes and evaluates.
const INTERVAL: &str = "1s";

/// The longest wait until it answers.
const WITHIN: Duration = Duration::from_secs(60);

/// So often another port is tried where another process took the one that was free.
const PORTS: usize = 5;

/// A running server. Dropping it kills it and removes what it stored.
#[derive(Debug)]
pub struct Prometheus {
    process: Daemon,
}

/// One series of an answer.
#[derive(Debug, Clone)]
pub struct Series {
    /// The labels with their values.
    pub labels: BTreeMap<String, String>,
    /// The values in the order of time.
    pub samples: Vec<Sample>,
}

/// A value at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds since 1970, by the server's clock.
    pub at: f64,
    /// The value, which may be NaN.
    pub value: f64,
}

impl Prometheus {
    /// Starts a server that scrapes these addresses, and evaluates the rules of these files.
    pub async fn start(targets: &[String], rules: &[&Path]) -> Result<Self> {
        // JSON is YAML.
        let config = serde_json::json!({
            "global": {
                "scrape_interval": INTERVAL,
                "evaluation_interval": INTERVAL,
            },
            "rule_files": rules,
            "scrape_configs": [{ "job_name": "outboxd", "static_configs": [{ "targets": targets }] }],
        });
        for _ in 0..PORTS {
            let process = Daemon::builder("prometheus")?
                .config(&config.to_string())
                // The path of the data lies in the process's own directory, which goes with it.
                .args(&["--config.file={config}", "--storage.tsdb.path={config}.data"])
                .args(&["--web.listen-address={http}", "--log.level=warn"])
                .start()
                .context("prometheus is needed: make deps")?;
            let server = Self { process };
            if server.is_ready().await? {
                return Ok(server);
            }
        }
        bail!("{PORTS} ports that were free are taken")
    }

    /// Waits until it answers. `false`: another process has its port.
    async fn is_ready(&self) -> Result<bool> {
        let started = std::time::Instant::now();
        loop {
            let answer = self.process.http_get("/-/ready").await;
            // Another server may answer on its port.
            let is_running = self.process.is_running()?;
            let lines = || self.process.lines().join("\n");
            match answer {
                Ok((200, _)) if is_running => return Ok(true),
                _ if !is_running && lines().contains("address already in use") => return Ok(false),
                _ if !is_running => bail!("it has ended:\n{}", lines()),
                _ => {}
            }
            ensure!(started.elapsed() < WITHIN, "it is not ready within {WITHIN:?}:\n{}", lines());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What `path` of the HTTP API answers.
    /// Source: Prometheus documentation, "HTTP API".
    async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let mut address = format!("/api/v1/{path}?");
        for (name, value) in parameters {
            let _ = write!(address, "{name}={}&", escaped(value));
        }
        let port = self.process.http_address().rsplit(':').next().unwrap_or_default().parse()?;
        let (status, body) = http_get_unchunked(port, &address).await?;
        let mut answer: Value = serde_json::from_str(&body).with_context(|| format!("{status}: {body}"))?;
        ensure!(answer["status"] == "success", "{path} {parameters:?}: {answer}");
        Ok(answer["data"].take())
    }

    /// The answer to an expression now. A range such as `metric[5m]` gives the samples as they were
    /// scraped.
    pub async fn query(&self, expression: &str) -> Result<Vec<Series>> {
        series(&self.ask("query", &[("query", expression)]).await?)
    }

    /// The answers from `window.start` to `window.end`, both in seconds since 1970, every `step` seconds.
    pub async fn range(&self, expression: &str, window: Range<f64>, step: u32) -> Result<Vec<Series>> {
        let [start, end, step] = [window.start.to_string(), window.end.to_string(), step.to_string()];
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        series(&self.ask("query_range", &parameters).await?)
    }

    /// The values that a label has in what the selector finds.
    pub async fn label_values(&self, label: &str, selector: &str) -> Result<Vec<String>> {
        let values = self.ask(&format!("label/{label}/values"), &[("match[]", selector)]).await?;
        Ok(serde_json::from_value(values)?)
    }

    /// Every rule, as `/api/v1/rules` shows it, and the name of its `group`.
    pub async fn rules(&self) -> Result<Vec<Value>> {
        let groups = self.ask("rules", &[]).await?;
        let mut all = Vec::new();
        for group in groups["groups"].as_array().context("no groups")? {
            for rule in group["rules"].as_array().context("no rules")? {
                let mut rule = rule.clone();
                rule["group"] = group["name"].clone();
                all.push(rule);
            }
        }
        Ok(all)
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        // Writing to a string cannot fail.
        let _ = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => write!(text, "{}", char::from(byte)),
            _ => write!(text, "%{byte:02X}"),
        };
    }
    text
}

fn series(data: &Value) -> Result<Vec<Series>> {
    let result = &data["result"];
    if data["resultType"] == "scalar" {
        return Ok(vec![Series { labels: BTreeMap::new(), samples: vec![sample(result)?] }]);
    }
    let result = result.as_array().with_context(|| format!("no result in {data}"))?;
    result
        .iter()
        .map(|one| {
            let labels = serde_json::from_value(one["metric"].clone())?;
            let samples = match one["values"].as_array() {
                Some(values) => values.iter().map(sample).collect::<Result<_>>()?,
                None => vec![sample(&one["value"])?],
            };
            Ok(Series { labels, samples })
        })
        .collect()
}

/// `[time, "value"]`
fn sample(pair: &Value) -> Result<Sample> {
    let at = pair[0].as_f64().with_context(|| format!("no time in {pair}"))?;
    let value = pair[1].as_str().with_context(|| format!("no value in {pair}"))?;
    Ok(Sample { at, value: value.parse()? })
}
