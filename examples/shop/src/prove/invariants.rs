//! What has to be true in the end, by the databases, the customers' memory, and the topics.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, ensure};
use testbed::{Audit, Expect, oracle, reader};
use tokio_postgres::Client;

use super::Stage;
use crate::{
    db,
    load::{Ledger, Placed},
    places::Database,
};

/// An invariant: how much it looked at, and what broke it.
#[derive(Debug)]
pub struct Finding {
    pub name: &'static str,
    pub looked_at: i64,
    pub broken: Vec<String>,
}

/// Invariants of one database: the name, a query that counts what is looked at, and one that finds
/// what breaks it.
struct Rule {
    name: &'static str,
    database: Database,
    count: &'static str,
    broken: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        name: "every order has exactly one saga outcome",
        database: Database::Order,
        count: "SELECT count(*) FROM orders",
        broken: "SELECT o.order_number FROM orders o WHERE 1 <> (SELECT count(*) FROM saga s
                 WHERE s.order_id = o.id AND s.kind = 'create' AND s.outcome IS NOT NULL)",
    },
    Rule {
        name: "no saga is open",
        database: Database::Order,
        count: "SELECT count(*) FROM saga",
        broken: "SELECT order_id || ' ' || kind || ' ' || state FROM saga WHERE outcome IS NULL",
    },
    Rule {
        name: "the status of an order fits its saga's outcome",
        database: Database::Order,
        count: "SELECT count(*) FROM saga WHERE outcome <> 'migrated'",
        broken: "SELECT o.order_number || ' ' || o.status || ' ' || s.outcome FROM orders o JOIN saga s ON s.order_id = o.id
                 WHERE NOT CASE s.outcome WHEN 'completed' THEN o.status IN ('CONFIRMED', 'SHIPPED', 'COMPLETED', 'RETURNED')
                     WHEN 'compensated' THEN o.status = 'CANCELLED' WHEN 'returned' THEN o.status = 'RETURNED'
                     ELSE true END",
    },
    Rule {
        name: "the money of each order adds up",
        database: Database::Order,
        count: "SELECT count(*) FROM orders",
        broken: "SELECT o.order_number FROM orders o
                 WHERE o.total <> o.subtotal + o.tax + o.shipping_cost - o.discount
                    OR o.subtotal <> (SELECT sum(i.quantity * i.unit_price) FROM order_items i WHERE i.order_id = o.id)",
    },
    Rule {
        name: "the history of each order ends with its status",
        database: Database::Order,
        count: "SELECT count(*) FROM orders",
        broken: "SELECT o.order_number || ' ' || o.status FROM orders o WHERE o.status <> (SELECT h.to_status
                 FROM order_status_history h WHERE h.order_id = o.id ORDER BY h.created_at DESC, h.to_status = o.status DESC LIMIT 1)",
    },
    Rule {
        name: "stock adds up",
        database: Database::Partners,
        count: "SELECT count(*) FROM stock",
        broken: "SELECT s.sku FROM stock s WHERE s.initial <> s.on_hand + coalesce(
                 (SELECT sum(r.quantity) FROM reservations r WHERE r.sku = s.sku AND NOT r.released), 0)",
    },
];

/// Looks at everything but the topics.
pub async fn invariants(stage: &Stage, ledger: &Ledger) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for rule in RULES {
        let client = db::connect(&stage.places, rule.database).await?;
        let looked_at = client.query_one(rule.count, &[]).await?.get(0);
        let broken = client.query(rule.broken, &[]).await?.iter().map(|row| row.get(0)).collect();
        findings.push(Finding { name: rule.name, looked_at, broken });
    }
    let order = db::connect(&stage.places, Database::Order).await?;
    let partners = db::connect(&stage.places, Database::Partners).await?;
    let logistics = db::connect(&stage.places, Database::Logistics).await?;
    findings.push(customers(&order, &ledger.orders()).await?);
    findings.push(snapshots(&order, &ledger.orders()).await?);
    findings.push(payments(&order, &partners).await?);
    findings.push(reservations(&order, &partners).await?);
    findings.push(shipments(&order, &logistics).await?);
    findings.push(deletions(&db::connect(&stage.places, Database::User).await?, &ledger.deleted()).await?);
    Ok(findings)
}

