//! Retention: somebody detaches partitions whose rows are published, and drops them later. What may be
//! dropped, the daemon's own `retention::plan` says.
//!
//! Each step is one transaction, so whoever does it may die between any two of them, and several may
//! take turns.

use outboxd::{
    Lsn,
    retention::plan::{Detached, Verdict, judge},
    source::position::Phase,
};

use crate::{
    bugs::Bug,
    coverage::Event,
    postgres::{Part, Postgres, RowNo},
    random::Random,
    schedule::{World, trace},
};

impl Postgres {
    /// Detaches the partition of the oldest rows: some of those that are committed and, where rows are
    /// marked, have their mark. It notes where the log ends.
    pub(crate) fn detach(&mut self, random: &mut Random, marks: bool) -> Option<usize> {
        let is_done = |row: &crate::postgres::Row| !marks || row.marked || row.deleted || row.gone;
        let is_out = |row: RowNo| self.parts.iter().any(|part| part.rows.contains(&row));
        let rows = (0..).zip(&self.rows);
        let old: Vec<RowNo> = rows
            .filter(|(number, row)| !row.gone && !row.deleted && !is_out(*number))
            .take_while(|(_, row)| is_done(row) && self.transactions[row.transaction].is_visible)
            .map(|(number, _)| number)
            .collect();
        if old.is_empty() {
            return None;
        }
        let rows = old[..=random.index(old.len())].to_vec();
        let count = rows.len();
        self.parts.push(Part { rows, end: self.log_end });
        self.log_end.0 += 8;
        Some(count)
    }
}

impl World {
    /// One step of somebody who purges.
    pub(crate) fn retain(&mut self) {
        let env = &mut self.env;
        if env.postgres.parts.len() < 2 && env.random.chance(50) {
            if let Some(rows) = env.postgres.detach(&mut env.random, env.options.marks) {
                trace!(env, "retention: detaches {rows} rows at {}", env.postgres.log_end);
                env.hit(Event::Detached);
            }
            return;
        }
        let Some(part) = env.postgres.parts.first() else { return };
        let slot = env.postgres.slot.as_ref().filter(|slot| !slot.is_lost).map(|slot| slot.confirmed);
        let position = env.checks.position.as_ref().filter(|position| position.phase == Phase::Streaming);
        let of_server = position.filter(|position| position.history.system_id == env.postgres.system.to_string());
        let confirmed = slot.zip(of_server).map(|(slot, position)| slot.min(position.progress.lsn));
        let confirmed = if env.bug == Some(Bug::DropAtOnce) { Some(Lsn(u64::MAX)) } else { confirmed };
        match judge(&Detached { end: part.end, confirmed, has_unmarked: false }) {
            Verdict::Wait => env.hit(Event::DropWaits),
            Verdict::Keep => {}
            Verdict::Drop => {
                let part = env.postgres.parts.remove(0);
                trace!(env, "retention: drops {:?}", part.rows);
                env.hit(Event::PartitionDropped);
                for row in part.rows {
                    env.checks.dropping(row, &env.postgres);
                    env.postgres.rows[row as usize].deleted = true;
                }
            }
        }
    }
}
