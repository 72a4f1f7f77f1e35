//! `testbed chaos run`: epochs of writing under faults. Each epoch ends at rest, with an audit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use testbed::Version;
use tokio::task::JoinSet;

use super::{
    audit::Auditor,
    deck::Deck,
    fault::{Kind, Resource},
    inflict::inflict,
    report::{Report, Timeline},
    stage::{BROKERS, DAEMONS, Stage},
    watch::{self, Watch},
    writer::Writers,
};
use crate::{RESULTS, daemon_binary, host::Host};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long faults rain
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Repeats the faults of another run and their order; random when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Minutes between two audits
    #[arg(long, default_value_t = 5.0)]
    audit_every: f64,
    /// Transactions a second, of all sources together
    #[arg(long, default_value_t = 150.0)]
    rate: f64,
    /// Milliseconds between two faults, on average
    #[arg(long, default_value_t = 1_500)]
    pause: u64,
    /// Major of Postgres
    #[arg(long, default_value = "15")]
    postgres: Version,
    /// Give Postgres (17 or later) a standby that takes its place again and again
    #[arg(long)]
    failover: bool,
    /// The daemon; by default the outboxd beside this program
    #[arg(long)]
    outboxd: Option<PathBuf>,
    /// Where the result is kept; nothing is written when empty
    #[arg(long, default_value = RESULTS)]
    results: String,
}

/// Most faults at a time.
const AT_ONCE: usize = 4;

/// Returns whether every audit was clean.
pub(crate) async fn run(arguments: Arguments) -> Result<bool> {
    let host = Host::here();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let timeline = Timeline::new();
    timeline.say(&format!("seed {seed}: starting Postgres, {BROKERS} brokers and {DAEMONS} daemons"));
    let stage = Arc::new(
        Stage::start(&daemon_binary(arguments.outboxd.clone())?, arguments.postgres, arguments.failover).await?,
    );
    let watch = Watch::start(&stage);
    let mut run = Run {
        stage: Arc::clone(&stage),
        deck: Deck::new(seed, arguments.failover),
        timeline,
        running: JoinSet::new(),
        taken: BTreeSet::new(),
        inflicted: BTreeMap::new(),
        auditor: Auditor::default(),
        watch,
    };
    let outcome = run.play(&arguments, seed).await;
    if !matches!(outcome, Ok(true)) {
        let logs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join(format!("chaos-{seed}"));
        stage.keep_logs(&logs)?;
        eprintln!("seed {seed}; logs are in {}", logs.display());
    }
    let clean = outcome?;
    let seen = run.watch.stop().await;
    let Arguments { minutes, audit_every, rate, pause, .. } = &arguments;
    let postgres = arguments.postgres.major();
    let command = format!(
        "testbed chaos run --minutes {minutes} --seed {seed} --audit-every {audit_every} --rate {rate} --pause {pause} \
         --postgres {postgres}{}",
        if arguments.failover { " --failover" } else { "" }
    );
    let report = Report {
        host,
        command,
        postgres,
        stage: &stage,
        inflicted: &run.inflicted,
        auditor: &run.auditor,
        seen,
        clean,
    };
    println!("\n{}", report.text()?);
    if !arguments.results.is_empty() && clean {
        println!("kept as {}", report.keep(Path::new(&arguments.results), &run.timeline)?.display());
    }
    Ok(clean)
}

/// How often each kind was dealt, and how often it really happened.
pub(crate) type Inflicted = BTreeMap<Kind, Times>;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) dealt: usize,
    pub(crate) happened: usize,
}

/// A fault that is over.
struct Ended {
    kind: Kind,
    resource: Resource,
    /// Whether it happened.
    outcome: Result<bool>,
}

struct Run {
    stage: Arc<Stage>,
    deck: Deck,
    timeline: Timeline,
    running: JoinSet<Ended>,
    taken: BTreeSet<Resource>,
    inflicted: Inflicted,
    auditor: Auditor,
    watch: Watch,
}

impl Run {
    async fn play(&mut self, arguments: &Arguments, seed: u64) -> Result<bool> {
        let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
        let pause = Duration::from_millis(arguments.pause);
        let mut clean = true;
        while clean && Instant::now() < end {
            let epoch_end = end.min(Instant::now() + Duration::from_secs_f64(arguments.audit_every * 60.0));
            let mut writers =
                Writers::start(&self.stage, arguments.rate, seed.wrapping_add(self.auditor.audits as u64 * 1_000));
            while Instant::now() < epoch_end {
                self.next_fault(pause).await?;
                self.check(&mut writers)?;
            }
            self.all_healed().await?;
            let rows = writers.rows();
            let written = writers.stop().await?;
            self.timeline.say(&format!("all healed, {rows} rows written; waiting for rest"));
            clean = self.auditor.audit(&self.stage, written).await?;
            let verdict = if clean { "clean" } else { "NOT CLEAN" };
            self.timeline.say(&format!("audit {}: {verdict}", self.auditor.audits));
        }
        Ok(clean)
    }

    /// Deals a fault, and waits until no other fault holds what this one hits.
    async fn next_fault(&mut self, pause: Duration) -> Result<()> {
        tokio::time::sleep(self.deck.pause(pause)).await;
        let fault = self.deck.deal();
        self.reap_ended()?;
        while self.running.len() >= AT_ONCE || self.taken.contains(&fault.resource()) {
            self.reap_one().await?;
        }
        self.timeline.say(&fault.to_string());
        self.taken.insert(fault.resource());
        self.inflicted.entry(fault.kind).or_default().dealt += 1;
        let stage = Arc::clone(&self.stage);
        self.running.spawn(async move {
            Ended { kind: fault.kind, resource: fault.resource(), outcome: inflict(&stage, fault).await }
        });
        Ok(())
    }

    async fn reap_one(&mut self) -> Result<()> {
        if let Some(ended) = self.running.join_next().await {
            self.reaped(ended?)?;
        }
        Ok(())
    }

    fn reap_ended(&mut self) -> Result<()> {
        while let Some(ended) = self.running.try_join_next() {
            self.reaped(ended?)?;
        }
        Ok(())
    }

    fn reaped(&mut self, ended: Ended) -> Result<()> {
        let Ended { kind, resource, outcome } = ended;
        self.taken.remove(&resource);
        let happened = outcome.map_err(|error| error.context(format!("fault `{}`", kind.name())))?;
        self.inflicted.entry(kind).or_default().happened += usize::from(happened);
        Ok(())
    }

    async fn all_healed(&mut self) -> Result<()> {
        while !self.running.is_empty() {
            self.reap_one().await?;
        }
        self.stage.heal()
    }

    /// Fails when a daemon has ended, a source has halted or a writer has given up.
    fn check(&mut self, writers: &mut Writers) -> Result<()> {
        writers.check()?;
        self.reap_ended()?;
        for (number, daemon) in self.stage.daemons.iter().enumerate() {
            if !self.taken.contains(&Resource::Daemon(number)) {
                ensure!(daemon.is_running()?, "daemon {number} ended by itself:\n{}", watch::tail(daemon));
            }
        }
        if let Some(halted) = self.watch.halted() {
            anyhow::bail!("{halted} has halted");
        }
        Ok(())
    }
}
