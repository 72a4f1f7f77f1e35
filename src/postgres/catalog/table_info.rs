//! An outbox table as the catalog has it: its columns, its indexes, and what follows from them.

use super::{PublicationInfo, names::quote_qualified, publications::Membership};
use crate::{
    Code, Error, Result,
    pgoutput::{ColumnSchema, RelationSchema},
};

/// An outbox table as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// `pg_class.oid`. With `publish_via_partition_root` it is also the id in pgoutput's Relation
    /// message.
    pub oid: u32,
    /// Where it was found.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Ordinary or partitioned.
    pub kind: TableKind,
    /// `xmin` of the row of the catalog that puts it into its schema; empty where there is none.
    /// Another one means that it was in another schema in between.
    pub placed: String,
    /// Its rows are in the WAL. An unlogged or temporary table cannot be in a publication.
    pub logged: bool,
    /// Owning role. Only this one (or a superuser) may put the table into a publication.
    pub owner: String,
    /// Live columns in attribute order, including generated ones.
    pub columns: Vec<ColumnInfo>,
    /// Every index.
    pub indexes: Vec<IndexInfo>,
    /// Enabled row triggers that fire for UPDATE or DELETE, and so for a mark. Each entry has the
    /// name and the events.
    pub marking_triggers: Vec<String>,
    /// The partition key uses an expression. The columns in it are flagged like the others.
    pub partition_expression: bool,
}

/// What kind of relation a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// A plain table, which may itself be a partition.
    Ordinary,
    /// The root (or an inner node) of a partition tree.
    Partitioned,
}

/// A column of an outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// `attnum`.
    pub attnum: i16,
    /// `atttypid`, as in pgoutput's Relation message.
    pub type_oid: u32,
    /// `atttypmod`, -1 for none.
    pub type_modifier: i32,
    /// The type as a person writes it, with its modifier: `character varying(100)`.
    pub type_name: String,
    /// The type as a cast needs it, without modifier. A cast to `character(4)` would cut a value
    /// and say nothing.
    pub cast_name: String,
    /// The type beneath all domains; else `type_oid`.
    pub base_type_oid: u32,
    /// NOT NULL, by itself or by its domain.
    pub not_null: bool,
    /// Has a default or is an identity column.
    pub has_default: bool,
    /// GENERATED ALWAYS AS, and whether pgoutput sends it.
    pub generated: Option<Generated>,
    /// Part of the partition key at any level of the tree.
    pub part_of_partition_key: bool,
}

/// A generated column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    /// It is computed when it is read. pgoutput leaves it out.
    Virtual,
    /// It is stored. pgoutput leaves it out.
    Stored,
    /// It is stored, and the publication has it (Postgres 18).
    Published,
}

/// An index of an outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexInfo {
    pub(crate) name: String,
    /// UNIQUE (or the primary key).
    pub(crate) unique: bool,
    pub(crate) primary: bool,
    /// Valid and checked at once: neither half-built nor DEFERRABLE.
    pub(crate) usable: bool,
    /// Has a WHERE clause.
    pub(crate) partial: bool,
    /// Key columns by name; `None` where the key is an expression.
    pub(crate) key: Vec<Option<String>>,
    /// Every column that the index depends on: key, INCLUDE, expressions and WHERE. An UPDATE of
    /// any of them cannot be heap-only. BRIN indexes, which do not prevent it since Postgres 16,
    /// stand here with no column.
    pub(crate) depends_on: Vec<String>,
}

/// How well the id column tells rows apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdUniqueness {
    /// A unique index on the id column alone, by this name.
    Unique(String),
    /// The table is partitioned, and a unique index covers the id together with partition key
    /// columns. The server cannot promise more there.
    WithPartitionKey(String),
    /// None.
    None,
}

impl ColumnInfo {
    /// What makes every row look published, if this is the mark column: the text, and the next
    /// step.
    pub(crate) fn never_null(&self) -> Option<(String, &'static str)> {
        let name = &self.name;
        if self.generated.is_some() {
            Some((format!("{name} is generated: it cannot be set"), "use a plain column"))
        } else if self.not_null {
            Some((format!("{name} is NOT NULL: a row would never be unpublished"), "ALTER TABLE … DROP NOT NULL"))
        } else if self.has_default {
            let text = format!("{name} has a default: rows would be inserted as published, and passed over");
            Some((text, "ALTER TABLE … ALTER COLUMN … DROP DEFAULT"))
        } else {
            None
        }
    }
}