fn finding(name: &'static str, looked_at: usize, broken: Vec<String>) -> Finding {
    Finding { name, looked_at: i64::try_from(looked_at).unwrap_or(i64::MAX), broken }
}

/// The text columns of a query, by the first one.
async fn by_first(client: &Client, query: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found = BTreeMap::new();
    for row in client.query(query, &[]).await? {
        let fields = (1..row.len()).map(|i| row.get::<_, Option<String>>(i).unwrap_or_default()).collect();
        ensure!(found.insert(row.get(0), fields).is_none(), "{} twice", row.get::<_, String>(0));
    }
    Ok(found)
}

async fn customers(order: &Client, ledger: &BTreeMap<String, Placed>) -> Result<Finding> {
    let orders = by_first(order, "SELECT order_number, status, total::text FROM orders").await?;
    let mut broken = Vec::new();
    for (number, placed) in ledger {
        match orders.get(number) {
            None => broken.push(format!("{number} is lost")),
            Some(found) if !placed.fate.fits(&found[0]) => {
                broken.push(format!("{number} is {}, and should be {:?}", found[0], placed.fate));
            }
            Some(found) if found[1] != placed.total => {
                broken.push(format!("{number} costs {} and not {}", found[1], placed.total));
            }
            Some(_) => {}
        }
    }
    let foreign = orders.keys().filter(|number| number.len() > 12 && !ledger.contains_key(*number));
    broken.extend(foreign.map(|number| format!("{number} was ordered by nobody")));
    Ok(finding("no order is lost, made twice, or ends otherwise than it should", ledger.len(), broken))
}

async fn snapshots(order: &Client, ledger: &BTreeMap<String, Placed>) -> Result<Finding> {
    let query = "SELECT o.order_number, o.customer_email, o.customer_name, o.customer_phone,
                     o.shipping_address ->> 'line1', o.shipping_address ->> 'pincode'
                 FROM orders o JOIN saga s ON s.order_id = o.id AND s.kind = 'create' WHERE s.outcome <> 'migrated'";
    let orders = by_first(order, query).await?;
    let mut broken = Vec::new();
    for (number, found) in &orders {
        let Some(placed) = ledger.get(number) else { continue };
        let then = [&placed.email, &placed.name, &placed.phone, &placed.line1, &placed.pincode];
        if found.iter().collect::<Vec<_>>() != then {
            broken.push(format!("{number}: {found:?}, and at the time of the order {then:?}"));
        }
    }
    Ok(finding("snapshots are what they were at the time of the order", orders.len(), broken))
}

/// The sagas' orders: what was paid and kept is what was sold.
async fn payments(order: &Client, partners: &Client) -> Result<Finding> {
    let query = "SELECT o.id::text, o.status, o.total::text, o.payment_status FROM orders o
                 JOIN saga s ON s.order_id = o.id AND s.kind = 'create' WHERE s.outcome <> 'migrated'";
    let orders = by_first(order, query).await?;
    let paid = by_first(partners, "SELECT order_id::text, amount::text, refunded::text FROM payments").await?;
    let mut broken = Vec::new();
    for (id, order) in &orders {
        let kept = paid.get(id).filter(|payment| payment[1] == "false").map(|payment| payment[0].as_str());
        let sold = (order[2] == "PAID").then_some(order[1].as_str());
        let alive = !matches!(order[0].as_str(), "CANCELLED" | "RETURNED");
        if kept != sold || alive != sold.is_some() {
            broken.push(format!("{id}: order {order:?}, payment {:?}", paid.get(id)));
        }
    }
    broken.extend(paid.keys().filter(|id| !orders.contains_key(*id)).map(|id| format!("{id}: paid, and no order")));
    Ok(finding("what was paid is what was sold", orders.len(), broken))
}

