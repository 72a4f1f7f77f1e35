//! The services: sessions that run transactions of every shape and survive the death of their
//! server.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Transaction};
use uuid::Uuid;

use super::stage::{PATIENCE, Stage};
use crate::sources::{SOURCES, Source};

/// Sessions of each source. Each has keys of its own, since nobody outside can see the commit order
/// between two sessions.
pub(crate) const WRITERS: usize = 2;

/// Aggregates of a writer.
const KEYS: usize = 12;

/// What has been written.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) transactions: u64,
    pub(crate) rows: u64,
    pub(crate) rolled_back: u64,
    /// Transactions of thousands of rows.
    pub(crate) large: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.rows += other.rows;
        self.rolled_back += other.rolled_back;
        self.large += other.large;
    }
}

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
    tasks: JoinSet<Result<(usize, Written)>>,
}

impl Writers {
    /// Starts the writers. All sources together have `per_second` transactions a second.
    pub(crate) fn start(stage: &Stage, per_second: f64, seed: u64) -> Self {
        let (stop, rows) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        let pause = Duration::from_secs_f64((SOURCES.len() * WRITERS) as f64 / per_second);
        for (number, source) in SOURCES.iter().enumerate().cycle().take(SOURCES.len() * WRITERS) {
            let random = fastrand::Rng::with_seed(seed ^ (tasks.len() as u64 + 1));
            let writer = Writer {
                source,
                url: stage.servers.url(source.database),
                pause,
                random,
                keys: std::array::from_fn(|_| Uuid::new_v4()),
                seqs: HashMap::new(),
                written: Written::default(),
                total: Arc::clone(&rows),
            };
            let stop = Arc::clone(&stop);
            tasks.spawn(async move { Ok((number, writer.run(&stop).await?)) });
        }
        Self { stop, rows, tasks }
    }

    /// Rows committed so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Fails when a writer has given up, and says why.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => match ended? {
                Err(error) => Err(error.context("a writer ended")),
                Ok(_) => bail!("a writer ended"),
            },
        }
    }

    /// Stops the writers after the transactions that are under way. Returns what was written to
    /// each source.
    pub(crate) async fn stop(mut self) -> Result<[Written; SOURCES.len()]> {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = [Written::default(); SOURCES.len()];
        while let Some(ended) = self.tasks.join_next().await {
            let (source, by_one) = ended??;
            written[source] += by_one;
        }
        Ok(written)
    }
}

struct Writer {
    source: &'static Source,
    url: String,
    pause: Duration,
    random: fastrand::Rng,
    keys: [Uuid; KEYS],
    seqs: HashMap<Uuid, i64>,
    written: Written,
    total: Arc<AtomicU64>,
}

/// The shape of a transaction.
#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    /// Bytes of padding in each payload.
    padding: usize,
    rolls_back: bool,
    has_savepoint: bool,
}

struct Row {
    key: Uuid,
    seq: i64,
}

impl Writer {
    async fn run(mut self, stop: &AtomicBool) -> Result<Written> {
        let mut client = self.connect().await?;
        while !stop.load(Ordering::Relaxed) {
            let shape = self.shape();
            let (tx, mut seqs) = (Uuid::new_v4(), self.seqs.clone());
            let rows = self.rows(shape.rows, &mut seqs);
            let committed = match self.write(&mut client, tx, &rows, shape).await {
                Ok(committed) => committed,
                Err(_) if is_lost(&client).await => {
                    client = self.connect().await?;
                    self.ended_committed(&mut client, tx).await?
                }
                Err(error) => return Err(error).context(self.source.name),
            };
            if committed {
                self.seqs = seqs;
                self.written.transactions += 1;
                self.written.rows += rows.len() as u64;
                self.written.large += u64::from(rows.len() >= 1_000);
                self.total.fetch_add(rows.len() as u64, Ordering::Relaxed);
            } else {
                self.written.rolled_back += 1;
            }
            self.rest().await;
        }
        Ok(self.written)
    }

