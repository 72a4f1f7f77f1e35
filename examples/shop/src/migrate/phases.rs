//! Phases 2 to 5, forward and back, and the check of each.

use anyhow::{Context, Result, bail, ensure};

use super::{
    Migration, boundaries,
    compare::{self, agree, agree_since},
    cutover::Flow,
    name, say,
    sync::{self, Kind},
};
use crate::{
    db,
    facade::{self, Domain, Route, Target},
    places::Database,
    seed,
};

/// How long a service may take to listen.
const LISTENS_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Remembers what was done.
pub(super) async fn note(migration: &Migration, phase: u8, what: &str) -> Result<()> {
    let client = migration.connect(Database::Facade).await?;
    client.execute("INSERT INTO step VALUES ($1, $2)", &[&i32::from(phase), &what]).await?;
    Ok(())
}

/// Makes the tables of a service, once.
async fn create(migration: &Migration, database: Database) -> Result<()> {
    if db::has_tables(&migration.places, database).await? {
        say(&format!("{}: the tables are there", database.name()));
        return Ok(());
    }
    let mut client = migration.connect(database).await?;
    db::run_files(&mut client, db::schema(database)).await?;
    say(&format!("{}: tables, indexes, outbox and publication made", database.name()));
    Ok(())
}

/// Waits for a service to listen.
async fn listening(migration: &Migration, address: &str) -> Result<()> {
    let url = format!("http://{address}/health");
    let started = tokio::time::Instant::now();
    while migration.http.get(&url, LISTENS_WITHIN).await.is_err() {
        ensure!(started.elapsed() < LISTENS_WITHIN, "nobody listens on {address}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    say(&format!("{address} answers"));
    Ok(())
}

/// Phase 2: the service beside the monolith. Nothing is sent to it yet.
pub(super) async fn extract_users(migration: &Migration) -> Result<()> {
    create(migration, Database::User).await?;
    listening(migration, &migration.places.user).await?;
    listening(migration, &migration.places.facade).await?;
    isolated(migration, Database::User).await
}

/// A service has foreign keys only to its own tables, and Postgres has no others. What it must not
/// have is a way into another database.
async fn isolated(migration: &Migration, database: Database) -> Result<()> {
    let client = migration.connect(database).await?;
    let row = client.query_one("SELECT count(*) FROM pg_extension WHERE extname IN ('dblink', 'postgres_fdw')", &[]);
    ensure!(row.await?.get::<_, i64>(0) == 0, "{} reaches into another database", database.name());
    let serials = "SELECT count(*) FROM information_schema.columns
                   WHERE table_schema = 'public' AND column_name = 'id' AND data_type <> 'uuid' AND table_name <> 'legacy_ids'";
    ensure!(client.query_one(serials, &[]).await?.get::<_, i64>(0) == 0, "{} has serial ids", database.name());
    say(&format!("{}: every id is a UUID, and nothing points outside", database.name()));
    Ok(())
}

/// Phase 3: users move.
pub(super) async fn move_users(migration: &Migration) -> Result<()> {
    let compared = follow(migration, sync::USERS, Flow::USERS, Database::User).await?;
    migration.route(Domain::Users, Route::READS).await?;
    tokio::time::sleep(migration.dwell).await;
    migration.take(Database::Monolith, "users").await?;
    migration.drain(&Flow::USERS).await?;
    agree_since(migration, sync::USERS, Database::User, (Database::Monolith, &compared)).await?;
    migration.give(Database::User, "users").await?;
    migration.route(Domain::Users, Route::SERVICE).await
}

/// Switches the sync on, and waits until the service has and says the same.
async fn follow(migration: &Migration, kind: Kind, flow: Flow, service: Database) -> Result<String> {
    let mut client = migration.monolith().await?;
    sync::on(&mut client, kind).await?;
    migration.drain(&flow).await?;
    agree(migration, kind, service, Database::Monolith).await
}

/// Phase 4: orders move. The monolith goes on shipping them.
pub(super) async fn move_orders(migration: &Migration) -> Result<()> {
    create(migration, Database::Order).await?;
    listening(migration, &migration.places.order).await?;
    isolated(migration, Database::Order).await?;
    let compared = follow(migration, sync::ORDERS, Flow::ORDERS, Database::Order).await?;
    migration.route(Domain::Orders, Route::READS).await?;
    tokio::time::sleep(migration.dwell).await;
    // A step of a shipment changes its order, directly before and by an event afterwards.
    migration.take(Database::Monolith, "shipments").await?;
    migration.take(Database::Monolith, "orders").await?;
    migration.drain(&Flow::ORDERS).await?;
    agree_since(migration, sync::ORDERS, Database::Order, (Database::Monolith, &compared)).await?;
    migration.give(Database::Order, "orders").await?;
    migration.route(Domain::Orders, Route::SERVICE).await?;
    migration.give(Database::Monolith, "shipments").await
}

/// Phase 5: shipments move, and the monolith's tables are put away.
pub(super) async fn move_shipments(migration: &Migration) -> Result<()> {
    create(migration, Database::Logistics).await?;
    copy_agents(migration).await?;
    listening(migration, &migration.places.logistics).await?;
    isolated(migration, Database::Logistics).await?;
    let compared = follow(migration, sync::SHIPMENTS, Flow::SHIPMENTS, Database::Logistics).await?;
    migration.route(Domain::Shipments, Route::READS).await?;
    tokio::time::sleep(migration.dwell).await;
    migration.take(Database::Monolith, "shipments").await?;
    migration.drain(&Flow::SHIPMENTS).await?;
    migration.drain(&Flow::OLD_EVENTS).await?;
    agree_since(migration, sync::SHIPMENTS, Database::Logistics, (Database::Monolith, &compared)).await?;
    migration.give(Database::Logistics, "shipments").await?;
    migration.route(Domain::Shipments, Route::SERVICE).await?;
    retire(migration, "public", "retired").await
}

/// Carriers, and the monolith's agents under ids of their own.
async fn copy_agents(migration: &Migration) -> Result<()> {
    let logistics = migration.connect(Database::Logistics).await?;
    seed::logistics(&logistics).await?;
    let monolith = migration.monolith().await?;
    let agents = "SELECT jsonb_agg(to_jsonb(a) || jsonb_build_object('id', uuid_of('agent', a.id)) ORDER BY a.id)
                  FROM delivery_agents a";
    let agents: serde_json::Value = monolith.query_one(agents, &[]).await?.get(0);
    let copied = logistics
        .execute(
            "INSERT INTO delivery_agents (id, carrier_id, name, phone, email, zone_id, zone_name, current_capacity)
             SELECT i.id, (SELECT id FROM carriers c WHERE EXISTS (
                     SELECT FROM carriers d WHERE d.code <= c.code HAVING count(*) = 1 + i.n % 3)),
                 i.name, i.phone, i.email, md5('zone:' || i.zone)::uuid, i.zone, 200
             FROM (SELECT r.*, row_number() OVER (ORDER BY r.id) n FROM jsonb_to_recordset($1)
                 AS r (id uuid, name text, phone text, email text, zone text)) i
             ON CONFLICT (id) DO NOTHING",
            &[&agents],
        )
        .await?;
    say(&format!("{copied} agents and the carriers copied"));
    Ok(())
}

/// Moves the tables of the logistics module out of the way of anybody who still asks for them.
pub(super) async fn retire(migration: &Migration, from: &str, to: &str) -> Result<()> {
    let client = migration.monolith().await?;
    client.batch_execute("CREATE SCHEMA IF NOT EXISTS retired").await?;
    for table in ["shipments", "delivery_attempts", "delivery_agents"] {
        client.batch_execute(&format!("ALTER TABLE IF EXISTS {from}.{table} SET SCHEMA {to}")).await?;
    }
    say(&format!("monolith: shipments, delivery_attempts and delivery_agents are in the schema {to}"));
    Ok(())
}

pub(super) async fn back_from_2(migration: &Migration) -> Result<()> {
    ensure!(!migration.owns(Database::User, "users").await?, "walk back phase 3 first");
    say("nothing was sent to the User service: it may be stopped");
    Ok(())
}

pub(super) async fn back_from_3(migration: &Migration) -> Result<()> {
    ensure!(migration.owns(Database::Monolith, "orders").await?, "walk back phase 4 first");
    let compared = agree(migration, sync::USERS, Database::User, Database::User).await?;
    migration.take(Database::User, "users").await?;
    migration.drain(&Flow::USERS_BACK).await?;
    agree_since(migration, sync::USERS, Database::User, (Database::User, &compared)).await?;
    migration.give(Database::Monolith, "users").await?;
    migration.route(Domain::Users, Route::MONOLITH).await?;
    sync::off(&migration.monolith().await?, sync::USERS).await
}

pub(super) async fn back_from_4(migration: &Migration) -> Result<()> {
    ensure!(!owns_shipments(migration).await?, "walk back phase 5 first");
    let compared = agree(migration, sync::ORDERS, Database::Order, Database::Order).await?;
    migration.take(Database::Order, "orders").await?;
    settle(migration).await?;
    migration.drain(&Flow::CONFIRMED).await?;
    migration.take(Database::Monolith, "shipments").await?;
    migration.drain(&Flow::OLD_EVENTS).await?;
    settle(migration).await?;
    migration.drain(&Flow::ORDERS_BACK).await?;
    agree_since(migration, sync::ORDERS, Database::Order, (Database::Order, &compared)).await?;
    migration.give(Database::Monolith, "orders").await?;
    migration.route(Domain::Orders, Route::MONOLITH).await?;
    migration.give(Database::Monolith, "shipments").await?;
    sync::off(&migration.monolith().await?, sync::ORDERS).await
}

async fn owns_shipments(migration: &Migration) -> Result<bool> {
    // Before phase 5 the Logistics service has no tables.
    Ok(db::has_tables(&migration.places, Database::Logistics).await?
        && migration.owns(Database::Logistics, "shipments").await?)
}

/// Waits until every saga has ended.
async fn settle(migration: &Migration) -> Result<()> {
    let client = migration.connect(Database::Order).await?;
    let started = tokio::time::Instant::now();
    loop {
        let query = "SELECT order_id || ' ' || kind || ' ' || state FROM saga WHERE outcome IS NULL";
        let open: Vec<String> = client.query(query, &[]).await?.iter().map(|row| row.get(0)).collect();
        if open.is_empty() {
            say("every saga has ended");
            return Ok(());
        }
        ensure!(started.elapsed() < std::time::Duration::from_secs(60), "these sagas do not end: {open:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

pub(super) async fn back_from_5(migration: &Migration) -> Result<()> {
    retire(migration, "retired", "public").await?;
    // The tables follow again, and have to catch up first.
    migration.drain(&Flow::SHIPMENTS_BACK).await?;
    let compared = agree(migration, sync::SHIPMENTS, Database::Logistics, Database::Logistics).await?;
    migration.take(Database::Logistics, "shipments").await?;
    migration.drain(&Flow::SHIPMENTS_BACK).await?;
    migration.drain(&Flow::NEW_EVENTS).await?;
    agree_since(migration, sync::SHIPMENTS, Database::Logistics, (Database::Logistics, &compared)).await?;
    migration.give(Database::Monolith, "shipments").await?;
    migration.route(Domain::Shipments, Route::MONOLITH).await?;
    sync::off(&migration.monolith().await?, sync::SHIPMENTS).await
}

/// Says whether a phase is done and sound, and changes nothing.
pub(super) async fn check(migration: &Migration, phase: u8) -> Result<bool> {
    match phase {
        1 => boundaries::report(&migration.monolith().await?).await,
        2 => {
            isolated(migration, Database::User).await?;
            Ok(true)
        }
        3 => moved(migration, Domain::Users, "user", Database::User).await,
        4 => moved(migration, Domain::Orders, "order", Database::Order).await,
        5 => moved(migration, Domain::Shipments, "shipment", Database::Logistics).await,
        6 => super::archive::check(migration).await,
        _ => bail!("there is no phase {phase}"),
    }
}

/// The routes, the owner, and, while the monolith still follows, the differences.
async fn moved(migration: &Migration, domain: Domain, kind: &str, service: Database) -> Result<bool> {
    let status = facade::status(&migration.http, &migration.places).await?;
    let route: Route = serde_json::from_value(status["routes"][domain.name()].clone()).context("no route")?;
    say(&format!("{}: read in the {}, written in the {}", domain.name(), name(route.reads), name(route.writes)));
    let owns = migration.owns(service, domain.name()).await?;
    say(&format!("{} {} {}", service.name(), if owns { "writes" } else { "does not write" }, domain.name()));
    // The monolith's shipments are put away, and follow no more.
    let lines = if domain == Domain::Shipments {
        Vec::new()
    } else {
        compare::lasting(&migration.places, kind, service, None).await?.1
    };
    lines.iter().take(20).for_each(|line| say(line));
    say(&format!("{} differences", lines.len()));
    Ok(owns && route.reads == Target::Service && route.writes == Target::Service && lines.is_empty())
}
