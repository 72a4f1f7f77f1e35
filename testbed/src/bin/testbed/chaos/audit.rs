//! Waits for rest, and compares tables with topics. After that it forgets what it has audited, so
//! that memory stays bounded however long the run is. A record that comes again later counts as
//! unknown.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testbed::{
    Audit, Expect, oracle,
    reader::{Ends, read_committed_after},
};
use tokio_postgres::Client;

use super::{
    stage::{PATIENCE, Stage},
    watch,
    writer::Written,
};
use crate::sources::{SOURCES, Source};

/// How long after an election the ends of partitions may still move.
const LEADERS_SETTLE: Duration = Duration::from_secs(5);

/// One audit of each source after the other, from where the last one ended.
#[derive(Default)]
pub(crate) struct Auditor {
    ends: Ends,
    /// The sum of all audits of each source.
    pub(crate) sums: [Audit; SOURCES.len()],
    pub(crate) written: Written,
    pub(crate) audits: usize,
    /// The longest time until everything was at rest.
    pub(crate) longest_rest: Duration,
}

impl Auditor {
    /// Compares what was written since the last time. Returns whether all is clean.
    pub(crate) async fn audit(&mut self, stage: &Stage, written: [Written; SOURCES.len()]) -> Result<bool> {
        let started = Instant::now();
        for source in 0..SOURCES.len() {
            rest(stage, source).await?;
        }
        self.longest_rest = self.longest_rest.max(started.elapsed());
        self.audits += 1;
        let mut clean = true;
        for (number, (source, written)) in SOURCES.iter().zip(written).enumerate() {
            let client = stage.servers.client(source.database).await?;
            let mut audit = self.judge(stage, source, &client).await?;
            if !is_clean(&audit) {
                // A partition's new leader may report a lower end for a moment. A real difference
                // stays.
                tokio::time::sleep(LEADERS_SETTLE).await;
                audit = self.judge(stage, source, &client).await?;
            }
            // The audit reads the tables. What the writers counted is a second witness. An
            // asynchronous standby that is promoted may lack the last of it.
            ensure!(
                audit.rows as u64 == written.rows || stage.has_standby && audit.rows as u64 <= written.rows,
                "{}: the writers committed {} rows, the table has {}",
                source.name,
                written.rows,
                audit.rows
            );
            clean &= is_clean(&audit);
            if !clean {
                eprintln!("{}:\n{audit}", source.name);
            }
            let sum = std::mem::take(&mut self.sums[number]);
            self.sums[number] = [sum, audit].into_iter().sum();
            self.written += written;
            if clean {
                client.batch_execute(&format!("TRUNCATE {}", source.table)).await?;
            }
        }
        Ok(clean)
    }

    /// Audits one source. The next audit begins where this one ended, if this one is clean.
    async fn judge(&mut self, stage: &Stage, source: &Source, client: &Client) -> Result<Audit> {
        let mut ends = self.ends.clone();
        let records = read_committed_after(&stage.kafka.brokers(), &[source.topic], &mut ends).await?;
        let audit = oracle::audit_records(client, Expect::Tables(&[source.table]), &records).await?;
        if is_clean(&audit) {
            self.ends = ends;
        }
        Ok(audit)
    }
}

fn is_clean(audit: &Audit) -> bool {
    audit.is_clean() && audit.records == audit.rows
}

/// Waits until everything is published and marked, and the slot is confirmed up to the present end
/// of the log.
async fn rest(stage: &Stage, number: usize) -> Result<()> {
    let source = &SOURCES[number];
    let client = stage.servers.client(source.database).await?;
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    let started = Instant::now();
    while let Err(unrest) = is_at_rest(&client, number, &end).await {
        if started.elapsed() > PATIENCE {
            let mut states = Vec::new();
            for daemon in &stage.daemons {
                states.push(format!("{:?}\n{}", watch::states(daemon).await, watch::tail(daemon)));
            }
            let context =
                format!("source {} has no rest within {PATIENCE:?}; the daemons:\n{}", source.name, states.join("\n"));
            return Err(unrest).context(context);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn is_at_rest(client: &Client, number: usize, end: &str) -> Result<()> {
    let source = &SOURCES[number];
    let unmarked = format!("SELECT count(*) FROM {} WHERE published_at IS NULL", source.table);
    let rows: i64 = client.query_one(&unmarked, &[]).await?.get(0);
    if rows > 0 {
        bail!("{rows} rows are unmarked");
    }
    let confirmed = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
    let slot = format!("outboxd_{}", source.name);
    match client.query_one(confirmed, &[&end, &slot]).await?.get(0) {
        Some(true) => Ok(()),
        _ => bail!("the slot is not confirmed up to {end}"),
    }
}
