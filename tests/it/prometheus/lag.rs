//! The lag in Prometheus through an outage: a second more each second, whatever keeps the rows, and
//! then nothing.

use std::{ops::Range, time::Duration};

use anyhow::{Result, ensure};
use testbed::{Daemon, Prometheus, documents, eventually, prometheus::Sample};

use super::{
    alerts, kafka, now,
    picture::{AROUND, draw},
    value, wait_alert,
};
use crate::scene::{PATIENCE, QUICK, Scene, start, stop, tail, wait_ready, wait_state};

/// How long rows are kept from Kafka, and what is scraped before and after, in seconds.
#[derive(Clone, Copy)]
struct Outage {
    seconds: f64,
    around: f64,
    /// After this time a stream gives up, and the source is `retrying`.
    delivery_timeout: &'static str,
    /// Whether the broker is stopped, and not only paused. A stop under load can leave a transaction open
    /// (`position-unstable`), and no start goes on then: nothing for a test that has to pass each time.
    stops: bool,
}

/// Long enough to see a slope, although looks at Postgres come every 5 s.
const SHORT: Outage = Outage { seconds: 25.0, around: 0.0, delivery_timeout: "8s", stops: false };

/// What the documentation shows.
const LONG: Outage = Outage { seconds: 120.0, around: AROUND, delivery_timeout: "30s", stops: true };

/// What Prometheus has of the lag, and when rows were kept from Kafka.
pub(super) struct Curve {
    pub(super) samples: Vec<Sample>,
    pub(super) outage: Range<f64>,
    /// From then on the lag is known to the second.
    settled: f64,
}

/// The lag of one source of one daemon, as Prometheus has it.
struct Scraped<'a> {
    prometheus: Prometheus,
    daemon: &'a Daemon,
    selector: String,
}

impl<'a> Scraped<'a> {
    /// Begins to scrape, and waits until it has done so for a while and nothing waits.
    async fn begin(daemon: &'a Daemon, source: &str, outage: Outage) -> Result<Self> {
        let prometheus = Prometheus::start(&[daemon.http_address()], &[&alerts()]).await?;
        let selector = format!("outboxd_replication_lag_seconds{{source=\"{source}\"}}");
        let scraped = Self { prometheus, daemon, selector };
        scraped.wait_lag(PATIENCE, |lag| lag < 1.0).await;
        scraped.wait_samples_after(now() + outage.around).await;
        Ok(scraped)
    }

    async fn wait_lag(&self, within: Duration, wanted: impl Fn(f64) -> bool) {
        eventually(within, || async {
            let lag = value(&self.prometheus, &self.selector).await?;
            ensure!(wanted(lag), "the lag is {lag} s\n{}", tail(self.daemon));
            Ok(())
        })
        .await;
    }

    /// Waits until the lag is as long as the outage should be.
    async fn wait_outage(&self, outage: Outage) {
        self.wait_lag(Duration::from_secs_f64(outage.seconds) + PATIENCE, |lag| lag >= outage.seconds).await;
    }

    async fn samples(&self) -> Result<Vec<Sample>> {
        let mut found = self.prometheus.query(&format!("{}[15m]", self.selector)).await?;
        ensure!(found.len() == 1, "{} has {} series", self.selector, found.len());
        Ok(found.remove(0).samples)
    }

    async fn wait_samples_after(&self, time: f64) {
        eventually(PATIENCE, || async {
            let last = self.samples().await?.last().map(|sample| sample.at);
            ensure!(last.is_some_and(|last| last >= time), "the last sample is from {last:?}, not yet after {time}");
            Ok(())
        })
        .await;
    }

    /// The samples, when nothing waits any more.
    async fn end(self, kept: Range<f64>, outage: Outage) -> Result<Curve> {
        self.wait_lag(PATIENCE, |lag| lag == 0.0).await;
        self.wait_samples_after(now() + outage.around).await;
        // Who does not stream learns of the first row that waits by a look.
        let settled = kept.start + 10.0;
        Ok(Curve { samples: self.samples().await?, outage: kept, settled })
    }
}

async fn kafka_away(outage: Outage) -> Result<Curve> {
    let scene = Scene::on_kafka(kafka().await?).await?.with(QUICK);
    let scene = scene.with_kafka(&format!("delivery_timeout = \"{}\"", outage.delivery_timeout));
    let daemon = scene.streaming().await?;
    let load = scene.load_at(5);
    let scraped = Scraped::begin(&daemon, &scene.source, outage).await?;
    let stopped = now();
    match outage.stops {
        true => scene.kafka.stop(0).await?,
        false => scene.kafka.pause(0)?,
    }
    scraped.wait_outage(outage).await;
    wait_state(&daemon, "retrying").await;
    let started = now();
    match outage.stops {
        true => scene.kafka.start_again(0)?,
        false => scene.kafka.resume(0)?,
    }
    wait_ready(&daemon).await;
    scraped.wait_lag(PATIENCE, |lag| lag < 1.0).await;
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    // The stream knows each row's time, and this is known when it ends.
    Ok(Curve { settled: stopped, ..scraped.end(stopped..started, outage).await? })
}

