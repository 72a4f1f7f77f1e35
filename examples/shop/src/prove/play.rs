//! The play: six phases under load, and a bad day in each.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{
    invariants::{audit_topics, invariants},
    stage::{Part, Stage},
};
use crate::{db, load::Load, places::Database};

/// How long a killed process stays down.
const DOWN: Duration = Duration::from_millis(700);
/// Everything that was begun comes to its end in this time.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

struct Play {
    stage: Stage,
    load: Load,
    started: Instant,
    linger: Duration,
}

/// Returns whether every invariant held and no request failed.
pub(super) async fn play(stage: Stage, clients: usize, linger: Duration) -> Result<bool> {
    let load = Load::start(&stage.places.facade, clients);
    let play = Play { stage, load, started: Instant::now(), linger };
    play.say(&format!("{clients} customers; the monolith answers all of them"));
    if let Err(error) = play.phases().await {
        play.show_lines();
        return Err(error);
    }
    let Play { stage, load, started, .. } = play;
    judge(&stage, load, started).await
}

impl Play {
    fn say(&self, line: &str) {
        println!("{:>6.1} s  {line}", self.started.elapsed().as_secs_f64());
    }

    fn show_lines(&self) {
        for part in self.stage.started() {
            let lines = self.stage.lines(part);
            eprintln!("--- {}\n{}", part.name(), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }

    async fn phases(&self) -> Result<()> {
        self.migrate(&["1"]).await?;
        self.rest().await;
        self.kill(Part::Monolith).await?;
        self.kill(Part::Facade).await?;

        self.migrate(&["2"]).await?;
        self.stage.follow_one(Database::User, Part::OutboxdUser).await?;

        self.migrate(&["3"]).await?;
        self.rest().await;
        self.kill(Part::User).await?;
        self.kill(Part::OutboxdUser).await?;

        self.migrate_and_follow("4", Database::Order, Part::OutboxdOrder).await?;
        self.rest().await;
        for part in [Part::Order, Part::Partners, Part::OutboxdMonolith, Part::OutboxdOrder, Part::Monolith] {
            self.kill(part).await?;
        }
        self.kill_kafka().await?;

        self.migrate_and_follow("5", Database::Logistics, Part::OutboxdLogistics).await?;
        self.rest().await;
        for part in [Part::Logistics, Part::OutboxdLogistics, Part::Order] {
            self.kill(part).await?;
        }
        self.migrate(&["5", "--back"]).await?;
        self.rest().await;
        self.migrate(&["5"]).await?;
        self.kill_postgres().await?;

        self.decommission().await?;
        self.rest().await;
        self.kill(Part::OutboxdAll).await?;
        self.rest().await;
        self.say(&self.load.ledger().tally().to_string());
        Ok(())
    }

    /// Leaves the customers alone.
    async fn rest(&self) {
        tokio::time::sleep(self.linger).await;
    }

    async fn migrate(&self, arguments: &[&str]) -> Result<()> {
        self.say(&format!("shop migrate {}", arguments.join(" ")));
        let (code, lines) = self.stage.migrate(arguments).await?;
        lines.iter().for_each(|line| println!("          {line}"));
        ensure!(code == 0, "shop migrate {} ended with {code}", arguments.join(" "));
        Ok(())
    }

    /// A phase that makes tables, for which an outboxd is started at once.
    async fn migrate_and_follow(&self, phase: &str, database: Database, outboxd: Part) -> Result<()> {
        tokio::try_join!(self.migrate(std::slice::from_ref(&phase)), self.stage.follow_one(database, outboxd))?;
        Ok(())
    }

    async fn kill(&self, part: Part) -> Result<()> {
        self.stage.kill9(part)?;
        tokio::time::sleep(DOWN).await;
        self.stage.start_again(part)?;
        self.say(&format!("kill -9 {}, and started again", part.name()));
        self.goes_on().await
    }

    /// Waits until customers get on: an order that was placed after the fault has been followed to
    /// its end.
    async fn goes_on(&self) -> Result<()> {
        let before = self.load.ledger().tally();
        let started = Instant::now();
        while self.load.ledger().tally().finished < before.finished + 3 {
            if started.elapsed() > SETTLES_WITHIN {
                let ledger = self.load.ledger();
                ledger.failures().iter().take(20).for_each(|failure| eprintln!("  {failure}"));
                ledger.doing().iter().for_each(|what| eprintln!("  {what}"));
                bail!("no order comes to its end any more: {}", ledger.tally());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn kill_kafka(&self) -> Result<()> {
        self.stage.kafka.kill9(0)?;
        tokio::time::sleep(DOWN).await;
        self.stage.kafka.start_again(0)?;
        self.say("kill -9 the Kafka broker, and started again");
        self.goes_on().await
    }

    async fn kill_postgres(&self) -> Result<()> {
        self.stage.postgres.kill9()?;
        tokio::time::sleep(DOWN).await;
        self.stage.postgres.start_again().await?;
        self.say("kill -9 Postgres with all its databases, and started again");
        self.goes_on().await
    }

    /// Phase 6, with one outboxd for all services in the place of the sidecars.
    async fn decommission(&self) -> Result<()> {
        let archive = tempfile_dir()?;
        let archive = archive.to_string_lossy().into_owned();
        self.migrate(&["6", "--archive", &archive]).await?;
        self.stage.stop(Part::Monolith).await?;
        self.stage.stop(Part::OutboxdMonolith).await?;
        self.migrate(&["6", "--archive", &archive]).await?;
        for part in [Part::OutboxdUser, Part::OutboxdOrder, Part::OutboxdLogistics] {
            self.stage.stop(part).await?;
        }
        self.stage.launch(Part::OutboxdAll)?;
        self.say("one outboxd for all services has taken the place of the sidecars");
        self.goes_on().await
    }
}

fn tempfile_dir() -> Result<std::path::PathBuf> {
    let path = std::env::temp_dir().join(format!("shop-archive-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// Lets everything end, and looks at all of it.
async fn judge(stage: &Stage, load: Load, started: Instant) -> Result<bool> {
    let ledger = load.stop().await;
    println!("\n{}", ledger.tally());
    let failures = ledger.failures();
    failures.iter().take(20).for_each(|failure| println!("  {failure}"));
    settle(stage).await?;
    let mut sound = failures.is_empty();
    for finding in invariants(stage, &ledger).await? {
        let verdict = if finding.broken.is_empty() { "holds" } else { "BROKEN" };
        println!("  {verdict:<7} {} ({} looked at)", finding.name, finding.looked_at);
        finding.broken.iter().take(10).for_each(|line| println!("          {line}"));
        sound &= finding.broken.is_empty();
    }
    sound &= topics(stage).await?;
    println!("\n{} after {:.0} s", if sound { "Sound" } else { "NOT SOUND" }, started.elapsed().as_secs_f64());
    Ok(sound)
}

/// Waits until no saga is open and no event is unpublished.
pub async fn settle(stage: &Stage) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut open = 0_i64;
        for (database, query) in [
            (Database::Order, "SELECT count(*) FROM saga WHERE outcome IS NULL"),
            (Database::Order, "SELECT count(*) FROM order_outbox WHERE published_at IS NULL"),
            (Database::User, "SELECT count(*) FROM user_outbox WHERE published_at IS NULL"),
            (Database::Logistics, "SELECT count(*) FROM logistics_outbox WHERE published_at IS NULL"),
        ] {
            // A service whose phase has not come has no tables.
            if !db::has_tables(&stage.places, database).await? {
                continue;
            }
            let client = db::connect(&stage.places, database).await?;
            open += client.query_one(query, &[]).await?.get::<_, i64>(0);
        }
        if open == 0 {
            return Ok(());
        }
        if started.elapsed() > SETTLES_WITHIN {
            let client = db::connect(&stage.places, Database::Order).await?;
            let query = "SELECT order_id || ' ' || kind || ' ' || state FROM saga WHERE outcome IS NULL";
            let sagas: Vec<String> = client.query(query, &[]).await?.iter().map(|row| row.get(0)).collect();
            bail!("{open} sagas and events are still open, of which sagas: {sagas:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `outboxd verify`, and the testbed's oracle, over every topic of the services.
async fn topics(stage: &Stage) -> Result<bool> {
    let archive = stage.postgres.client("monolith_archive").await?;
    let audit = audit_topics(stage, Some(&archive)).await?;
    let clean = audit.is_clean();
    println!(
        "  {:<7} events in the topics are the outbox rows, once each, all marked",
        if clean { "holds" } else { "BROKEN" }
    );
    println!("{}", audit.to_string().trim_end());
    let (code, lines) = stage.verify().await?;
    println!("  {:<7} outboxd verify says the same", if code == 0 { "holds" } else { "BROKEN" });
    lines.iter().for_each(|line| println!("          {line}"));
    Ok(clean && code == 0)
}
