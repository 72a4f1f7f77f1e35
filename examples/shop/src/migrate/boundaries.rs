//! Phase 1: which tables belong together, and what ties the domains to each other. All of it is
//! read from the live schema.

use anyhow::Result;
use tokio_postgres::Client;

const USER: &[&str] = &["users", "addresses"];
const ORDER: &[&str] = &["orders", "order_items"];
const LOGISTICS: &[&str] = &["shipments", "delivery_attempts", "delivery_agents"];
/// What the migration itself has put there.
const OURS: &[&str] = &["id_map", "module_state", "sync_outbox", "shipment_outbox", "inbox"];

fn domain(table: &str) -> Option<&'static str> {
    [("User", USER), ("Order", ORDER), ("Logistics", LOGISTICS)]
        .into_iter()
        .find(|(_, tables)| tables.contains(&table))
        .map(|(name, _)| name)
}

/// Prints the boundaries. Returns whether every table has a domain.
pub(super) async fn report(client: &Client) -> Result<bool> {
    let whole = tables(client).await?;
    foreign_keys(client).await?;
    views(client).await?;
    println!("\nOrder of extraction: User (refers to nothing), Order (refers to User), Logistics (refers to Order)");
    println!("\nContracts to be: the HTTP API stays as it is, behind the facade; and these events");
    println!("  user.events      UserCreated AddressAdded AddressUpdated UserDeleted");
    println!("  order.events     OrderCreated OrderConfirmed OrderCancelled OrderCompleted");
    println!(
        "  shipment.events  ShipmentCreated ShipmentDispatched ShipmentDelivered DeliveryAttemptFailed ShipmentReturned"
    );
    Ok(whole)
}

async fn tables(client: &Client) -> Result<bool> {
    println!("Tables");
    let mut whole = true;
    let query = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind = 'r' AND n.nspname IN ('public', 'retired') ORDER BY c.oid";
    for row in client.query(query, &[]).await? {
        let (schema, table): (&str, &str) = (row.get(0), row.get(1));
        if OURS.contains(&table) {
            continue;
        }
        let rows: i64 = client.query_one(&format!("SELECT count(*) FROM {schema}.{table}"), &[]).await?.get(0);
        let domain = domain(table);
        whole &= domain.is_some();
        println!("  {:<10} {table:<18} {rows:>8} rows", domain.unwrap_or("?"));
    }
    Ok(whole)
}

async fn foreign_keys(client: &Client) -> Result<()> {
    println!("\nForeign keys across domains: each becomes an id without a constraint");
    let query = "SELECT c.conrelid::regclass::text, a.attname::text, c.confrelid::regclass::text
                 FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
                 WHERE c.contype = 'f' ORDER BY c.oid";
    for row in client.query(query, &[]).await? {
        let (from, column, to): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let (here, there) = (domain(from), domain(to));
        if here != there {
            println!("  {:<10} {from}.{column} → {to} ({})", here.unwrap_or("?"), there.unwrap_or("?"));
        }
    }
    Ok(())
}

async fn views(client: &Client) -> Result<()> {
    println!("\nViews across domains: each becomes a composition of APIs, or a copy");
    let query = "SELECT view_name::text, string_agg(table_name::text, ', ' ORDER BY table_name)
                 FROM information_schema.view_table_usage WHERE view_schema = 'public' GROUP BY view_name";
    for row in client.query(query, &[]).await? {
        println!("  {} reads {}", row.get::<_, &str>(0), row.get::<_, &str>(1));
    }
    Ok(())
}
