//! Batches that are published and marked, and whose marks a failover might still undo.
//!
//! A standby takes over the confirmed position of a failover slot as soon as its log reaches that
//! position. The marks lie behind it in the log, since they are made after the rows. A standby that
//! is promoted in between has the position and lacks the marks, and nothing would ever send the
//! rows again. So a batch of such a slot is confirmed only when the stream has passed its marks:
//! with `synchronized_standby_slots` the walsender sends nothing that the standbys lack.
//!
//! Source: Postgres documentation, "Logical Replication Failover", and `slotsync.c`.

use crate::Lsn;

/// Done batches that may be confirmed together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settles {
    /// Where the last of them ends.
    pub(super) end: Lsn,
    /// They may be confirmed once the stream has passed this; zero for at once.
    pub(super) behind: Lsn,
}

/// What waits. It takes the same room however many batches wait: all that come after the first wait
/// are one.
#[derive(Debug, Default)]
pub(super) struct Settling {
    first: Option<Settles>,
    rest: Option<Settles>,
}

impl Settling {
    pub(super) fn add(&mut self, done: Settles) {
        match (&self.first, &mut self.rest) {
            (None, _) => self.first = Some(done),
            (Some(_), None) => self.rest = Some(done),
            (Some(_), Some(rest)) => *rest = Settles { end: done.end, behind: rest.behind.max(done.behind) },
        }
    }

    /// What may be confirmed now that everything before `read_to` was read.
    pub(super) fn take(&mut self, read_to: Lsn) -> Option<Lsn> {
        let mut end = None;
        while let Some(first) = self.first.take_if(|first| first.behind <= read_to) {
            end = Some(first.end);
            self.first = self.rest.take();
        }
        end
    }

    /// Where the last batch that waits ends.
    pub(super) fn last_end(&self) -> Option<Lsn> {
        self.rest.or(self.first).map(|last| last.end)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_settle_in_order_when_the_stream_has_passed_their_marks() {
        let mut settling = Settling::default();
        for (end, behind) in [(10, 25), (20, 30), (30, 45), (40, 0)] {
            settling.add(Settles { end: Lsn(end), behind: Lsn(behind) });
        }
        assert_eq!(settling.last_end(), Some(Lsn(40)));
        assert_eq!(settling.take(Lsn(24)), None);
        assert_eq!(settling.take(Lsn(25)), Some(Lsn(10)));
        assert_eq!(settling.take(Lsn(44)), None, "later ones wait together");
        assert_eq!(settling.take(Lsn(45)), Some(Lsn(40)));
        assert!(settling.is_empty());
    }
}
