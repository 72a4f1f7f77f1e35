//! The six phases under load, and each way back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shop::{
    load::{Fate, Ledger, Load},
    prove::{Part, Stage},
};
use testbed::eventually;
use tokio_postgres::Client;

use crate::scene::{self, back, forward, migrate};

/// Waits until customers have followed so many more orders to their ends.
async fn lives_on(load: &Load) {
    let before = load.ledger().tally().finished;
    eventually(Duration::from_secs(120), async || {
        let now = load.ledger().tally();
        if now.finished >= before + 4 { Ok(()) } else { Err(format!("{now}; {:?}", load.ledger().doing())) }
    })
    .await;
}

/// Phase 6, both parts.
async fn decommission(stage: &Stage) -> Result<()> {
    let archive = tempfile::tempdir()?;
    let path = archive.path().to_string_lossy().into_owned();
    migrate(stage, &["6", "--dwell", "1", "--archive", &path]).await?;
    stage.stop(Part::Monolith).await?;
    stage.stop(Part::OutboxdMonolith).await?;
    migrate(stage, &["6", "--archive", &path]).await?;
    let users = std::fs::read_to_string(archive.path().join("users.csv"))?;
    ensure!(users.starts_with("id,email,") && users.lines().count() > 20, "{users}");
    Ok(())
}

#[tokio::test]
async fn customers_notice_neither_the_phases_nor_the_ways_back() -> Result<()> {
    let stage = scene::stage().await?;
    let load = Load::start(&stage.places.facade, 2);
    migrate(&stage, &["1"]).await?;
    for phase in 2..=5 {
        forward(&stage, phase).await?;
        migrate(&stage, &[&phase.to_string(), "--check"]).await?;
        lives_on(&load).await;
    }
    decommission(&stage).await?;
    migrate(&stage, &["6", "--check"]).await?;
    lives_on(&load).await;

    back(&stage, 6).await?;
    stage.launch(Part::OutboxdMonolith)?;
    stage.launch(Part::Monolith)?;
    for phase in (2..=5).rev() {
        lives_on(&load).await;
        back(&stage, phase).await.with_context(|| format!("back from {phase}"))?;
    }
    lives_on(&load).await;
    let ledger = load.stop().await;
    ensure!(ledger.failures().is_empty(), "{:?}", ledger.failures());
    at_home(&stage.postgres.client("monolith").await?, &ledger).await
}

/// Everything that any phase has written is in the monolith.
async fn at_home(monolith: &Client, ledger: &Ledger) -> Result<()> {
    for (number, placed) in ledger.orders() {
        let row = monolith
            .query_opt(
                "SELECT o.status, o.total::text, u.email, (SELECT count(*) FROM shipments s WHERE s.order_id = o.id)
                 FROM orders o JOIN users u ON u.id = o.user_id WHERE o.order_number = $1",
                &[&number],
            )
            .await?
            .with_context(|| format!("{number} is lost"))?;
        let status: &str = row.get(0);
        ensure!(placed.fate.fits(status), "{number} is {status}, and should be {:?}", placed.fate);
        ensure!(row.get::<_, &str>(1) == placed.total && row.get::<_, &str>(2) == placed.email, "{number}: {placed:?}");
        let shipments: i64 = row.get(3);
        let wanted = if matches!(placed.fate, Fate::Completed | Fate::Returned) { 1..=1 } else { 0..=1 };
        ensure!(wanted.contains(&shipments), "{number} has {shipments} shipments");
    }
    let alive = monolith.query("SELECT u.email FROM users u WHERE u.email = ANY($1)", &[&ledger.deleted()]).await?;
    ensure!(alive.is_empty(), "{} users who have left are there", alive.len());
    Ok(())
}

/// What a phase refuses: a way back that would leave another domain without its writer.
#[tokio::test]
async fn a_way_back_is_refused_while_a_later_phase_stands() -> Result<()> {
    let stage = scene::stage_at(4).await?;
    let (code, lines) = stage.migrate(&["3", "--back"]).await?;
    ensure!(code != 0 && lines.join("\n").contains("walk back phase 4 first"), "{code} {lines:?}");
    // A difference that stays is listed, and keeps the check from passing.
    let order = stage.postgres.client("order_service").await?;
    order
        .batch_execute("BEGIN; SET LOCAL shop.applying = 'on'; UPDATE orders SET notes = 'changed behind the back' WHERE id = (SELECT id FROM orders LIMIT 1); COMMIT")
        .await?;
    let (code, lines) = stage.migrate(&["4", "--check"]).await?;
    let text = lines.join("\n");
    ensure!(
        code != 0 && text.contains("notes is null in the monolith") && text.contains("1 differences"),
        "{code} {text}"
    );
    Ok(())
}
