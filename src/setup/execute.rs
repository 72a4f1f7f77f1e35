//! Carries out a plan, or prints it.

use std::io::{self, Write};

use tokio_postgres::Client;

use super::plan::{Plan, SlotStep, SqlStep, Step};
use crate::{
    Code, Error, Result,
    config::{Kafka, Secret, Source},
    kafka::{position_topic, topics},
    postgres::{sql_error, sqlstate},
};

/// What became of a plan.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// One report for each thing, in order.
    pub(crate) reports: Vec<Report>,
    /// The slot that the caller has to make. Everything that must come before it is there.
    pub(crate) slot: Option<SlotStep>,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

/// What became of one thing.
#[derive(Debug)]
pub(crate) enum Report {
    /// It was there already.
    Present(String),
    /// This run has made it.
    Made(String),
    /// A dry run: these statements would make it.
    Would(Step),
    /// A person has to make it. The text says why this run could not.
    Left(Step, String),
}

impl Outcome {
    /// The outcome of a plan that is only shown.
    #[must_use]
    pub(crate) fn dry(plan: Plan) -> Self {
        let mut reports: Vec<_> = plan.present.into_iter().map(Report::Present).collect();
        reports.extend(plan.steps.into_iter().map(Report::Would));
        Self { reports, slot: None, notes: plan.notes }
    }

    /// Whether something is left for a person.
    #[must_use]
    pub(crate) fn is_incomplete(&self) -> bool {
        self.reports.iter().any(|report| matches!(report, Report::Left(..)))
    }

    /// Writes one line for each thing, with the SQL below a thing that is not made. The notes come
    /// last.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        for report in &self.reports {
            match report {
                Report::Present(what) => writeln!(out, "  exists   {what}")?,
                Report::Made(what) => writeln!(out, "  created  {what}")?,
                Report::Would(step) => {
                    writeln!(out, "  missing  {}", step.what())?;
                    print_sql(step, out)?;
                }
                Report::Left(step, why) => {
                    writeln!(out, "  left     {}: {why}", step.what())?;
                    print_sql(step, out)?;
                }
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "  note     {note}"))
    }
}

fn print_sql(step: &Step, out: &mut dyn Write) -> io::Result<()> {
    let Step::Sql(step) = step else { return Ok(()) };
    for statement in &step.sql {
        let indented = statement.replace('\n', "\n             ");
        writeln!(out, "             {indented};")?;
    }
    Ok(())
}

/// Makes what the plan names, on this session and this cluster. It leaves what the session's role
/// may not do, and what depends on that. Any other failure ends it.
///
/// # Errors
/// Any failure that is neither a missing right nor the consequence of one.
pub(crate) async fn execute(client: &Client, plan: Plan, source: &Source, kafka: &Kafka) -> Result<Outcome> {
    let mut outcome = Outcome { notes: plan.notes, ..Outcome::default() };
    outcome.reports.extend(plan.present.into_iter().map(Report::Present));
    for step in plan.steps {
        let made = match &step {
            Step::Sql(sql) => run_sql(client, sql, source).await,
            Step::PositionTopic(_) => position_topic::ensure(kafka).await,
            Step::Topic(topic) => topics::create(kafka, vec![topic.clone()]).await,
            Step::Slot(slot) if outcome.is_incomplete() => {
                let text = format!("slot {} comes after what is left above", slot.slot);
                outcome.reports.push(Report::Left(step, text));
                continue;
            }
            Step::Slot(slot) => {
                outcome.slot = Some(slot.clone());
                continue;
            }
        };
        outcome.reports.push(match made {
            Ok(()) => Report::Made(step.what()),
            Err(error) if is_left(&error, outcome.is_incomplete()) => Report::Left(step, error.detail()),
            Err(error) => return Err(error),
        });
    }
    Ok(outcome)
}

/// Whether a person has to make it: a right is missing, or something that was left before.
fn is_left(error: &Error, already: bool) -> bool {
    match error.code() {
        Code::PostgresDenied | Code::KafkaDenied => true,
        // 42704 is a missing role that was left, 3F000 a missing schema.
        Code::TableMissing | Code::PublicationMissing => already,
        _ => already && matches!(sqlstate(error), Some("42704" | "3F000")),
    }
}

/// Runs the statements of one step, all or none. It waits for a lock no longer than the source
/// allows.
///
/// # Errors
/// The error of the server.
pub(crate) async fn run_sql(client: &Client, step: &SqlStep, source: &Source) -> Result<()> {
    let lock = i32::try_from(source.timeouts.lock.as_millis()).unwrap_or(i32::MAX).max(1);
    // Several statements in one simple query are one transaction.
    let statements: Vec<_> =
        step.sql.iter().map(String::as_str).chain(step.hidden.iter().map(Secret::expose)).collect();
    let sql = format!("SET LOCAL lock_timeout = {lock}; {}", statements.join(";\n"));
    client.batch_execute(&sql).await.map_err(|error| sql_error(&format!("could not create {}", step.what), error))
}
