//! `[source.retention]` as written → [`Retention`].

use std::time::Duration;

use super::{Mark, section::Section};
use crate::{Error, Result};

/// The keys of `[source.retention]`.
pub(super) const KEYS: &[&str] = &["keep", "by", "partition", "ahead"];

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// The longest time that rows may be kept, and the widest partition.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// How long published rows stay in their table, and how they leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// For how long after its publication a row stays. With partitions: for how long after its
    /// range ended a partition stays.
    pub keep: Duration,
    /// How rows leave.
    pub by: RetentionBy,
}

/// How published rows leave their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionBy {
    /// In small batches.
    Delete,
    /// With their partition.
    Partition {
        /// The width of the partitions that are made, in whole seconds.
        width: Duration,
        /// How many are made ahead.
        ahead: u32,
    },
}

impl RetentionBy {
    /// The width and the number of partitions where nobody says otherwise.
    pub(crate) const PARTITION_WIDTH: Duration = DAY;
    pub(crate) const PARTITIONS_AHEAD: u32 = 3;
}

/// What a person wrote for [`RetentionBy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delete,
    Partition,
}

impl Retention {
    /// Deleting one row of many needs a mark that says which rows are published.
    ///
    /// # Errors
    /// What cannot be, as text.
    pub fn fits(&self, mark: Mark) -> Result<(), &'static str> {
        match (self.by, mark) {
            (RetentionBy::Delete, Mark::None) => {
                Err("rows without marks do not tell which of them are published; use by = \"partition\"")
            }
            (RetentionBy::Delete, Mark::Delete) => Err("mark = \"delete\" deletes each row once it is published"),
            _ => Ok(()),
        }
    }
}

/// Reads the section. A section that nobody wrote is no retention.
pub(super) fn read(mut section: Section, mark: Mark) -> Result<Option<Retention>> {
    section.only(KEYS)?;
    if section.entries.is_empty() {
        return Ok(None);
    }
    if !section.entries.iter().any(|(key, _)| key == "keep") {
        return Err(section.lacks("keep"));
    }
    let place = section.origin.clone();
    let keep = section.duration("keep", DAY, SECOND..=LONGEST)?;
    let kind = section.choice("by", &[("delete", Kind::Delete), ("partition", Kind::Partition)])?;
    let width = section.duration("partition", RetentionBy::PARTITION_WIDTH, SECOND..=LONGEST)?;
    let ahead = section.count("ahead", RetentionBy::PARTITIONS_AHEAD as usize, 1..=1000)?;
    let by = match kind.as_ref().map_or(Kind::Delete, |kind| kind.value) {
        Kind::Delete => RetentionBy::Delete,
        Kind::Partition => RetentionBy::Partition {
            width: Duration::from_secs(width.as_secs()),
            ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
        },
    };
    let retention = Retention { keep, by };
    retention.fits(mark).map_err(|problem| match &kind {
        Some(kind) => kind.refuse(problem),
        None => Error::new(crate::Code::ConfigInvalid, format!("{place}: [source.retention]: {problem}")),
    })?;
    Ok(Some(retention))
}
