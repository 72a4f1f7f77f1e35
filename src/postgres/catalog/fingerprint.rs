//! The fingerprint of a publication: everything in it that must not change while a source streams.
//! The position record keeps it. So a start notices that the server may have passed rows over while
//! a table was out of the publication (rule 4, G4).

use serde::{Deserialize, Serialize};

use super::{PublicationInfo, TableInfo, publications::Membership};

/// What a publication sends of a source's tables. Names are there for a person to read. They make
/// no difference, since a renamed table loses nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// `pg_publication.oid`.
    #[serde(rename = "pub")]
    publication: u32,
    /// `xmin` of its row. Positions of older versions have none.
    #[serde(rename = "xmin", skip_serializing_if = "Option::is_none", default)]
    version: Option<String>,
    /// `insert, update`.
    #[serde(rename = "ops")]
    operations: String,
    /// `publish_via_partition_root`.
    via_root: bool,
    /// Stored generated columns are published.
    generated: bool,
    /// The source's tables, by oid.
    tables: Vec<TablePrint>,
}

/// What a publication sends of one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TablePrint {
    oid: u32,
    /// For messages only. Positions of older versions have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(flatten)]
    by: By,
}

/// How the table comes to be in the publication. The numbers are the oids of the catalog's rows. A
/// table that was dropped and added again has another row.
///
/// A filter is there for a person. Nothing changes it but ALTER PUBLICATION, which makes another
/// row then. But the way in which it prints changes with settings of the session and with names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
enum By {
    Table {
        row: u32,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        filter: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        columns: Option<Vec<i16>>,
    },
    Schema {
        row: u32,
        /// [`TableInfo::placed`]. Positions of older versions have none.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        placed: Option<String>,
    },
    All,
    Absent,
}

impl By {
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table { row, columns, .. }, Self::Table { row: other, columns: others, .. }) => {
                row == other && columns == others
            }
            (Self::Schema { row, placed }, Self::Schema { row: other, placed: moved }) => {
                row == other && !is_another(placed, moved)
            }
            (Self::All, Self::All) | (Self::Absent, Self::Absent) => true,
            _ => false,
        }
    }
}

/// Whether two that are known differ. One that an older version did not write is no difference.
fn is_another(was: &Option<String>, now: &Option<String>) -> bool {
    was.as_ref().zip(now.as_ref()).is_some_and(|(was, now)| was != now)
}

impl TablePrint {
    /// The table, for a person.
    fn shown(&self) -> String {
        if self.name.is_empty() {
            return format!("the table with oid {}", self.oid);
        }
        format!("table {} (oid {})", self.name, self.oid)
    }
}

impl Fingerprint {
    /// The fingerprint of `publication` for the tables of a source, whatever their order. Other
    /// tables of the publication do not count, since the source does not read their rows.
    #[must_use]
    pub(crate) fn of(publication: &PublicationInfo, tables: &[TableInfo]) -> Self {
        let print = |table: &TableInfo| TablePrint {
            oid: table.oid,
            name: table.display_name(),
            by: match publication.membership(table) {
                Membership::Listed(listed) => By::Table {
                    row: listed.rel_row_oid,
                    filter: listed.row_filter.clone(),
                    columns: listed.columns.clone(),
                },
                Membership::InSchema(schema) => By::Schema { row: schema.row_oid, placed: Some(table.placed.clone()) },
                Membership::AllTables => By::All,
                Membership::Absent => By::Absent,
            },
        };
        let mut tables: Vec<_> = tables.iter().map(print).collect();
        tables.sort_by_key(|table| table.oid);
        tables.dedup_by_key(|table| table.oid);
        Self {
            publication: publication.oid,
            version: Some(publication.version.clone()),
            operations: publication.operations(),
            via_root: publication.via_root,
            generated: publication.generated,
            tables,
        }
    }

    /// Oids of the tables in a position record's fingerprint; `None` when it cannot be read.
    #[must_use]
    pub(crate) fn table_oids_of_json(then: &serde_json::Value) -> Option<Vec<u32>> {
        let then = Self::deserialize(then).ok()?;
        Some(then.tables.iter().map(|table| table.oid).collect())
    }

