//! Carries out `outboxd setup`. A source gets its slot, or a table joins a source that streams
//! already.
//!
//! ```text
//!   setup ──▶ what is missing in Postgres and Kafka, made
//!     ├─ with backfill = "none" ─▶ relay: makes and takes the slot, as a first start does
//!     └─ --add-table ────────────▶ table.rs: drains the source by the relay, then begins anew
//! ```
//!
//! Besides `run` only this module uses the relay. So it stands above both `setup` and `relay`,
//! which do not know each other.

mod seen;
mod table;

use std::time::SystemTime;

use self::table::{Joining, Stage};
use crate::{
    Code, Error, Result,
    config::{Kafka, PostgresUrl, Source},
    postgres::{ConnectOptions, SqlSession, catalog::names::display_table},
    relay,
    setup::{self, KafkaFacts, Outcome, Plan, execute, facts},
    source::{
        lock,
        newest::{self, Belief},
        position::Recovered,
    },
};

/// What a person asked of `setup`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Only say what would be done, and change nothing.
    pub(crate) dry_run: bool,
    /// A connection for what the daemon's own role may not do. The URL holds its password.
    pub(crate) admin_url: Option<PostgresUrl>,
    /// Tables of the source join it. The source was published before, without them.
    pub(crate) tables_join: bool,
    /// Who asks, `user@host`.
    pub(crate) by: String,
}

/// The set-up of one source.
pub(crate) struct SetUp<'a> {
    source: &'a Source,
    kafka: &'a Kafka,
    request: &'a Request,
    own: ConnectOptions,
}

impl<'a> SetUp<'a> {
    /// Opens no connection yet.
    pub(crate) fn new(source: &'a Source, kafka: &'a Kafka, request: &'a Request) -> Self {
        Self { source, kafka, request, own: ConnectOptions::of(source) }
    }

    /// Makes what is missing, or says what that is.
    ///
    /// # Errors
    /// Whatever stands in the way. What was made until then stays, and the same request goes on
    /// from there.
    pub(crate) async fn carry_out(&self) -> Result<Outcome> {
        if self.request.tables_join {
            let joining = Joining::begin(self.source, self.kafka).await?;
            if !self.request.dry_run {
                joining.hold().await?;
            }
            match joining.look().await? {
                Stage::Ordinary => joining.release().await?,
                stage => return self.join(joining, stage).await,
            }
        }
        self.make().await
    }

    /// Makes what is missing of a source that has no slot yet, or whose slot already sends all its
    /// tables.
    async fn make(&self) -> Result<Outcome> {
        let session = self.session().await?;
        let facts = self.facts(&session).await?;
        let mut topics = facts::read_topics(self.kafka, self.source, &session, &facts.tables).await?;
        if topics.position_topic && !facts.slot_exists {
            let newest = newest::read(self.kafka, &self.source.name, Belief::Credulous, newest::PATIENCE_OF_A_PERSON);
            topics.position = newest.await?.readable()?;
        }
        if self.request.dry_run {
            return Ok(Outcome::dry(Plan::new(&facts, &topics, self.source, self.kafka)?));
        }
        if !lock::try_take(&session, &self.source.name).await? {
            return Err(Error::new(Code::SlotInUse, "another instance is setting the source up"));
        }
        // Read the facts once more: under the lock nobody else makes anything.
        let plan = Plan::new(&self.facts(&session).await?, &topics, self.source, self.kafka)?;
        let mut outcome = execute::execute(&session, plan, self.source, self.kafka).await?;
        if let Some(slot) = outcome.slot.take() {
            // The daemon's own start makes the slot, under the same lock.
            lock::give_back(&session, &self.source.name).await?;
            relay::set_up(self.source, self.kafka).await?;
            outcome.notes.push(format!("created replication slot {}, and its position in Kafka", slot.slot));
        }
        Ok(outcome)
    }

    /// Makes what the joining tables need. The next `run` begins with a new slot.
    async fn join(&self, joining: Joining<'_>, stage: Stage) -> Result<Outcome> {
        let source = self.source;
        let session = self.session().await?;
        if self.request.dry_run {
            let mut outcome = Outcome::dry(self.plan_of_join(&session).await?);
            outcome.notes.extend(joining_says(&stage, source));
            return Ok(outcome);
        }
        let takeover = joining.quiesce(&stage).await?;
        tracing::info!("everything that is published is marked");
        let plan = self.plan_of_join(&session).await?;
        let mut outcome = execute::execute(&session, plan, source, self.kafka).await?;
        if outcome.is_incomplete() {
            let text = "slot and position are as they were: run this again when what is left is made";
            outcome.notes.push(text.to_owned());
            return Ok(outcome);
        }
        let recovered = Recovered {
            strategy: "add-table".to_owned(),
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            by: self.request.by.clone(),
            code: None,
            phase: None,
            lsn: None,
        };
        joining.start_anew(takeover, recovered).await?;
        let tables: Vec<_> = source.tables.iter().map(display_table).collect();
        outcome.notes.push(format!(
            "dropped replication slot {}: start the daemon with the tables {}; it makes the slot anew and publishes \
             what is unmarked",
            source.slot,
            tables.join(", ")
        ));
        Ok(outcome)
    }

    /// Plans as if there were no slot. The old slot is dropped before anything is decoded through
    /// the changed publication.
    async fn plan_of_join(&self, session: &SqlSession) -> Result<Plan> {
        let facts = setup::Facts { slot_exists: false, ..self.facts(session).await? };
        // The position does not matter here: `creating` replaces it before the slot is dropped.
        let topics = facts::read_topics(self.kafka, self.source, session, &facts.tables).await?;
        let topics = KafkaFacts { position: None, ..topics };
        Plan::new(&facts, &topics, self.source, self.kafka)
    }

    async fn facts(&self, session: &SqlSession) -> Result<setup::Facts> {
        facts::read(session, self.source, self.own.user()).await
    }

    /// The session that makes things. It is the administrator's where a URL is given, which must
    /// lead to the source's database.
    async fn session(&self) -> Result<SqlSession> {
        let Some(admin) = &self.request.admin_url else { return self.own.sql("setup").await };
        let admin = ConnectOptions::to(admin);
        if admin.database() == self.own.database() {
            return admin.sql("setup").await;
        }
        let text = format!(
            "--admin-url leads to database {}, and the source is in {}: run setup once for each database",
            admin.database(),
            self.own.database()
        );
        Err(Error::new(Code::ConfigInvalid, text))
    }
}

fn joining_says(stage: &Stage, source: &Source) -> Vec<String> {
    let mut says = Vec::new();
    if let Stage::Streams { joining, .. } = stage {
        says.push(format!("joining: {}", joining.join(", ")));
        says.push("first everything that is committed is published and marked through the slot as it is".to_owned());
    }
    says.push(format!(
        "last the position `creating` is written and slot {} dropped; the next `run` makes it anew and publishes what is \
         unmarked",
        source.slot
    ));
    says
}
