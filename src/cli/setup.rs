//! `outboxd setup`: creates what is missing. Whatever exists already is left as it is.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::SystemTime,
};

use clap::Args;

use super::recover::by;
use crate::{
    Code, Config, Error, Result,
    config::{Flags, Kafka, Secret, Source, TableName},
    kafka::{position_topic, topics},
    postgres::{ConnectOptions, SqlSession, catalog::names::display_table},
    relay,
    setup::{
        self, KafkaFacts, Outcome, Plan, execute, facts,
        join::{Joining, Standing},
    },
    source::{
        lock,
        position::{Phase, Position, Recovered},
    },
    telemetry::logs,
};

/// The arguments of `setup`.
#[derive(Args)]
pub(super) struct SetupArgs {
    #[command(flatten)]
    pub(super) flags: Flags,
    /// Print the SQL and the topics, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// A connection for what the daemon's own role may not do. Without it `setup` does what it may, and prints the SQL
    /// for the rest.
    #[arg(long, env = "OUTBOXD_ADMIN_URL", value_name = "URL", hide_env_values = true)]
    admin_url: Option<String>,
    /// Only this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Let a table join a source that was published before; stop its daemons first. Publishes and marks what is committed,
    /// and has the next `run` make the slot anew and backfill what is unmarked: nothing is lost or repeated.
    #[arg(long, value_name = "TABLE", value_delimiter = ',')]
    add_table: Vec<TableName>,
}

impl SetupArgs {
    pub(super) fn options(&self) -> SetupOptions {
        let admin_url = self.admin_url.clone().filter(|url| !url.is_empty());
        SetupOptions {
            dry_run: self.dry_run,
            admin_url: admin_url.map(Secret::new),
            source: self.source.clone(),
            add_tables: self.add_table.clone(),
        }
    }
}

/// How to set up.
#[derive(Debug, Clone)]
pub(super) struct SetupOptions {
    /// Print, and change nothing.
    pub(super) dry_run: bool,
    /// As written: its password is within.
    pub(super) admin_url: Option<Secret>,
    /// The one source that is meant.
    pub(super) source: Option<String>,
    /// Tables that are to join it.
    pub(super) add_tables: Vec<TableName>,
}

