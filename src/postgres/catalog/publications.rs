//! Publications: what the server would send us, read from the catalog.

use tokio_postgres::{Client, Row};

use super::{TableInfo, failed};
use crate::Result;

/// A publication as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationInfo {
    /// `pg_publication.oid`. Another one means that the publication was dropped and made again.
    pub oid: u32,
    /// `xmin` of its row. Another one means that its options, owner or name were altered, and
    /// perhaps altered back.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Owning role.
    pub owner: String,
    /// INSERT is published. A source needs it.
    pub insert: bool,
    /// UPDATE is published. That should not be so (rule 11): every mark would travel back through
    /// the stream.
    pub update: bool,
    /// DELETE is published.
    pub delete: bool,
    /// TRUNCATE is published.
    pub truncate: bool,
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// Stored generated columns are published (Postgres 18).
    pub generated: bool,
    /// FOR TABLES IN SCHEMA, by `pg_publication_namespace.oid`.
    pub schemas: Vec<PublishedSchema>,
    /// FOR TABLE, by `pg_publication_rel.oid`.
    pub tables: Vec<PublishedTable>,
}

/// A schema of a publication FOR TABLES IN SCHEMA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedSchema {
    /// `pg_publication_namespace.oid`.
    pub(crate) row_oid: u32,
    pub(crate) name: String,
}

/// A table of a publication FOR TABLE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedTable {
    /// `pg_class.oid`.
    pub table_oid: u32,
    /// `pg_publication_rel.oid`. Another one means that the table was dropped from the publication
    /// and added again, so the server did not send the rows in between.
    pub rel_row_oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// WHERE, as SQL over the table's columns.
    pub row_filter: Option<String>,
    /// The column list as attribute numbers, ascending; `None` is all columns.
    pub columns: Option<Vec<i16>>,
}

/// How a table comes to be in a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership<'a> {
    /// FOR TABLE.
    Listed(&'a PublishedTable),
    /// FOR TABLES IN SCHEMA.
    InSchema(&'a PublishedSchema),
    /// FOR ALL TABLES.
    AllTables,
    /// Not at all.
    Absent,
}

impl PublicationInfo {
    /// How `table` comes to be in this publication.
    #[must_use]
    pub(crate) fn membership(&self, table: &TableInfo) -> Membership<'_> {
        if self.all_tables {
            return Membership::AllTables;
        }
        // The server publishes a table that is listed and in a listed schema without its row filter
        // and column list (PostgreSQL documentation, "CREATE PUBLICATION"; the server refuses such
        // a column list).
        if let Some(schema) = self.schemas.iter().find(|schema| schema.name == table.schema) {
            return Membership::InSchema(schema);
        }
        self.tables.iter().find(|listed| listed.table_oid == table.oid).map_or(Membership::Absent, Membership::Listed)
    }

    /// The published operations as CREATE PUBLICATION takes them: `insert, update`.
    #[must_use]
    pub fn operations(&self) -> String {
        let all =
            [("insert", self.insert), ("update", self.update), ("delete", self.delete), ("truncate", self.truncate)];
        all.into_iter().filter(|(_, published)| *published).map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }
}

// `pubgencols` came with Postgres 18: 'n' is none, 's' is stored.
const PUBLICATION: &str = "
SELECT p.oid, p.pubname::text, pg_get_userbyid(p.pubowner)::text, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
       p.puballtables, p.pubviaroot, coalesce(to_jsonb(p) ->> 'pubgencols', 'n') <> 'n', p.xmin::text
FROM pg_publication p WHERE p.pubname = $1::text";

const SCHEMAS: &str = "
SELECT s.oid, n.nspname::text FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
WHERE s.pnpubid = $1 ORDER BY s.oid";

const TABLES: &str = "
SELECT r.prrelid, r.oid, n.nspname::text, c.relname::text, pg_get_expr(r.prqual, r.prrelid),
       ARRAY(SELECT unnest(r.prattrs::int2[]) ORDER BY 1), r.prattrs IS NOT NULL
FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.prpubid = $1 ORDER BY r.prrelid";

/// The publication, if there is one of that name.
///
/// # Errors
/// Only what a broken session brings.
pub async fn publication(client: &Client, name: &str) -> Result<Option<PublicationInfo>> {
    let what = format!("read the publication {name}");
    let Some(row) = client.query_opt(PUBLICATION, &[&name]).await.map_err(|error| failed(&what, error))? else {
        return Ok(None);
    };
    let oid: u32 = row.get(0);
    let schemas = client.query(SCHEMAS, &[&oid]).await.map_err(|error| failed(&what, error))?;
    let tables = client.query(TABLES, &[&oid]).await.map_err(|error| failed(&what, error))?;
    Ok(Some(PublicationInfo {
        oid,
        name: row.get(1),
        owner: row.get(2),
        insert: row.get(3),
        update: row.get(4),
        delete: row.get(5),
        truncate: row.get(6),
        all_tables: row.get(7),
        via_root: row.get(8),
        generated: row.get(9),
        version: row.get(10),
        schemas: schemas.iter().map(|row| PublishedSchema { row_oid: row.get(0), name: row.get(1) }).collect(),
        tables: tables.iter().map(table_from_row).collect(),
    }))
}

fn table_from_row(row: &Row) -> PublishedTable {
    PublishedTable {
        table_oid: row.get(0),
        rel_row_oid: row.get(1),
        schema: row.get(2),
        name: row.get(3),
        row_filter: row.get(4),
        columns: row.get::<_, bool>(6).then(|| row.get(5)),
    }
}
