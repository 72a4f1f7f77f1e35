//! The events of the three services, and writers that play the lives of users, orders and
//! shipments, one transaction a step.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use testbed::Postgres;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

use crate::sources::{SOURCES, Source};

/// The steps of an aggregate. One transaction writes the events of a step.
type Life = &'static [&'static [&'static str]];

/// The lives that an aggregate of each source can have, in the order of [`SOURCES`].
const LIVES: [&[Life]; SOURCES.len()] = [
    &[
        &[&["UserCreated", "AddressAdded"], &["AddressUpdated"]],
        &[&["UserCreated"], &["AddressAdded"], &["UserDeleted"]],
    ],
    &[
        &[&["OrderCreated"], &["OrderConfirmed"], &["OrderCompleted"]],
        &[&["OrderCreated"], &["OrderCancelled"]],
        &[&["OrderCreated", "OrderConfirmed"], &["OrderCompleted"]],
    ],
    &[
        &[&["ShipmentCreated"], &["ShipmentDispatched"], &["ShipmentDelivered"]],
        &[&["ShipmentCreated"], &["DeliveryAttemptFailed"], &["DeliveryAttemptFailed", "ShipmentReturned"]],
    ],
];

/// What the writers have done so far.
#[derive(Default)]
pub(crate) struct Written {
    transactions: AtomicU64,
    rows: AtomicU64,
    rolled_back: AtomicU64,
}

impl Written {
    pub(crate) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(crate) fn rolled_back(&self) -> u64 {
        self.rolled_back.load(Ordering::Relaxed)
    }
}

/// Sessions of each source. Each has aggregates of its own, since nobody outside can see the commit
/// order between two sessions.
const WRITERS: u64 = 2;

/// Aggregates of a writer that are alive at a time.
const ALIVE: usize = 40;

/// One transaction in this many is rolled back, with its rows.
const ROLLED_BACK: u32 = 20;

/// Starts all writers. Together they make `transactions` commits, `per_second` of them a second.
pub(crate) fn open(
    postgres: &Postgres,
    transactions: u64,
    per_second: f64,
    written: &Arc<Written>,
) -> JoinSet<Result<()>> {
    let mut writers = JoinSet::new();
    let count = SOURCES.len() as u64 * WRITERS;
    let pause = Duration::from_secs_f64(count as f64 / per_second);
    for (number, (source, lives)) in (0..count).zip(SOURCES.iter().zip(LIVES).cycle()) {
        let (url, written) = (postgres.superuser_url(source.database), Arc::clone(written));
        let share = transactions / count + u64::from(number < transactions % count);
        let pace = Pace { share, pause };
        writers.spawn(async move { write(source, lives, &url, pace, &written).await });
    }
    writers
}

/// What one writer commits.
struct Pace {
    /// Transactions in all.
    share: u64,
    /// The time from the beginning of one transaction to that of the next.
    pause: Duration,
}

async fn write(source: &Source, lives: &[Life], url: &str, pace: Pace, written: &Written) -> Result<()> {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let insert = client
        .prepare(&format!(
            "INSERT INTO {} (aggregate_type, aggregate_id, event_type, payload)
             SELECT '{}', $1, event, payload::jsonb
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS e (event, payload, n) ORDER BY n",
            source.table, source.aggregate_type
        ))
        .await?;
    let mut alive: Vec<Aggregate> = (0..ALIVE).map(|_| Aggregate::new(lives)).collect();
    let mut ticks = tokio::time::interval(pace.pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut done = 0;
    while done < pace.share {
        ticks.tick().await;
        let aggregate = &mut alive[fastrand::usize(..ALIVE)];
        if !aggregate.step(&mut client, &insert, written).await? {
            continue;
        }
        done += 1;
        if aggregate.is_over() {
            *aggregate = Aggregate::new(lives);
        }
    }
    Ok(())
}

/// A user, an order or a shipment.
struct Aggregate {
    id: Uuid,
    /// What it refers to: the order's user, or the shipment's order.
    other: Uuid,
    number: u32,
    person: &'static Person,
    life: Life,
    next: usize,
    seq: i64,
}

struct Person {
    name: &'static str,
    email: &'static str,
    city: &'static str,
    state: &'static str,
    pincode: &'static str,
}

const PEOPLE: [Person; 4] = [
    Person { name: "John Doe", email: "john@example.com", city: "Mumbai", state: "Maharashtra", pincode: "400001" },
    Person { name: "Asha Rao", email: "asha@example.com", city: "Bengaluru", state: "Karnataka", pincode: "560001" },
    Person { name: "Zoë Müller", email: "zoe@example.com", city: "Kochi", state: "Kerala", pincode: "682001" },
    Person {
        name: "राज कुमार", email: "raj@example.com", city: "Pune", state: "Maharashtra", pincode: "411001"
    },
];

impl Aggregate {
    fn new(lives: &[Life]) -> Self {
        Self {
            id: Uuid::new_v4(),
            other: Uuid::new_v4(),
            number: fastrand::u32(100_000..1_000_000),
            person: &PEOPLE[fastrand::usize(..PEOPLE.len())],
            life: lives[fastrand::usize(..lives.len())],
            next: 0,
            seq: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.next == self.life.len()
    }

    /// Runs its next transaction. Returns `false` when that was rolled back.
    async fn step(&mut self, client: &mut Client, insert: &Statement, written: &Written) -> Result<bool> {
        let events = self.life[self.next];
        let tx = Uuid::new_v4();
        let payloads: Vec<String> =
            (1..).zip(events).map(|(row, event)| self.payload(event, tx, row, events.len())).collect();
        let transaction = client.transaction().await?;
        transaction.execute(insert, &[&self.id, &events, &payloads]).await?;
        if fastrand::u32(..ROLLED_BACK) == 0 {
            transaction.rollback().await?;
            written.rolled_back.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        transaction.commit().await?;
        self.next += 1;
        self.seq += i64::try_from(events.len())?;
        written.rows.fetch_add(events.len() as u64, Ordering::Relaxed);
        written.transactions.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// The guide's event data, followed by what the audit needs: see `testbed::workload`.
    fn payload(&self, event: &str, tx: Uuid, row: i64, rows: usize) -> String {
        let Self { id, other, number, person, .. } = self;
        let Person { name, email, city, state, pincode } = person;
        let total = number / 100;
        let mut text = match event {
            "UserCreated" => format!(r#"{{"user_id":"{id}","email":"{email}","name":"{name}""#),
            "AddressAdded" | "AddressUpdated" => {
                format!(r#"{{"user_id":"{id}","address_id":"{other}","city":"{city}","pincode":"{pincode}""#)
            }
            "UserDeleted" => format!(r#"{{"user_id":"{id}""#),
            "OrderCreated" => format!(
                r#"{{"order_id":"{id}","order_number":"ORD-{number}","user_id":"{other}","total":{total}.00,"shipping_address":{{"line1":"123 Main St","city":"{city}","state":"{state}","pincode":"{pincode}"}}"#
            ),
            "ShipmentCreated" => format!(
                r#"{{"shipment_id":"{id}","order_id":"{other}","order_number":"ORD-{number}","tracking_number":"TRK{number}","recipient_name":"{name}","city":"{city}","pincode":"{pincode}""#
            ),
            _ if event.starts_with("Order") => format!(r#"{{"order_id":"{id}","order_number":"ORD-{number}""#),
            _ => format!(r#"{{"shipment_id":"{id}","order_id":"{other}","tracking_number":"TRK{number}""#),
        };
        let seq = self.seq + row;
        // Writing to a string cannot fail.
        let _ = write!(text, r#","seq":{seq},"tx":"{tx}","row":{row},"rows":{rows}}}"#);
        text
    }
}
