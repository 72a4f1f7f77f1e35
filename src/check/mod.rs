//! `outboxd check`: every precondition, one line each.
//!
//! ```text
//!   configuration, Postgres, Kafka ──▶ findings ──▶ a table, or JSON
//!                                      (server, tables, publication, slot, topics)
//! ```
//!
//! A check changes nothing. It leaves out what it cannot ask because something before it failed:
//! that failure has to be repaired first.

mod clocks;
mod kafka;
mod mark_cost;
mod marking;
mod publication;
mod retention;
mod server;
mod slot;
mod tables;

use std::{
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
};

use serde::Serialize;

use crate::{
    Code, Config, Error, Result,
    config::{Backfill, Password, Source},
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{self, TableInfo},
    },
    setup::topics::{constant_topics, topics_of_waiting_rows},
    tail,
};

/// How a precondition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It holds.
    Ok,
    /// It holds, but a person should know something.
    Warning,
    /// It does not hold.
    Failed,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One precondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The source's name; `None` for the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How it stands.
    pub verdict: Verdict,
    /// What was looked at.
    pub about: String,
    /// The code that `run` would report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// What was found.
    pub message: String,
    /// The next step; empty when none is needed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// The result of one look.
struct Found {
    verdict: Verdict,
    code: Option<Code>,
    message: String,
    hint: String,
}

impl Found {
    fn new(verdict: Verdict, message: impl Into<String>) -> Self {
        Self { verdict, code: None, message: message.into(), hint: String::new() }
    }
}

/// What a check found, in order.
#[derive(Debug, Default)]
pub struct Findings {
    source: Option<String>,
    list: Vec<Finding>,
}

impl Findings {
    /// What was found.
    #[must_use]
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// Whether any precondition does not hold.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.list.iter().any(|finding| finding.verdict == Verdict::Failed)
    }

    fn ok(&mut self, about: &str, message: impl Into<String>) {
        self.push(about, Found::new(Verdict::Ok, message));
    }

    /// Adds that a precondition holds, and that something could be better.
    fn note(&mut self, about: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(about, Found { hint: hint.into(), ..Found::new(Verdict::Ok, message) });
    }

    fn warning(&mut self, about: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(about, Found { hint: hint.into(), ..Found::new(Verdict::Warning, message) });
    }

    fn failed(&mut self, about: &str, code: Code, message: impl Into<String>) {
        self.failed_with(about, code, message, code.advice());
    }

    /// Adds a failure with a next step that fits better than the code's.
    fn failed_with(&mut self, about: &str, code: Code, message: impl Into<String>, hint: impl Into<String>) {
        let found = Found::new(Verdict::Failed, message);
        self.push(about, Found { code: Some(code), hint: hint.into(), ..found });
    }

    fn error(&mut self, about: &str, error: &Error) {
        self.failed_with(about, error.code(), error.detail(), error.code().advice());
    }

    fn push(&mut self, about: &str, Found { verdict, code, message, hint }: Found) {
        let (about, code) = (about.to_owned(), code.map(Code::as_str));
        self.list.push(Finding { source: self.source.clone(), verdict, about, code, message, hint });
    }

    /// Writes one aligned line for each finding, and its next step below, if it has one.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let about = self.list.iter().map(|finding| finding.about.chars().count()).max().unwrap_or(0);
        let mut heading = None;
        for finding in &self.list {
            let of = finding.source.as_deref().map_or_else(|| "kafka".to_owned(), |name| format!("source {name}"));
            if heading.as_ref() != Some(&of) {
                writeln!(out, "{of}")?;
                heading = Some(of);
            }
            let code = finding.code.map(|code| format!("[{code}] ")).unwrap_or_default();
            writeln!(out, "  {:<8} {:<about$}  {code}{}", finding.verdict.as_str(), finding.about, finding.message)?;
            if !finding.hint.is_empty() {
                writeln!(out, "  {:<8} {:<about$}  hint: {}", "", "", finding.hint)?;
            }
        }
        let count = |verdict| self.list.iter().filter(|finding| finding.verdict == verdict).count();
        writeln!(
            out,
            "{} ok, {} warnings, {} failed",
            count(Verdict::Ok),
            count(Verdict::Warning),
            count(Verdict::Failed)
        )
    }

    /// Writes the findings as a JSON array.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub(crate) fn print_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, &self.list)?;
        writeln!(out)
    }
}

/// Checks everything.
pub async fn check(config: &Config) -> Findings {
    let mut findings = Findings::default();
    let mut topics = kafka::Topics::new();
    for source in &config.sources {
        findings.source = Some(source.name.clone());
        for topic in constant_topics(source) {
            topics.entry(topic).or_insert(None);
        }
        // A session that ends during the check is a finding like any other.
        match postgres(source, config, &mut findings).await {
            Ok(waiting) => {
                for (topic, oldest) in waiting {
                    let age = topics.entry(topic).or_insert(None);
                    *age = (*age).max(oldest);
                }
            }
            Err(error) => findings.error("postgres", &error),
        }
    }
    findings.source = None;
    kafka::check(config, &topics, &mut findings).await;
    findings
}

