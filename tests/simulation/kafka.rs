//! A model of Kafka: transactional ids with epochs, transactions, one log of records and one of
//! positions.
//!
//! The model keeps to these facts:
//! - `init_transactions` bumps the epoch, aborts an open transaction, and completes one whose
//!   commit was accepted. Whoever comes with an older epoch is fenced.
//! - A commit is accepted first, and from then on it is decided. It becomes readable later. Reading
//!   the position up to the high watermark waits for every open transaction on its topic.
//! - EndTxn names a producer and an epoch, and no transaction. One that was held up ends whatever
//!   is open when it arrives (KAFKA-17754). A second one for a transaction that is committed
//!   succeeds.
//! - The coordinator may move or die. Requests that are under way to it may be lost, and nobody
//!   answers for a while. What it had decided stays decided.
//! - An id that idled for a week is forgotten, and its epoch with it.
//! - Records lie in the order in which they were sent, whenever their transactions were committed.
//! - Without transactions, what one producer sent arrives in order or not at all (idempotence),
//!   perhaps after the producer's death.

use outboxd::source::position::{Phase, Position};

use crate::{postgres::RowNo, random::Random};

/// Transactional ids of the source. A start initialises all of them, however many are in use.
pub(crate) const PRODUCERS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// The commit is decided and not yet readable.
    Prepared,
    Committed,
    Aborted,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) state: State,
    pub(crate) rows: Vec<RowNo>,
    pub(crate) position: Option<Box<Position>>,
}

/// An EndTxn that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) producer: usize,
    pub(crate) epoch: u32,
    pub(crate) owner: usize,
    pub(crate) serial: u64,
    /// The transaction that it was sent for.
    transaction: Option<usize>,
    /// It arrives only when the producer's next transaction is open.
    pub(crate) held: bool,
}

/// Records that are under way without a transaction.
#[derive(Debug)]
pub(crate) struct Produce {
    pub(crate) owner: usize,
    pub(crate) serial: u64,
    pub(crate) rows: Vec<RowNo>,
    pub(crate) position: Option<Box<Position>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Fenced,
    /// CONCURRENT_TRANSACTIONS: the markers of the transaction before are not written yet.
    Busy,
    /// INVALID_TXN_STATE: nothing is open that could be ended.
    Invalid,
    /// INVALID_PRODUCER_ID_MAPPING: the id has expired.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Kafka {
    pub(crate) epochs: [u32; PRODUCERS],
    open: [Option<usize>; PRODUCERS],
    last_was_commit: [bool; PRODUCERS],
    pub(crate) transactions: Vec<Transaction>,
    /// Rows, each with its transaction, in the order of their offsets.
    pub(crate) log: Vec<(RowNo, usize)>,
    /// Transactions with a position, in the order of the positions' offsets. Older ones are
    /// compacted away.
    positions: Vec<usize>,
    pub(crate) ends: Vec<End>,
    pub(crate) produces: Vec<Produce>,
    /// Somebody else's open transaction on the position topic.
    pub(crate) foreign_open: bool,
    /// The coordinator is moving, and nobody answers in its place.
    pub(crate) is_moving: bool,
    has_expired: [bool; PRODUCERS],
}

impl Kafka {
    pub(crate) fn new() -> Self {
        Self {
            epochs: [0; PRODUCERS],
            open: [None; PRODUCERS],
            last_was_commit: [false; PRODUCERS],
            transactions: Vec::new(),
            log: Vec::new(),
            positions: Vec::new(),
            ends: Vec::new(),
            produces: Vec::new(),
            foreign_open: false,
            is_moving: false,
            has_expired: [false; PRODUCERS],
        }
    }

    // ---- producers ------------------------------------------------------------------------------

    /// `init_transactions`. Returns the new epoch.
    pub(crate) fn init(&mut self, producer: usize) -> u32 {
        self.close_open(producer);
        self.has_expired[producer] = false;
        self.epochs[producer] += 1;
        self.epochs[producer]
    }

    pub(crate) fn open_producer(&self) -> Option<usize> {
        let is_open = |open: usize| self.transactions[open].state == State::Open;
        (0..PRODUCERS).find(|&producer| self.open[producer].is_some_and(is_open))
    }

    /// The coordinator aborts a transaction that stayed open for too long, and fences its producer.
    pub(crate) fn time_out(&mut self, producer: usize) -> bool {
        let is_open = self.open[producer].is_some_and(|open| self.transactions[open].state == State::Open);
        if is_open {
            self.init(producer);
        }
        is_open
    }

    /// The coordinator moves. Some of the requests that are under way to it are lost.
    pub(crate) fn move_coordinator(&mut self, random: &mut Random) -> bool {
        self.ends.retain(|_| random.chance(50));
        !std::mem::replace(&mut self.is_moving, true)
    }

    /// The producer idled for a week.
    pub(crate) fn expire(&mut self, producer: usize) -> bool {
        let idles = self.open[producer].is_none() && self.epochs[producer] > 0;
        idles && !std::mem::replace(&mut self.has_expired[producer], true)
    }

    pub(crate) fn send_end(&mut self, producer: usize, epoch: u32, owner: usize, serial: u64) {
        let transaction = self.open[producer];
        self.ends.push(End { producer, epoch, owner, serial, transaction, held: false });
    }

    pub(crate) fn is_in_another_transaction(&self, end: End) -> bool {
        let open = self.open[end.producer].filter(|&open| self.transactions[open].state == State::Open);
        open.is_some() && open != end.transaction
    }

