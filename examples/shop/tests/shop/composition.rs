//! An order's details come from two services, and without the second one when that is away.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use shop::{
    load::{Kind, Person, Shopper},
    prove::Part,
};

use crate::scene;

async fn details(shopper: &Shopper, order: &str) -> Result<(Value, Duration)> {
    let started = Instant::now();
    let answer = shopper.get(&format!("/orders/{order}")).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok((answer.json(), started.elapsed()))
}

async fn complete(shopper: &Shopper, order: &str) -> Result<()> {
    shopper.until(&format!("/orders/{order}"), |order| order["shipment_status"] == "ok").await?;
    Ok(())
}

#[tokio::test]
async fn an_order_is_shown_without_its_shipment_while_logistics_is_slow_or_down() -> Result<()> {
    let stage = scene::stage_at(5).await?;
    let shopper = scene::shopper(&stage);
    let person = Person::register(&shopper, 1).await?;
    let order = person.place(&shopper, Kind::Delivered).await?;
    complete(&shopper, &order).await?;

    stage.pause(Part::Logistics, true)?;
    let (slow, took) = details(&shopper, &order).await?;
    assert_eq!(slow["shipment_status"], "unavailable");
    assert_eq!(slow["customer_email"], person.email.as_str());
    ensure!(slow["shipment"].is_null() && slow["order_number"].is_string(), "{slow}");
    // The limit is 300 ms; a busy machine may take longer to notice.
    ensure!(took < Duration::from_secs(5), "{took:?}");
    stage.pause(Part::Logistics, false)?;
    complete(&shopper, &order).await?;

    stage.kill9(Part::Logistics)?;
    assert_eq!(details(&shopper, &order).await?.0["shipment_status"], "unavailable");
    stage.start_again(Part::Logistics)?;
    complete(&shopper, &order).await
}