    /// What is different in `now`, in words. Empty when nothing is.
    #[must_use]
    pub(crate) fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.publication != now.publication {
            found.push("the publication was dropped and made again".to_owned());
        }
        if self.operations != now.operations {
            found.push(format!("it published '{}' and now publishes '{}'", self.operations, now.operations));
        }
        if self.via_root != now.via_root {
            found.push(format!("publish_via_partition_root was {} and is now {}", self.via_root, now.via_root));
        }
        if self.generated != now.generated {
            found.push(format!("publishing of generated columns was {} and is now {}", self.generated, now.generated));
        }
        for was in &self.tables {
            match now.tables.iter().find(|table| table.oid == was.oid) {
                Some(table) => table_differences(was, table, self.publication != now.publication, &mut found),
                None => found.push(format!("{} was dropped, or is no longer a table of the source", was.shown())),
            }
        }
        let added = now.tables.iter().filter(|table| !self.tables.iter().any(|was| was.oid == table.oid));
        found.extend(added.map(|table| format!("table {} (oid {}) is new", table.name, table.oid)));
        if found.is_empty() && is_another(&self.version, &now.version) {
            found.push(
                "it was altered and altered back, or got another owner: what it did not send meanwhile is not known"
                    .to_owned(),
            );
        }
        found
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.differences(other).is_empty()
    }
}

impl Eq for Fingerprint {}

fn table_differences(was: &TablePrint, now: &TablePrint, recreated: bool, found: &mut Vec<String>) {
    let name = &now.name;
    match (&was.by, &now.by) {
        (was, now) if was.is_as(now) => {}
        (_, By::Absent) => found.push(format!("table {name} was dropped from the publication")),
        (By::Absent, _) => found.push(format!("table {name} was added to the publication")),
        (By::Table { row, filter, columns }, By::Table { row: row_now, filter: filter_now, columns: columns_now }) => {
            let said = found.len();
            if filter != filter_now {
                let text = |filter: &Option<String>| filter.clone().unwrap_or_else(|| "none".to_owned());
                found.push(format!("row filter of table {name} was {} and is now {}", text(filter), text(filter_now)));
            }
            if columns != columns_now {
                found.push(format!(
                    "column list of table {name} was {} and is now {}",
                    list(columns),
                    list(columns_now)
                ));
            }
            // A publication that was made again is reported once, not for each table.
            if found.len() == said && row != row_now && !recreated {
                found.push(format!("table {name} was dropped from the publication and added again"));
            }
        }
        (By::Schema { row, .. }, By::Schema { row: row_now, .. }) if !recreated && row == row_now => {
            found.push(format!("table {name} was moved out of its published schema and back"));
        }
        (By::Schema { .. }, By::Schema { .. }) if !recreated => {
            found.push(format!("the schema of table {name} was dropped from the publication and added again"));
        }
        (By::Schema { .. }, By::Schema { .. }) => {}
        _ => found.push(format!("table {name} was published {} and is now published {}", how(&was.by), how(&now.by))),
    }
}

fn list(columns: &Option<Vec<i16>>) -> String {
    columns.as_ref().map_or_else(
        || "all columns".to_owned(),
        |numbers| {
            let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            format!("columns {}", numbers.join(", "))
        },
    )
}

