//! The SQL that looks outbox tables up, and what our role may do with them.

use std::collections::HashSet;

use tokio_postgres::{Client, Row};

use super::{
    failed,
    names::{display_table, quote_table},
    overlaps::refuse_overlaps,
    publications::publication,
    table_info::{ColumnInfo, Generated, IndexInfo, TableInfo, TableKind},
};
use crate::{
    Code, Error, Result,
    config::{Source, TableName},
};

/// What our role may do with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablePrivileges {
    /// USAGE on the schema.
    pub usage: bool,
    /// SELECT on the whole table (system columns need that much).
    pub select: bool,
    /// UPDATE on the mark column; false when there is none.
    pub update_mark: bool,
    /// DELETE.
    pub delete: bool,
    /// Row security would hide rows from us.
    pub row_security: bool,
}

/// [`TableInfo::placed`] of the row `c` of pg_class.
macro_rules! placed {
    () => {
        "coalesce((SELECT d.xmin::text FROM pg_depend d
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                     AND d.refclassid = 'pg_namespace'::regclass), '')"
    };
}

const TABLE: &str = concat!(
    "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'p', pg_get_userbyid(c.relowner)::text,
       coalesce((SELECT p.partexprs IS NOT NULL FROM pg_partitioned_table p WHERE p.partrelid = c.oid), false),
       ARRAY(SELECT t.tgname::text || ' (' || concat_ws(', ', CASE WHEN t.tgtype & 16 <> 0 THEN 'UPDATE' END,
                                                        CASE WHEN t.tgtype & 8 <> 0 THEN 'DELETE' END) || ')'
             FROM pg_trigger t
             WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 24 <> 0
             ORDER BY 1),
       ",
    placed!(),
    "
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1)"
);

// A partition may itself be partitioned, by other columns, so the key of every level counts. The
// catalog records a key as columns that depend on their own table as a whole. It does so for the
// columns of an expression, too (StorePartitionKey in catalog/heap.c).
const COLUMNS: &str = "
SELECT a.attname::text, a.attnum, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod),
       format_type(a.atttypid, -1),
       (WITH RECURSIVE base(oid, beneath) AS (
          SELECT t.oid, t.typbasetype
          UNION ALL SELECT b.oid, b.typbasetype FROM base JOIN pg_type b ON b.oid = base.beneath)
        SELECT oid FROM base WHERE beneath = 0), a.attnotnull OR t.typnotnull,
       a.atthasdef OR a.attidentity <> '', nullif(a.attgenerated, '')::text,
       a.attname IN (SELECT k.attname FROM pg_partition_tree($1::oid::regclass) tree
                     JOIN pg_partitioned_table p ON p.partrelid = tree.relid
                     JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = p.partrelid AND d.objsubid > 0
                                     AND d.refclassid = d.classid AND d.refobjid = d.objid AND d.refobjsubid = 0
                     JOIN pg_attribute k ON k.attrelid = p.partrelid AND k.attnum = d.objsubid)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const INDEXES: &str = "
SELECT c.relname::text, i.indisunique, i.indisprimary, i.indisvalid AND i.indimmediate, i.indpred IS NOT NULL,
       ARRAY(SELECT a.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, place)
             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum <> 0
             ORDER BY k.place),
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend d
             JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = d.classid
               AND d.refobjid = i.indrelid AND d.refobjsubid > 0
               AND NOT (am.amname = 'brin' AND current_setting('server_version_num')::int4 >= 160000)
             -- A UNIQUE or PRIMARY KEY constraint depends on the columns in place of its index.
             UNION SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]) AND a.attnum > 0
               AND NOT (am.amname = 'brin' AND current_setting('server_version_num')::int4 >= 160000)
             ORDER BY 1)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
WHERE i.indrelid = $1 ORDER BY NOT i.indisprimary, c.relname";

