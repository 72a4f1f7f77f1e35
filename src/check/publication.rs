//! The publication: does the server send our rows, and every column of them?

use super::{
    Findings,
    tables::{Setting, bind},
};
use crate::{
    Code,
    postgres::catalog::{PublicationInfo, PublishedTable, TableInfo, publications::Membership},
    source::publication::shortcomings,
};

pub(super) fn check(
    publication: Option<&PublicationInfo>,
    tables: &[TableInfo],
    setting: Setting<'_>,
    findings: &mut Findings,
) {
    let source = setting.source;
    let about = format!("publication {}", source.publication);
    let Some(publication) = publication else {
        if source.auto_setup {
            let hint = "run `outboxd setup --dry-run`: it tells who may create it";
            findings.warning(&about, "it does not exist; `run` creates it if its role owns the tables", hint);
        } else {
            findings.failed(&about, Code::PublicationMissing, "it does not exist");
        }
        return;
    };
    for shortcoming in shortcomings(publication, tables) {
        findings.failed_with(&about, Code::PublicationMissing, shortcoming.text, shortcoming.hint);
    }
    operations(&source.name, &about, publication, findings);
    for table in tables {
        match publication.membership(table) {
            Membership::Absent => {
                let text = format!("it does not have table {}", table.display_name());
                let hint = format!(
                    "`outboxd setup` adds it while there is no slot, `outboxd setup --source {} --add-table` afterwards",
                    source.name
                );
                findings.failed_with(&about, Code::PublicationMissing, text, hint);
            }
            Membership::Listed(listed) => listed_table(&about, listed, table, setting, findings),
            Membership::InSchema(_) | Membership::AllTables => {}
        }
    }
    // A table that was not found may be one of the others under a new name.
    if tables.len() == source.tables.len() {
        others(&about, publication, tables, findings);
    }
}

/// Rule 11, where INSERT is published.
fn operations(source: &str, about: &str, publication: &PublicationInfo, findings: &mut Findings) {
    if !publication.insert {
        return;
    }
    if publication.update || publication.delete || publication.truncate {
        findings.warning(
            about,
            format!("it publishes '{}': every mark travels back through the stream", publication.operations()),
            format!(
                "make it with publish = 'insert'; on a source that runs, only through `outboxd recover --source {source}`"
            ),
        );
    } else {
        findings.ok(about, "publishes INSERT alone");
    }
}

fn listed_table(
    about: &str,
    listed: &PublishedTable,
    table: &TableInfo,
    setting: Setting<'_>,
    findings: &mut Findings,
) {
    let name = table.display_name();
    if let Some(filter) = &listed.row_filter {
        findings.warning(
            about,
            format!("rows of {name} are published only where {filter}"),
            "the others stay unpublished for ever; drop the filter if that is not meant",
        );
    }
    if let Some(columns) = &listed.columns {
        let mut shape = table.relation_schema();
        let listed = |name: &str| table.column(name).is_some_and(|column| columns.contains(&column.attnum));
        shape.columns.retain(|column| listed(&column.name));
        match bind(&shape, setting) {
            Ok(()) => findings.ok(about, format!("its column list of {name} has what the mapping needs")),
            Err(error) => {
                findings.failed_with(about, error.code(), error.detail(), "the publication has a column list: drop it");
            }
        }
    }
}

/// Warns of tables that the server decodes for nothing.
fn others(about: &str, publication: &PublicationInfo, tables: &[TableInfo], findings: &mut Findings) {
    let hint = "a publication of the outbox tables alone spares the server and the network";
    if publication.all_tables {
        findings.warning(about, "it is FOR ALL TABLES: every row of the database is sent", hint);
        return;
    }
    if let Some(schema) = publication.schemas.first() {
        findings.warning(about, format!("it has all tables of schema {}", schema.name), hint);
    }
    let ours = |other: &&PublishedTable| !tables.iter().any(|table| table.oid == other.table_oid);
    let names: Vec<_> =
        publication.tables.iter().filter(ours).map(|table| format!("{}.{}", table.schema, table.name)).collect();
    if !names.is_empty() {
        findings.warning(about, format!("it has other tables too: {}", names.join(", ")), hint);
    }
}
