//! Turns what there is into what to do: typed steps in order, each with its SQL or its topic. Pure.
//!
//! Each step depends on those before it: role, table, rights, publication, then the slot (rule 13),
//! then topics.

use std::collections::BTreeSet;

use postgres_protocol::password::scram_sha_256;

use super::{
    facts::{Facts, KafkaFacts, MissingTable, TableFact},
    migrations::statement,
};
use crate::{
    Code, Error, Result,
    config::{Backfill, Columns, Kafka, Mark, Secret, Source, Template},
    kafka::topics::NewTopic,
    postgres::catalog::{
        names::{quote_ident, quote_literal},
        publications::Membership,
    },
    source::{
        compare::require_same_system,
        verdict::{Interrupted, require_pair},
    },
};

/// What to do for one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is there already, in words.
    pub present: Vec<String>,
    /// What is missing, in the order in which it is made.
    pub steps: Vec<Step>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// One thing to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// SQL statements; all of them run, or none.
    Sql(SqlStep),
    /// The slot, and a position in phase `streaming` at its consistent point. Only a source with
    /// `backfill = "none"` has this step.
    Slot(SlotStep),
    /// The compacted topic of the positions.
    PositionTopic(String),
    /// A topic for records.
    Topic(NewTopic),
}

/// Statements that make one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlStep {
    /// What they make.
    pub what: String,
    /// In order, without semicolons.
    pub sql: Vec<String>,
    /// Statements that come after those and hold a secret. Nobody is shown them.
    pub hidden: Vec<Secret>,
}

/// The slot to make, on a replication session of the daemon's own role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStep {
    /// Its name.
    pub(crate) slot: String,
    /// Whether it is a failover slot.
    pub(crate) failover: bool,
}

impl Step {
    /// What the step makes.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Sql(step) => step.what.clone(),
            Self::Slot(step) => format!("replication slot {}", step.slot),
            Self::PositionTopic(name) => format!("topic {name} for positions (1 partition, compacted)"),
            Self::Topic(topic) => format!("topic {}{}", topic.name, partitions(topic)),
        }
    }
}

/// Nothing is made for a table that could not be marked.
fn require_columns(facts: &Facts, source: &Source) -> Result<()> {
    let columns = &source.mapping.columns;
    let needed = match source.mark {
        Mark::Update => &[&columns.id, &columns.published_at][..],
        Mark::Delete => &[&columns.id],
        Mark::None => &[],
    };
    for table in facts.tables.iter().filter_map(TableFact::found) {
        needed.iter().try_for_each(|column| table.needed_column(column).map(drop))?;
    }
    Ok(())
}

fn partitions(topic: &NewTopic) -> String {
    let count = |number: u32, what: &str| match number {
        0 => format!("{what} by the broker's default"),
        number => format!("{number} {what}"),
    };
    format!(" ({}, {})", count(topic.partitions, "partitions"), count(topic.replication, "replicas"))
}

impl Plan {
    /// The plan for `source`.
    ///
    /// # Errors
    /// [`Code::SlotMissing`] when rows were published through a slot that is gone: `setup` never
    /// makes such a slot again. [`Code::PublicationChanged`] when there is a slot and the
    /// publication lacks a table: the slot may have passed over rows.
    pub fn new(facts: &Facts, topics: &KafkaFacts, source: &Source, kafka: &Kafka) -> Result<Self> {
        let mut plan = Self::for_postgres(facts, source)?;
        plan.slot(facts, topics, source)?;
        plan.topics(topics, source, kafka);
        Ok(plan)
    }

    /// Only the SQL of the plan.
    ///
    /// # Errors
    /// As [`Plan::new`], for the publication.
    pub fn for_postgres(facts: &Facts, source: &Source) -> Result<Self> {
        let mut plan = Self::default();
        require_columns(facts, source)?;
        plan.role(facts)?;
        for table in &facts.tables {
            plan.table(table, source)?;
        }
        plan.grants(facts, source)?;
        plan.publication(facts, source)?;
        Ok(plan)
    }

    fn sql(&mut self, what: impl Into<String>, sql: Vec<String>) {
        self.steps.push(Step::Sql(SqlStep { what: what.into(), sql, hidden: Vec::new() }));
    }

