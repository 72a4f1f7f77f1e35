//! Judges the marks: one is made on trial, and taken back.

use super::{Findings, Verdict};
use crate::{
    Code, Result,
    config::{Mark, Source},
    postgres::{
        ConnectOptions,
        catalog::{
            TableInfo,
            mark_trial::{Trial, try_mark},
        },
    },
};

/// Tries a mark in each table in which nothing else stands in its way.
pub(super) async fn check(
    connect: &ConnectOptions,
    tables: &[TableInfo],
    source: &Source,
    findings: &mut Findings,
) -> Result<()> {
    if source.mark == Mark::None {
        return Ok(());
    }
    let session = connect.sql("check-marks").await?;
    for table in tables {
        let about = format!("table {}", table.display_name());
        if findings.list.iter().any(|finding| finding.about == about && finding.verdict == Verdict::Failed) {
            continue;
        }
        match try_mark(&session, table, source).await {
            Ok(Some(trial)) => judge(&about, &trial, findings),
            Ok(None) => {}
            Err(error) => findings.error(&about, &error),
        }
    }
    Ok(())
}

fn judge(about: &str, trial: &Trial, findings: &mut Findings) {
    match &trial.swallowed {
        Some(id) => {
            let text = format!("row {id} has no mark after the statement that makes it");
            let hint = "let rules and triggers of the table pass updates of the mark column";
            findings.failed_with(about, Code::MarkFailed, text, hint);
        }
        None if trial.made => findings.ok(about, "a mark was made on trial, and taken back"),
        None => findings.ok(about, "the marking statement ran; there was no row to mark on trial"),
    }
    if !trial.by_index {
        let text = "the marking statement reads the whole table: no index on the id serves it";
        findings.warning(about, text, "create a unique index on the id column, of its own type");
    }
}
