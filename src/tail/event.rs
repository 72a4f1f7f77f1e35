//! A row, and what would become of it.

use std::borrow::Cow;

use crate::{
    Error, Lsn,
    outbox::{MEANT_FOR, Poison, RecordRef},
};

/// A row, as it would be sent.
#[derive(Debug)]
pub(super) struct Event<'a> {
    pub(super) source: &'a str,
    /// `schema.table`
    pub(super) table: &'a str,
    /// `None` for a row that waits in its table.
    pub(super) place: Option<Place>,
    /// The event type column's text.
    pub(super) event_type: Option<Cow<'a, str>>,
    /// The row's record; or its dead letter, which is not sent where the row stops the source.
    pub(super) record: RecordRef<'a>,
    pub(super) fate: Fate,
}

/// Where the stream brought a row from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The commit record of its transaction.
    pub(super) lsn: Lsn,
    /// Its transaction.
    pub(super) xid: u32,
}

/// What becomes of a row.
#[derive(Debug)]
pub(super) enum Fate {
    /// Its record is sent.
    Sent,
    /// Its dead letter is sent, for this reason.
    DeadLetter(Poison),
    /// It stops the source with this error.
    Stops(Error),
}

impl<'a> Event<'a> {
    /// The topic that it goes to. For a row that stops its source, the one that it was meant for.
    pub(super) fn topic(&self) -> Option<&'a str> {
        match self.fate {
            Fate::Sent | Fate::DeadLetter(_) => Some(self.record.topic),
            Fate::Stops(_) => self.meant_for(),
        }
    }

    /// The topic that the row was meant for, where that is known.
    pub(super) fn meant_for(&self) -> Option<&'a str> {
        if matches!(self.fate, Fate::Sent) {
            return Some(self.record.topic);
        }
        // The dead letter's own headers come last, behind the configured ones.
        let (_, topic) = self.record.headers().filter(|(name, _)| *name == MEANT_FOR).last()?;
        std::str::from_utf8(topic?).ok()
    }
}