    pub(crate) fn send_rows(&mut self, producer: usize, epoch: u32, rows: &[RowNo]) -> Result<(), Refusal> {
        let open = self.open_transaction(producer, epoch)?;
        self.transactions[open].rows.extend_from_slice(rows);
        self.log.extend(rows.iter().map(|&row| (row, open)));
        Ok(())
    }

    pub(crate) fn send_position(
        &mut self,
        producer: usize,
        epoch: u32,
        position: Box<Position>,
    ) -> Result<(), Refusal> {
        let open = self.open_transaction(producer, epoch)?;
        self.transactions[open].position = Some(position);
        self.positions.push(open);
        Ok(())
    }

    /// An EndTxn arrives. Returns the transaction that it decides, if any.
    pub(crate) fn end(&mut self, end: End) -> Result<Option<usize>, Refusal> {
        if end.epoch != self.epochs[end.producer] {
            return Err(Refusal::Fenced);
        }
        match self.open[end.producer] {
            Some(open) if self.transactions[open].state == State::Open => {
                self.transactions[open].state = State::Prepared;
                self.last_was_commit[end.producer] = true;
                Ok(Some(open))
            }
            Some(_) => Ok(None),
            None if self.last_was_commit[end.producer] => Ok(None),
            None => Err(Refusal::Invalid),
        }
    }

    /// The markers of a decided transaction are written, and it becomes readable.
    pub(crate) fn complete(&mut self, producer: usize) -> bool {
        let prepared = self.open[producer].is_some_and(|open| self.transactions[open].state == State::Prepared);
        if prepared {
            self.close_open(producer);
        }
        prepared
    }

    fn open_transaction(&mut self, producer: usize, epoch: u32) -> Result<usize, Refusal> {
        if epoch != self.epochs[producer] {
            return Err(Refusal::Fenced);
        }
        if let Some(open) = self.open[producer] {
            return if self.transactions[open].state == State::Open { Ok(open) } else { Err(Refusal::Busy) };
        }
        if self.has_expired[producer] {
            return Err(Refusal::Unknown);
        }
        if self.is_moving {
            return Err(Refusal::Busy);
        }
        let open = self.transactions.len();
        self.transactions.push(Transaction { state: State::Open, rows: Vec::new(), position: None });
        self.open[producer] = Some(open);
        Ok(open)
    }

    fn close_open(&mut self, producer: usize) {
        let Some(open) = self.open[producer].take() else { return };
        let transaction = &mut self.transactions[open];
        let commit = transaction.state == State::Prepared;
        transaction.state = if commit { State::Committed } else { State::Aborted };
        self.last_was_commit[producer] = commit;
    }

    // ---- without transactions -------------------------------------------------------------------

    /// Takes in the next records that one producer has under way. Returns them, and the transaction
    /// that stands for them.
    pub(crate) fn land(&mut self, serial: u64) -> Option<(Produce, usize)> {
        let first = self.produces.iter().position(|produce| produce.serial == serial)?;
        let mut produce = self.produces.remove(first);
        let index = self.transactions.len();
        self.log.extend(produce.rows.iter().map(|&row| (row, index)));
        if produce.position.is_some() {
            self.positions.push(index);
        }
        let (rows, position) = (produce.rows.clone(), produce.position.take());
        self.transactions.push(Transaction { state: State::Committed, rows, position });
        Some((produce, index))
    }

    /// Loses everything that one producer has under way. Returns whether there was anything.
    pub(crate) fn lose(&mut self, serial: u64) -> bool {
        let count = self.produces.len();
        self.produces.retain(|produce| produce.serial != serial);
        self.produces.len() < count
    }

    // ---- the position ---------------------------------------------------------------------------

    /// Reads the position to the high watermark, `read_committed`. `Err`: an open transaction is in
    /// the way.
    ///
    /// Without transactions nobody is fenced, and a dead instance's position may arrive after its
    /// successor's. Then the furthest position counts. That loses nothing, since each instance
    /// publishes without gaps from a position that it read.
    pub(crate) fn read_position(&mut self, furthest: bool) -> Result<Option<&Position>, ()> {
        let is_pending = |&index: &usize| matches!(self.transactions[index].state, State::Open | State::Prepared);
        if self.foreign_open || self.positions.iter().any(is_pending) {
            return Err(());
        }
        let transactions = &self.transactions;
        self.positions.retain(|&index| transactions[index].state == State::Committed);
        if !furthest && self.positions.len() > 1 {
            self.positions.drain(..self.positions.len() - 1);
        }
        let read = |&index: &usize| transactions[index].position.as_deref();
        let ahead = |old: &Position, new: &Position| {
            old.phase == Phase::Streaming && new.phase == Phase::Streaming && new.progress.is_behind(&old.progress)
        };
        Ok(self.positions.iter().filter_map(read).reduce(|old, new| if ahead(old, new) { old } else { new }))
    }

    /// The newest position, whatever became of its transaction. A `read_uncommitted` consumer sees
    /// it.
    pub(crate) fn read_uncommitted(&self) -> Option<&Position> {
        self.positions.last().and_then(|&index| self.transactions[index].position.as_deref())
    }

    /// The position topic is deleted. Whoever writes to it next makes it again.
    pub(crate) fn delete_positions(&mut self) -> bool {
        let were_there = !self.positions.is_empty();
        self.positions.clear();
        were_there
    }
}
