//! The order of the records of one key. Entries come by topic, partition, key and offset, so one
//! value is kept at a time however many keys there are.

use super::{
    disk,
    entry::{ORDER_GROUP, OrderEntry, OrderValue, Place},
    report::{Kind, Report},
    sort::Sorted,
    subject::Subject,
};
use crate::{Code, Error, Result};

/// The greatest value of a group so far, and the record that has it.
#[derive(Clone, Copy)]
struct Greatest {
    value: OrderValue,
    place: Place,
}

/// Counts the records that lie behind one with a greater value.
///
/// # Errors
/// The disk.
pub(super) fn judge(subject: &Subject, mut entries: Sorted, reports: &mut [Report]) -> Result<()> {
    let mut group = [0; ORDER_GROUP];
    let mut greatest: Option<Greatest> = None;
    while let Some(bytes) = entries.next().map_err(disk)? {
        let foreign = || Error::new(Code::Internal, "an entry of verify that cannot be read");
        let entry = OrderEntry::read(bytes).ok_or_else(foreign)?;
        if bytes[..ORDER_GROUP] != group {
            group.copy_from_slice(&bytes[..ORDER_GROUP]);
            greatest = None;
        }
        match greatest {
            Some(greatest) if entry.value < greatest.value => inversion(subject, reports, &entry, greatest),
            _ => greatest = Some(Greatest { value: entry.value, place: entry.place }),
        }
    }
    Ok(())
}

fn inversion(subject: &Subject, reports: &mut [Report], entry: &OrderEntry<'_>, greatest: Greatest) {
    let source = usize::from(entry.source);
    let (Some(rules), Some(report)) = (subject.sources.get(source), reports.get_mut(source)) else { return };
    if greatest.value - entry.value <= rules.tolerance {
        report.inversions_within_tolerance += 1;
        return;
    }
    report.count(Kind::OutOfOrder, || {
        let mut offender = subject.offender(Kind::OutOfOrder, entry.id);
        offender.table = entry.table.and_then(|table| rules.tables.get(usize::from(table)).cloned());
        offender.place = Some(subject.place(entry.place));
        offender.after = Some(subject.place(greatest.place));
        offender
    });
}
