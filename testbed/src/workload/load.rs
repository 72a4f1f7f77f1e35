//! Concurrent writers that commit, roll back and survive their server.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::{Row, Transaction, insert_rows};

/// What the writers do. [`LoadBuilder::start`] starts them.
#[derive(Debug, Clone)]
pub struct LoadBuilder {
    url: String,
    table: String,
    aggregate_type: String,
    writers: usize,
    keys: usize,
    max_rows: u32,
    per_second: Option<u32>,
    limit: Option<u64>,
}

impl LoadBuilder {
    /// Number of concurrent sessions (4).
    #[must_use]
    pub fn writers(mut self, writers: usize) -> Self {
        self.writers = writers;
        self
    }

    /// Number of aggregates of each writer (10). No two writers share one.
    #[must_use]
    pub fn keys(mut self, keys: usize) -> Self {
        self.keys = keys;
        self
    }

    /// Largest number of rows in a transaction (5).
    #[must_use]
    pub fn max_rows(mut self, rows: u32) -> Self {
        self.max_rows = rows.max(1);
        self
    }

    /// Transactions a second of each writer. Without it they write as fast as possible.
    #[must_use]
    pub fn per_second(mut self, transactions: u32) -> Self {
        self.per_second = Some(transactions.max(1));
        self
    }

    /// Makes each writer end by itself after this many transactions.
    #[must_use]
    pub fn transactions(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Starts the writers on the current runtime.
    #[must_use]
    pub fn start(self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for _ in 0..self.writers {
            let writer = Writer::new(self.clone(), stop.clone(), committed.clone());
            writers.spawn(async move {
                // This prints the error at once: a test that waits for progress does not ask for
                // the result yet.
                writer.run().await.inspect_err(|error| eprintln!("testbed: a writer ended: {error:#}"))
            });
        }
        Load { stop, committed, writers }
    }
}

/// Running writers.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writers: JoinSet<Result<Loaded>>,
}

/// What was written in the end.
#[derive(Debug, Default, Clone)]
pub struct Loaded {
    /// Ids of the committed rows. Those of each writer are in commit order.
    pub ids: Vec<Uuid>,
    /// Committed transactions.
    pub transactions: u64,
    /// Transactions that were rolled back, on purpose or by the death of the server.
    pub rolled_back: u64,
}

impl Load {
    /// Writers for this table. One in ten transactions rolls back, one in five has a savepoint that
    /// is rolled back, both with rows in them. When the server dies, a writer waits for it and asks
    /// how its commit ended.
    #[must_use]
    pub fn builder(url: &str, table: &str, aggregate_type: &str) -> LoadBuilder {
        LoadBuilder {
            url: url.to_owned(),
            table: table.to_owned(),
            aggregate_type: aggregate_type.to_owned(),
            writers: 4,
            keys: 10,
            max_rows: 5,
            per_second: None,
            limit: None,
        }
    }

    /// Rows committed so far.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Stops the writers after the transactions that are under way.
    pub async fn stop(self) -> Result<Loaded> {
        self.stop.store(true, Ordering::Relaxed);
        self.finished().await
    }

    /// Waits for writers that have a limit.
    pub async fn finished(mut self) -> Result<Loaded> {
        let mut all = Loaded::default();
        while let Some(writer) = self.writers.join_next().await {
            let writer = writer??;
            all.ids.extend(writer.ids);
            all.transactions += writer.transactions;
            all.rolled_back += writer.rolled_back;
        }
        Ok(all)
    }
}

struct Writer {
    what: LoadBuilder,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    keys: Vec<Uuid>,
    seqs: HashMap<Uuid, i64>,
    done: Loaded,
}

/// A transaction. Its end decides whether its rows count.
struct Attempt {
    tx: Uuid,
    rows: Vec<Row>,
    seqs: HashMap<Uuid, i64>,
}

impl Writer {
    fn new(what: LoadBuilder, stop: Arc<AtomicBool>, committed: Arc<AtomicU64>) -> Self {
        let keys = (0..what.keys.max(1)).map(|_| Uuid::new_v4()).collect();
        Self { what, stop, committed, keys, seqs: HashMap::new(), done: Loaded::default() }
    }

