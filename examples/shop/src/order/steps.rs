//! The steps of a saga.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::{
    Orders, change,
    saga::{Saga, Step},
};
use crate::{
    crash, db,
    web::{Answer, Failure},
};

/// How long a partner may take; shorter than a lease.
const PARTNER_WITHIN: Duration = Duration::from_secs(2);

/// Does the step and writes the next one.
pub(super) async fn take(app: &Orders, saga: &Saga) -> Result<(), Failure> {
    crash::point(&format!("saga.{}.before", saga.step.name()));
    let done = perform(app, saga).await?;
    crash::point(&format!("saga.{}.called", saga.step.name()));
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    // The row goes first: when somebody has turned the saga round, this step's result is void.
    if !move_on(&transaction, saga, &done).await? {
        return Ok(());
    }
    write(&transaction, saga, &done).await?;
    transaction.commit().await?;
    crash::point(&format!("saga.{}.written", saga.step.name()));
    app.wake.notify_one();
    Ok(())
}

/// What a step has come to.
enum Done {
    Reserved,
    Paid(Uuid),
    Confirmed,
    Refunded,
    Released,
    Closed,
    /// The partner has said no; the steps before it are to be undone.
    Refused {
        reason: String,
        undo: &'static str,
    },
}

impl Done {
    /// The next state of a saga, and the outcome when this was the end.
    fn next(&self, kind: &str) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Reserved => ("PAY", None),
            Self::Paid(_) => ("CONFIRM", None),
            Self::Confirmed => ("SHIP", None),
            Self::Refused { undo, .. } => (undo, None),
            Self::Refunded => ("RELEASE", None),
            Self::Released => ("CANCEL", None),
            Self::Closed if kind == "return" => ("DONE", Some("returned")),
            Self::Closed => ("DONE", Some("compensated")),
        }
    }
}

async fn perform(app: &Orders, saga: &Saga) -> Result<Done, Failure> {
    let undo = |what: &str| format!("http://{}/{what}/{}", app.partners, saga.order);
    match saga.step {
        Step::Reserve => {
            let answer = call(app, "reservations", &reservation(app, saga.order).await?).await?;
            Ok(refused(&answer, "RELEASE").unwrap_or(Done::Reserved))
        }
        Step::Pay => {
            let answer = call(app, "payments", &payment(app, saga.order).await?).await?;
            if let Some(no) = refused(&answer, "RELEASE") {
                return Ok(no);
            }
            let id = answer.json()["payment_id"].as_str().and_then(|id| id.parse().ok());
            id.map(Done::Paid).ok_or_else(|| Failure::Unavailable("a payment without an id".to_owned()))
        }
        Step::Confirm => Ok(Done::Confirmed),
        Step::Refund => expect(app.http.json(Method::DELETE, &undo("payments"), &json!({}), PARTNER_WITHIN).await)
            .map(|_| Done::Refunded),
        Step::Release => expect(app.http.json(Method::DELETE, &undo("reservations"), &json!({}), PARTNER_WITHIN).await)
            .map(|_| Done::Released),
        Step::Close => Ok(Done::Closed),
    }
}

/// A refusal is an answer; anything else but success is a failure, after which the step is tried
/// again.
fn refused(answer: &Answer, undo: &'static str) -> Option<Done> {
    let reason = || answer.json()["error"].as_str().unwrap_or("refused").to_owned();
    matches!(answer.status, 402 | 409).then(|| Done::Refused { reason: reason(), undo })
}

fn expect(answer: anyhow::Result<Answer>) -> Result<Answer, Failure> {
    let answer = answer.map_err(|error| Failure::Unavailable(format!("{error:#}")))?;
    match answer.status {
        200 | 201 | 402 | 409 => Ok(answer),
        status => Err(Failure::Unavailable(format!("the partner answers with {status}"))),
    }
}

async fn call(app: &Orders, what: &str, body: &Value) -> Result<Answer, Failure> {
    let url = format!("http://{}/{what}", app.partners);
    expect(app.http.json(Method::POST, &url, body, PARTNER_WITHIN).await)
}

async fn reservation(app: &Orders, order: Uuid) -> Result<Value, Failure> {
    let client = app.pool.get().await?;
    let rows = client.query("SELECT sku, quantity FROM order_items WHERE order_id = $1", &[&order]).await?;
    let items: Vec<Value> =
        rows.iter().map(|row| json!({ "sku": row.get::<_, String>(0), "quantity": row.get::<_, i32>(1) })).collect();
    Ok(json!({ "order_id": order, "items": items }))
}

async fn payment(app: &Orders, order: Uuid) -> Result<Value, Failure> {
    let client = app.pool.get().await?;
    let query = "SELECT total::text, coalesce(payment_method, 'card') FROM orders WHERE id = $1";
    let row = client.query_one(query, &[&order]).await?;
    Ok(json!({ "order_id": order, "amount": row.get::<_, String>(0), "method": row.get::<_, String>(1) }))
}

async fn move_on(transaction: &Transaction<'_>, saga: &Saga, done: &Done) -> Result<bool, Failure> {
    let (state, outcome) = done.next(&saga.kind);
    let reason = match done {
        Done::Refused { reason, .. } => Some(reason),
        _ => None,
    };
    let update = "UPDATE saga SET state = $4, outcome = $5, reason = coalesce($6, reason), attempts = 0,
                      lease_until = NULL, updated_at = now()
                  WHERE order_id = $1 AND kind = $2 AND state = $3 AND outcome IS NULL";
    let moved =
        transaction.execute(update, &[&saga.order, &saga.kind, &saga.step.name(), &state, &outcome, &reason]).await?;
    Ok(moved == 1)
}

/// What the step changes in the order itself.
async fn write(transaction: &Transaction<'_>, saga: &Saga, done: &Done) -> Result<(), Failure> {
    match done {
        Done::Paid(id) => {
            let paid = "UPDATE orders SET payment_status = 'PAID', payment_id = $2, version = version + 1,
                        updated_at = CURRENT_TIMESTAMP WHERE id = $1";
            transaction.execute(paid, &[&saga.order, id]).await?;
        }
        Done::Refunded => {
            let refunded = "UPDATE orders SET payment_status = CASE payment_status WHEN 'PAID' THEN 'REFUNDED'
                            ELSE payment_status END, version = version + 1, updated_at = CURRENT_TIMESTAMP
                            WHERE id = $1";
            transaction.execute(refunded, &[&saga.order]).await?;
        }
        Done::Refused { .. } if saga.step == Step::Pay => {
            let failed = "UPDATE orders SET payment_status = 'FAILED', version = version + 1,
                          updated_at = CURRENT_TIMESTAMP WHERE id = $1";
            transaction.execute(failed, &[&saga.order]).await?;
        }
        Done::Confirmed => change::confirm_in(transaction, saga.order, "system").await?,
        Done::Closed => {
            let to = if saga.kind == "return" { "RETURNED" } else { "CANCELLED" };
            let seen = change::look(transaction, saga.order).await?;
            let reason = saga.reason.as_deref();
            change::advance(transaction, saga.order, &seen, (to, "system", reason)).await?;
            change::tell(transaction, saga.order, "OrderCancelled").await?;
        }
        Done::Reserved | Done::Released | Done::Refused { .. } => {}
    }
    Ok(())
}
