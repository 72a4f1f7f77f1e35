//! The fault matrix: one test or more for each number of `docs/fault-matrix.md`, a file per family. Every test ends with
//! the oracle, or with the exact code with which the source halts.

mod brokers;
mod clock;
mod instances;
mod kafka;
mod network;
mod postgres;
mod relays;
pub(crate) mod restored;
mod resumed;
mod rights;
mod rows;
mod schema;
mod table;
mod wire_faults;
mod zombies;

use anyhow::{Context, Result, bail};
use testbed::{Daemon, Kafka, Postgres, Version, eventually, unique};
use uuid::Uuid;

use crate::scene::{Host, PATIENCE, Scene, wait_code};

/// A server of the test's own, beside the shared broker.
pub(crate) async fn own_postgres(postgres: testbed::postgres::Builder) -> Result<Scene> {
    Scene::on(Host::Own(postgres.start().await?), Host::Shared(Kafka::shared().await?)).await
}

/// A shared server of this major.
pub(crate) async fn on_major(version: Version) -> Result<Scene> {
    Scene::on(Host::Shared(Postgres::shared(version).await?), Host::Shared(Kafka::shared().await?)).await
}

/// One row of a key of its own, inserted by this session, in its transaction if it has one.
async fn insert_one(scene: &Scene, session: &tokio_postgres::Client) -> Result<Uuid> {
    let id = Uuid::new_v4();
    let insert = "INSERT INTO order_outbox (id, aggregate_type, aggregate_id, event_type, payload) \
                  VALUES ($1, $2, gen_random_uuid(), 'OrderCreated', '{\"seq\": 1}')";
    session.execute(insert, &[&id, &scene.aggregate]).await?;
    Ok(id)
}

/// A role of the test's own, as the daemon's is, with these settings (`SET x = y; …`); its name.
async fn role_with(scene: &Scene, settings: &[&str]) -> Result<String> {
    let role = unique("role");
    scene
        .client
        .batch_execute(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT ALL ON order_outbox TO {role}"))
        .await?;
    for setting in settings {
        scene.client.batch_execute(&format!("ALTER ROLE {role} SET {setting}")).await?;
    }
    Ok(role)
}

/// Waits until this query gives true.
pub(crate) async fn wait_true(client: &tokio_postgres::Client, query: &str) {
    eventually(PATIENCE, || async {
        match client.query_one(query, &[]).await?.get(0) {
            Some(true) => Ok(()),
            other => bail!("{other:?}: {query}"),
        }
    })
    .await;
}

/// Ends the daemon in order.
pub(crate) async fn stop(daemon: &Daemon) -> Result<()> {
    daemon.term()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 0);
    Ok(())
}

/// Waits until the daemon has halted with this code.
async fn assert_halts(daemon: &Daemon, code: &str) -> Result<()> {
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 3);
    wait_code(daemon, code).await?;
    Ok(())
}

/// A metric that has one series, as `/metrics` shows it.
async fn metric(daemon: &Daemon, name: &str) -> Result<f64> {
    let (_, body) = daemon.http_get("/metrics").await?;
    let line = body.lines().find(|line| line.starts_with(&format!("{name}{{")));
    let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name} in {body}"))?;
    Ok(value.parse()?)
}
