//! The second look. What seemed wrong may only have been under way, or a little later than the
//! snapshot. This module asks for rows again by their ids and reads on in the topics, until nothing
//! is left or the time is up.

use std::{
    collections::{HashMap, HashSet},
    mem,
    time::{Duration, Instant},
};

use super::{
    compare::{Candidates, MatchKey, Unknown, Unmarked},
    entry::{RecordEntry, RowEntry, split_match},
    progress::Progress,
    records::{Cluster, Match, Reading, TopicToRead},
    report::{Kind, Report},
    routes::TopicNumbers,
    rows::{Asked, OpenSource},
    subject::Subject,
};
use crate::Result;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// What is looked at again, and with what.
pub(super) struct Again<'a> {
    pub(super) subject: &'a Subject,
    pub(super) sources: &'a [OpenSource<'a>],
    pub(super) cluster: &'a Cluster,
    /// As the first reading left them.
    pub(super) topics: Vec<TopicToRead>,
    pub(super) numbers: TopicNumbers,
    pub(super) candidates: Candidates,
    pub(super) reports: Vec<Report>,
}

/// A missing row's record, found later.
struct Late {
    key: MatchKey,
    row: RowEntry,
    record: RecordEntry,
}

impl Again<'_> {
    /// Looks at least once, and until nothing is left or `wait` has passed. Then it counts what is
    /// left.
    ///
    /// # Errors
    /// What reading rows or records brings.
    pub(super) async fn look(mut self, wait: Duration, progress: &Progress) -> Result<Vec<Report>> {
        let deadline = Instant::now() + wait;
        if !self.candidates.is_empty() {
            progress.begin("waiting for what is under way", 0);
        }
        while !self.candidates.is_empty() {
            self.rows(deadline).await?;
            self.records(progress).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if !self.candidates.is_empty() {
                tokio::time::sleep(PAUSE.min(left)).await;
            }
        }
        self.candidates.settle(self.subject, &mut self.reports);
        Ok(self.reports)
    }

    /// Finds rows that are marked or gone by now, and rows of records that seemed to have none.
    async fn rows(&mut self, deadline: Instant) -> Result<()> {
        for (number, source) in (0_u16..).zip(self.sources) {
            for table in (0_u16..).take(source.tables.len()) {
                let of_table = |row: &RowEntry| (row.source, row.table) == (number, table);
                let unmarked: Vec<MatchKey> = self
                    .candidates
                    .unmarked
                    .iter()
                    .filter(|(_, Unmarked { row, .. })| of_table(row))
                    .map(|(key, _)| key.clone())
                    .collect();
                let mut still = HashSet::new();
                let ids: Vec<&[u8]> = unmarked.iter().map(|key| split_match(key).id).collect();
                let note = |key: &[u8], row: RowEntry| {
                    if !row.marked {
                        still.insert(MatchKey::from(key));
                    }
                };
                source.again(Asked { table, ids: &ids, deadline: None }, &mut self.numbers, note).await?;
                for key in unmarked.iter().filter(|key| !still.contains(*key)) {
                    self.candidates.unmarked.remove(key);
                }

                let unknown: Vec<MatchKey> = self.candidates.unknown.keys().cloned().collect();
                let ids: Vec<&[u8]> = unknown.iter().map(|key| split_match(key).id).collect();
                let mut known = Vec::new();
                let asked = Asked { table, ids: &ids, deadline: Some(deadline) };
                source.again(asked, &mut self.numbers, |key, _| known.push(MatchKey::from(key))).await?;
                known.iter().for_each(|key| self.is_known(key));
            }
        }
        Ok(())
    }

    /// The record has a row after all. The records that followed it repeat it.
    fn is_known(&mut self, key: &MatchKey) {
        let Some(Unknown { source, first, more }) = self.candidates.unknown.remove(key) else { return };
        let Some(report) = self.reports.get_mut(usize::from(source)) else { return };
        for _ in 0..more {
            report.count(Kind::Duplicated, || {
                let mut offender = self.subject.offender(Kind::Duplicated, split_match(key).id);
                offender.after = Some(self.subject.place(first.place));
                offender
            });
        }
    }

    /// Reads on in the topics that miss something.
    async fn records(&mut self, progress: &Progress) -> Result<()> {
        if self.candidates.missing.is_empty() {
            return Ok(());
        }
        let meant: HashSet<u32> = self.candidates.missing.keys().map(|key| split_match(key).meant_for).collect();
        for place in 0..self.topics.len() {
            let topic = &self.topics[place];
            if !topic.dead && !meant.contains(&topic.number) {
                continue;
            }
            let topic = self.cluster.move_ends(topic.clone()).await?;
            let sink = Awaited { missing: mem::take(&mut self.candidates.missing), late: Vec::new() };
            let reading = Reading { topic, numbers: mem::take(&mut self.numbers), sink };
            let read = self.cluster.read(reading, soon(), progress, |awaited, found| {
                awaited.take(&found);
                Ok(())
            });
            let (Reading { topic, numbers, sink: awaited }, _) = read.await?;
            self.topics[place] = topic;
            self.numbers = numbers;
            self.candidates.missing = awaited.missing;
            awaited.late.iter().for_each(|late| self.arrived(late));
        }
        Ok(())
    }

    fn arrived(&mut self, Late { key, row, record }: &Late) {
        let Some(report) = self.reports.get_mut(usize::from(row.source)) else { return };
        report.records += 1;
        if record.dead {
            report.count(Kind::DeadLettered, || {
                let mut offender = self.subject.offender(Kind::DeadLettered, split_match(key).id);
                offender.table = self.subject.table(row);
                offender.place = Some(self.subject.place(record.place));
                offender
            });
        }
    }
}

/// What the reading thread looks for.
struct Awaited {
    missing: HashMap<MatchKey, Vec<RowEntry>>,
    late: Vec<Late>,
}

impl Awaited {
    fn take(&mut self, found: &Match<'_>) {
        let Some((key, rows)) = found.key.and_then(|key| Some((key, self.missing.get_mut(key)?))) else { return };
        if let Some(row) = rows.pop() {
            self.late.push(Late { key: key.into(), row, record: found.record });
        }
        if rows.is_empty() {
            self.missing.remove(key);
        }
    }
}

/// The deadline of the second reading. Open transactions do not matter there, since the ends are
/// where a reader can read. Only a leader that has just taken over may know less for a moment.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}
