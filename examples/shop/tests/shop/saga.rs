//! A saga goes on from where its process died, and comes to one end.

use std::time::Duration;

use anyhow::{Context, Result};
use shop::{
    load::{Kind, Person, Shopper},
    prove::{Part, Stage},
};
use testbed::eventually;

use crate::scene;

/// Each place at which a process is made to die, and an order that comes past it.
const PLACES: [(Part, &str, Kind); 24] = [
    (Part::Order, "order.create.committed", Kind::Delivered),
    (Part::Order, "saga.RESERVE.before", Kind::Delivered),
    (Part::Order, "saga.RESERVE.called", Kind::Delivered),
    (Part::Order, "saga.RESERVE.written", Kind::Delivered),
    (Part::Order, "saga.PAY.before", Kind::Delivered),
    (Part::Order, "saga.PAY.called", Kind::Delivered),
    (Part::Order, "saga.PAY.written", Kind::Delivered),
    (Part::Order, "saga.CONFIRM.before", Kind::Delivered),
    (Part::Order, "saga.CONFIRM.called", Kind::Delivered),
    (Part::Order, "saga.CONFIRM.written", Kind::Delivered),
    (Part::Order, "saga.RELEASE.before", Kind::Declined),
    (Part::Order, "saga.RELEASE.called", Kind::Declined),
    (Part::Order, "saga.RELEASE.written", Kind::Declined),
    (Part::Order, "saga.CANCEL.before", Kind::Declined),
    (Part::Order, "saga.CANCEL.called", Kind::Declined),
    (Part::Order, "saga.CANCEL.written", Kind::Declined),
    (Part::Order, "saga.REFUND.before", Kind::Unreachable),
    (Part::Order, "saga.REFUND.called", Kind::Unreachable),
    (Part::Order, "saga.REFUND.written", Kind::Unreachable),
    (Part::Partners, "partners.reserve.committed", Kind::Delivered),
    (Part::Partners, "partners.pay.committed", Kind::Delivered),
    (Part::Partners, "partners.release.committed", Kind::Declined),
    (Part::Partners, "partners.refund.committed", Kind::Unreachable),
    (Part::Logistics, "logistics.confirmed.before", Kind::Delivered),
];

const DIES_WITHIN: Duration = Duration::from_secs(60);

/// Runs a process that dies at this place, until an order has come past it; then an ordinary one.
async fn die_at(stage: &Stage, shopper: &Shopper, (part, place, kind): (Part, &str, Kind)) -> Result<String> {
    let mut person = Person::register(shopper, 1).await?;
    stage.kill9(part)?;
    stage.launch_with(part, &[("SHOP_CRASH_AT", place)])?;
    let placed = person.place_for(shopper, kind);
    let died = async {
        eventually(DIES_WITHIN, async || match stage.is_running(part) {
            Ok(false) => Ok(()),
            Ok(true) => Err("it has not died yet".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await;
        stage.launch(part)
    };
    let (order, ()) = tokio::try_join!(placed, died)?;
    Ok(order)
}

#[tokio::test]
async fn an_order_has_one_outcome_wherever_a_process_dies() -> Result<()> {
    let stage = scene::stage_at(5).await?;
    let shopper = scene::shopper(&stage);
    let mut orders = Vec::new();
    for place in PLACES {
        let order = die_at(&stage, &shopper, place).await.with_context(|| place.1)?;
        orders.push((order, place.2));
    }
    for (order, kind) in &orders {
        kind.follow(&shopper, order).await.with_context(|| format!("{order} {kind:?}"))?;
    }
    scene::settled(&stage).await?;
    scene::assert_sound(&stage, shopper.ledger()).await
}

/// Two customers' requests, of which one is the other's repetition, make one order; and a
/// cancellation that races with the saga leaves one outcome.
#[tokio::test]
async fn cancelling_at_any_moment_leaves_one_outcome() -> Result<()> {
    let stage = scene::stage_at(5).await?;
    let shopper = scene::shopper(&stage);
    let person = Person::register(&shopper, 1).await?;
    for pause in 0..12 {
        let order = person.place(&shopper, Kind::Cancelled).await?;
        // From "nothing is done yet" to "the parcel is known".
        tokio::time::sleep(Duration::from_millis(pause * 15)).await;
        Kind::Cancelled.follow(&shopper, &order).await?;
    }
    scene::settled(&stage).await?;
    scene::assert_sound(&stage, shopper.ledger()).await
}

/// Postgres sends a commit to outboxd before other sessions see it. So the answer to an event can
/// come to a saga whose own step is not visible yet.
#[tokio::test]
async fn an_answer_that_overtakes_the_commit_of_its_question_is_not_lost() -> Result<()> {
    let stage = scene::stage_at(5).await?;
    let shopper = scene::shopper(&stage);
    let person = Person::register(&shopper, 1).await?;
    let (question, answer) =
        (stage.postgres.client("order_service").await?, stage.postgres.client("logistics_service").await?);
    // An order that waits in its step CONFIRM, which nobody takes.
    let row = question
        .query_one(
            "WITH o AS (INSERT INTO orders (order_number, user_id, customer_email, shipping_address, subtotal, total)
                 VALUES ('ORD-1', $1::text::uuid, $2, '{}', 1, 1) RETURNING id)
             INSERT INTO saga (order_id, kind, state, lease_until)
             SELECT id, 'create', 'CONFIRM', now() + interval '1 hour' FROM o RETURNING order_id::text",
            &[&person.id, &person.email],
        )
        .await?;
    let order: String = row.get(0);
    let watcher = stage.postgres.client("order_service").await?;
    // A slot is made once every transaction has ended that was open before.
    let streams = "SELECT FROM pg_replication_slots WHERE slot_name = 'outboxd_logistics' AND active";
    eventually(DIES_WITHIN, async || match watcher.query_opt(streams, &[]).await {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    question.batch_execute("BEGIN; UPDATE saga SET state = 'SHIP' WHERE state = 'CONFIRM'").await?;
    answer
        .execute(
            "INSERT INTO logistics_outbox (aggregate_type, aggregate_id, event_type, payload)
             VALUES ('shipment', gen_random_uuid(), 'ShipmentCreated', jsonb_build_object('order_id', $1::text))",
            &[&order],
        )
        .await?;
    // The consumer is at it: it waits for our lock, or has passed by.
    let there = "SELECT FROM pg_stat_activity WHERE datname = 'order_service' AND wait_event_type = 'Lock'
                 UNION ALL SELECT FROM inbox WHERE consumer = 'orders-shipments'";
    eventually(DIES_WITHIN, async || match watcher.query_opt(there, &[]).await {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    question.batch_execute("COMMIT").await?;
    let outcome = "SELECT outcome FROM saga WHERE order_id = $1::text::uuid";
    eventually(Duration::from_secs(20), async || match watcher.query_one(outcome, &[&order]).await {
        Ok(row) if row.get::<_, Option<&str>>(0) == Some("completed") => Ok(()),
        other => Err(format!("{:?}", other.map(|row| row.get::<_, Option<String>>(0)))),
    })
    .await;
    Ok(())
}