    /// Mostly a single row. Sometimes it has thousands of rows, or a payload of half a megabyte.
    fn shape(&mut self) -> Shape {
        let random = &mut self.random;
        let rows = match random.u16(..1_000) {
            0 => random.usize(1_000..5_000),
            1..300 => random.usize(2..20),
            _ => 1,
        };
        let padding = match random.u16(..300) {
            0 if rows < 100 => random.usize(100_000..500_000) / rows,
            1..30 => random.usize(..4_000),
            _ => 0,
        };
        Shape { rows, padding, rolls_back: random.u8(..12) == 0, has_savepoint: random.u8(..12) == 0 }
    }

    fn rows(&mut self, rows: usize, seqs: &mut HashMap<Uuid, i64>) -> Vec<Row> {
        let next = |_| {
            let key = self.keys[self.random.usize(..KEYS)];
            let seq = seqs.entry(key).or_default();
            *seq += 1;
            Row { key, seq: *seq }
        };
        (0..rows).map(next).collect()
    }

    /// Returns whether the transaction was committed. An error does not tell.
    async fn write(&self, client: &mut Client, tx: Uuid, rows: &[Row], shape: Shape) -> Result<bool> {
        let mut transaction = client.transaction().await?;
        if shape.has_savepoint {
            let savepoint = transaction.savepoint("s").await?;
            self.insert(&savepoint, Uuid::new_v4(), &rows[..1], shape).await?;
            savepoint.rollback().await?;
        }
        self.insert(&transaction, tx, rows, shape).await?;
        if shape.rolls_back {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
        }
        Ok(!shape.rolls_back)
    }

    async fn insert(&self, transaction: &Transaction<'_>, tx: Uuid, rows: &[Row], shape: Shape) -> Result<()> {
        let keys: Vec<Uuid> = rows.iter().map(|row| row.key).collect();
        let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
        let (count, padding) = (i64::try_from(rows.len())?, i32::try_from(shape.padding)?);
        let insert = format!(
            "INSERT INTO {} (aggregate_type, aggregate_id, event_type, payload)
             SELECT $1::text, key, 'Changed', jsonb_build_object('seq', seq, 'tx', $4::text, 'row', n, 'rows', $5::bigint,
                 'total', 1500.00, 'note', repeat('x', $6::int))
             FROM unnest($2::uuid[], $3::bigint[]) WITH ORDINALITY AS r (key, seq, n) ORDER BY n",
            self.source.table
        );
        let tx = tx.to_string();
        transaction.execute(&insert, &[&self.source.aggregate_type, &keys, &seqs, &tx, &count, &padding]).await?;
        Ok(())
    }

    /// Waits until the next transaction is due. Sometimes it waits so long that the source is idle.
    async fn rest(&mut self) {
        let pause = if self.random.u16(..1_000) == 0 {
            Duration::from_millis(self.random.u64(2_000..6_000))
        } else {
            self.pause.mul_f64(self.random.f64() * 2.0)
        };
        tokio::time::sleep(pause).await;
    }

    /// Finds out how a transaction ended whose answer was lost. Here only the server's death loses
    /// an answer. When the server is back, no transaction from before its death is under way.
    async fn ended_committed(&self, client: &mut Client, tx: Uuid) -> Result<bool> {
        let query = format!("SELECT EXISTS (SELECT FROM {} WHERE payload->>'tx' = $1)", self.source.table);
        loop {
            match client.query_one(&query, &[&tx.to_string()]).await {
                Ok(row) => return Ok(row.get(0)),
                Err(_) if is_lost(client).await => *client = self.connect().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a server that is down.
    async fn connect(&self) -> Result<Client> {
        let started = Instant::now();
        loop {
            match tokio_postgres::connect(&self.url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return Ok(client);
                }
                Err(error) if started.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Whether the session has ended. The server's last message arrives a moment before the connection
/// ends.
async fn is_lost(client: &Client) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while !client.is_closed() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.is_closed()
}
