//! The table: one line for each source, with its problems below.

use std::{
    io::{self, Write},
    time::Duration,
};

use crate::source::{
    position::Phase,
    standing::{SourceState, Standing},
};

const HEAD: [&str; 8] = ["SOURCE", "PHASE", "POSITION", "LAG", "OLDEST", "SLOT", "UNPUBLISHED", "DAEMON"];

/// Writes the table. A dash stands for what is not known.
///
/// # Errors
/// `out` cannot be written to.
pub(crate) fn print(standings: &[Standing], out: &mut dyn Write) -> io::Result<()> {
    let lines: Vec<_> = standings.iter().map(cells).collect();
    let mut widths = HEAD.map(str::len);
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    print_line(&HEAD.map(str::to_owned), &widths, out)?;
    for (standing, line) in standings.iter().zip(&lines) {
        print_line(line, &widths, out)?;
        for problem in &standing.problems {
            writeln!(out, "  {}: {}\n    hint: {}", problem.code, problem.message, problem.hint)?;
        }
        if let Some(recovered) = &standing.recovered {
            writeln!(out, "  {recovered}")?;
        }
    }
    Ok(())
}

fn print_line(cells: &[String; 8], widths: &[usize; 8], out: &mut dyn Write) -> io::Result<()> {
    let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    writeln!(out, "{}", padded.join("  ").trim_end())
}

fn cells(standing: &Standing) -> [String; 8] {
    let phase = standing.phase.map(|phase| match phase {
        Phase::Creating => "creating",
        Phase::Backfill => "backfill",
        Phase::Streaming => "streaming",
    });
    let slot = standing.slot.as_ref().map(|slot| {
        let active = if slot.active { "active" } else { "inactive" };
        format!("{active}, {}", slot.wal_status.as_deref().unwrap_or("unused"))
    });
    let oldest = standing.lag_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    [
        standing.source.clone(),
        known(phase),
        known(standing.position),
        known(standing.lag_bytes.map(bytes)),
        known(oldest.map(|age| humantime::format_duration(Duration::from_secs(age.as_secs())))),
        known(slot),
        known(standing.unpublished_rows),
        known(standing.state().map(SourceState::as_str)),
    ]
}

fn known(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Shows bytes for a person, with one decimal at most.
fn bytes(count: u64) -> String {
    let unit = |shift: u32, name: &str| {
        let tenths = (u128::from(count) * 10) >> shift;
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    };
    match count {
        0..1024 => format!("{count} B"),
        1024..0x10_0000 => unit(10, "KiB"),
        0x10_0000..0x4000_0000 => unit(20, "MiB"),
        _ => unit(30, "GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Lsn,
        source::standing::{DaemonState, Problem, SlotStanding},
    };

    #[test]
    fn columns_line_up_and_what_is_unknown_is_a_dash() {
        let slot = SlotStanding {
            name: "outboxd_order".into(),
            active: true,
            wal_status: Some("reserved".into()),
            confirmed_flush: Lsn(1),
            retained_bytes: None,
        };
        let order = Standing {
            source: "order".into(),
            phase: Some(Phase::Streaming),
            position: Some(Lsn(0x0195_7AB8)),
            lag_bytes: Some(1536),
            lag_seconds: Some(61.4),
            unpublished_rows: Some(3),
            slot: Some(slot),
            daemon: Some(DaemonState {
                state: SourceState::Streaming,
                since: std::time::SystemTime::UNIX_EPOCH,
                last_error: None,
            }),
            ..Standing::default()
        };
        let problem = Problem { code: "kafka-unreachable", message: "k:9092".into(), hint: "check" };
        let user = Standing { source: "user".into(), problems: vec![problem], ..Standing::default() };
        let mut out = Vec::new();
        print(&[order, user], &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "SOURCE  PHASE      POSITION   LAG      OLDEST  SLOT              UNPUBLISHED  DAEMON\n\
             order   streaming  0/1957AB8  1.5 KiB  1m 1s   active, reserved  3            streaming\n\
             user    -          -          -        -       -                 -            -\n  \
             kafka-unreachable: k:9092\n    hint: check\n"
        );
    }
}
