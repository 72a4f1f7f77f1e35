//! Each service publishes the guide's events, in the guide's form, to the guide's topics.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use axum::http::Method;
use serde_json::Value;
use shop::{
    load::{Kind, Person},
    prove::Stage,
};
use testbed::{
    eventually,
    reader::{Record, read_committed},
};

use crate::scene;

const EVENTS: [(&str, &[&str]); 3] = [
    ("user.events", &["UserCreated", "AddressAdded", "AddressUpdated", "UserDeleted"]),
    ("order.events", &["OrderCreated", "OrderConfirmed", "OrderCancelled", "OrderCompleted"]),
    (
        "shipment.events",
        &["ShipmentCreated", "ShipmentDispatched", "ShipmentDelivered", "DeliveryAttemptFailed", "ShipmentReturned"],
    ),
];

fn value(record: &Record) -> Result<Value> {
    Ok(serde_json::from_slice(record.value.as_deref().context("no value")?)?)
}

/// Customers who do everything once. The invariants hold afterwards, and each row is one record.
#[tokio::test]
async fn every_event_of_the_guide_is_published_in_its_form() -> Result<()> {
    let stage = scene::stage_at(5).await?;
    let shopper = scene::shopper(&stage);
    let mut person = Person::register(&shopper, 1).await?;
    person.change(&shopper).await?;
    for kind in [
        Kind::Delivered,
        Kind::DeliveredAtSecondAttempt,
        Kind::GivenBack,
        Kind::SoldOut,
        Kind::Declined,
        Kind::Unreachable,
        Kind::Cancelled,
    ] {
        person.order(&shopper, kind).await.with_context(|| format!("{kind:?}"))?;
        // What comes later must not change what was ordered.
        person.change(&shopper).await?;
    }
    let left = Person::register(&shopper, 2).await?;
    shopper.must(Method::DELETE, &format!("/users/{}", left.id), &Value::Null).await?;
    let gone = shopper.get(&format!("/users/{}", left.id)).await?;
    ensure!(gone.status == 404, "a deleted user is shown: {}", gone.body);
    forgotten(&stage, &left.id).await?;

    scene::settled(&stage).await?;
    scene::assert_sound(&stage, shopper.ledger()).await?;
    let monolith = stage.postgres.client("monolith").await?;
    shop::prove::audit_topics(&stage, Some(&monolith)).await?.assert_clean();
    for (topic, events) in EVENTS {
        let mut first: BTreeMap<String, Value> = BTreeMap::new();
        for record in read_committed(&stage.places.brokers, &[topic]).await? {
            let kind = record.header_str("event_type").context("no event_type")?.to_owned();
            first.entry(kind).or_insert(value(&record)?);
        }
        let kinds: BTreeSet<&str> = first.keys().map(String::as_str).collect();
        assert_eq!(kinds, events.iter().copied().collect(), "{topic}");
        for event in first.values() {
            in_form(event)?;
        }
    }
    Ok(())
}

/// The event takes the place of the foreign key, and the row goes with the purge.
async fn forgotten(stage: &Stage, user: &str) -> Result<()> {
    let order = stage.postgres.client("order_service").await?;
    let known = "SELECT FROM deleted_users WHERE user_id = $1::text::uuid";
    eventually(Duration::from_secs(60), async || match order.query_opt(known, &[&user]).await {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let users = stage.postgres.client("user_service").await?;
    let row = "SELECT email FROM users WHERE id = $1::text::uuid";
    let email: String = users.query_one(row, &[&user]).await?.get(0);
    ensure!(email.starts_with("deleted-"), "{email} is kept");
    ensure!(shop::user::purge(&users, 30).await? == 0, "a row went before its time");
    ensure!(shop::user::purge(&users, 0).await? > 0 && users.query_opt(row, &[&user]).await?.is_none(), "a row stays");
    Ok(())
}

/// The guide's envelope, and for its two examples the guide's fields.
fn in_form(event: &Value) -> Result<()> {
    let fields: BTreeSet<&str> = event.as_object().context("no object")?.keys().map(String::as_str).collect();
    assert_eq!(fields, BTreeSet::from(["event_id", "event_type", "timestamp", "data"]));
    let wanted: &[&str] = match event["event_type"].as_str() {
        Some("UserCreated") => &["user_id", "email", "name"],
        Some("OrderCreated") => &["order_id", "order_number", "user_id", "total", "shipping_address"],
        _ => &[],
    };
    for field in wanted {
        ensure!(!event["data"][field].is_null(), "{event} has no {field}");
    }
    Ok(())
}

/// What belongs to the user alone is in the user's events, and no password is in any.
#[tokio::test]
async fn an_address_has_a_version_that_a_change_has_to_name() -> Result<()> {
    let stage = scene::stage_at(3).await?;
    let shopper = scene::shopper(&stage);
    let person = Person::register(&shopper, 1).await?;
    let path = format!("/users/{}/addresses/{}", person.id, person.address_id);
    let mut address = person.address.clone();
    address.version = Some(1);
    let changed = shopper.must(Method::PUT, &path, &address).await?;
    ensure!(changed["version"] == 2, "{changed}");
    // Somebody who has read version 1 comes too late.
    let late = shopper.send(Method::PUT, &path, &address).await?;
    ensure!(late.status == 409, "{} {}", late.status, late.body);
    scene::settled(&stage).await?;
    for record in read_committed(&stage.places.brokers, &["user.events"]).await? {
        let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        ensure!(!text.contains("password") && !text.contains("argon2"), "{text}");
    }
    Ok(())
}
