//! `outboxd tail` shows events as they commit, or those that wait.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use crate::{
    Result,
    config::{Flags, Sources},
    runtime::stop_signal,
    tail::{self, Format, Options, Wanted},
};

/// The arguments of `tail`. Here `--topic` and `--key` choose events, as `--type` does. So the
/// templates of a source without a file have other names.
#[derive(Args)]
#[command(
    mut_arg("topic", |template| template.long("topic-template")),
    mut_arg("key", |template| template.long("key-template"))
)]
pub(super) struct TailArgs {
    /// Only this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only events for this topic; repeat it for several.
    #[arg(id = "wanted_topic", long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Only events with this key; repeat it for several.
    #[arg(id = "wanted_key", long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Only events of this type; repeat it for several.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Show the rows that wait to be published, the oldest first, and end.
    #[arg(long)]
    unpublished: bool,
    /// End after so many events.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// How an event is shown [default: text on a terminal, json elsewhere].
    #[arg(long, value_name = "FORMAT")]
    format: Option<Chosen>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Chosen {
    /// A few lines for a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl TailArgs {
    pub(super) fn options(self) -> Options {
        let format = format(self.format);
        Options {
            wanted: Wanted { topics: self.topics, keys: self.keys, types: self.types },
            format,
            limit: self.limit,
            unpublished: self.unpublished,
        }
    }

    /// The sources that are meant.
    pub(super) fn chosen(&self, sources: Sources) -> Result<Sources> {
        match &self.source {
            Some(name) => sources.only(name),
            None => Ok(sources),
        }
    }
}

/// The format that was chosen, or that fits where the output goes.
pub(super) fn format(chosen: Option<Chosen>) -> Format {
    let terminal = io::stdout().is_terminal();
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    // https://no-color.org
    let colours = terminal && variable("NO_COLOR").is_none() && variable("TERM").is_none_or(|term| term != "dumb");
    match chosen {
        Some(Chosen::Json) => Format::Json,
        Some(Chosen::Text) => Format::Text { colours },
        None if terminal => Format::Text { colours },
        None => Format::Json,
    }
}

/// A signal ends it with exit code 0, and so does a reader that goes away.
pub(super) async fn tail(sources: Sources, options: Options) -> Result<ExitCode> {
    let stop = stop_signal()?;
    tail::tail(sources, options, stop).await?;
    Ok(ExitCode::SUCCESS)
}
