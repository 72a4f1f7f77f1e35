//! Which partitions are missing, which are old, and when a detached one may be dropped. Pure.
//!
//! ```text
//!   attached, old, locked, and nothing in it is unmarked ─▶ detached, and the log's end is noted
//!        ─▶ the slot is confirmed behind that end, and still nothing is unmarked ─▶ dropped
//! ```
//!
//! Whoever had inserted into the partition had committed when it was detached, and nobody inserts
//! through the root any more. So each of its rows is in the log before the end that was noted.
//! Whatever lies before the slot's confirmed position is published, and marked.

use crate::Lsn;
pub use crate::postgres::catalog::retention::{Micros, Range};

/// The ranges for which there is no partition yet, from the one of `now` to the one that begins
/// `ahead` widths later. Each begins or ends at a multiple of `width` since the epoch, or at its
/// neighbour.
#[must_use]
pub fn missing(there: &[Range], now: Micros, width: Micros, ahead: u32) -> Vec<(Micros, Micros)> {
    let width = width.max(1);
    let first = now.div_euclid(width).saturating_mul(width);
    let end = first.saturating_add(width.saturating_mul(i64::from(ahead) + 1));
    let mut taken: Vec<(Micros, Micros)> =
        there.iter().map(|range| (range.from.unwrap_or(Micros::MIN), range.to.unwrap_or(Micros::MAX))).collect();
    taken.sort_unstable();
    let mut missing = Vec::new();
    let mut at = first;
    for (from, to) in taken.into_iter().chain([(end, end)]) {
        while at < from.min(end) {
            let next = at.div_euclid(width).saturating_add(1).saturating_mul(width).min(from).min(end);
            missing.push((at, next));
            at = next;
        }
        at = at.max(to);
    }
    missing
}

/// Whether everything in the partition is older than `keep`.
#[must_use]
pub fn is_old(range: Range, now: Micros, keep: Micros) -> bool {
    range.to.is_some_and(|to| to <= now.saturating_sub(keep))
}

/// What is seen of a partition that is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detached {
    /// Where the log ended when it was detached.
    pub end: Lsn,
    /// Up to where everything is published and marked: as far as the slot is confirmed and the
    /// position in Kafka reaches. A person may have moved the slot alone. `None` where one of both is
    /// not known.
    pub confirmed: Option<Lsn>,
    /// Whether it has rows without their mark. Somebody inserted them after it was detached, and
    /// nobody publishes them.
    pub has_unmarked: bool,
}

/// What may be done with a detached partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not everything in it is known to be published.
    Wait,
    /// A person has to look at it: it has rows that nobody publishes.
    Keep,
    /// Everything in it is published and marked.
    Drop,
}

/// Says what may be done with a detached partition.
#[must_use]
pub fn judge(seen: &Detached) -> Verdict {
    if seen.confirmed.is_none_or(|confirmed| confirmed < seen.end) {
        Verdict::Wait
    } else if seen.has_unmarked {
        Verdict::Keep
    } else {
        Verdict::Drop
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(from: Micros, to: Micros) -> Range {
        Range { from: Some(from), to: Some(to) }
    }

    #[test]
    fn the_range_of_now_and_those_ahead_are_made() {
        assert_eq!(missing(&[], 25, 10, 2), [(20, 30), (30, 40), (40, 50)]);
        assert_eq!(missing(&[range(20, 30), range(30, 40)], 25, 10, 2), [(40, 50)]);
        assert_eq!(missing(&[Range { from: None, to: None }], 25, 10, 2), []);
    }

    #[test]
    fn partitions_of_another_width_are_filled_up() {
        assert_eq!(missing(&[range(0, 27)], 25, 10, 2), [(27, 30), (30, 40), (40, 50)]);
        assert_eq!(missing(&[range(33, 36)], 25, 10, 1), [(20, 30), (30, 33), (36, 40)]);
        assert_eq!(missing(&[Range { from: Some(30), to: None }], 25, 10, 2), [(20, 30)]);
    }

    #[test]
    fn before_the_epoch_ranges_are_whole_as_well() {
        assert_eq!(missing(&[], -5, 10, 0), [(-10, 0)]);
    }

    proptest! {
        #[test]
        fn there_is_one_partition_for_each_moment(
            widths in prop::collection::vec((0_i64..20, 1_i64..20), 0..6),
            now in 0_i64..100, width in 1_i64..30, ahead in 0_u32..4,
        ) {
            let mut at = 0;
            let mut there = Vec::new();
            for (gap, width) in widths {
                there.push(range(at + gap, at + gap + width));
                at += gap + width;
            }
            let made = missing(&there, now, width, ahead);
            let first = now / width * width;
            for moment in first..first + width * (i64::from(ahead) + 1) {
                let holds = |&(from, to): &(i64, i64)| from <= moment && moment < to;
                let old = there.iter().filter_map(|range| Some((range.from?, range.to?))).filter(holds).count();
                prop_assert_eq!(old + made.iter().filter(|range| holds(range)).count(), 1);
            }
        }
    }

    #[test]
    fn only_a_partition_that_ended_long_ago_is_old() {
        assert!(is_old(range(0, 10), 20, 10));
        assert!(!is_old(range(0, 11), 20, 10));
        assert!(!is_old(Range { from: None, to: None }, 20, 10));
        assert!(is_old(Range { from: None, to: Some(3) }, 20, 10));
    }

    #[test]
    fn nothing_is_dropped_before_its_rows_are_published_and_marked() {
        let seen = Detached { end: Lsn(10), confirmed: Some(Lsn(10)), has_unmarked: false };
        assert_eq!(judge(&seen), Verdict::Drop);
        assert_eq!(judge(&Detached { confirmed: Some(Lsn(9)), ..seen }), Verdict::Wait);
        assert_eq!(judge(&Detached { confirmed: None, ..seen }), Verdict::Wait);
        assert_eq!(judge(&Detached { has_unmarked: true, ..seen }), Verdict::Keep);
    }
}
