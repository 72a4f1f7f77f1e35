//! The outbox tables: can their rows become records, and be marked?

use super::Findings;
use crate::{
    Code,
    config::{Backfill, Mark, Source},
    outbox::Encoder,
    pgoutput::RelationSchema,
    postgres::catalog::{
        IdUniqueness, TableInfo, TableKind,
        backfill::{BackfillQuery, Order},
        marks::mark_value,
        tables::TablePrivileges,
    },
};

/// What decides whether rows can become records, besides the table.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) source: &'a Source,
    pub(super) position_topic: &'a str,
}

pub(super) fn check(table: &TableInfo, may: TablePrivileges, setting: Setting<'_>, findings: &mut Findings) {
    let source = setting.source;
    let about = format!("table {}", table.display_name());
    let kind = match table.kind {
        TableKind::Ordinary => "table",
        TableKind::Partitioned => "partitioned table",
    };
    if table.logged {
        findings.ok(&about, format!("{kind} of {} columns, owned by {}", table.columns.len(), table.owner));
    } else {
        let text = "it is unlogged or temporary: its rows are not in the WAL";
        findings.failed_with(&about, Code::TableMissing, text, "ALTER TABLE … SET LOGGED");
    }
    match bind(&table.relation_schema(), setting) {
        Ok(()) => findings.ok(&about, "has the columns that the mapping needs"),
        Err(error) => findings.error(&about, &error),
    }
    id(&about, table, source, findings);
    privileges(&about, may, source, findings);
    if source.mark == Mark::Update {
        mark_column(&about, table, source, findings);
    }
    partition_keys(&about, table, source, findings);
    if source.mark != Mark::None && !table.marking_triggers.is_empty() {
        findings.warning(
            &about,
            format!("triggers fire for every mark: {}", table.marking_triggers.join("; ")),
            "a trigger that fails or is slow holds up the marks, and with them the release of WAL",
        );
    }
}

/// Whether rows of this shape can become records.
pub(super) fn bind(shape: &RelationSchema, setting: Setting<'_>) -> crate::Result<()> {
    let Setting { source, position_topic } = setting;
    Encoder::new(&source.mapping, source.mark, position_topic)?.bind(shape, 0)
}

fn id(about: &str, table: &TableInfo, source: &Source, findings: &mut Findings) {
    let id = &source.mapping.columns.id;
    match table.id_uniqueness(id) {
        IdUniqueness::Unique(index) => findings.ok(about, format!("{id} is unique ({index})")),
        IdUniqueness::WithPartitionKey(index) => {
            findings.warning(
                about,
                format!("{id} is unique only together with the partition key ({index}): the server keeps no more"),
                format!("let the service give every row an {id} of its own, such as a random uuid"),
            );
            let leads = table.indexes.iter().any(|index| index.key.first().is_some_and(|key| key.as_ref() == Some(id)));
            if !leads && source.mark != Mark::None {
                let hint = format!("create an index whose first column is {id}");
                findings.warning(about, format!("no index begins with {id}: every mark reads whole indexes"), hint);
            }
        }
        IdUniqueness::None => {
            let text = format!("{id} has no unique index: a mark could meet other rows than the published one");
            let hint = format!("CREATE UNIQUE INDEX CONCURRENTLY ON {} ({id})", table.display_name());
            if source.mark == Mark::None {
                findings.warning(
                    about,
                    format!("{id} has no unique index: consumers cannot tell events apart by it"),
                    hint,
                );
            } else {
                findings.failed_with(about, Code::ColumnInvalid, text, hint);
            }
        }
    }
    never_without_id(about, table, source, findings);
}

/// A row without an id cannot be marked. Every backfill would publish it again as a dead letter.
fn never_without_id(about: &str, table: &TableInfo, source: &Source, findings: &mut Findings) {
    let id = &source.mapping.columns.id;
    if table.column(id).is_none_or(|column| column.not_null) {
        return;
    }
    let hint = format!("ALTER TABLE {} ALTER {id} SET NOT NULL", table.display_name());
    if source.mark == Mark::None {
        findings.warning(about, format!("{id} may be NULL: a row without it cannot be published"), hint);
    } else {
        let text = format!("{id} may be NULL: a row without it can be neither published nor marked");
        findings.failed_with(about, Code::ColumnInvalid, text, hint);
    }
}