/// The table, or `None` where there is no relation of that name. A name without schema is searched
/// along the session's search_path, as `regclass` does.
///
/// # Errors
/// [`Code::TableMissing`] when the name is a view, a sequence or the like; [`Code::PostgresDenied`]
/// when the role may not look into the schema.
pub async fn find_table(client: &Client, table: &TableName) -> Result<Option<TableInfo>> {
    let shown = display_table(table);
    let what = format!("look up the table {shown}");
    let Some(row) = client.query_opt(TABLE, &[&quote_table(table)]).await.map_err(|error| failed(&what, error))? else {
        return Ok(None);
    };
    let kind = match row.get::<_, String>(3).as_str() {
        "r" => TableKind::Ordinary,
        "p" => TableKind::Partitioned,
        other => {
            let text = format!("{shown} is {}, not a table", relation_kind(other));
            return Err(Error::new(Code::TableMissing, text));
        }
    };
    let oid: u32 = row.get(0);
    let columns = client.query(COLUMNS, &[&oid]).await.map_err(|error| failed(&what, error))?;
    let indexes = client.query(INDEXES, &[&oid]).await.map_err(|error| failed(&what, error))?;
    Ok(Some(TableInfo {
        oid,
        schema: row.get(1),
        name: row.get(2),
        kind,
        logged: row.get(4),
        owner: row.get(5),
        partition_expression: row.get(6),
        marking_triggers: row.get(7),
        placed: row.get(8),
        columns: columns.iter().map(column_from_row).collect(),
        indexes: indexes.iter().map(index_from_row).collect(),
    }))
}

/// The table.
///
/// # Errors
/// [`Code::TableMissing`] when there is none of that name, else as [`find_table`].
pub async fn resolve(client: &Client, table: &TableName) -> Result<TableInfo> {
    find_table(client, table).await?.ok_or_else(|| {
        let found_by = if table.schema.is_some() { "" } else { " on the role's search_path" };
        Error::new(Code::TableMissing, format!("there is no table {}{found_by}", display_table(table)))
    })
}

/// All tables of a source, in configuration order, with the columns that its publication has.
///
/// # Errors
/// As [`resolve`], for the first one that fails. [`Code::ConfigInvalid`] where two of them share
/// rows.
pub async fn resolve_all(client: &Client, source: &Source) -> Result<Vec<TableInfo>> {
    let mut found = Vec::with_capacity(source.tables.len());
    for name in &source.tables {
        found.push(resolve(client, name).await?);
    }
    refuse_overlaps(client, &oids(&found)).await?;
    if found.iter().any(TableInfo::has_stored_columns)
        && let Some(publication) = publication(client, &source.publication).await?
    {
        found.iter_mut().for_each(|table| table.learn_published(&publication));
    }
    Ok(found)
}

/// The oids of tables, in their order.
pub(crate) fn oids(tables: &[TableInfo]) -> Vec<u32> {
    tables.iter().map(|table| table.oid).collect()
}

/// The tables of a source as they are now. A table that was renamed keeps its oid and gets its new
/// name. Where a configured name now belongs to another table, that table's oid takes its place. An
/// entry that is neither there by name nor by oid stays as it was.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn renamed(client: &Client, source: &Source, tables: &[TableInfo]) -> Result<Vec<TableInfo>> {
    const NOW: &str = concat!(
        "
SELECT c.oid, n.nspname::text, c.relname::text,
       ",
        placed!(),
        "
FROM unnest($1::text[], $2::oid[]) WITH ORDINALITY AS t(name, oid, place)
LEFT JOIN pg_class same ON same.oid = to_regclass(t.name) AND same.relkind IN ('r', 'p')
LEFT JOIN pg_class c ON c.oid = coalesce(same.oid, t.oid) LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY t.place"
    );
    let names: Vec<String> = source.tables.iter().map(quote_table).collect();
    let oids = oids(tables);
    let rows = client.query(NOW, &[&names, &oids]).await.map_err(|error| failed("look up the tables", error))?;
    let mut now = tables.to_vec();
    for (table, row) in now.iter_mut().zip(&rows) {
        if let Some(oid) = row.get(0) {
            (table.oid, table.schema, table.name, table.placed) = (oid, row.get(1), row.get(2), row.get(3));
        }
    }
    Ok(now)
}