/// One of two sources, since a daemon ends when its last source halts.
async fn halted(outage: Outage) -> Result<Curve> {
    let (mut scene, other) = (Scene::shared().await?.with(QUICK), Scene::shared().await?.with(QUICK));
    let daemon = start(&scene.config_with(&other))?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    let scraped = Scraped::begin(&daemon, &scene.source, outage).await?;
    eventually(PATIENCE, || async {
        scene.terminate_walsender().await?;
        scene.drop_slot().await
    })
    .await;
    wait_state(&daemon, "halted").await;
    let load = scene.load_at(5);
    let halted = now();
    wait_alert(&scraped.prometheus, "outboxd", "OutboxdHalted", "firing").await;
    scraped.wait_outage(outage).await;
    load.stop().await?;
    let recovered = now();
    let arguments = ["recover", "--source", &scene.source, "--strategy", "republish-unmarked", "--yes"];
    let (code, out, err) = scene.command(&arguments).await?;
    ensure!(code == 0, "{out}{err}");
    wait_ready(&daemon).await;
    wait_alert(&scraped.prometheus, "outboxd", "OutboxdHalted", "inactive").await;
    scene.oracle_whatever_the_order().await?.assert_clean();
    scraped.end(halted..recovered, outage).await
}

/// The standby beside a leader that has the slot and does nothing.
async fn standing_by(outage: Outage) -> Result<Curve> {
    let mut scene = Scene::shared().await?.with(QUICK);
    // The server keeps the slot with a leader that is silent for so long.
    let patient = format!("ALTER DATABASE {} SET wal_sender_timeout = '10min'", scene.database);
    scene.client.batch_execute(&patient).await?;
    let leader = scene.published(3).await?;
    let standby = scene.daemon()?;
    standby.wait_for_line(|line| line.contains("standing by"), PATIENCE).await?;
    let scraped = Scraped::begin(&standby, &scene.source, outage).await?;
    let load = scene.load_at(5);
    let paused = now();
    leader.pause()?;
    scraped.wait_outage(outage).await;
    wait_state(&standby, "standby").await;
    let resumed = now();
    leader.resume()?;
    load.stop().await?;
    scene.oracle().await?.assert_clean();
    let curve = scraped.end(paused..resumed, outage).await?;
    stop(&leader).await?;
    Ok(curve)
}

impl Curve {
    /// The slope of most pairs of samples, so that a late scrape or a look that comes in between does
    /// not count.
    fn slope(samples: &[Sample]) -> f64 {
        let pairs = samples.iter().enumerate().flat_map(|(n, from)| samples[n + 1..].iter().map(move |to| (from, to)));
        let mut slopes: Vec<_> = pairs.map(|(from, to)| (to.value - from.value) / (to.at - from.at)).collect();
        slopes.sort_by(f64::total_cmp);
        slopes.get(slopes.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn assert_rises_by_a_second_each_second_and_falls(&self, outage: Outage) -> Result<()> {
        let (from, to) = (self.settled, self.outage.end);
        let rising: Vec<_> = self.samples.iter().filter(|sample| (from..to).contains(&sample.at)).copied().collect();
        ensure!(rising.len() > 5, "Prometheus has {} samples of the outage", rising.len());
        let slope = Self::slope(&rising);
        ensure!((0.9..1.1).contains(&slope), "the lag rises by {slope} s each second: {rising:?}");
        // The time of a sample is that at which its scrape began.
        let jumps = |pair: &&[Sample]| (pair[1].value - pair[0].value - (pair[1].at - pair[0].at)).abs() > 2.5;
        let jump = rising.windows(2).find(jumps);
        ensure!(jump.is_none(), "the lag jumps: {jump:?}");
        let highest = self.samples.iter().map(|sample| sample.value).fold(0.0, f64::max);
        ensure!(highest >= outage.seconds && to - self.outage.start > outage.seconds - 10.0, "{highest} s");
        ensure!(self.samples.last().is_some_and(|last| last.value == 0.0), "it does not fall");
        Ok(())
    }
}

#[tokio::test]
async fn it_rises_by_a_second_each_second_while_kafka_does_not_answer() -> Result<()> {
    kafka_away(SHORT).await?.assert_rises_by_a_second_each_second_and_falls(SHORT)
}

#[tokio::test]
async fn it_rises_by_a_second_each_second_while_a_source_is_halted() -> Result<()> {
    halted(SHORT).await?.assert_rises_by_a_second_each_second_and_falls(SHORT)
}

#[tokio::test]
async fn it_rises_by_a_second_each_second_on_a_standby_of_a_leader_that_is_stuck() -> Result<()> {
    standing_by(SHORT).await?.assert_rises_by_a_second_each_second_and_falls(SHORT)
}

#[tokio::test]
#[ignore = "three outages of two minutes; they draw docs/operating/lag-*.svg"]
async fn two_minutes_of_it_are_in_the_documentation() -> Result<()> {
    let (kafka, halted, standby) = tokio::try_join!(kafka_away(LONG), halted(LONG), standing_by(LONG))?;
    for (file, title, kept, curve) in [
        ("lag-kafka.svg", "The lag while Kafka is stopped", "Kafka is stopped", &kafka),
        ("lag-halted.svg", "The lag of a halted source", "halted", &halted),
        ("lag-standby.svg", "The lag as a standby sees it", "the leader is stuck", &standby),
    ] {
        curve.assert_rises_by_a_second_each_second_and_falls(LONG)?;
        let picture = draw(title, kept, curve);
        if documents::are_written() {
            std::fs::write(documents::path(&format!("docs/operating/{file}")), picture)?;
        }
    }
    Ok(())
}

#[test]
fn one_jump_does_not_hide_the_slope() {
    let sample = |at: u32, value: f64| Sample { at: f64::from(at), value };
    let steady: Vec<_> = (0..20).map(|at| sample(at, f64::from(at) + if at > 3 { 5.0 } else { 0.0 })).collect();
    assert!((Curve::slope(&steady) - 1.0).abs() < 0.01);
    let slow: Vec<_> = (0..20).map(|at| sample(at, f64::from(at) * 0.8)).collect();
    assert!((Curve::slope(&slow) - 0.8).abs() < 0.01);
}
