//! Every table, column, key, index and view of the guide is here as the guide has it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use shop::{db, places::Database};
use testbed::{Postgres, Version};
use tokio_postgres::Client;

use crate::table::seed;

/// What there is in the schema `public`, one line each.
const WHAT_THERE_IS: &str = "
    SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'key ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND contype IN ('p', 'f', 'u', 'c')
    UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'view ' || viewname || ' ' || definition FROM pg_views WHERE schemaname = 'public'";

async fn what_there_is(client: &Client) -> Result<BTreeSet<String>> {
    Ok(client.query(WHAT_THERE_IS, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// The SQL of the guide under a heading.
fn sql_under(heading: &str) -> Result<String> {
    let seed = seed()?;
    let section = &seed[seed.find(heading).with_context(|| format!("no heading {heading}"))?..];
    let start = section.find("```sql").context("no SQL")? + 6;
    let length = section[start..].find("```").context("no end of the SQL")?;
    Ok(section[start..start + length].to_owned())
}

async fn fresh() -> Result<Client> {
    let postgres = Postgres::shared(Version::V15).await?;
    let name = postgres.fresh_database("schema").await?;
    postgres.client(&name).await
}

/// Everything that the guide's SQL makes is in our schema, too.
async fn holds(sql: &str, database: Database) -> Result<()> {
    let theirs = fresh().await?;
    theirs.batch_execute(sql).await?;
    let mut ours = fresh().await?;
    db::run_files(&mut ours, db::schema(database)).await?;
    let (theirs, ours) = (what_there_is(&theirs).await?, what_there_is(&ours).await?);
    ensure!(theirs.len() > 10, "the guide's SQL makes only {theirs:?}");
    let missing: Vec<_> = theirs.difference(&ours).collect();
    ensure!(missing.is_empty(), "the guide has, and we have not: {missing:#?}");
    Ok(())
}

#[tokio::test]
async fn the_monolith_has_the_guides_tables_and_its_view() -> Result<()> {
    holds(&sql_under("### Original Database Schema (Monolith)")?, Database::Monolith).await
}

#[tokio::test]
async fn the_user_service_has_the_guides_tables() -> Result<()> {
    holds(&sql_under("### User Service Database")?, Database::User).await
}

#[tokio::test]
async fn the_order_service_has_the_guides_tables() -> Result<()> {
    holds(&sql_under("### Order Service Database")?, Database::Order).await
}

/// The guide makes `shipments` before `carriers`, to which it refers.
#[tokio::test]
async fn the_logistics_service_has_the_guides_tables_in_an_order_that_works() -> Result<()> {
    let sql = sql_under("### Logistics Service Database")?;
    let in_their_order = fresh().await?.batch_execute(&sql).await;
    let error = in_their_order.err().context("the guide's own order works now")?;
    ensure!(format!("{error:?}").contains("carriers"), "{error:?}");
    let start = sql.find("CREATE TABLE carriers").context("no carriers")?;
    let end = start + sql[start..].find(");\n").context("no end of carriers")? + 3;
    let reordered = format!("{}\n{}{}", &sql[start..end], &sql[..start], &sql[end..]);
    holds(&reordered, Database::Logistics).await
}

/// No foreign key points to a table of another service, and every id is a UUID.
#[tokio::test]
async fn no_service_knows_another_services_tables() -> Result<()> {
    for (database, foreign) in [
        (Database::User, ["orders", "shipments"]),
        (Database::Order, ["users", "shipments"]),
        (Database::Logistics, ["users", "orders"]),
    ] {
        let mut client = fresh().await?;
        db::run_files(&mut client, db::schema(database)).await?;
        let there = what_there_is(&client).await?;
        for table in foreign {
            ensure!(
                !there.iter().any(|line| line.starts_with(&format!("column {table}."))),
                "{database:?} has {table}"
            );
        }
        let serial = there.iter().find(|line| line.contains("nextval("));
        ensure!(serial.is_none(), "{database:?}: {serial:?}");
    }
    Ok(())
}