/// 0 when everything is there, 1 when something is left to do. A source that fails does not hold up the next one; the
/// last failure is the command's.
pub(super) async fn setup(config: Config, options: SetupOptions) -> Result<ExitCode> {
    let mut complete = true;
    let mut failure = None;
    if !options.add_tables.is_empty() {
        logs::init(&config.log); // What the relay says while it drains.
    }
    for source in &chosen(&config, &options)? {
        if let Some(previous) = failure.take() {
            eprintln!("{}", super::explain(&previous));
        }
        match set_up(source, &config.kafka, &options).await {
            Ok(outcome) => {
                complete &= !outcome.is_incomplete();
                print(source, &outcome, &mut io::stdout().lock())?;
            }
            Err(error) => failure = Some(error.about(format_args!("source {}", source.name))),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(ExitCode::from(u8::from(!complete))),
    }
}

/// The sources that are meant, with the tables that are to join.
fn chosen(config: &Config, options: &SetupOptions) -> Result<Vec<Source>> {
    let is_meant = |source: &&Source| options.source.as_ref().is_none_or(|name| *name == source.name);
    let mut sources: Vec<_> = config.sources.iter().filter(is_meant).cloned().collect();
    let names: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
    let refused = |text: String| Err(Error::new(Code::SetupRefused, text));
    match (sources.as_mut_slice(), &options.source) {
        ([], Some(name)) => refused(format!("there is no source {name:?}; the configuration has {}", names.join(", "))),
        ([source], _) => {
            let joining = options.add_tables.iter().filter(|table| !source.tables.contains(table)).cloned();
            let joining: Vec<_> = joining.collect();
            source.tables.extend(joining);
            Ok(sources)
        }
        _ if options.add_tables.is_empty() => Ok(sources),
        _ => refused(format!("--add-table needs --source with one of {}", names.join(", "))),
    }
}

fn print(source: &Source, outcome: &Outcome, out: &mut dyn Write) -> Result<()> {
    let written = writeln!(out, "source {}", source.name).and_then(|()| outcome.print(out));
    written.map_err(|error| Error::new(Code::Internal, "standard output is closed").because(error))
}

async fn set_up(source: &Source, kafka: &Kafka, options: &SetupOptions) -> Result<Outcome> {
    if !options.add_tables.is_empty() {
        let joining = Joining::begin(source, kafka).await?;
        if !options.dry_run {
            joining.hold().await?;
        }
        match joining.look().await? {
            Standing::Ordinary => joining.release().await?,
            standing => return join(joining, standing, (source, kafka), options).await,
        }
    }
    let own = ConnectOptions::parse(&source.url, source.password.as_ref())?.connect_timeout(source.timeouts.connect);
    let session = session(&own, options).await?;
    let facts = facts::read(&session, source, own.user()).await?;
    let mut topics = facts::read_topics(kafka, source).await?;
    if topics.position_topic && !facts.slot_exists {
        topics.phase = phase(source, kafka).await?;
    }
    if options.dry_run {
        return Ok(Outcome::dry(Plan::new(&facts, &topics, source, kafka)?));
    }
    if !lock::try_take(&session, &source.name).await? {
        return Err(Error::new(Code::SlotInUse, "another instance is setting the source up"));
    }
    let mut outcome = make(&session, source, kafka, &topics).await?;
    if let Some(slot) = outcome.slot.take() {
        // The slot is made as the daemon itself would make it, under the same lock.
        lock::give_back(&session, &source.name).await?;
        relay::set_up(source, kafka).await?;
        outcome.notes.push(format!("created replication slot {}, and its position in Kafka", slot.slot));
    }
    Ok(outcome)
}

/// Makes what the tables need that join, and has the next `run` begin with a new slot.
async fn join(
    joining: Joining<'_>,
    standing: Standing,
    (source, kafka): (&Source, &Kafka),
    options: &SetupOptions,
) -> Result<Outcome> {
    let own = ConnectOptions::parse(&source.url, source.password.as_ref())?.connect_timeout(source.timeouts.connect);
    let session = session(&own, options).await?;
    if options.dry_run {
        let mut outcome = Outcome::dry(plan_of_join(&session, source, kafka).await?);
        outcome.notes.extend(joining_says(&standing, source));
        return Ok(outcome);
    }
    let takeover = joining.quiesce(&standing).await?;
    tracing::info!("everything that is published is marked");
    let mut outcome = execute::execute(&session, plan_of_join(&session, source, kafka).await?, source, kafka).await?;
    if outcome.is_incomplete() {
        outcome.notes.push("slot and position are as they were: run this again when what is left is made".to_owned());
        return Ok(outcome);
    }
    let recovered = Recovered {
        strategy: "add-table".to_owned(),
        time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        by: by(),
        code: None,
        phase: None,
        lsn: None,
    };
    joining.start_anew(takeover, recovered).await?;
    let tables: Vec<_> = source.tables.iter().map(display_table).collect();
    outcome.notes.push(format!(
        "dropped replication slot {}: start the daemon with the tables {}; it makes the slot anew and publishes what is \
         unmarked",
        source.slot,
        tables.join(", ")
    ));
    Ok(outcome)
}

/// As if there were no slot: it is dropped before anything is decoded through the publication as it will be.
async fn plan_of_join(session: &SqlSession, source: &Source, kafka: &Kafka) -> Result<Plan> {
    let own = ConnectOptions::parse(&source.url, source.password.as_ref())?;
    let facts = setup::Facts { slot_exists: false, ..facts::read(session, source, own.user()).await? };
    let topics = KafkaFacts { phase: Some(Phase::Creating), ..facts::read_topics(kafka, source).await? };
    Plan::new(&facts, &topics, source, kafka)
}

fn joining_says(standing: &Standing, source: &Source) -> Vec<String> {
    let mut says = Vec::new();
    if let Standing::Streams { joining, .. } = standing {
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

/// Reads once more, now that nobody else makes anything, and makes what is missing.
async fn make(session: &SqlSession, source: &Source, kafka: &Kafka, topics: &KafkaFacts) -> Result<Outcome> {
    let own = ConnectOptions::parse(&source.url, source.password.as_ref())?;
    let facts = facts::read(session, source, own.user()).await?;
    let plan = Plan::new(&facts, topics, source, kafka)?;
    execute::execute(session, plan, source, kafka).await
}

/// The session that makes things: the administrator's where there is one, which must lead to the source's database.
async fn session(own: &ConnectOptions, options: &SetupOptions) -> Result<SqlSession> {
    let Some(admin) = &options.admin_url else { return own.sql("setup").await };
    let admin = ConnectOptions::parse(admin.expose(), None)?;
    if admin.database() == own.database() {
        return admin.sql("setup").await;
    }
    let text = format!(
        "--admin-url leads to database {}, and the source is in {}: run setup once for each database",
        admin.database(),
        own.database()
    );
    Err(Error::new(Code::ConfigInvalid, text))
}

/// The phase of the source's position.
async fn phase(source: &Source, kafka: &Kafka) -> Result<Option<Phase>> {
    // Which of two positions is the newer one is the order of the topic; whether that may be is for `run` to say.
    let newest =
        position_topic::read(kafka, &source.name, |_, _| position_topic::Succession::Newer, topics::TIMEOUT).await?;
    let decode = |bytes: Vec<u8>| {
        let what = "the newest position of this source";
        Position::decode(&bytes).map_err(|error| Error::new(Code::PositionInvalid, what).because(error))
    };
    Ok(newest.map(decode).transpose()?.map(|position| position.phase))
}