    fn role(&mut self, facts: &Facts) -> Result<()> {
        let role = quote_ident(&facts.role.name);
        let name = &facts.role.name;
        match facts.role.rights {
            None => {
                let sql = vec![statement("create-role", &[("role", &role)])?];
                let hidden: Vec<_> = facts.role.password.iter().map(|password| set_password(&role, password)).collect();
                self.notes.push(match hidden.is_empty() {
                    true => format!("role {name} has no password yet: set one with \\password {name} in psql"),
                    false => format!(
                        "role {name} gets the password that the source has, if this command makes it; made by hand it needs \
                         one: \\password {name} in psql"
                    ),
                });
                self.steps.push(Step::Sql(SqlStep { what: format!("role {name}"), sql, hidden }));
            }
            Some(rights) if !rights.replication => {
                let sql = vec![statement("allow-replication", &[("role", &role)])?];
                self.sql(format!("LOGIN REPLICATION of role {name}"), sql);
            }
            Some(_) => self.present.push(format!("role {name} with REPLICATION")),
        }
        if !facts.role.rights.is_some_and(|rights| rights.connect) {
            let words = [("database", quote_ident(&facts.database)), ("role", role)];
            self.sql(format!("CONNECT of role {name}"), vec![filled("grant-connect", &words)?]);
        }
        Ok(())
    }

    fn table(&mut self, table: &TableFact, source: &Source) -> Result<()> {
        let name = table.display_name();
        match table {
            TableFact::Found(..) => self.present.push(format!("table {name}")),
            TableFact::Missing(missing) => {
                self.sql(format!("table {name}"), create_table(missing, table, source)?);
                self.notes.push(format!("table {name}: grant INSERT to the role of the service that writes events"));
            }
        }
        Ok(())
    }

    fn grants(&mut self, facts: &Facts, source: &Source) -> Result<()> {
        for table in &facts.tables {
            let has = match table {
                TableFact::Found(_, privileges) => *privileges,
                TableFact::Missing(_) => None,
            };
            let words = [
                ("schema", table.sql_schema()),
                ("table", table.sql_name()),
                ("role", quote_ident(&facts.role.name)),
                ("published_at", quote_ident(&source.mapping.columns.published_at)),
            ];
            let mark = match source.mark {
                Mark::Update => ("grant-update", has.is_some_and(|has| has.update_mark)),
                Mark::Delete | Mark::None => ("", true),
            };
            let delete = ("grant-delete", !source.deletes() || has.is_some_and(|has| has.delete));
            let usage = ("grant-usage", has.is_some_and(|has| has.usage));
            // The stream needs no right on the table. Backfill, marks and metrics read the table.
            let select = ("grant-select", source.mark == Mark::None || has.is_some_and(|has| has.select));
            let missing = [usage, select, mark, delete].into_iter().filter(|(_, granted)| !granted);
            let sql = missing.map(|(name, _)| filled(name, &words)).collect::<Result<Vec<_>>>()?;
            let what = format!("rights of role {} on table {}", facts.role.name, table.display_name());
            if sql.is_empty() {
                self.present.push(what);
            } else {
                self.sql(what, sql);
            }
        }
        Ok(())
    }

    fn publication(&mut self, facts: &Facts, source: &Source) -> Result<()> {
        let name = &source.publication;
        let quoted = quote_ident(name);
        let list = |tables: &[&TableFact]| tables.iter().map(|table| table.sql_name()).collect::<Vec<_>>().join(", ");
        let Some(publication) = &facts.publication else {
            let words = [("publication", quoted), ("tables", list(&facts.tables.iter().collect::<Vec<_>>()))];
            self.sql(format!("publication {name}"), vec![filled("create-publication", &words)?]);
            return Ok(());
        };
        self.present.push(format!("publication {name}"));
        let absent: Vec<_> = facts
            .tables
            .iter()
            .filter(|table| match table {
                TableFact::Found(table, _) => publication.membership(table) == Membership::Absent,
                TableFact::Missing(_) => !publication.all_tables,
            })
            .collect();
        if absent.is_empty() {
            return Ok(());
        }
        if facts.slot_exists {
            let names: Vec<_> = absent.iter().map(|table| table.display_name()).collect();
            let text = format!(
                "publication {name} lacks {} while slot {} exists: rows written until now would never be published \
                 (`outboxd setup --source {} --add-table` lets a table join)",
                names.join(", "),
                source.slot,
                source.name
            );
            return Err(Error::new(Code::PublicationChanged, text));
        }
        let words = [("publication", quoted), ("tables", list(&absent))];
        self.sql(format!("tables of publication {name}"), vec![filled("add-tables", &words)?]);
        Ok(())
    }

