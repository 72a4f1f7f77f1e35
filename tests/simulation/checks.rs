//! What must hold, whatever happens: G1 to G6 of the design, and rule 4.
//!
//! The first violation ends a schedule.

use outboxd::{
    Lsn,
    relay::state::Bounds,
    source::position::{Phase, Position},
};

use crate::{
    kafka::{self, Kafka},
    postgres::{Postgres, Row, RowNo},
};

#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) violation: Option<String>,
    exactly_once: bool,
    marks: bool,
    backfill: bool,
    pub(crate) bounds: Bounds,
    /// How many times each row became visible.
    published: Vec<u8>,
    last_of_key: [Option<RowNo>; 8],
    /// The newest position whose commit is decided.
    pub(crate) position: Option<Box<Position>>,
    /// How many transactions at the front of the log are published and marked.
    settled: usize,
    /// Without a backfill, what was committed before this LSN, that is before the slot, is not
    /// owed.
    owed_from: Lsn,
    /// A person advanced the slot this far, or a copy took the server's place. Marks before it may
    /// never be made.
    pub(crate) forgiven_before: Lsn,
    /// The position topic was deleted. Rule 4 cannot be checked until there is a position again.
    pub(crate) position_deleted: bool,
}

impl Checks {
    pub(crate) fn new(exactly_once: bool, marks: bool, backfill: bool, bounds: Bounds) -> Self {
        Self {
            violation: None,
            exactly_once,
            marks,
            backfill,
            bounds,
            published: Vec::new(),
            last_of_key: [None; 8],
            position: None,
            settled: 0,
            owed_from: Lsn::ZERO,
            forgiven_before: Lsn::ZERO,
            position_deleted: false,
        }
    }

    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// A Kafka transaction is decided, or records without a transaction have landed.
    pub(crate) fn visible(&mut self, transaction: &kafka::Transaction, postgres: &Postgres) {
        let phase = transaction.position.as_ref().map(|position| position.phase);
        self.published.resize(postgres.rows.len(), 0);
        for &number in &transaction.rows {
            let row = &postgres.rows[number as usize];
            let times = &mut self.published[number as usize];
            *times = times.saturating_add(1);
            let times = *times;
            if times > 1 && self.exactly_once {
                self.fail(|| format!("G1: {} was published twice", row.name));
            }
            if row.born_marked {
                self.fail(|| format!("{} was published although its mark was set at its insert", row.name));
            }
            let last = &mut self.last_of_key[usize::from(row.key)];
            let behind = times == 1 && last.is_some_and(|last| last > number);
            *last = (*last).max(Some(number));
            // Rows of a history that is gone are phantoms. Nothing is out of order if an unfenced
            // instance publishes them late.
            if behind && phase != Some(Phase::Backfill) && !row.gone {
                self.fail(|| format!("G2: {} was published behind a later row of its key {}", row.name, row.key));
            }
        }
        if self.exactly_once {
            if transaction.position.is_none() {
                self.fail(|| format!("rule 3: {} rows were committed without a position", transaction.rows.len()));
            }
            if phase == Some(Phase::Streaming) {
                self.whole(&transaction.rows, postgres);
            }
        }
        if let Some(position) = &transaction.position {
            self.of_one_system(&transaction.rows, position, postgres);
            self.positioned(position);
        }
    }

    /// The rows of one cluster are never published behind the position of another one.
    fn of_one_system(&mut self, rows: &[RowNo], position: &Position, postgres: &Postgres) {
        let system = &position.history.system_id;
        let stranger =
            rows.iter().map(|row| &postgres.rows[*row as usize]).find(|row| row.system.to_string() != *system);
        if let Some(row) = stranger {
            self.fail(|| format!("rule 4: {} of system {} was published as one of {system}", row.name, row.system));
        }
        let before = self.position.as_ref().map(|position| position.history.system_id.clone()).unwrap_or_default();
        if !before.is_empty() && before != *system && !rows.is_empty() {
            self.fail(|| format!("rule 4: rows of system {system} were published after those of {before}"));
        }
    }

