//! Which history of the cluster a position belongs to.
//!
//! Pages: "Streaming Replication Protocol" (IDENTIFY_SYSTEM, TIMELINE_HISTORY), "Timelines".

use crate::{Code, Error, Lsn, Result};

/// What IDENTIFY_SYSTEM tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SystemIdentity {
    /// initdb makes it, and every copy of the cluster keeps it.
    pub(crate) system_id: String,
    /// Every promotion raises it.
    pub(crate) timeline: u32,
    /// The end of the log on the server's disk.
    pub(crate) flushed: Lsn,
}

/// The end of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimelineSwitch {
    /// The timeline that ended.
    pub(crate) timeline: u32,
    /// Where it ended. The log from here on belongs to the next timeline.
    pub(crate) switchpoint: Lsn,
}

/// Reads a history file. Each line is `timeline switchpoint reason`, and `#` begins a comment.
pub(super) fn parse_history(text: &str) -> Result<Vec<TimelineSwitch>> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let switch = words.next().zip(words.next()).and_then(|(timeline, switchpoint)| {
                Some(TimelineSwitch { timeline: timeline.parse().ok()?, switchpoint: switchpoint.parse().ok()? })
            });
            switch.ok_or_else(|| {
                Error::new(Code::PostgresProtocol, format!("a timeline history holds the line {line:?}"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_line_by_line() {
        let text = "1\t0/5000148\tno recovery target specified\n\n# by hand\n2\t16/B374D848\tbefore 2000-01-01 # x\n";
        let expected = [(1, Lsn(0x500_0148)), (2, Lsn(0x16_B374_D848))];
        let expected = expected.map(|(timeline, switchpoint)| TimelineSwitch { timeline, switchpoint });
        assert_eq!(parse_history(text).unwrap(), expected);
        assert_eq!(parse_history("").unwrap(), []);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["1", "x\t0/0\t", "1\tzero\t"] {
            assert_eq!(parse_history(text).unwrap_err().code(), Code::PostgresProtocol, "{text:?}");
        }
    }
}