    fn slot(&mut self, facts: &Facts, topics: &KafkaFacts, source: &Source) -> Result<()> {
        let name = &source.slot;
        if let Some(position) = &topics.position {
            require_same_system(position, &facts.system_id)?;
        }
        if facts.slot_exists {
            self.present.push(format!("replication slot {name}"));
            return Ok(());
        }
        require_pair(topics.position.as_deref(), false, Interrupted::NeedsItsSlot)?;
        match source.backfill {
            Backfill::None => {
                let step = SlotStep { slot: name.clone(), failover: source.failover };
                self.steps.push(Step::Slot(step));
            }
            Backfill::Unpublished => self.notes.push(format!(
                "replication slot {name} is made by `outboxd run`, which reads the unpublished rows in its snapshot"
            )),
        }
        Ok(())
    }

    fn topics(&mut self, topics: &KafkaFacts, source: &Source, kafka: &Kafka) {
        let position = &kafka.position_topic;
        if topics.position_topic {
            self.present.push(format!("topic {position} for positions"));
        } else {
            self.steps.push(Step::PositionTopic(position.clone()));
        }
        for (name, exists) in &topics.topics {
            if *exists {
                self.present.push(format!("topic {name}"));
                continue;
            }
            self.steps.push(Step::Topic(NewTopic {
                name: name.clone(),
                partitions: kafka.topic_partitions,
                replication: kafka.topic_replication,
                configs: Vec::new(),
            }));
        }
        let columns: Vec<&str> = source.mapping.topic.columns().collect();
        if !columns.is_empty() {
            let later = match topics.creates_topics {
                Some(true) => "the brokers make those of later rows (auto.create.topics.enable is on)",
                Some(false) => {
                    "make those of later rows before the rows come, by running this again for instance: the brokers do not \
                     (auto.create.topics.enable is off), and a row without its topic holds up all after it"
                }
                None => {
                    "make those of later rows before the rows come, unless the brokers do (auto.create.topics.enable)"
                }
            };
            self.notes.push(format!(
                "the topics of \"{}\" depend on {}: those of the rows that wait are seen to; {later}",
                source.mapping.topic,
                columns.join(", ")
            ));
        }
    }
}

/// The statement holds a SCRAM verifier in place of the password, so that no log of the server shows
/// the password itself.
fn set_password(role: &str, password: &Secret) -> Secret {
    let verifier = scram_sha_256(password.expose().as_bytes());
    Secret::new(format!("ALTER ROLE {role} PASSWORD {}", quote_literal(&verifier)))
}

fn filled(name: &str, words: &[(&str, String)]) -> Result<String> {
    let words: Vec<_> = words.iter().map(|(word, value)| (*word, value.as_str())).collect();
    statement(name, &words)
}

fn create_table(missing: &MissingTable, table: &TableFact, source: &Source) -> Result<Vec<String>> {
    let columns = &source.mapping.columns;
    let more: String = more_columns(source).iter().map(|name| format!(",\n    {} text", quote_ident(name))).collect();
    // Postgres cuts names at 63 bytes. Nobody looks the index up by its name.
    let index: String = format!("idx_{}_unpublished", missing.name).chars().take(60).collect();
    let words = [
        ("schema", table.sql_schema()),
        ("table", table.sql_name()),
        ("index", quote_ident(&index)),
        ("id", quote_ident(&columns.id)),
        ("aggregate_type", quote_ident(&columns.aggregate_type)),
        ("aggregate_id", quote_ident(&columns.aggregate_id)),
        ("event_type", quote_ident(&columns.event_type)),
        ("payload", quote_ident(&columns.payload)),
        ("created_at", quote_ident(&columns.created_at)),
        ("published_at", quote_ident(&columns.published_at)),
        ("more_columns", more),
    ];
    let mut sql = Vec::new();
    if !missing.schema_exists {
        sql.push(filled("create-schema", &words)?);
    }
    sql.push(filled("create-table", &words)?);
    if source.mark == Mark::Update {
        sql.push(filled("create-index", &words)?);
    }
    Ok(sql)
}

/// Columns that templates, headers or the backfill's order name, besides the outbox's own.
fn more_columns(source: &Source) -> BTreeSet<String> {
    let mapping = &source.mapping;
    let templates = [&mapping.topic, &mapping.key, &mapping.dead_letter_topic];
    let mut names: BTreeSet<String> = templates.into_iter().flat_map(Template::columns).map(str::to_owned).collect();
    names.extend(mapping.headers.iter().map(|(_, column)| column.clone()));
    names.extend(source.backfill_order_by.clone());
    let Columns { id, aggregate_type, aggregate_id, event_type, payload, created_at, published_at } = &mapping.columns;
    for own in [id, aggregate_type, aggregate_id, event_type, payload, created_at, published_at] {
        names.remove(own);
    }
    names
}
