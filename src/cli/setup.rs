//! `outboxd setup` creates what is missing, and leaves whatever exists already as it is.

use std::process::ExitCode;

use clap::Args;

use super::{
    output::{complain, print},
    recover::by,
    told,
};
use crate::{
    Code, Config, Error, Result,
    config::{Flags, Kafka, PostgresUrl, Source, TableName},
    joining::{Request, SetUp},
    setup::Outcome,
    telemetry::logs,
};

/// The arguments of `setup`.
#[derive(Args)]
pub(super) struct SetupArgs {
    /// Print the SQL and the topics, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// A connection for what the daemon's own role may not do. Without it `setup` does what it may,
    /// and prints the SQL for the rest.
    #[arg(long, env = "OUTBOXD_ADMIN_URL", value_name = "URL", hide_env_values = true)]
    admin_url: Option<String>,
    /// Only this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Let a table join a source that was published before; stop its daemons first. Publishes and
    /// marks what is committed, and has the next `run` make the slot anew and backfill what is
    /// unmarked: nothing is lost or repeated.
    #[arg(long, value_name = "TABLE", value_delimiter = ',')]
    add_table: Vec<TableName>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

impl SetupArgs {
    /// # Errors
    /// [`Code::ConfigInvalid`] when the administrator's URL makes no sense. (The URL is no argument
    /// that clap parses, since clap's message would repeat it with its password.)
    pub(super) fn options(&self) -> Result<SetupOptions> {
        let admin_url = self.admin_url.as_ref().filter(|url| !url.is_empty());
        let admin_url = admin_url.map(|url| url.parse::<PostgresUrl>()).transpose().map_err(|problem| {
            Error::new(Code::ConfigInvalid, format!("--admin-url (OUTBOXD_ADMIN_URL): {problem}"))
        })?;
        let request = Request { dry_run: self.dry_run, admin_url, tables_join: !self.add_table.is_empty(), by: by() };
        Ok(SetupOptions { request, source: self.source.clone(), add_tables: self.add_table.clone() })
    }
}

/// What to set up, and how.
#[derive(Debug, Clone)]
pub(super) struct SetupOptions {
    request: Request,
    /// Only this source.
    source: Option<String>,
    /// Tables that have to join the source.
    add_tables: Vec<TableName>,
}

/// The exit code is 0 when everything is there, and 1 when something is left to do. A source that
/// fails does not stop the next one. The last failure is the error of the command.
pub(super) async fn setup(config: Config, options: SetupOptions) -> Result<ExitCode> {
    let mut complete = true;
    let mut failure: Option<Error> = None;
    if !options.add_tables.is_empty() {
        let _ = logs::init(&config.log); // The relay logs while it drains.
    }
    for source in &chosen(&config, &options)? {
        match set_up(source, &config.kafka, &options.request).await {
            Ok(outcome) => {
                complete &= !outcome.is_incomplete();
                print(|out| writeln!(out, "source {}", source.name).and_then(|()| outcome.print(out)))?;
            }
            Err(error) => {
                let failed = failure.replace(error.about(format_args!("source {}", source.name)));
                failed.iter().for_each(|previous| complain(&told(previous)));
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(ExitCode::from(u8::from(!complete))),
    }
}

/// The sources to set up, with the tables that have to join them.
fn chosen(config: &Config, options: &SetupOptions) -> Result<Vec<Source>> {
    let mut sources = match &options.source {
        Some(name) => vec![config.source(name)?.clone()],
        None => config.sources.clone(),
    };
    match sources.as_mut_slice() {
        [source] => {
            let joining = options.add_tables.iter().filter(|table| !source.tables.contains(table)).cloned();
            let joining: Vec<_> = joining.collect();
            source.tables.extend(joining);
            Ok(sources)
        }
        _ if options.add_tables.is_empty() => Ok(sources),
        sources => {
            let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
            let text = format!("--add-table needs --source with one of {}", names.join(", "));
            Err(Error::new(Code::SetupRefused, text))
        }
    }
}

async fn set_up(source: &Source, kafka: &Kafka, request: &Request) -> Result<Outcome> {
    SetUp::new(source, kafka, request).carry_out().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_not_configured_is_a_configuration_error() {
        let config = Config::of_names(&["order", "user"]);
        let request = Request { dry_run: true, admin_url: None, tables_join: false, by: String::new() };
        let options = SetupOptions { request, source: Some("ordr".to_owned()), add_tables: Vec::new() };
        assert_eq!(
            chosen(&config, &options).unwrap_err().to_string(),
            "config-invalid: there is no source \"ordr\"; the configuration has order, user"
        );
    }
}