    /// G3: transactions are whole, unless one is as large as a batch.
    fn whole(&mut self, rows: &[RowNo], postgres: &Postgres) {
        if rows.len() > self.bounds.batch_rows {
            self.fail(|| format!("G6: {} rows in one Kafka transaction", rows.len()));
        }
        for part in
            rows.chunk_by(|a, b| postgres.rows[*a as usize].transaction == postgres.rows[*b as usize].transaction)
        {
            let index = postgres.rows[part[0] as usize].transaction;
            let all = postgres.transactions[index].rows.clone();
            let to_publish = || all.clone().map(|row| &postgres.rows[row as usize]).filter(|row| !row.born_marked);
            let (count, bytes) = (to_publish().count(), to_publish().map(|row| row.bytes).sum::<usize>());
            let is_large = count >= self.bounds.batch_rows || bytes >= self.bounds.batch_bytes;
            if part.len() != count && !is_large {
                self.fail(|| format!("G3: {} of {count} rows of a transaction became visible alone", part.len()));
            }
        }
    }

    fn positioned(&mut self, position: &Position) {
        if let Some(old) = &self.position
            && self.exactly_once
            && old.regresses_to(position)
        {
            let (from, to) = (&old.progress, &position.progress);
            let text = format!("rule 2: the position went back from {from:?} to {to:?}");
            self.fail(|| text);
        }
        self.position_deleted = false;
        let behind = self.position.as_ref().is_some_and(|old| old.regresses_to(position));
        if !behind {
            self.position = Some(Box::new(position.clone()));
        }
    }

    pub(crate) fn position_lost(&mut self) {
        self.position = None;
        self.position_deleted = true;
    }

    /// An UPDATE sets the mark of a row.
    pub(crate) fn marking(&mut self, number: RowNo, row: &Row) {
        if self.times_published(number) == 0 {
            self.fail(|| format!("G5: {} is marked, and Kafka does not hold it", row.name));
        }
    }

    /// A request has published a row again, so many times.
    pub(crate) fn replaying(&mut self, number: RowNo, times: u8, row: &Row) {
        if times > 1 {
            self.fail(|| format!("replay: {} was published {times} times by one request", row.name));
        }
        if self.times_published(number) == 0 && !row.born_marked {
            self.fail(|| format!("replay: {} is published again, and was never published", row.name));
        }
    }

    /// A partition is dropped that had this row.
    pub(crate) fn dropping(&mut self, number: RowNo, postgres: &Postgres) {
        let row = &postgres.rows[number as usize];
        let is_owed = !row.born_marked && !row.gone && !row.deleted && !row.vanished;
        let is_new = postgres.transactions[row.transaction].final_lsn >= self.owed_from;
        if is_owed && is_new && self.times_published(number) == 0 {
            self.fail(|| format!("retention: {} was dropped, and Kafka does not hold it", row.name));
        }
    }

    /// The server takes in a confirmed LSN.
    pub(crate) fn confirming(&mut self, lsn: Lsn, before: Lsn, postgres: &Postgres) {
        if lsn < before {
            self.fail(|| format!("rule 7: confirmed {lsn} after {before}"));
        }
        if lsn > postgres.log_end {
            self.fail(|| format!("rule 7: confirmed {lsn}, and the log ends at {}", postgres.log_end));
        }
        if !self.position_deleted {
            let position = self.position.as_ref().filter(|position| position.phase == Phase::Streaming);
            let published = position.map(|position| position.progress.lsn);
            if published.is_none_or(|published| lsn > published) {
                self.fail(|| format!("rule 4: confirmed {lsn}, and the position in Kafka is {published:?}"));
            }
        }
        while let Some(&index) = postgres.log.get(self.settled) {
            let rows = postgres.transactions[index].rows.clone();
            let open = rows.clone().find(|&number| self.is_open(number, postgres));
            let Some(open) = open else {
                self.settled += 1;
                continue;
            };
            if postgres.transactions[index].final_lsn < lsn {
                let (name, times) = (&postgres.rows[open as usize].name, self.times_published(open));
                self.fail(|| {
                    format!("rule 7: confirmed {lsn}, and {name} before it is not marked; published {times} times")
                });
            }
            break;
        }
    }

