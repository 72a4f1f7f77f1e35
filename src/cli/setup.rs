//! `outboxd setup`: creates what is missing. Whatever exists already is left as it is.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;

use crate::{
    Code, Config, Error, Result,
    config::{Flags, Kafka, Secret, Source},
    kafka::{position_topic, topics},
    postgres::{ConnectOptions, SqlSession},
    relay::{
        self,
        position::{Phase, Position},
    },
    setup::{self, KafkaFacts, Outcome, Plan, execute, facts},
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
}

impl SetupArgs {
    pub(super) fn options(&self) -> SetupOptions {
        let admin_url = self.admin_url.clone().filter(|url| !url.is_empty());
        SetupOptions { dry_run: self.dry_run, admin_url: admin_url.map(Secret::new) }
    }
}

/// How to set up.
#[derive(Debug, Clone)]
pub(super) struct SetupOptions {
    /// Print, and change nothing.
    pub(super) dry_run: bool,
    /// As written: its password is within.
    pub(super) admin_url: Option<Secret>,
}

/// 0 when everything is there, 1 when something is left to do. A source that fails does not hold up the next one; the
/// last failure is the command's.
pub(super) async fn setup(config: Config, options: SetupOptions) -> Result<ExitCode> {
    let mut complete = true;
    let mut failure = None;
    for source in &config.sources {
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

fn print(source: &Source, outcome: &Outcome, out: &mut dyn Write) -> Result<()> {
    let written = writeln!(out, "source {}", source.name).and_then(|()| outcome.print(out));
    written.map_err(|error| Error::new(Code::Internal, "standard output is closed").because(error))
}

async fn set_up(source: &Source, kafka: &Kafka, options: &SetupOptions) -> Result<Outcome> {
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
    if !setup::try_lock_source(&session, &source.name).await? {
        return Err(Error::new(Code::SlotInUse, "another instance is setting the source up"));
    }
    let mut outcome = make(&session, source, kafka, &topics).await?;
    if let Some(slot) = outcome.slot.take() {
        // The slot is made as the daemon itself would make it, under the same lock.
        setup::unlock_source(&session, &source.name).await?;
        relay::set_up(source, kafka).await?;
        outcome.notes.push(format!("created replication slot {}, and its position in Kafka", slot.slot));
    }
    Ok(outcome)
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
    let newest = position_topic::read(kafka, &source.name, |_, _| false, topics::TIMEOUT).await?;
    let decode = |bytes: Vec<u8>| {
        let what = "the newest position of this source";
        Position::decode(&bytes).map_err(|error| Error::new(Code::PositionInvalid, what).because(error))
    };
    Ok(newest.map(decode).transpose()?.map(|position| position.phase))
}
