//! What moves: the routes, the last orders with their sagas and parcels, and the last events.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use tokio_postgres::Client;

use super::Page;
use crate::{
    db, facade,
    places::{Database, Places},
    web::Http,
};

/// How long the panel waits for a database that is slow or away.
const WITHIN: Duration = Duration::from_secs(2);

/// Orders, each with what the page shows of it. The monolith has no saga.
const OLD_ORDERS: &str = "SELECT o.order_number, o.status, '-', coalesce(s.status, '-') FROM orders o
    LEFT JOIN shipments s ON s.order_id = o.id ORDER BY o.id DESC LIMIT 8";
const ORDERS: &str = "SELECT o.order_number, o.status, coalesce(s.outcome, s.state), o.id::text FROM orders o
    JOIN saga s ON s.order_id = o.id AND s.kind = 'create' ORDER BY o.created_at DESC LIMIT 8";

pub(super) async fn render(page: &Page) -> String {
    let mut html = String::new();
    let tally = page.ledger.tally();
    let _ = write!(
        html,
        "<p id=now>{}</p><p id=faults-over>{} faults are over</p><p id=tally>{} orders placed here, {} followed to their end, {} failed requests</p>",
        escape(&page.said()),
        page.over.load(std::sync::atomic::Ordering::Relaxed),
        tally.orders,
        tally.finished,
        tally.failures
    );
    for failure in page.ledger.failures().iter().take(3) {
        let _ = write!(html, "<p class=bad>{}</p>", escape(failure));
    }
    let places = &page.stage.places;
    for part in [routes(places).await, orders(places).await, events(places).await] {
        match part {
            Ok(part) => html += &part,
            Err(error) => {
                let _ = write!(html, "<p class=bad>{}</p>", escape(&format!("{error:#}")));
            }
        }
    }
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(id: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = format!("<table id={id}><tr>");
    head.iter().for_each(|cell| html += &format!("<th>{cell}</th>"));
    for row in rows {
        html += "</tr><tr>";
        row.iter().for_each(|cell| html += &format!("<td>{}</td>", escape(cell)));
    }
    html + "</tr></table>"
}

async fn session(places: &Places, database: Database) -> Result<Client> {
    tokio::time::timeout(WITHIN, db::connect(places, database)).await?
}

async fn texts(client: &Client, query: &str) -> Result<Vec<Vec<String>>> {
    let rows = tokio::time::timeout(WITHIN, client.query(query, &[])).await??;
    Ok(rows.iter().map(|row| (0..row.len()).map(|i| row.get::<_, &str>(i).to_owned()).collect()).collect())
}

async fn routes(places: &Places) -> Result<String> {
    let status = tokio::time::timeout(WITHIN, facade::status(&Http::default(), places)).await??;
    let rows: Vec<Vec<String>> = ["users", "orders", "shipments"]
        .into_iter()
        .map(|domain| {
            let route = &status["routes"][domain];
            let text = |key: &str| route[key].as_str().unwrap_or("?").to_owned();
            vec![domain.to_owned(), text("reads"), text("writes")]
        })
        .collect();
    Ok(table("routes", &["domain", "read in the", "written in the"], &rows))
}

async fn has(client: &Client) -> Result<bool> {
    let there = "SELECT 'x' FROM pg_class WHERE relname = 'module_state' AND relkind = 'r'";
    Ok(!texts(client, there).await?.is_empty())
}

async fn orders(places: &Places) -> Result<String> {
    let order = session(places, Database::Order).await?;
    let mut rows = if has(&order).await? { texts(&order, ORDERS).await? } else { Vec::new() };
    if rows.is_empty() {
        rows = texts(&session(places, Database::Monolith).await?, OLD_ORDERS).await?;
    } else {
        let logistics = session(places, Database::Logistics).await?;
        let there = has(&logistics).await?;
        for row in &mut rows {
            let query = format!("SELECT status::text FROM shipments WHERE order_id = '{}'", row[3]);
            let found = if there { texts(&logistics, &query).await? } else { Vec::new() };
            row[3] = found.into_iter().flatten().next().unwrap_or_else(|| "-".to_owned());
        }
    }
    Ok(table("orders", &["order", "status", "saga", "parcel"], &rows))
}

async fn events(places: &Places) -> Result<String> {
    let mut rows = Vec::new();
    let mut waiting = 0_i64;
    for (database, outbox, topic) in [
        (Database::User, "user_outbox", "user.events"),
        (Database::Order, "order_outbox", "order.events"),
        (Database::Logistics, "logistics_outbox", "shipment.events"),
    ] {
        let client = session(places, database).await?;
        if !has(&client).await? {
            continue;
        }
        let last = format!(
            "SELECT to_char(created_at, 'HH24:MI:SS.MS'), '{topic}', event_type::text,
                 CASE WHEN published_at IS NULL THEN 'waits' ELSE 'published' END
             FROM {outbox} ORDER BY created_at DESC LIMIT 6"
        );
        rows.extend(texts(&client, &last).await?);
        let open = format!("SELECT count(*) FROM {outbox} WHERE published_at IS NULL");
        waiting += tokio::time::timeout(WITHIN, client.query_one(&open, &[])).await??.get::<_, i64>(0);
    }
    rows.sort_by(|a, b| b.cmp(a));
    rows.truncate(12);
    Ok(format!("<p id=waiting>{waiting} events wait for outboxd</p>")
        + &table("events", &["at", "topic", "event", ""], &rows))
}
