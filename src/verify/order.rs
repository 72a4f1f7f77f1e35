//! The order of the records of one key: entries come by topic, partition, key and offset, so one value is kept at a time
//! however many keys there are.

use super::{
    disk,
    entry::{ORDER_GROUP, OrderEntry, OrderValue},
    report::{Kind, Report},
    sort::Sorted,
    subject::Subject,
};
use crate::{Code, Error, Result};

/// Counts the records that stand behind one with a greater value.
///
/// # Errors
/// The disk.
pub(super) fn judge(subject: &Subject, mut entries: Sorted, reports: &mut [Report]) -> Result<()> {
    let mut group = [0; ORDER_GROUP];
    // The greatest value so far, and its offset.
    let mut greatest: Option<(OrderValue, u64)> = None;
    while let Some(bytes) = entries.next().map_err(disk)? {
        let foreign = || Error::new(Code::Internal, "an entry of verify that cannot be read");
        let entry = OrderEntry::read(bytes).ok_or_else(foreign)?;
        if bytes[..ORDER_GROUP] != group {
            group.copy_from_slice(&bytes[..ORDER_GROUP]);
            greatest = None;
        }
        match greatest {
            Some((value, offset)) if entry.value < value => {
                inversion(subject, reports, &entry, (value - entry.value, offset));
            }
            _ => greatest = Some((entry.value, entry.offset)),
        }
    }
    Ok(())
}

fn inversion(subject: &Subject, reports: &mut [Report], entry: &OrderEntry<'_>, (by, offset): (OrderValue, u64)) {
    let source = usize::from(entry.source);
    let (Some(rules), Some(report)) = (subject.sources.get(source), reports.get_mut(source)) else { return };
    if by <= rules.tolerance {
        report.inversions_within_tolerance += 1;
        return;
    }
    report.count(Kind::OutOfOrder, || {
        let mut offender = subject.offender(Kind::OutOfOrder, entry.id);
        offender.table = entry.table.and_then(|table| rules.tables.get(usize::from(table)).cloned());
        offender.place = Some(subject.place((entry.topic, entry.partition, entry.offset)));
        offender.after = Some(subject.place((entry.topic, entry.partition, offset)));
        offender
    });
}
