//! `outboxd replay`: publishes chosen rows again.

use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroU64,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    output::{complain, print},
    tail::format,
};
use crate::{
    Code, Config, Error, Result,
    config::{Flags, Source},
    outbox::parse_rfc3339,
    replay::{self, Ended, Event, Name, Options, Selection},
    runtime::stop_signal,
};

/// How many rows a dry run shows.
const SHOWN: usize = 5;

/// How often a run says how far it is, where nobody watches a terminal.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The arguments of `replay`. Here `--key` chooses rows, as in `tail`. So the templates of a source
/// without a file have the same other names.
#[derive(Args)]
#[command(
    mut_arg("topic", |template| template.long("topic-template")),
    mut_arg("key", |template| template.long("key-template"))
)]
pub(super) struct ReplayArgs {
    /// The source, where there are several.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only the row with this event id; repeat it for several.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Only rows with this key; repeat it for several.
    #[arg(id = "wanted_key", long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Only rows of this event type; repeat it for several.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only rows created then or later, such as 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<i64>,
    /// Only rows created before then.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<i64>,
    /// Only rows that went to a dead-letter topic, by the letters that are still there.
    #[arg(long)]
    dead_letter: bool,
    /// Every row that is published.
    #[arg(long)]
    all: bool,
    /// Publish to this topic, and not to the usual ones.
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// Count the rows and show the first ones, and publish nothing.
    #[arg(long)]
    dry_run: bool,
    /// Publish so many rows a second at most.
    #[arg(long, value_name = "ROWS")]
    rate: Option<NonZeroU64>,
    /// The name of the request. With the name of one that was interrupted, that one goes on [default:
    /// a new name, which is printed].
    #[arg(long, value_name = "NAME", value_parser = Name::parse, conflicts_with = "dry_run")]
    request: Option<Name>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// A moment in microseconds since the Unix epoch.
fn moment(text: &str) -> Result<i64, String> {
    let (local, ahead) = offset(text).unwrap_or((text, 0));
    let local = if local.len() == text.len() { text.to_owned() } else { format!("{local}Z") };
    let moment = parse_rfc3339(&local).map(|moment| moment - ahead);
    moment.ok_or_else(|| "expected a moment such as 2026-11-01T00:00:00Z or 2026-11-01T02:00:00+02:00".to_owned())
}

/// A local time, and how many microseconds it is ahead of UTC.
fn offset(text: &str) -> Option<(&str, i64)> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, offset) = (offset.get(..1)?, offset.get(1..)?);
    let (hours, minutes) = offset.split_once(':')?;
    let number = |text: &str, end: i64| text.parse().ok().filter(|number| (0..end).contains(number));
    let ahead = (number(hours, 24)? * 60 + number(minutes, 60)?) * 60_000_000;
    match sign {
        "+" => Some((local, ahead)),
        "-" => Some((local, -ahead)),
        _ => None,
    }
}

impl ReplayArgs {
    fn source<'c>(&self, config: &'c Config) -> Result<&'c Source> {
        match (&self.source, &config.sources[..]) {
            (Some(name), _) => config.source(name),
            (None, [only]) => Ok(only),
            (None, several) => {
                let names: Vec<_> = several.iter().map(|source| source.name.as_str()).collect();
                let text = format!("a request is of one source: give --source; there are {}", names.join(", "));
                Err(Error::new(Code::ConfigInvalid, text))
            }
        }
    }

    fn selection(&self) -> Result<Selection> {
        let Self { ids, keys, types, .. } = self;
        Selection {
            ids: ids.clone(),
            keys: keys.clone(),
            types: types.clone(),
            since: self.since,
            until: self.until,
            dead_letter: self.dead_letter,
            all: self.all,
            to: self.to.clone(),
        }
        .checked()
    }
}

