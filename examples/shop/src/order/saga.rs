//! Carries sagas on. A saga's row says which step comes next, so any process can go on where
//! another one died.
//!
//! A step is done in two parts: the request to the partner, which may be repeated, and a
//! transaction that writes the result and the next step. Only one process works on a saga at a
//! time, by a lease that ends by itself.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Orders, steps};

/// Sagas that are worked on at a time.
const AT_ONCE: i64 = 8;
/// How often the table is looked at when nobody wakes us.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The next step of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Reserve,
    Pay,
    Confirm,
    Refund,
    Release,
    /// Of kind `create`: the order becomes CANCELLED. Of kind `return`: it becomes RETURNED.
    Close,
}

impl Step {
    fn parse(state: &str) -> Option<Self> {
        Some(match state {
            "RESERVE" => Self::Reserve,
            "PAY" => Self::Pay,
            "CONFIRM" => Self::Confirm,
            "REFUND" => Self::Refund,
            "RELEASE" => Self::Release,
            "CANCEL" => Self::Close,
            _ => return None,
        })
    }

    /// As the table has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reserve => "RESERVE",
            Self::Pay => "PAY",
            Self::Confirm => "CONFIRM",
            Self::Refund => "REFUND",
            Self::Release => "RELEASE",
            Self::Close => "CANCEL",
        }
    }
}

/// A saga that is ours for the time of the lease.
#[derive(Debug, Clone)]
pub(super) struct Saga {
    pub(super) order: Uuid,
    pub(super) kind: String,
    pub(super) step: Step,
    pub(super) reason: Option<String>,
}

/// Works until the process ends.
pub(super) async fn run(app: Arc<Orders>) {
    loop {
        match work(&app).await {
            Ok(0) => {
                let _ = tokio::time::timeout(LOOK_EVERY, app.wake.notified()).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("saga: {error:#}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Takes what is due, and does one step of each.
async fn work(app: &Arc<Orders>) -> Result<usize> {
    let due = claim(app).await?;
    let count = due.len();
    let mut steps = JoinSet::new();
    for saga in due {
        let app = app.clone();
        steps.spawn(async move {
            if let Err(failure) = steps::take(&app, &saga).await {
                tracing::info!(order = %saga.order, step = saga.step.name(), "again later: {failure:?}");
                postpone(&app, &saga).await;
            }
        });
    }
    while steps.join_next().await.is_some() {}
    Ok(count)
}

/// A lease is longer than a step's request may take, or two processes could be at one step. That
/// would do no harm, since every step may be repeated.
async fn claim(app: &Orders) -> Result<Vec<Saga>> {
    let client = app.pool.get().await?;
    let rows = client
        .query(
            "UPDATE saga SET lease_until = now() + interval '3 seconds', attempts = attempts + 1
             WHERE (order_id, kind) IN (
                 SELECT order_id, kind FROM saga
                 WHERE outcome IS NULL AND state <> 'SHIP' AND (lease_until IS NULL OR lease_until < now())
                 ORDER BY updated_at LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING order_id, kind, state, reason",
            &[&AT_ONCE],
        )
        .await?;
    let sagas = rows.iter().filter_map(|row| {
        let step = Step::parse(row.get(2))?;
        Some(Saga { order: row.get(0), kind: row.get(1), step, reason: row.get(3) })
    });
    Ok(sagas.collect())
}

/// Tries again after a pause that grows with the attempts, up to two seconds.
async fn postpone(app: &Orders, saga: &Saga) {
    let Ok(client) = app.pool.get().await else { return };
    let later = "UPDATE saga SET lease_until = now() + least(attempts * 100, 2000) * interval '1 millisecond'
                 WHERE order_id = $1 AND kind = $2 AND state = $3";
    let _ = client.execute(later, &[&saga.order, &saga.kind, &saga.step.name()]).await;
}
