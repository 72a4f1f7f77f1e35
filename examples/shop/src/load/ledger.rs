//! What the customers were told.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// How an order has to end, by what was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Completed,
    Cancelled,
    Returned,
    /// The customer cancelled: the order ends as CANCELLED or RETURNED.
    Undone,
}

impl Fate {
    /// Whether this is how it ended.
    #[must_use]
    pub fn fits(self, status: &str) -> bool {
        match self {
            Self::Completed => status == "COMPLETED",
            Self::Cancelled => status == "CANCELLED",
            Self::Returned => status == "RETURNED",
            Self::Undone => matches!(status, "CANCELLED" | "RETURNED"),
        }
    }
}

/// An order as its customer knew it when it was placed.
#[derive(Debug, Clone)]
pub struct Placed {
    pub email: String,
    pub name: String,
    pub phone: String,
    pub line1: String,
    pub pincode: String,
    pub total: String,
    pub fate: Fate,
}

/// Everything that was remembered.
#[derive(Debug, Default)]
pub struct Ledger {
    orders: Mutex<BTreeMap<String, Placed>>,
    deleted: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    requests: AtomicU64,
    reconnects: AtomicU64,
    /// The slowest answer, in milliseconds.
    slowest: AtomicU64,
    finished: AtomicU64,
    /// The request that each customer waits for, and since when.
    doing: Mutex<BTreeMap<u64, (String, Instant)>>,
}

/// Counts, for people.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    pub requests: u64,
    pub orders: usize,
    pub finished: u64,
    pub failures: usize,
    pub reconnects: u64,
    pub slowest_ms: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, orders, finished, failures, reconnects, slowest_ms } = self;
        write!(
            f,
            "{requests} requests, {orders} orders placed, {finished} followed to their end, {failures} failed requests, \
             {reconnects} reconnects, slowest answer {slowest_ms} ms"
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    pub(super) fn place(&self, number: &str, placed: Placed) {
        lock(&self.orders).insert(number.to_owned(), placed);
    }

    pub(super) fn delete(&self, email: &str) {
        lock(&self.deleted).push(email.to_owned());
    }

    pub(crate) fn fail(&self, text: String) {
        lock(&self.failures).push(text);
    }

    pub(super) fn answered(&self, milliseconds: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.slowest.fetch_max(milliseconds, Ordering::Relaxed);
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn begin(&self, customer: u64, what: String) {
        lock(&self.doing).insert(customer, (what, Instant::now()));
    }

    /// What each customer has asked for last, and how long ago.
    #[must_use]
    pub fn doing(&self) -> Vec<String> {
        let now = lock(&self.doing);
        now.values().map(|(what, since)| format!("{what}, {:.1} s ago", since.elapsed().as_secs_f64())).collect()
    }

    pub(crate) fn finish(&self) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }

    /// Orders by their number.
    #[must_use]
    pub fn orders(&self) -> BTreeMap<String, Placed> {
        lock(&self.orders).clone()
    }

    /// Emails of users who have deleted themselves.
    #[must_use]
    pub fn deleted(&self) -> Vec<String> {
        lock(&self.deleted).clone()
    }

    /// Requests that failed, and answers that were wrong.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }

    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            requests: self.requests.load(Ordering::Relaxed),
            orders: lock(&self.orders).len(),
            finished: self.finished.load(Ordering::Relaxed),
            failures: lock(&self.failures).len(),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            slowest_ms: self.slowest.load(Ordering::Relaxed),
        }
    }
}
