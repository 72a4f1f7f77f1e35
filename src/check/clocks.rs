//! Whether the creation times of the rows are what they seem: times in UTC, by a clock that is not
//! ahead. Nothing here is a failure, since a clock is no fault of a row.

use std::time::Duration;

use super::Findings;
use crate::{
    Result,
    config::Source,
    postgres::{
        ConnectOptions,
        catalog::{
            TableInfo,
            clocks::{Zone, ahead, zone},
        },
    },
};

/// The longest that one statement may take. A table without an index on the column is read whole,
/// and a large one is then not judged.
const BOUND: Duration = Duration::from_secs(2);

pub(super) async fn check(
    connect: &ConnectOptions,
    tables: &[TableInfo],
    source: &Source,
    findings: &mut Findings,
) -> Result<()> {
    let session = connect.clone().within(BOUND).in_its_own_zone().sql("check-clocks").await?;
    let zone = zone(&session).await?;
    let created_at = &source.mapping.columns.created_at;
    for table in tables {
        let about = format!("table {}", table.display_name());
        let Some(column) = table.column(created_at) else { continue };
        if column.is_local_time() && !zone.is_utc {
            let Zone { name, .. } = &zone;
            findings.warning(
                &about,
                format!(
                    "{created_at} has no time zone and counts as UTC, and sessions of this role have TimeZone {name}: \
                     now() and CURRENT_TIMESTAMP are local time there"
                ),
                "make it timestamptz, or write UTC (DEFAULT now() AT TIME ZONE 'UTC'); rows that are ahead of their \
                 commit get its time as the record's timestamp",
            );
        }
        // A statement that takes too long says nothing about the rows.
        if let Ok(Some(apart)) = ahead(&session, table, column).await {
            let text = format!(
                "{created_at} of some rows is up to {} ahead of the server's clock",
                humantime::format_duration(apart)
            );
            let hint = "correct the clock or the time zone of the service; the records of such rows have the time of \
                        their commit, and the row's own in the header outboxd_event_time";
            findings.warning(&about, text, hint);
        }
    }
    Ok(())
}