/// The sagas' orders: what is reserved is what was sold.
async fn reservations(order: &Client, partners: &Client) -> Result<Finding> {
    let sold =
        "SELECT i.order_id || ' ' || i.sku, i.quantity::text FROM order_items i JOIN orders o ON o.id = i.order_id
                JOIN saga s ON s.order_id = o.id AND s.kind = 'create'
                WHERE s.outcome <> 'migrated' AND o.status NOT IN ('CANCELLED', 'RETURNED')";
    let kept = "SELECT order_id || ' ' || sku, quantity::text FROM reservations WHERE NOT released";
    let (sold, kept) = (by_first(order, sold).await?, by_first(partners, kept).await?);
    let mut broken: Vec<String> = sold
        .iter()
        .filter(|(key, quantity)| kept.get(*key) != Some(quantity))
        .map(|(key, quantity)| format!("{key}: {quantity:?} sold, {:?} reserved", kept.get(key)))
        .collect();
    broken.extend(kept.keys().filter(|key| !sold.contains_key(*key)).map(|key| format!("{key}: reserved, not sold")));
    Ok(finding("what is reserved is what was sold", sold.len(), broken))
}

async fn shipments(order: &Client, logistics: &Client) -> Result<Finding> {
    let confirmed = "SELECT DISTINCT o.id::text FROM orders o WHERE o.status IN ('CONFIRMED', 'SHIPPED', 'COMPLETED', 'RETURNED')
                     OR EXISTS (SELECT FROM order_status_history h WHERE h.order_id = o.id AND h.to_status = 'CONFIRMED')";
    let confirmed: HashSet<String> = order.query(confirmed, &[]).await?.iter().map(|row| row.get(0)).collect();
    let shipped = "SELECT order_id::text, count(*)::text FROM shipments GROUP BY order_id";
    let shipped = by_first(logistics, shipped).await?;
    let mut broken: Vec<String> = confirmed
        .iter()
        .filter(|id| shipped.get(*id).is_none_or(|count| count[0] != "1"))
        .map(|id| format!("order {id}: shipments {:?}", shipped.get(id)))
        .collect();
    let orders: HashSet<String> =
        order.query("SELECT id::text FROM orders", &[]).await?.iter().map(|row| row.get(0)).collect();
    broken.extend(shipped.keys().filter(|id| !orders.contains(*id)).map(|id| format!("a shipment of no order: {id}")));
    Ok(finding("every confirmed order has exactly one shipment", confirmed.len(), broken))
}

async fn deletions(user: &Client, deleted: &[String]) -> Result<Finding> {
    let query = "SELECT email FROM users WHERE email = ANY($1) AND deleted_at IS NULL";
    let broken = user.query(query, &[&deleted]).await?.iter().map(|row| row.get(0)).collect();
    Ok(finding("who has left is gone", deleted.len(), broken))
}

/// Whether the topics hold each outbox row exactly once, by the testbed's own oracle. The outbox of
/// the monolith's shipments shares a topic with that of the Logistics service.
pub async fn audit_topics(stage: &Stage, monolith: Option<&Client>) -> Result<Audit> {
    let brokers = &stage.places.brokers;
    let mut audits = Vec::new();
    for (database, table, topic) in
        [(Database::User, "user_outbox", "user.events"), (Database::Order, "order_outbox", "order.events")]
    {
        let client = db::connect(&stage.places, database).await?;
        audits.push(oracle::audit(&client, Expect::Tables(&[table]), brokers, &[topic]).await?);
    }
    let mut records = reader::read_committed(brokers, &["shipment.events"]).await?;
    if let Some(monolith) = monolith {
        let query = "SELECT id::text FROM shipment_outbox";
        let old: HashSet<String> = monolith.query(query, &[]).await?.iter().map(|row| row.get(0)).collect();
        let of_monolith = |record: &reader::Record| record.header_str("event_id").is_some_and(|id| old.contains(id));
        let (theirs, rest) = records.into_iter().partition(of_monolith);
        records = rest;
        let theirs: Vec<reader::Record> = theirs;
        audits.push(oracle::audit_records(monolith, Expect::Tables(&["shipment_outbox"]), &theirs).await?);
    }
    let client = db::connect(&stage.places, Database::Logistics).await?;
    audits.push(oracle::audit_records(&client, Expect::Tables(&["logistics_outbox"]), &records).await?);
    Ok(audits.into_iter().sum())
}
