//! What was read and is not cut as a batch yet.

use std::time::Duration;

use crate::{Lsn, source::position::CommitId};

/// The transaction that is being read.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) final_lsn: Lsn,
    pub(super) xid: u32,
    pub(super) time: i64,
    /// Insert messages so far, before any filtering. A split names its last row by this number.
    pub(super) rows: u64,
    /// Whether one of these rows has to be published or marked, and is not only passed over.
    pub(super) carries_rows: bool,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It ends at or before the position.
    Redelivered,
    /// It is the split transaction of the position. Its first rows are published.
    Resumed,
    /// It ends after the position.
    New,
}

/// The batch under construction: what was read and is not cut yet.
#[derive(Debug, Default)]
pub(super) struct Building {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Whether its rows were published before this session.
    pub(super) redelivered: bool,
    /// The end of the last whole transaction in it.
    pub(super) boundary: Option<Boundary>,
    pub(super) oldest: Option<i64>,
    /// When its first transaction became whole. The linger counts from then.
    pub(super) since: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Boundary {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) commit: CommitId,
}
