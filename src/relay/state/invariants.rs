//! What holds after every input, checked in debug builds and in the simulation.

use super::{machine::Machine, queue::Stage, reading::Kind};

impl Machine {
    /// Ends the process where one of the sentences at the top of `mod.rs`, or a sum of the queue, does not hold.
    pub(super) fn assert_invariants(&mut self) {
        self.queue.assert_sums();
        self.assert_confirmed();
        self.assert_building();
        for batch in self.queue.iter() {
            let is_publishing = matches!(batch.stage, Stage::Sending | Stage::Committing);
            assert_eq!(batch.progress.is_some(), is_publishing, "only a batch that Kafka lacks carries a position");
            assert!(is_publishing || batch.bytes == 0, "a batch that Kafka has holds bytes in memory");
            assert!(batch.stage != Stage::Marking || self.marks, "marks are made though none are wanted");
        }
    }

    /// The confirmed LSN never goes back, lies at or before the position in Kafka, and before no batch that is not done.
    fn assert_confirmed(&mut self) {
        assert!(self.confirmed >= self.confirmed_before, "the confirmed LSN went back");
        let was_confirmed = self.confirmed > self.confirmed_before;
        assert!(!was_confirmed || self.confirmed <= self.committed.lsn, "confirmed beyond the position in Kafka");
        assert!(!(was_confirmed && self.dropped && self.marks), "confirmed though dropped rows must come again");
        self.confirmed_before = self.confirmed;
        let is_before = |end| self.confirmed <= end;
        assert!(self.queue.iter().all(|batch| is_before(batch.end)), "confirmed beyond a batch that is not done");
        let front = self.queue.iter().next();
        assert!(
            front.is_none_or(|front| front.stage != Stage::Done) || self.dropped,
            "a done batch at the front is not taken off"
        );
    }

    /// New rows are read only when what was published has come by, and never together with redelivered ones.
    fn assert_building(&self) {
        let building = &self.building;
        if let Some(boundary) = &building.boundary {
            assert!(boundary.rows <= building.rows && boundary.bytes <= building.bytes, "a boundary behind the rows");
        }
        if building.rows > 0 && !building.redelivered {
            assert!(self.proof.is_none(), "a new row before the proof");
            let is_resumed = self.open.as_ref().is_some_and(|open| open.kind == Kind::Resumed);
            assert!(self.split.is_none() || is_resumed, "a new row before the published part of its transaction");
        }
        assert!(!building.redelivered || building.bytes == 0, "redelivered rows have no records");
    }
}
