//! A stage at some phase, and customers on it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use shop::{
    load::{Ledger, Shopper},
    places::Database,
    prove::{Part, Stage, invariants, settle},
};

/// The outboxd that `SHOP_OUTBOXD` names, or the newest build of this repository.
fn outboxd() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SHOP_OUTBOXD") {
        return Ok(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    ["release/outboxd", "debug/outboxd"]
        .into_iter()
        .map(|name| target.join(name))
        .filter(|path| path.exists())
        .max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
        .context("build outboxd first: cargo build --release")
}

/// Everything, before phase 1.
pub(crate) async fn stage() -> Result<Stage> {
    Stage::start_with(Path::new(env!("CARGO_BIN_EXE_shop")), &outboxd()?, 20).await
}

/// Everything, after this phase.
pub(crate) async fn stage_at(phase: u8) -> Result<Stage> {
    let stage = stage().await?;
    for phase in 2..=phase {
        forward(&stage, phase).await?;
    }
    Ok(stage)
}

/// Walks a phase, with the outboxd that it needs.
pub(crate) async fn forward(stage: &Stage, phase: u8) -> Result<()> {
    let number = phase.to_string();
    let arguments = [number.as_str(), "--dwell", "0"];
    let outboxd = match phase {
        2 => Some((Database::User, Part::OutboxdUser)),
        4 => Some((Database::Order, Part::OutboxdOrder)),
        5 => Some((Database::Logistics, Part::OutboxdLogistics)),
        _ => None,
    };
    let follow = async {
        match outboxd {
            Some((database, part)) if !stage.started().contains(&part) => stage.follow_one(database, part).await,
            _ => Ok(()),
        }
    };
    tokio::try_join!(migrate(stage, &arguments), follow)?;
    Ok(())
}

/// Walks a phase back.
pub(crate) async fn back(stage: &Stage, phase: u8) -> Result<()> {
    migrate(stage, &[&phase.to_string(), "--back"]).await
}

/// `shop migrate`, which has to succeed.
pub(crate) async fn migrate(stage: &Stage, arguments: &[&str]) -> Result<()> {
    let (code, lines) = stage.migrate(arguments).await?;
    if code != 0 {
        tell(stage);
    }
    ensure!(code == 0, "shop migrate {arguments:?} ended with {code}:\n{}", lines.join("\n"));
    Ok(())
}

/// Prints the last lines of every process, for the reader of a failed test.
pub(crate) fn tell(stage: &Stage) {
    for part in stage.started() {
        let lines = stage.lines(part);
        eprintln!("--- {}\n{}", part.name(), lines[lines.len().saturating_sub(20)..].join("\n"));
    }
}

/// A customer who remembers nothing yet.
pub(crate) fn shopper(stage: &Stage) -> Shopper {
    Shopper::new(&stage.places.facade, Arc::new(Ledger::default()))
}

/// Waits until no saga is open and no event is unpublished.
pub(crate) async fn settled(stage: &Stage) -> Result<()> {
    settle(stage).await
}

/// Every invariant of the databases has to hold.
pub(crate) async fn assert_sound(stage: &Stage, ledger: &Ledger) -> Result<()> {
    for finding in invariants(stage, ledger).await? {
        ensure!(finding.broken.is_empty(), "{}: {:?}", finding.name, finding.broken);
    }
    Ok(())
}