impl TableInfo {
    /// `"schema"."name"` for SQL.
    #[must_use]
    pub fn sql_name(&self) -> String {
        quote_qualified(&self.schema, &self.name)
    }

    /// `schema.name` for a person.
    #[must_use]
    pub(crate) fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The column of that name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The column of that name, which the configuration needs.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when it is not there.
    pub(crate) fn needed_column(&self, name: &str) -> Result<&ColumnInfo> {
        self.column(name).ok_or_else(|| {
            Error::new(Code::ColumnInvalid, format!("table {} has no column {name}", self.display_name()))
        })
    }

    /// How well column `id` tells rows apart.
    #[must_use]
    pub fn id_uniqueness(&self, id: &str) -> IdUniqueness {
        let unique = |index: &&IndexInfo| index.unique && index.usable && !index.partial;
        let is_id = |part: &Option<String>| part.as_deref() == Some(id);
        if let Some(index) =
            self.indexes.iter().filter(unique).find(|index| index.key.len() == 1 && is_id(&index.key[0]))
        {
            return IdUniqueness::Unique(index.name.clone());
        }
        let partition_key = |part: &Option<String>| {
            part.as_deref().and_then(|name| self.column(name)).is_some_and(|column| column.part_of_partition_key)
        };
        let covers = |index: &&IndexInfo| {
            index.key.iter().any(is_id) && index.key.iter().all(|part| is_id(part) || partition_key(part))
        };
        match self.indexes.iter().filter(unique).find(covers) {
            Some(index) if self.kind == TableKind::Partitioned => IdUniqueness::WithPartitionKey(index.name.clone()),
            _ => IdUniqueness::None,
        }
    }

    /// The indexes that keep an UPDATE of `column` from being heap-only.
    pub fn indexes_over<'a>(&'a self, column: &'a str) -> impl Iterator<Item = &'a str> {
        self.indexes
            .iter()
            .filter(move |index| index.depends_on.iter().any(|name| name == column))
            .map(|index| index.name.as_str())
    }

    /// The columns that pgoutput sends, in table order: all but the generated ones, unless the
    /// publication has those.
    pub(crate) fn published_columns(&self) -> impl Iterator<Item = &ColumnInfo> {
        let is_sent = |column: &&ColumnInfo| matches!(column.generated, None | Some(Generated::Published));
        self.columns.iter().filter(is_sent)
    }

    /// Whether a publication could have generated columns of it.
    pub(crate) fn has_stored_columns(&self) -> bool {
        self.columns.iter().any(|column| column.generated == Some(Generated::Stored))
    }

    /// Learns which of its generated columns this publication has. A column list decides, and
    /// without one the publication's own setting.
    pub(crate) fn learn_published(&mut self, publication: &PublicationInfo) {
        let listed = match publication.membership(self) {
            Membership::Listed(listed) => listed.columns.as_ref(),
            _ => None,
        };
        for column in &mut self.columns {
            let is_sent = listed.map_or(publication.generated, |numbers| numbers.contains(&column.attnum));
            if is_sent && column.generated == Some(Generated::Stored) {
                column.generated = Some(Generated::Published);
            }
        }
    }

    /// The table as pgoutput's Relation message would show it, for rows that come from the
    /// backfill. It has the type beneath each domain, which pgoutput tells in a Type message.
    #[must_use]
    pub fn relation_schema(&self) -> RelationSchema {
        let schema = |column: &ColumnInfo| ColumnSchema {
            name: column.name.clone(),
            type_oid: column.base_type_oid,
            type_modifier: column.type_modifier,
            key: false,
        };
        RelationSchema {
            oid: self.oid,
            schema: self.schema.clone(),
            name: self.name.clone(),
            replica_identity: b'd',
            columns: self.published_columns().map(schema).collect(),
        }
    }
}
