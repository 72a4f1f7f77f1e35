//! Phase 6: the last comparison, the monolith's tables as files, and the database under another
//! name, read-only. The way back gives the name back; what was written meanwhile waits in the
//! topics, and is applied.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Migration, compare::agree, cutover::Flow, phases, say, sync};
use crate::{
    facade::{self, Domain},
    places::Database,
};

/// The monolith's database afterwards.
const ARCHIVE: &str = "monolith_archive";

/// The tables to keep: the guide's seven, and the serial numbers' UUIDs.
const TABLES: [&str; 8] =
    ["users", "addresses", "orders", "order_items", "shipments", "delivery_attempts", "delivery_agents", "id_map"];

/// Walks the phase in two parts, since the monolith has to be stopped in between. The first part
/// makes the archive whole; the second one puts the database away.
pub(super) async fn decommission(migration: &Migration) -> Result<()> {
    for (domain, service) in
        [(Domain::Users, Database::User), (Domain::Orders, Database::Order), (Domain::Shipments, Database::Logistics)]
    {
        ensure!(migration.owns(service, domain.name()).await?, "{} are still written in the monolith", domain.name());
    }
    if is_running(migration).await {
        unasked(migration).await?;
        complete(migration).await?;
        say("stop the monolith and its outboxd now, and run this once more");
        return Ok(());
    }
    export(&migration.monolith().await?, &migration.archive).await?;
    put_away(migration).await
}

async fn is_running(migration: &Migration) -> bool {
    let url = format!("http://{}/health", migration.places.monolith);
    migration.http.get(&url, std::time::Duration::from_secs(2)).await.is_ok()
}

/// Nobody's request reaches the monolith any more.
async fn unasked(migration: &Migration) -> Result<()> {
    let count = async || {
        let status = facade::status(&migration.http, &migration.places).await?;
        status["to_monolith"].as_u64().context("the facade does not count")
    };
    let before = count().await?;
    tokio::time::sleep(migration.dwell).await;
    let after = count().await?;
    ensure!(before == after, "{} requests went to the monolith just now", after - before);
    say(&format!("no request went to the monolith for {:?}", migration.dwell));
    Ok(())
}

/// Everything that the services have written arrives in the monolith's tables once more.
async fn complete(migration: &Migration) -> Result<()> {
    phases::retire(migration, "retired", "public").await?;
    for flow in [Flow::USERS_BACK, Flow::ORDERS_BACK, Flow::SHIPMENTS_BACK] {
        migration.drain(&flow).await?;
    }
    agree(migration, sync::USERS, Database::User, Database::User).await?;
    agree(migration, sync::ORDERS, Database::Order, Database::Order).await?;
    agree(migration, sync::SHIPMENTS, Database::Logistics, Database::Logistics).await?;
    Ok(())
}

/// Writes each table as CSV, with a header.
async fn export(client: &Client, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    for table in TABLES {
        let path = directory.join(format!("{table}.csv"));
        let mut file = BufWriter::new(File::create(&path)?);
        let rows = write_table(client, table, &mut file).await?;
        file.into_inner()?.sync_all()?;
        say(&format!("{}: {rows} rows", path.display()));
    }
    Ok(())
}

async fn write_table(client: &Client, table: &str, file: &mut impl Write) -> Result<usize> {
    let columns = "SELECT string_agg(attname::text, ',' ORDER BY attnum) FROM pg_attribute
                   WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped";
    let header: String = client.query_one(columns, &[&table]).await?.get(0);
    writeln!(file, "{header}")?;
    // The rows come as text, so that every type is written as Postgres writes it.
    let mut rows = 0;
    for message in client.simple_query(&format!("SELECT * FROM {table} ORDER BY 1, 2")).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let fields: Vec<String> = (0..row.len()).map(|i| field(row.get(i))).collect();
            writeln!(file, "{}", fields.join(","))?;
            rows += 1;
        }
    }
    Ok(rows)
}

/// A field of CSV as COPY writes it: NULL is nothing, and text with special characters is quoted.
fn field(text: Option<&str>) -> String {
    match text {
        None => String::new(),
        Some("") => "\"\"".to_owned(),
        Some(text) if text.contains([',', '"', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Some(text) => text.to_owned(),
    }
}

async fn put_away(migration: &Migration) -> Result<()> {
    // A session of another database: the database that is renamed must have none.
    let client = migration.connect(Database::Facade).await?;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'monolith'";
    let started = tokio::time::Instant::now();
    loop {
        let open: i64 = client.query_one(sessions, &[]).await?.get(0);
        if open == 0 {
            break;
        }
        ensure!(started.elapsed().as_secs() < 10, "{open} sessions still use the monolith's database");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    client.batch_execute(&format!("ALTER DATABASE monolith RENAME TO {ARCHIVE}")).await?;
    let read_only = format!("ALTER DATABASE {ARCHIVE} SET default_transaction_read_only = on");
    client.batch_execute(&read_only).await?;
    say(&format!("the database is called {ARCHIVE}, and is read-only"));
    Ok(())
}

/// Gives the database its name back. The monolith and its outboxd may be started then.
pub(super) async fn back(migration: &Migration) -> Result<()> {
    let client = migration.connect(Database::Facade).await?;
    client.batch_execute(&format!("ALTER DATABASE {ARCHIVE} RENAME TO monolith")).await?;
    client.batch_execute("ALTER DATABASE monolith RESET default_transaction_read_only").await?;
    say("the database is called monolith again; start the monolith and its outboxd");
    Ok(())
}

pub(super) async fn check(migration: &Migration) -> Result<bool> {
    let client = migration.connect(Database::Facade).await?;
    let there = "SELECT FROM pg_database WHERE datname = 'monolith'";
    let gone = client.query_opt(there, &[]).await?.is_none();
    let running = is_running(migration).await;
    say(&format!("the monolith's database is {}", if gone { "put away" } else { "in its place" }));
    say(&format!("the monolith {}", if running { "runs" } else { "does not run" }));
    Ok(gone && !running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_quoted_where_csv_needs_it() {
        assert_eq!(field(None), "");
        assert_eq!(field(Some("")), "\"\"");
        assert_eq!(field(Some("Apt 4, \"left\"")), "\"Apt 4, \"\"left\"\"\"");
        assert_eq!(field(Some("Mumbai")), "Mumbai");
    }
}