    async fn run(mut self) -> Result<Loaded> {
        let mut client = self.connect().await?;
        while !self.stop.load(Ordering::Relaxed) && self.what.limit.is_none_or(|limit| self.done.transactions < limit) {
            let mut attempt = Attempt { tx: Uuid::new_v4(), rows: Vec::new(), seqs: self.seqs.clone() };
            let committed = match self.write(&mut client, &mut attempt).await {
                Ok(committed) => committed,
                Err(error) if ends_session(&error, &client) => loop {
                    client = self.connect().await?;
                    match ended_committed(&client, attempt.tx).await {
                        Ok(committed) => break committed,
                        // The server may crash again in the meantime.
                        Err(error) if ends_session(&error, &client) => {}
                        Err(error) => return Err(error),
                    }
                },
                Err(error) => return Err(error),
            };
            if committed {
                self.seqs = attempt.seqs;
                self.committed.fetch_add(attempt.rows.len() as u64, Ordering::Relaxed);
                self.done.transactions += 1;
                self.done.ids.extend(attempt.rows.iter().map(|row| row.id));
            } else {
                self.done.rolled_back += 1;
            }
            if let Some(rate) = self.what.per_second {
                tokio::time::sleep(Duration::from_secs(1) / rate).await;
            }
        }
        Ok(self.done)
    }

    /// Whether the transaction was committed. An error does not tell.
    async fn write(&self, client: &mut Client, attempt: &mut Attempt) -> Result<bool> {
        let (table, aggregate_type) = (&self.what.table, &self.what.aggregate_type);
        let mut transaction = client.transaction().await?;
        transaction.execute("INSERT INTO testbed_witness VALUES ($1)", &[&attempt.tx]).await?;
        let rows = fastrand::u32(1..=self.what.max_rows);
        if fastrand::u8(..5) == 0 {
            let savepoint = transaction.savepoint("s").await?;
            let lost = [self.next_row(&mut attempt.seqs.clone(), 1)];
            insert_rows(&savepoint, table, aggregate_type, Transaction { id: Uuid::new_v4(), rows: 1 }, &lost).await?;
            savepoint.rollback().await?;
        }
        attempt.rows = (1..=rows).map(|row| self.next_row(&mut attempt.seqs, row)).collect();
        insert_rows(&transaction, table, aggregate_type, Transaction { id: attempt.tx, rows }, &attempt.rows).await?;
        if fastrand::u8(..10) == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    }

    fn next_row(&self, seqs: &mut HashMap<Uuid, i64>, row: u32) -> Row {
        let aggregate_id = self.keys[fastrand::usize(..self.keys.len())];
        let seq = seqs.entry(aggregate_id).or_default();
        *seq += 1;
        Row { id: Uuid::new_v4(), aggregate_id, seq: *seq, row }
    }

    /// Waits for a server that is down, up to a minute or until the load is stopped.
    async fn connect(&self) -> Result<Client> {
        let started = std::time::Instant::now();
        loop {
            match tokio_postgres::connect(&self.what.url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return Ok(client);
                }
                Err(error) if started.elapsed() > Duration::from_secs(60) => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Whether the session is over. The server's last message arrives before the client knows that the
/// connection ended.
fn ends_session(error: &anyhow::Error, client: &Client) -> bool {
    let said = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error);
    client.is_closed() || said.is_some_and(|said| matches!(said.severity(), "FATAL" | "PANIC"))
}

/// Finds out how a transaction ended whose answer was lost. The insert waits for it if it is still
/// under way. It finds its row if it was committed, and otherwise takes its place for good.
/// (`pg_xact_status` cannot tell: after a crash the server gives out again the ids of transactions
/// that left no trace in the log.)
async fn ended_committed(client: &Client, tx: Uuid) -> Result<bool> {
    let taken = client.execute("INSERT INTO testbed_witness VALUES ($1) ON CONFLICT DO NOTHING", &[&tx]).await;
    Ok(taken.context("testbed_witness")? == 0)
}