/// The BEFORE INSERT triggers of a table and its partitions whose functions name this column. Such a
/// function may set it.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn setting_triggers(client: &Client, table: &TableInfo, column: &str) -> Result<Vec<String>> {
    // In tgtype, 1 is FOR EACH ROW, 2 is BEFORE, 4 is INSERT.
    const TRIGGERS: &str = "
SELECT DISTINCT t.tgname::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE (t.tgrelid = $1 OR t.tgrelid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass)))
  AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 7 = 7 AND strpos(p.prosrc, $2::text) > 0
ORDER BY 1";
    let rows = client.query(TRIGGERS, &[&table.oid, &column]).await;
    let rows = rows.map_err(|error| failed("read the triggers of the tables", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Oids of all partitions and ancestors of the tables, without the tables themselves.
///
/// # Errors
/// Only what a broken session brings.
pub(crate) async fn relatives(client: &Client, tables: &[TableInfo]) -> Result<HashSet<u32>> {
    let oids = oids(tables);
    let rows = client
        .query(
            "SELECT DISTINCT relative.relid::oid FROM unnest($1::oid[]) AS t(oid),
             LATERAL (SELECT relid FROM pg_partition_tree(t.oid::regclass)
                      UNION ALL SELECT relid FROM pg_partition_ancestors(t.oid::regclass)) AS relative(relid)
             WHERE relative.relid IS NOT NULL",
            &[&oids],
        )
        .await
        .map_err(|error| failed("read the partitions of the tables", error))?;
    Ok(rows.iter().map(|row| row.get(0)).filter(|oid| !oids.contains(oid)).collect())
}

/// What `role` may do with a table. `mark` is the column that is set when a row is published.
///
/// # Errors
/// [`Code::PostgresQueryFailed`] when there is no such role.
pub async fn privileges(client: &Client, role: &str, table: &TableInfo, mark: Option<&str>) -> Result<TablePrivileges> {
    const PRIVILEGES: &str = "
SELECT has_schema_privilege($1::name, c.relnamespace, 'USAGE'), has_table_privilege($1::name, c.oid, 'SELECT'),
       coalesce((SELECT has_column_privilege($1::name, c.oid, a.attnum, 'UPDATE') FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attname = $3 AND NOT a.attisdropped), false),
       has_table_privilege($1::name, c.oid, 'DELETE'),
       c.relrowsecurity
         AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = $1)
         AND (c.relforcerowsecurity OR NOT pg_has_role($1::name, c.relowner, 'USAGE'))
FROM pg_class c WHERE c.oid = $2";
    let what = format!("read the privileges of {role} on {}", table.display_name());
    let row = client.query_one(PRIVILEGES, &[&role, &table.oid, &mark]).await.map_err(|error| failed(&what, error))?;
    Ok(TablePrivileges {
        usage: row.get(0),
        select: row.get(1),
        update_mark: row.get(2),
        delete: row.get(3),
        row_security: row.get(4),
    })
}

fn column_from_row(row: &Row) -> ColumnInfo {
    ColumnInfo {
        name: row.get(0),
        attnum: row.get(1),
        type_oid: row.get(2),
        type_modifier: row.get(3),
        type_name: row.get(4),
        cast_name: row.get(5),
        base_type_oid: row.get(6),
        not_null: row.get(7),
        has_default: row.get(8),
        generated: row.get::<_, Option<String>>(9).map(|kind| match kind.as_str() {
            "s" => Generated::Stored,
            _ => Generated::Virtual,
        }),
        part_of_partition_key: row.get(10),
    }
}

fn index_from_row(row: &Row) -> IndexInfo {
    IndexInfo {
        name: row.get(0),
        unique: row.get(1),
        primary: row.get(2),
        usable: row.get(3),
        partial: row.get(4),
        key: row.get(5),
        depends_on: row.get(6),
    }
}

/// `pg_class.relkind` in words.
fn relation_kind(relkind: &str) -> &'static str {
    match relkind {
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        "S" => "a sequence",
        "i" | "I" => "an index",
        "c" => "a composite type",
        _ => "another kind of relation",
    }
}
