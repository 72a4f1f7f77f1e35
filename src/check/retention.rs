//! Whether retention can do what the configuration asks of it.

use tokio_postgres::Client;

use super::Findings;
use crate::{
    Code, Result,
    config::{RetentionBy, Source},
    postgres::catalog::{TableInfo, retention},
};

pub(super) async fn check(
    client: &Client,
    tables: &[TableInfo],
    source: &Source,
    findings: &mut Findings,
) -> Result<()> {
    let Some(RetentionBy::Partition { .. }) = source.retention.map(|retention| retention.by) else { return Ok(()) };
    for table in tables {
        let about = format!("retention of {}", table.display_name());
        let found = match retention::partitioning(client, table).await {
            Ok(found) => found,
            Err(error) => {
                findings.error(&about, &error);
                continue;
            }
        };
        if let Some((text, hint)) = retention::lacks(client, table).await? {
            findings.failed_with(&about, Code::PostgresDenied, text, hint);
        } else if let Some(referring) = found.referred_to() {
            findings.failed_with(&about, Code::RetentionFailed, referring, "drop them, or use by = \"delete\"");
        } else if found.has_default {
            let text = "a DEFAULT partition is read whole whenever a partition is made";
            findings.warning(&about, text, "move its rows into partitions of their own, and drop it");
        } else {
            findings.ok(&about, format!("{} partitions", found.partitions.len()));
        }
    }
    Ok(())
}
