//! `outboxd verify` compares tables with topics.

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;

use super::output::print;
use crate::{
    Config, Result,
    config::Flags,
    verify::{self, Options, Progress},
};

/// The arguments of `verify`.
#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Only this source. In topics that other sources may write to, unknown records are then not
    /// judged.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Also read this topic, where no row is meant for it any more; repeat it, or use commas.
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    also_read: Vec<String>,
    /// Only rows and records created from then on: a moment such as 2024-01-15T10:30:00Z, or an age
    /// such as 2h.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<SystemTime>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// How long to wait for what is under way.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Judge order strictly by this monotonic column [default: the source's backfill_order_by, else
    /// created_at].
    #[arg(long, value_name = "COLUMN")]
    order_by: Option<String>,
    /// By created_at, an inversion up to this is no difference: transactions may overlap.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    order_tolerance: Duration,
    /// Compare each record's key and value with what its row makes now. A row that was changed after
    /// its commit differs.
    #[arg(long)]
    content: bool,
    /// Where sorting goes that does not fit into memory [default: the system's].
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
    /// What is sorted in memory.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = bytes)]
    memory: usize,
    #[command(flatten)]
    pub(super) flags: Flags,
}

impl VerifyArgs {
    pub(super) fn request(&self) -> Request {
        let age = |moment: SystemTime| {
            let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
            moment.duration_since(UNIX_EPOCH).map_or_else(|before| -ms(before.duration()), ms)
        };
        let options = Options {
            source: self.source.clone(),
            topics: self.also_read.clone(),
            since: self.since.map(age),
            wait: self.wait,
            order_by: self.order_by.clone(),
            order_tolerance: self.order_tolerance,
            content: self.content,
            temp_dir: self.temp_dir.clone().unwrap_or_else(std::env::temp_dir),
            memory: self.memory,
        };
        Request { options, json: self.json }
    }
}

/// What was asked for.
pub(super) struct Request {
    options: Options,
    json: bool,
}

/// The exit code is 0 when nothing differs, and 1 otherwise.
pub(super) async fn verify(config: Config, request: Request) -> Result<ExitCode> {
    let outcome = verify::audit(&config, &request.options, &Progress::on_terminal()).await?;
    print(|out| {
        if request.json {
            serde_json::to_writer_pretty(&mut *out, &outcome).map_err(io::Error::from).and_then(|()| writeln!(out))
        } else {
            outcome.print(out)
        }
    })?;
    Ok(ExitCode::from(u8::from(!outcome.clean)))
}

/// Reads a moment, or how long ago it was.
fn since(text: &str) -> std::result::Result<SystemTime, String> {
    if let Ok(moment) = humantime::parse_rfc3339_weak(text) {
        return Ok(moment);
    }
    let expected = || "expected a moment such as 2024-01-15T10:30:00Z or an age such as 2h".to_owned();
    let age = humantime::parse_duration(text).map_err(|_| expected())?;
    SystemTime::now().checked_sub(age).ok_or_else(expected)
}

/// Reads `64MiB`, `500KiB`, `1GiB`, or a number of bytes.
fn bytes(text: &str) -> std::result::Result<usize, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let number: usize = number.trim().parse().map_err(|_| "expected a size such as 64MiB".to_owned())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(|| "not a size that can be held".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_as_such_or_by_its_age() {
        let moment = UNIX_EPOCH + Duration::from_secs(1_705_314_600);
        assert_eq!(since("2024-01-15T10:30:00Z"), Ok(moment));
        assert_eq!(since("2024-01-15 10:30:00"), Ok(moment));
        let before = SystemTime::now();
        let ago = since("2h").unwrap() + Duration::from_secs(7200);
        assert!(before <= ago && ago <= SystemTime::now(), "{ago:?}");
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn a_size_has_a_binary_unit() {
        assert_eq!(["64MiB", "3 KiB", "17"].map(bytes), [Ok(64 << 20), Ok(3 << 10), Ok(17)]);
        for text in ["", "MiB", "0", "-1", "64MB", "99999999999GiB"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }
}