/// The exit code is 0 once every row of the request is published.
pub(super) async fn replay(config: Config, args: ReplayArgs) -> Result<ExitCode> {
    let source = args.source(&config)?;
    let selection = args.selection()?;
    if args.dry_run {
        return dry_run(&config, source, &selection).await;
    }
    let name = args.request.clone().unwrap_or_else(Name::new);
    let options = Options { selection, name, rate: args.rate };
    let (about, request) = (format!("source {}", source.name), options.name.clone());
    say(&format!("{about}: request {request}: {}", options.selection));
    let stop = pin!(stop_signal()?);
    let mut shown = Shown::new(about.clone());
    let ended = replay::replay(source, &config.kafka, &options, stop, &mut |event| shown.take(event)).await;
    shown.end();
    let goes_on = format!("the same arguments with --request {request} go on where it stopped");
    match ended {
        Ok(Ended::Finished(rows)) => {
            say(&format!("{about}: request {request} is finished: {rows} rows published again"));
            Ok(ExitCode::SUCCESS)
        }
        Ok(Ended::WasFinished(rows)) => {
            say(&format!("{about}: request {request} was finished before, with {rows} rows; nothing is published now"));
            Ok(ExitCode::SUCCESS)
        }
        Ok(Ended::Interrupted(rows)) => {
            complain(&format!("{about}: interrupted; {rows} rows of the request are published so far; {goes_on}"));
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            complain(&super::told(&error));
            if error.code() != Code::ReplayRefused && error.code() != Code::ConfigInvalid {
                complain(&format!("{about}: {goes_on}"));
            }
            Ok(super::exit_code(&error))
        }
    }
}

async fn dry_run(config: &Config, source: &Source, selection: &Selection) -> Result<ExitCode> {
    let preview = replay::preview(source, &config.kafka, selection, SHOWN, format(None)).await?;
    print(|out| {
        out.write_all(&preview.shown)?;
        out.flush()
    })?;
    if preview.other_letters > 0 {
        complain(&format!("source {}: {}", source.name, passed_over(preview.other_letters)));
    }
    complain(&format!(
        "source {}: {}: {} rows would be published again{}",
        source.name,
        selection,
        preview.rows,
        if preview.rows > SHOWN as u64 { format!("; the first {SHOWN} are shown") } else { String::new() }
    ));
    Ok(ExitCode::SUCCESS)
}

fn passed_over(letters: u64) -> String {
    format!(
        "{letters} dead letters were meant for topics that the source's template does not make, and are passed over; \
         --id chooses their rows"
    )
}

/// The reader of the output may be gone. The request must not end half-way because of that.
fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

/// How far the run is: a bar on a terminal, elsewhere a line now and then.
struct Shown {
    about: String,
    bar: Option<ProgressBar>,
    left: u64,
    published: u64,
    said: Instant,
}

impl Shown {
    fn new(about: String) -> Self {
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(0));
        if let (Some(bar), Ok(style)) =
            (&bar, ProgressStyle::with_template("{spinner} {human_pos}/{human_len} {wide_bar} {per_sec} {eta}"))
        {
            bar.set_style(style);
        }
        Self { about, bar, left: 0, published: 0, said: Instant::now() }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::OtherLetters(letters) => self.tell(&passed_over(letters)),
            Event::Begins { left, before } => {
                (self.left, self.published) = (left, 0);
                if let Some(bar) = &self.bar {
                    bar.set_length(left);
                    bar.set_position(0);
                }
                let goes_on = if before > 0 { format!("; {before} were published before") } else { String::new() };
                self.tell(&format!("{left} rows to publish{goes_on}"));
            }
            Event::Published(rows) => {
                self.published += rows;
                match &self.bar {
                    Some(bar) => bar.inc(rows),
                    None if self.said.elapsed() >= SAY_EVERY => {
                        self.said = Instant::now();
                        self.tell(&format!("{} of {} rows published", self.published, self.left));
                    }
                    None => {}
                }
            }
        }
    }

    fn tell(&self, text: &str) {
        let line = format!("{}: {text}", self.about);
        match &self.bar {
            Some(bar) => bar.suspend(|| complain(&line)),
            None => complain(&line),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_any_zone() {
        let moment_of = |text| moment(text).ok();
        let utc = moment_of("2024-01-15T10:30:00Z");
        assert_eq!(utc, Some(1_705_314_600_000_000));
        assert_eq!(moment_of("2024-01-15T12:30:00+02:00"), utc);
        assert_eq!(moment_of("2024-01-15T05:00:00-05:30"), utc);
        assert_eq!(moment_of("2024-01-15T10:30:00.000001+00:00"), utc.map(|utc| utc + 1));
        for text in ["", "2024-01-15", "2h", "2024-01-15T10:30:00", "2024-01-15T10:30:00+25:00", "ä+01:00"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
