//! `outboxd purge`: lets published rows go, once.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};

use super::output::print;
use crate::{
    Code, Config, Error, Result,
    config::{Flags, Retention, RetentionBy, Source},
    retention::{self, Done},
};

/// The arguments of `purge`.
#[derive(Args)]
pub(super) struct PurgeArgs {
    /// Only this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// What was published longer ago than this goes [default: keep in [source.retention]].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// How rows go [default: by in [source.retention], else delete].
    #[arg(long, value_enum)]
    by: Option<By>,
    /// The width of the partitions that are made [default: partition in [source.retention], else 1d].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    partition: Option<Duration>,
    /// How many partitions are made ahead [default: ahead in [source.retention], else 3].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    ahead: Option<u32>,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// How rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// In small batches.
    Delete,
    /// With their partition.
    Partition,
}

impl PurgeArgs {
    /// What is to be done with a source: its configuration, with what the flags say instead.
    fn retention(&self, source: &Source) -> Result<Option<Retention>> {
        let configured = source.retention;
        let Some(keep) = self.older_than.or(configured.map(|retention| retention.keep)) else { return Ok(None) };
        let (width, ahead) = match configured.map(|retention| retention.by) {
            Some(RetentionBy::Partition { width, ahead }) => (width, ahead),
            _ => (RetentionBy::PARTITION_WIDTH, RetentionBy::PARTITIONS_AHEAD),
        };
        let partition =
            RetentionBy::Partition { width: self.partition.unwrap_or(width), ahead: self.ahead.unwrap_or(ahead) };
        let by = match (self.by, configured.map(|retention| retention.by)) {
            (Some(By::Partition), _) | (None, Some(RetentionBy::Partition { .. })) => partition,
            _ => RetentionBy::Delete,
        };
        if let RetentionBy::Partition { width, .. } = by
            && width < Duration::from_secs(1)
        {
            return Err(Error::new(Code::ConfigInvalid, "--partition: allowed: 1s or more"));
        }
        let retention = Retention { keep, by };
        retention
            .fits(source.mark)
            .map_err(|problem| Error::new(Code::ConfigInvalid, format!("source {}: {problem}", source.name)))?;
        Ok(Some(retention))
    }
}

/// The exit code is 0 when nothing failed. What has to wait is said, and is no failure.
pub(super) async fn purge(config: Config, args: PurgeArgs) -> Result<ExitCode> {
    let sources = match &args.source {
        Some(name) => vec![config.source(name)?],
        None => config.sources.iter().collect(),
    };
    let asked = sources.iter().map(|source| Ok((*source, args.retention(source)?))).collect::<Result<Vec<_>>>()?;
    if asked.iter().all(|(_, retention)| retention.is_none()) {
        return Err(Error::new(
            Code::ConfigInvalid,
            "nothing says how old rows may get: give --older-than, or keep in [source.retention]",
        ));
    }
    let mut first = None;
    for (source, retention) in asked {
        let Some(retention) = retention else { continue };
        // The reader of the output may be gone. The round must not end half-way because of that.
        let mut tell = |event| drop(writeln!(io::stdout(), "source {}: {event}", source.name));
        match retention::once(source, &config.kafka, &retention, args.dry_run, &mut tell).await {
            Ok(done) if args.dry_run => debug_assert_eq!(done, Done::default()),
            Ok(Done { rows, made, detached, dropped }) => print(|out| {
                writeln!(
                    out,
                    "source {}: {rows} rows deleted; partitions: {made} made, {detached} detached, {dropped} dropped",
                    source.name
                )
            })?,
            Err(error) => {
                super::output::complain(&super::told(&error));
                first = first.or(Some(error));
            }
        }
    }
    Ok(first.map_or(ExitCode::SUCCESS, |error| super::exit_code(&error)))
}
