//! What the rows of a backlog look like, and how they get into the table.

use std::fmt;

use anyhow::Result;
use tokio_postgres::Client;

use super::setting::{TABLE, say};

/// The payload of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// The seed's order event, about 280 bytes of text.
    Seed,
    /// One string, so long that the text has about this many bytes.
    Bytes(usize),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) rows: i64,
    pub(crate) per_transaction: i64,
    pub(crate) payload: Payload,
}

impl Shape {
    /// Rows of the seed's order events.
    pub(crate) fn seed(rows: i64, per_transaction: i64) -> Self {
        Self { rows, per_transaction, payload: Payload::Seed }
    }

    pub(crate) async fn load(self, client: &Client) -> Result<()> {
        let Self { rows, per_transaction, payload } = self;
        say(&format!("loading {self}"));
        // A long payload is stored as it is, so that it costs as much as one that does not
        // compress. Loading does not wait for the disk, which changes nothing of what the log
        // holds.
        client
            .batch_execute(&format!(
                "ALTER TABLE {TABLE} ALTER payload SET STORAGE EXTERNAL; SET synchronous_commit = off"
            ))
            .await?;
        let insert = client
            .prepare(&format!(
                "INSERT INTO {TABLE} (aggregate_type, aggregate_id, event_type, payload)
                 SELECT 'order', gen_random_uuid(), 'OrderCreated', {}
                 FROM generate_series($1::bigint, $2::bigint) n",
                payload.sql()
            ))
            .await?;
        let mut first = 1;
        while first <= rows {
            let last = rows.min(first + per_transaction - 1);
            client.execute(&insert, &[&first, &last]).await?;
            first = last + 1;
        }
        client.batch_execute(&format!("RESET synchronous_commit; ANALYZE {TABLE}")).await?;
        Ok(())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, per_transaction, payload } = self;
        match payload {
            Payload::Seed => write!(f, "{rows} seed-shaped rows, {per_transaction} to a transaction"),
            Payload::Bytes(_) => write!(f, "{rows} rows of {payload}, {per_transaction} to a transaction"),
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed => f.write_str("seed-shaped"),
            Self::Bytes(bytes) => write!(f, "{bytes} B"),
        }
    }
}

impl Payload {
    /// The SQL of the payload of row `n`.
    fn sql(self) -> String {
        match self {
            Self::Seed => "jsonb_build_object(
                'order_id', gen_random_uuid(), 'order_number', 'ORD-' || n, 'user_id', gen_random_uuid(),
                'total', n % 1000 + 0.99, 'shipping_address', jsonb_build_object('line1', '123 Main St',
                    'city', 'Mumbai', 'state', 'Maharashtra', 'pincode', '400001'))"
                .to_owned(),
            // The rest of the text is {"n": 123456, "text": ""}.
            Self::Bytes(bytes) => {
                format!("jsonb_build_object('n', n, 'text', repeat('x', {}))", bytes.saturating_sub(26))
            }
        }
    }
}