    /// Without a backfill, nobody has to publish or mark rows from before the slot.
    pub(crate) fn slot_created(&mut self, begins: Lsn) {
        if !self.backfill {
            self.owed_from = begins;
            self.settled = 0;
        }
    }

    /// A standby with a synchronised slot has taken the server's place. What the slot no longer
    /// sends must have its mark. The marks of a backfill lie behind the slot's consistent point, and
    /// may be lost with the server.
    pub(crate) fn failed_over(&mut self, postgres: &Postgres) {
        let Some(slot) = &postgres.slot else { return };
        self.forgiven_before = self.forgiven_before.max(slot.consistent_point);
        self.settled = 0;
        let end = u32::try_from(postgres.rows.len()).unwrap_or(0);
        let is_before = |row: &RowNo| {
            let transaction = postgres.rows[*row as usize].transaction;
            postgres.transactions[transaction].final_lsn < slot.confirmed
        };
        if let Some(row) = (0..end).find(|row| is_before(row) && self.is_open(*row, postgres)) {
            let (name, confirmed) = (&postgres.rows[row as usize].name, slot.confirmed);
            self.fail(|| format!("failover: {name} lies before {confirmed}, and the standby lacks its mark"));
        }
    }

    /// A copy has taken the server's place.
    pub(crate) fn restored(&mut self) {
        self.settled = 0;
    }

    /// A number that is larger than the number of every published row.
    pub(crate) fn published_rows(&self) -> usize {
        self.published.iter().rposition(|times| *times > 0).map_or(0, |last| last + 1)
    }

    fn times_published(&self, number: RowNo) -> u8 {
        self.published.get(number as usize).copied().unwrap_or(0)
    }

    /// Whether the row still has to be published or marked.
    fn is_open(&self, number: RowNo, postgres: &Postgres) -> bool {
        let row = &postgres.rows[number as usize];
        let final_lsn = postgres.transactions[row.transaction].final_lsn;
        if row.born_marked || row.gone || final_lsn < self.owed_from {
            return false;
        }
        let mark_is_owed = self.marks && !row.marked && !row.deleted && final_lsn >= self.forgiven_before;
        (self.times_published(number) == 0 && !row.vanished) || mark_is_owed
    }

    /// The first row that is not published, or not marked.
    pub(crate) fn first_open(&self, postgres: &Postgres) -> Option<RowNo> {
        let end = u32::try_from(postgres.rows.len()).unwrap_or(0);
        (0..end).find(|&number| self.is_open(number, postgres))
    }

    /// Checks the whole log as a consumer reads it, once everything is quiet.
    pub(crate) fn order_of_the_log(&mut self, kafka: &Kafka, postgres: &Postgres) {
        let mut last: [Option<RowNo>; 8] = [None; 8];
        let mut seen = vec![false; postgres.rows.len()];
        for &(number, index) in &kafka.log {
            let transaction = &kafka.transactions[index];
            let is_backfill = transaction.position.as_ref().is_some_and(|position| position.phase == Phase::Backfill);
            let counts = matches!(transaction.state, kafka::State::Committed | kafka::State::Prepared);
            if !counts
                || is_backfill
                || postgres.rows[number as usize].gone
                || std::mem::replace(&mut seen[number as usize], true)
            {
                continue;
            }
            let row = &postgres.rows[number as usize];
            let before = &mut last[usize::from(row.key)];
            if before.is_some_and(|before| before > number) {
                self.fail(|| format!("G2: {} lies in the log behind a later row of its key", row.name));
                return;
            }
            *before = Some(number);
        }
    }
}
