//! Reads flags, variables and the file into the [`Config`], once.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    Config, Flags, Http, Log, LogFormat, PostgresUrl, Source, Sources,
    document::{self, Lookup},
    flags,
    kafka::{self, Judge},
    names,
    section::{Entry, Item, Origin, Section, Value},
    source, tracing,
};
use crate::{Code, Error, Result};

/// The tables at the top level.
const KEYS: &[&str] = &["source", "kafka", "http", "log", "tracing"];

/// The keys of `[http]`.
pub(super) const HTTP_KEYS: &[&str] = &["listen"];

/// The keys of `[log]`.
pub(super) const LOG_KEYS: &[&str] = &["format", "level"];

impl Config {
    /// Reads what the flags name, in the environment of this process. `judge` decides about the
    /// options of librdkafka, since this module does not link it.
    ///
    /// # Errors
    ///
    /// Class [`Config`](crate::Class::Config) for anything that cannot be read or does not make
    /// sense. The message names the place, the key, what was found and what is allowed.
    pub(crate) fn load(flags: &Flags, judge: Judge) -> Result<Self> {
        Self::written(flags, &|name| std::env::var(name).ok())?.read(flags, judge)
    }

    /// Does the same in a given environment.
    #[cfg(test)]
    pub(crate) fn load_with(flags: &Flags, env: Lookup<'_>) -> Result<Self> {
        Self::written(flags, env)?.read(flags, crate::kafka::judge)
    }

    /// Reads what a command needs that touches Postgres alone. Whatever stands under `[kafka]` may be
    /// wrong, but for the position topic: no row may go there.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn load_sources(flags: &Flags) -> Result<Sources> {
        Self::written(flags, &|name| std::env::var(name).ok())?.read_sources(flags)
    }

    fn written(flags: &Flags, env: Lookup<'_>) -> Result<Written> {
        let written = match flags.config.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => {
                flags.source.none_beside_a_file()?;
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Error::new(Code::ConfigInvalid, format!("--config: cannot read {}", path.display())).because(error)
                })?;
                Written::from_file(path, &text, env)?
            }
            None => Written::from_flags(flags, env)?,
        };
        Ok(written)
    }

    /// A configuration with sources of these names.
    #[cfg(test)]
    pub(crate) fn of_names(names: &[&str]) -> Self {
        let source = |name: &&str| {
            format!("[[source]]\nname = {name:?}\nurl = \"postgres://u@db/shop\"\ntables = [\"order_outbox\"]\n")
        };
        let sources: String = names.iter().map(source).collect();
        Self::from_text(&format!("{sources}[kafka]\nbrokers = \"k\"\n"), &Flags::default(), &|_| None).unwrap()
    }

    /// Reads a file's text, and puts the flags over it.
    #[cfg(test)]
    pub(crate) fn from_text(text: &str, flags: &Flags, env: Lookup<'_>) -> Result<Self> {
        Written::from_file(Path::new("outboxd.toml"), text, env)?.read(flags, crate::kafka::judge)
    }
}

/// The five tables as written.
struct Written {
    sources: Vec<Section>,
    kafka: Section,
    http: Section,
    log: Section,
    tracing: Section,
    /// Whether a file says it, and not the flags alone.
    has_file: bool,
    /// Relative paths start here.
    folder: PathBuf,
}

impl Written {
    fn from_file(path: &Path, text: &str, env: Lookup<'_>) -> Result<Self> {
        let mut root = document::parse(path, text, env)?;
        root.only(KEYS)?;
        let sources = source_sections(root.take("source"), path)?;
        Ok(Self {
            sources,
            kafka: root.table("kafka", "[kafka]")?,
            http: root.table("http", "[http]")?,
            log: root.table("log", "[log]")?,
            tracing: root.table("tracing", "[tracing]")?,
            has_file: true,
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
        })
    }