fn privileges(about: &str, may: TablePrivileges, source: &Source, findings: &mut Findings) {
    let mut lacks = Vec::new();
    let mark = &source.mapping.columns.published_at;
    if !may.usage {
        lacks.push("USAGE on the schema".to_owned());
    }
    if !may.select && source.mark != Mark::None {
        lacks.push("SELECT".to_owned());
    }
    match source.mark {
        Mark::Update if !may.update_mark => lacks.push(format!("UPDATE ({mark})")),
        _ => {}
    }
    if source.deletes() && !may.delete {
        lacks.push("DELETE".to_owned());
    }
    if lacks.is_empty() {
        findings.ok(about, "the role has the rights that it needs");
    } else {
        findings.failed(about, Code::PostgresDenied, format!("the role lacks {}", lacks.join(", ")));
    }
    if may.row_security && source.mark != Mark::None {
        let text = "row security would hide rows from the role";
        findings.failed_with(about, Code::PostgresDenied, text, "ALTER ROLE … BYPASSRLS, or disable it on the table");
    }
}

fn mark_column(about: &str, table: &TableInfo, source: &Source, findings: &mut Findings) {
    let Some(column) = table.column(&source.mapping.columns.published_at) else { return };
    if let Err(error) = mark_value(table, column) {
        findings.error(about, &error);
        return;
    }
    if let Some((text, hint)) = column.never_null() {
        findings.failed_with(about, Code::ColumnInvalid, text, hint);
        return;
    }
    findings.ok(about, format!("{} can be set", column.name));
}

/// Judges BEFORE INSERT triggers whose functions name the mark column.
pub(super) fn setting_triggers(table: &TableInfo, column: &str, triggers: &[String], findings: &mut Findings) {
    for name in triggers {
        let text = format!(
            "the function of trigger {name} names {column}: a row whose mark it sets at the INSERT is passed over"
        );
        let hint = format!("let the trigger leave {column} NULL; outboxd_rows_passed_over_total counts such rows");
        findings.warning(&format!("table {}", table.display_name()), text, hint);
    }
}

/// Judges the partition keys: an UPDATE that moves a row to another partition arrives as an INSERT.
fn partition_keys(about: &str, table: &TableInfo, source: &Source, findings: &mut Findings) {
    let columns = &source.mapping.columns;
    let key: Vec<&str> =
        table.columns.iter().filter(|column| column.part_of_partition_key).map(|column| column.name.as_str()).collect();
    if source.mark == Mark::Update && key.contains(&columns.published_at.as_str()) {
        let text = format!("{} is part of the partition key: every mark would move the row", columns.published_at);
        findings.failed_with(about, Code::ColumnInvalid, text, "partition by another column, such as created_at");
    }
    let others: Vec<&str> =
        key.into_iter().filter(|name| *name != columns.published_at && *name != columns.id).collect();
    if !others.is_empty() {
        let hint = match source.mark {
            Mark::Update => "never update it in unmarked rows; a row that is marked already is passed over",
            Mark::Delete | Mark::None => "never update it: nothing in the row says that it was published",
        };
        findings.warning(
            about,
            format!("the partition key has {}: a row moved by an UPDATE of it would be seen as new", others.join(", ")),
            hint,
        );
    }
}

/// Says in which order a backfill would read.
pub(super) fn check_backfill(tables: &[TableInfo], source: &Source, tracked: bool, findings: &mut Findings) {
    const ABOUT: &str = "backfill";
    if source.backfill == Backfill::None {
        findings.ok(ABOUT, "none: rows from before the slot are left as they are");
        return;
    }
    if tables.len() < source.tables.len() {
        return; // A table that is missing has been reported.
    }
    let order = Order::choose(source.backfill_order_by.as_deref(), tracked);
    if let Err(error) = BackfillQuery::new(tables, &[], source, &order) {
        findings.error(ABOUT, &error);
        return;
    }
    let created_at = &source.mapping.columns.created_at;
    findings.ok(
        ABOUT,
        match order {
            Order::Column(column) => format!("unpublished rows, in the order of {column}"),
            Order::CommitTimestamp => format!("unpublished rows, by commit time, then {created_at}"),
            Order::Insertion => {
                format!("unpublished rows, by {created_at}, transaction and place: best effort, see backfill_order_by")
            }
        },
    );
}