fn how(by: &By) -> &'static str {
    match by {
        By::Table { .. } => "by itself",
        By::Schema { .. } => "with its schema",
        By::All => "with all tables",
        By::Absent => "not at all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(tables: Vec<TablePrint>) -> Fingerprint {
        Fingerprint {
            publication: 900,
            version: Some("740".into()),
            operations: "insert".into(),
            via_root: true,
            generated: false,
            tables,
        }
    }

    fn listed(oid: u32, name: &str, row: u32) -> TablePrint {
        TablePrint { oid, name: name.into(), by: By::Table { row, filter: None, columns: None } }
    }

    #[test]
    fn what_is_kept_in_the_position_reads_back_equal() {
        let mut filtered = listed(2, "public.b", 12);
        filtered.by = By::Table { row: 12, filter: Some("(id > 5)".into()), columns: Some(vec![1, 2]) };
        let schema = TablePrint { oid: 3, name: "s.c".into(), by: By::Schema { row: 77, placed: None } };
        let all = TablePrint { oid: 4, name: "s.d".into(), by: By::All };
        let fingerprint = print(vec![listed(1, "public.a", 11), filtered, schema, all]);
        let text = serde_json::to_string(&fingerprint).unwrap();
        assert_eq!(
            text,
            r#"{"pub":900,"xmin":"740","ops":"insert","via_root":true,"generated":false,"tables":[{"oid":1,"name":"public.a","by":"table","row":11},{"oid":2,"name":"public.b","by":"table","row":12,"filter":"(id > 5)","columns":[1,2]},{"oid":3,"name":"s.c","by":"schema","row":77},{"oid":4,"name":"s.d","by":"all"}]}"#
        );
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), fingerprint);
    }

    #[test]
    fn a_renamed_table_is_the_same_table() {
        assert_eq!(print(vec![listed(1, "public.a", 11)]), print(vec![listed(1, "public.b", 11)]));
    }

    #[test]
    fn each_change_is_said_in_words() {
        let was = print(vec![listed(1, "public.a", 11), listed(2, "public.b", 12)]);
        let readded = print(vec![listed(1, "public.a", 99), listed(2, "public.b", 12)]);
        assert_eq!(was.differences(&readded), ["table public.a was dropped from the publication and added again"]);

        let recreated = print(vec![listed(7, "public.a", 99), listed(2, "public.b", 12)]);
        assert_eq!(
            was.differences(&recreated),
            [
                "table public.a (oid 1) was dropped, or is no longer a table of the source",
                "table public.a (oid 7) is new"
            ]
        );

        let mut dropped = was.clone();
        dropped.tables[0].by = By::Absent;
        dropped.operations = "insert, update".into();
        assert_eq!(
            was.differences(&dropped),
            [
                "it published 'insert' and now publishes 'insert, update'",
                "table public.a was dropped from the publication"
            ]
        );

        let mut filtered = was.clone();
        filtered.tables[1].by = By::Table { row: 13, filter: Some("(id > 5)".into()), columns: Some(vec![1]) };
        assert_eq!(
            was.differences(&filtered),
            [
                "row filter of table public.b was none and is now (id > 5)",
                "column list of table public.b was all columns and is now columns 1"
            ]
        );
    }

    #[test]
    fn a_filter_that_prints_otherwise_is_the_same_one() {
        let mut was = print(vec![listed(1, "public.a", 11)]);
        let mut now = was.clone();
        let filter = |text: &str| By::Table { row: 11, filter: Some(text.into()), columns: None };
        (was.tables[0].by, now.tables[0].by) = (filter("(id > 5)"), filter("(\"id\" > 5)"));
        assert_eq!(was, now);
    }

    #[test]
    fn a_table_that_was_in_another_schema_in_between_is_seen() {
        let placed = |placed: Option<&str>| {
            let by = By::Schema { row: 77, placed: placed.map(str::to_owned) };
            print(vec![TablePrint { oid: 3, name: "s.c".into(), by }])
        };
        assert_eq!(placed(Some("740")), placed(Some("740")));
        assert_eq!(placed(None), placed(Some("741")), "an older version did not look");
        let moved = placed(Some("740")).differences(&placed(Some("741")));
        assert_eq!(moved, ["table s.c was moved out of its published schema and back"]);
    }

    #[test]
    fn a_publication_that_was_altered_and_altered_back_is_another_one() {
        let was = print(vec![listed(1, "public.a", 11)]);
        let mut back = was.clone();
        back.version = Some("741".into());
        assert_eq!(was.differences(&back).len(), 1);
        back.operations = "insert, update".into();
        assert_eq!(was.differences(&back), ["it published 'insert' and now publishes 'insert, update'"]);
    }

    #[test]
    fn a_position_of_old_knows_no_name() {
        let now = print(vec![listed(2, "public.b", 12)]);
        let old = serde_json::json!({"pub": 900, "ops": "insert", "via_root": true, "generated": false,
                                     "tables": [{"oid": 1, "by": "table", "row": 11}]});
        assert_eq!(
            Fingerprint::deserialize(&old).unwrap().differences(&now),
            [
                "the table with oid 1 was dropped, or is no longer a table of the source",
                "table public.b (oid 2) is new"
            ]
        );
    }

    #[test]
    fn a_position_of_old_knows_no_version() {
        let now = print(vec![listed(1, "public.a", 11)]);
        let mut old = now.clone();
        old.version = None;
        assert_eq!(old, now);
        assert!(!serde_json::to_string(&old).unwrap().contains("xmin"));
    }

    #[test]
    fn a_publication_made_again_is_said_once() {
        let was = print(vec![listed(1, "public.a", 11), listed(2, "public.b", 12)]);
        let mut again = print(vec![listed(1, "public.a", 21), listed(2, "public.b", 22)]);
        again.publication = 901;
        assert_eq!(was.differences(&again), ["the publication was dropped and made again"]);
    }
}