/// Returns the topics that the waiting rows go to.
async fn postgres(source: &Source, config: &Config, findings: &mut Findings) -> Result<kafka::Topics> {
    let connect = ConnectOptions::of(source);
    let session = match connect.sql("check").await {
        Ok(session) => session,
        Err(error) => {
            findings.error("connection", &error);
            return Ok(kafka::Topics::new());
        }
    };
    password_file(source, findings);
    let server = catalog::server::server(&session).await?;
    let role = &server.role.name;
    findings.ok("connection", format!("Postgres {}, database {}, role {role}", server.version_text, server.database));
    let slot = catalog::slots::slot(&session, &source.slot).await?;
    server::check(&server, source, slot.as_ref(), findings);
    server::check_replication(&connect, &server.role, findings).await;
    let setting = tables::Setting { source, position_topic: &config.kafka.position_topic };
    let mut found = Vec::with_capacity(source.tables.len());
    let publication = catalog::publications::publication(&session, &source.publication).await?;
    for name in &source.tables {
        let about = format!("table {}", catalog::names::display_table(name));
        match catalog::tables::resolve(&session, name).await {
            Ok(mut table) => {
                publication.iter().for_each(|publication| table.learn_published(publication));
                found.push(table);
            }
            Err(error) => findings.error(&about, &error),
        }
    }
    if let Err(error) = catalog::overlaps::refuse_overlaps(&session, &catalog::tables::oids(&found)).await {
        findings.error("tables", &error);
    }
    let mark = (source.mark == crate::config::Mark::Update).then_some(source.mapping.columns.published_at.as_str());
    for table in &found {
        let may = catalog::tables::privileges(&session, role, table, mark).await?;
        tables::check(table, may, setting, findings);
        rows_out_of_reach(&session, table, findings).await;
        if let Some(column) = mark {
            let triggers = catalog::tables::setting_triggers(&session, table, column).await?;
            tables::setting_triggers(table, column, &triggers, findings);
        }
        // An error here is no finding: marks work whether their cost is known or not.
        if let Some(column) = mark.filter(|column| table.column(column).is_some())
            && let Ok(cost) = catalog::mark_cost::mark_cost(&session, table, column).await
        {
            mark_cost::check(table, column, &cost, findings);
        }
    }
    marking::check(&connect, &found, source, findings).await?;
    clocks::check(&connect, &found, source, findings).await?;
    retention::check(&session, &found, source, findings).await?;
    tables::check_backfill(&found, source, server.track_commit_timestamp, findings);
    publication::check(publication.as_ref(), &found, setting, findings);
    slot::check(slot.as_ref(), &server, source, findings);
    // Rows that cannot be read are told above.
    let topics = topics_of_waiting_rows(&session, source, &found).await.unwrap_or_default();
    if source.backfill == Backfill::Unpublished
        && let Ok(stops) = tail::stops(&session, source, &found, setting.position_topic).await
    {
        match stops {
            None => findings.ok(
                "rows that wait",
                format!("as they stand in the tables, the first {} can become records", tail::LOOKED_AT),
            ),
            Some(error) => findings.error("rows that wait", &error),
        }
    }
    Ok(topics)
}

/// Whether others on this machine can read the password.
fn password_file(source: &Source, findings: &mut Findings) {
    let Some(Password::File(path)) = &source.password else { return };
    if path.metadata().is_ok_and(|file| file.permissions().mode() & 0o007 != 0) {
        let (text, hint) =
            (format!("every user of this machine can read {}", path.display()), "chmod 600, for the daemon's user");
        findings.warning("password_file", text, hint);
    }
}

/// Rows that the stream would not send.
async fn rows_out_of_reach(session: &SqlSession, table: &TableInfo, findings: &mut Findings) {
    let about = format!("table {}", table.display_name());
    let one = std::slice::from_ref(table);
    if let Err(error) = catalog::children::refuse_children(session, one).await {
        findings.error(&about, &error);
    }
    // What the table itself is, stands there already.
    if table.logged
        && let Err(error) = catalog::children::refuse_outside_the_log(session, one).await
    {
        findings.error(&about, &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let mut findings = Findings { source: Some("order".to_owned()), list: Vec::new() };
        findings.ok("connection", "Postgres 15");
        findings.warning("slot", "it lags", "start the daemon");
        findings.failed("table a", Code::TableMissing, "there is none");
        findings
    }

    #[test]
    fn the_table_is_aligned_and_says_what_to_do() {
        let mut out = Vec::new();
        findings().print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = format!(
            "source order\n  ok       connection  Postgres 15\n  warning  slot        it lags\n{blank}hint: start the daemon\n  \
             failed   table a     [table-missing] there is none\n{blank}hint: {}\n1 ok, 1 warnings, 1 failed\n",
            Code::TableMissing.advice(),
            blank = " ".repeat(23),
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_json_names_what_a_script_needs() {
        let mut out = Vec::new();
        findings().print_json(&mut out).unwrap();
        let list: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            list[0],
            serde_json::json!({"source": "order", "verdict": "ok", "about": "connection", "message": "Postgres 15"})
        );
        assert_eq!((list[2]["verdict"].as_str(), list[2]["code"].as_str()), (Some("failed"), Some("table-missing")));
    }
}
