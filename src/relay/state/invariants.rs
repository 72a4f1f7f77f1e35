//! What holds after every input. Debug builds and the simulation check it.

use super::{
    faults::{internal, require},
    machine::Machine,
    queue::Stage,
    reading::Kind,
};
use crate::Error;

impl Machine {
    /// Checks the three sentences at the top of `mod.rs`, and the sums of the queue.
    ///
    /// # Errors
    /// `internal`: one of them does not hold.
    pub(super) fn require_invariants(&mut self) -> Result<(), Error> {
        self.queue.require_sums()?;
        self.require_confirmed()?;
        self.require_building()?;
        for batch in self.queue.iter() {
            let is_publishing = matches!(batch.stage, Stage::Sending | Stage::Committing);
            require(batch.progress.is_some() == is_publishing, "only a batch that Kafka lacks carries a position")?;
            require(is_publishing || batch.bytes == 0, "a batch that Kafka has holds bytes in memory")?;
            require(batch.stage != Stage::Marking || self.marks, "marks are made though none are wanted")?;
        }
        Ok(())
    }

    /// The confirmed LSN never goes back. It lies at or before the position in Kafka, and never
    /// after the end of a batch that is not done.
    fn require_confirmed(&mut self) -> Result<(), Error> {
        require(self.confirmed >= self.confirmed_before, "the confirmed LSN went back")?;
        if self.confirmed > self.confirmed_before {
            require(self.confirmed <= self.committed.lsn, "confirmed beyond the position in Kafka")?;
            require(self.confirmed <= self.looked, "confirmed beyond the last look")?;
            require(!(self.dropped && self.marks), "confirmed though dropped rows must come again")?;
        }
        self.confirmed_before = self.confirmed;
        if let Some(batch) = self.queue.iter().find(|batch| self.confirmed > batch.end) {
            return Err(internal(format!(
                "confirmed to {}, beyond batch {} that ends at {} and is {:?}",
                self.confirmed, batch.id.0, batch.end, batch.stage
            )));
        }
        let front = self.queue.iter().next();
        let front_is_done = front.is_some_and(|front| front.stage == Stage::Done);
        require(!front_is_done || self.dropped, "a done batch at the front is not taken off")
    }

    /// New rows are read only after the published ones have come by. They never share a batch with
    /// redelivered rows.
    fn require_building(&self) -> Result<(), Error> {
        let building = &self.building;
        if let Some(boundary) = &building.boundary {
            let is_within = boundary.rows <= building.rows && boundary.bytes <= building.bytes;
            require(is_within, "a boundary behind the rows")?;
        }
        if building.rows > 0 && !building.redelivered {
            require(self.proof.is_none(), "a new row before the proof")?;
            let is_resumed = self.open.as_ref().is_some_and(|open| open.kind == Kind::Resumed);
            require(self.split.is_none() || is_resumed, "a new row before the published part of its transaction")?;
        }
        require(!building.redelivered || building.bytes == 0, "redelivered rows have no records")
    }
}
