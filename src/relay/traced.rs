//! The rows of a session that are traced: from the cut of their batch to their mark.
//!
//! Where nobody traces, none of this is there: a session has no [`Traced`] and its building batch no
//! [`Transactions`], so each batch and each transaction costs a look at a `None`. A backfill is not
//! traced, since nobody knows when its rows were committed.

use std::collections::BTreeMap;

use super::{context::Context, state::BatchId};
use crate::{
    Lsn,
    clock::now_micros,
    config::Mark,
    outbox::{RecordRef, Records},
    telemetry::{
        SourceMetrics,
        traces::{Parent, RowSpan, Traces},
    },
};

/// Rows that may wait for Kafka or for their marks, at most. Rows beyond that are not traced.
const WAITING_MAX: usize = 10_000;

/// A transaction of the building batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transaction {
    /// Its first row in the batch.
    first: usize,
    /// Commit time in microseconds since the Unix epoch.
    committed: i64,
    /// Where its commit record starts.
    lsn: Lsn,
}

/// Which rows of the building batch came with which transaction.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// In the order of their rows.
    building: Vec<Transaction>,
    /// Those of the batch that was cut last.
    cut: Vec<Transaction>,
}

impl Transactions {
    /// A transaction begins, and its next row will be number `first`.
    pub(super) fn begin(&mut self, first: usize, committed: i64, lsn: Lsn) {
        // The one before had no row of ours.
        self.building.pop_if(|last| last.first == first);
        self.building.push(Transaction { first, committed, lsn });
    }

    /// The first `rows` rows are cut.
    pub(super) fn cut(&mut self, rows: usize) {
        let behind = self.building.partition_point(|transaction| transaction.first < rows);
        self.cut.clear();
        self.cut.extend_from_slice(&self.building[..behind]);
        // The rest of a transaction that is split follows.
        self.building.drain(..behind.saturating_sub(1));
        for transaction in &mut self.building {
            transaction.first = transaction.first.saturating_sub(rows);
        }
        if let [split, next, ..] = self.building[..]
            && split.first == next.first
        {
            self.building.remove(0);
        }
    }
}

/// The traced rows of a session.
pub(super) struct Traced {
    traces: Traces,
    metrics: SourceMetrics,
    source: std::sync::Arc<str>,
    is_marked: bool,
    waiting: BTreeMap<BatchId, Vec<RowSpan>>,
    rows: usize,
}

impl Traced {
    /// `None`: nobody traces.
    pub(super) fn of(context: &Context) -> Option<Self> {
        let traces = context.traces.clone()?;
        let is_marked = context.source.mark != Mark::None;
        let source = context.source.name.as_str().into();
        Some(Self { traces, metrics: context.metrics.clone(), source, is_marked, waiting: BTreeMap::new(), rows: 0 })
    }

    /// A batch goes to Kafka. Keeps those of its rows that are to be traced.
    pub(super) fn publishing(&mut self, batch: BatchId, records: &Records, transactions: &Transactions) {
        let mut kept = Vec::new();
        let mut transactions = transactions.cut.iter().peekable();
        let mut current = None;
        for row in 0..records.len() {
            while let Some(transaction) = transactions.next_if(|next| next.first <= row) {
                current = Some(transaction);
            }
            let (Some(record), Some(transaction)) = (records.get(row), current) else { continue };
            if let Some(span) = self.span(record, transaction) {
                if self.rows + kept.len() >= WAITING_MAX {
                    self.metrics.trace_spans_dropped.inc_by(1 + u64::from(self.is_marked));
                } else {
                    kept.push(span);
                }
            }
        }
        if !kept.is_empty() {
            self.rows += kept.len();
            self.waiting.insert(batch, kept);
        }
    }

    fn span(&self, record: RecordRef<'_>, transaction: &Transaction) -> Option<RowSpan> {
        let config = &self.traces.config;
        let header = |wanted: &str| record.headers().find(|(name, _)| *name == wanted).and_then(|(_, value)| value);
        let parent = Parent::parse(header(&config.header)?)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        parent.is_recorded(config.sample).then(|| RowSpan {
            parent,
            source: self.source.clone(),
            topic: record.topic.to_owned(),
            event_id: record.event_id.unwrap_or_default().to_owned(),
            event_type: header("event_type").map(text),
            key: record.key.filter(|_| config.key).map(text),
            lsn: transaction.lsn,
            committed: transaction.committed,
            published: 0,
            marked: None,
        })
    }

    /// Kafka has committed the batch.
    pub(super) fn published(&mut self, batch: BatchId) {
        let now = now_micros();
        if self.is_marked {
            self.waiting.get_mut(&batch).into_iter().flatten().for_each(|row| row.published = now);
        } else {
            self.send(batch, |row| row.published = now);
        }
    }

    /// The marks of these batches are durable.
    pub(super) fn marked(&mut self, batches: &[BatchId]) {
        let now = now_micros();
        for batch in batches {
            self.send(*batch, |row| row.marked = Some(now));
        }
    }

    fn send(&mut self, batch: BatchId, complete: impl Fn(&mut RowSpan)) {
        for mut row in self.waiting.remove(&batch).into_iter().flatten() {
            self.rows -= 1;
            complete(&mut row);
            if let Err(lost) = self.traces.take(row) {
                self.metrics.trace_spans_dropped.inc_by(lost);
            }
        }
    }
}

impl Drop for Traced {
    /// The session ends. What is in Kafka and has no mark yet gets it in another session, which
    /// knows nothing of the trace.
    fn drop(&mut self) {
        let is_published = |rows: &Vec<RowSpan>| rows.first().is_some_and(|row| row.published > 0);
        let published: Vec<_> =
            self.waiting.iter().filter(|(_, rows)| is_published(rows)).map(|(batch, _)| *batch).collect();
        for batch in published {
            self.send(batch, |_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(first: usize, number: u64) -> Transaction {
        Transaction { first, committed: i64::try_from(number).unwrap(), lsn: Lsn(number) }
    }

    /// Transactions of so many rows each, numbered from 1.
    fn transactions(rows: &[usize]) -> Transactions {
        let mut transactions = Transactions::default();
        let mut first = 0;
        for (number, rows) in (1..).zip(rows) {
            transactions.begin(first, number, Lsn(number.unsigned_abs()));
            first += rows;
        }
        transactions
    }

    #[test]
    fn a_batch_takes_its_transactions_along() {
        let mut all = transactions(&[2, 3, 1]);
        all.cut(5);
        assert_eq!(all.cut, [transaction(0, 1), transaction(2, 2)]);
        all.cut(1);
        assert_eq!(all.cut, [transaction(0, 3)]);
    }

    #[test]
    fn a_transaction_that_is_split_stands_in_each_of_its_batches() {
        let mut all = transactions(&[1, 5, 1]);
        all.cut(3);
        assert_eq!(all.cut, [transaction(0, 1), transaction(1, 2)]);
        all.cut(2);
        assert_eq!(all.cut, [transaction(0, 2)]);
        all.cut(2);
        assert_eq!(all.cut, [transaction(0, 2), transaction(1, 3)]);
    }

    #[test]
    fn a_transaction_without_rows_of_ours_is_forgotten() {
        let mut all = transactions(&[0, 0, 2, 0, 1]);
        assert_eq!(all.building, [transaction(0, 3), transaction(2, 5)]);
        all.cut(0);
        assert_eq!((all.cut.len(), all.building.len()), (0, 2));
    }
}