    fn from_flags(flags: &Flags, env: Lookup<'_>) -> Result<Self> {
        let Some(written) = flags::present(flags.source.source_url.as_ref()) else {
            let text = "nothing says what to publish; give --config FILE, or --source-url, --table and --brokers";
            return Err(Error::new(Code::ConfigInvalid, text));
        };
        let mut section = flags.source.section(env("OUTBOXD_PASSWORD"))?;
        if flags::present(flags.source.source_name.as_ref()).is_none() {
            let origin = section.origin.clone();
            let refuse = |problem| Error::new(Code::ConfigInvalid, format!("{origin}: {problem}"));
            let url: PostgresUrl = written.parse().map_err(refuse)?;
            let Some(database) = url.named_database() else {
                return Err(flags::missing("--source-name (OUTBOXD_SOURCE_NAME), or a database in --source-url,"));
            };
            section.put("name", Value::Text(names::source_from_database(database)), origin);
        }
        let empty = |title| Section::new(title, Origin::Flag("the command line"));
        Ok(Self {
            sources: vec![section],
            kafka: empty("[kafka]"),
            http: empty("[http]"),
            log: empty("[log]"),
            tracing: empty("[tracing]"),
            has_file: false,
            folder: PathBuf::new(),
        })
    }

    fn read(mut self, flags: &Flags, judge: Judge) -> Result<Config> {
        if !self.has_file && flags::present(flags.brokers.as_ref()).is_none() {
            return Err(flags::missing_brokers());
        }
        flags.overlay(&mut self.kafka, &mut self.http, &mut self.log)?;
        let kafka = kafka::read(self.kafka, &self.folder, judge)?;
        let around = source::Around { folder: &self.folder, position_topic: &kafka.position_topic };
        let sources = sources(self.sources, &around)?;
        let tracing = tracing::read(self.tracing)?;
        Ok(Config { sources, kafka, http: http(self.http)?, log: log(self.log)?, tracing })
    }

    fn read_sources(mut self, flags: &Flags) -> Result<Sources> {
        flags.overlay_position_topic(&mut self.kafka);
        let position_topic = kafka::read_position_topic(&mut self.kafka)?;
        let around = source::Around { folder: &self.folder, position_topic: &position_topic };
        Ok(Sources { sources: sources(self.sources, &around)?, position_topic })
    }
}

fn sources(sections: Vec<Section>, around: &source::Around<'_>) -> Result<Vec<Source>> {
    let mut names = HashSet::new();
    let mut sources: Vec<Source> = Vec::with_capacity(sections.len());
    for section in sections {
        let place = section.origin.clone();
        let source = source::read(section, around)?;
        // The name makes the transactional.id and the key of the position. Two sources of one name
        // would fence each other.
        if !names.insert(source.name.clone()) {
            let text = format!("{place}: name in [[source]]: {:?} stands twice", source.name);
            return Err(Error::new(Code::ConfigInvalid, text));
        }
        sources.push(source);
    }
    Ok(sources)
}

fn source_sections(item: Option<Item<Value>>, path: &Path) -> Result<Vec<Section>> {
    let Some(item) = item else {
        let text = format!("{}: no [[source]]; write one for each database", path.display());
        return Err(Error::new(Code::ConfigInvalid, text));
    };
    let Value::List(entries) = &item.value else {
        return Err(item.refuse("expected [[source]], in double brackets, since there may be several"));
    };
    let section = |entry: &Entry| match &entry.value {
        Value::Table(section) => Ok(Section {
            title: "[[source]]".to_owned(),
            origin: entry.origin.clone(),
            entries: section.entries.clone(),
        }),
        _ => Err(item.refuse("expected [[source]] tables")),
    };
    let sections = entries.iter().map(section).collect::<Result<Vec<_>>>()?;
    // This comes before anything is read, so that no message calls a misspelt key a missing one.
    sections.iter().try_for_each(|section| section.only(source::KEYS))?;
    if sections.is_empty() {
        return Err(item.refuse("found an empty list; write [[source]] once for each database"));
    }
    Ok(sections)
}

fn http(mut section: Section) -> Result<Http> {
    section.only(HTTP_KEYS)?;
    let listen = match section.text("listen")? {
        None => Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
        Some(item) if item.value == "off" => None,
        Some(item) => Some(item.value.parse().map_err(|_| {
            item.refuse(format!("found {:?}; allowed: \"off\", or IP:port such as \"0.0.0.0:9464\"", item.value))
        })?),
    };
    Ok(Http { listen })
}

fn log(mut section: Section) -> Result<Log> {
    section.only(LOG_KEYS)?;
    let format = section
        .choice("format", &[("auto", None), ("json", Some(LogFormat::Json)), ("text", Some(LogFormat::Text))])?;
    let level = section.text("level")?;
    let level = level.map(|item| item.value.parse().map_err(|problem: String| item.refuse(problem))).transpose()?;
    Ok(Log { format: format.and_then(|item| item.value), level: level.unwrap_or_default() })
}
