//! The ends of a transaction: Begin, Commit, and where it came from.

use super::read::{DecodeError, Reader};
use crate::Lsn;

/// `B`: a transaction starts. With protocol version 1 the server sends a transaction whole, after
/// its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record starts. It equals [`Commit::commit_lsn`] of the same transaction.
    pub(crate) final_lsn: Lsn,
    /// Commit time, microseconds since the Unix epoch.
    pub(crate) commit_time: i64,
    pub(crate) xid: u32,
}

/// `C`: the transaction is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts.
    pub(crate) commit_lsn: Lsn,
    /// Where the commit record ends. This is the position to confirm to the server (rule 6).
    pub(crate) end_lsn: Lsn,
    /// Commit time, microseconds since the Unix epoch.
    pub(crate) commit_time: i64,
}

/// `O`: the transaction was replicated from another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Where the commit was on that server.
    pub(crate) commit_lsn: Lsn,
    /// Name of the replication origin.
    pub(crate) name: &'a str,
}

impl Begin {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { final_lsn: reader.lsn()?, commit_time: reader.timestamp("commit time")?, xid: reader.u32()? })
    }
}

impl Commit {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // "Flags; currently unused": a flag would mean something that this code does not know.
        if reader.u8()? != 0 {
            return Err(reader.invalid("flags of Commit", 1));
        }
        Ok(Self { commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, commit_time: reader.timestamp("commit time")? })
    }
}

impl<'a> Origin<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { commit_lsn: reader.lsn()?, name: reader.name("name of the origin")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::{Message, decode};

    #[test]
    fn a_begin_from_the_wire_has_its_time_since_the_unix_epoch() {
        // 2024-01-15 10:30:00 UTC is 758,629,800 s after 2000-01-01.
        let bytes = b"B\x00\x00\x00\x00\x01\x94\x22\x08\x00\x02\xb1\xf8\x43\xbe\xba\x00\x00\x00\x02\xe9";
        let Ok(Message::Begin(begin)) = decode(bytes) else { panic!("not a Begin") };
        assert_eq!(begin.final_lsn.to_string(), "0/1942208");
        assert_eq!(begin.commit_time, 758_629_800_000_000 + 946_684_800_000_000);
        assert_eq!(begin.xid, 745);
    }

    #[test]
    fn a_commit_with_flags_is_refused() {
        let mut bytes = Vec::new();
        Commit { commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_time: 0 }.encode(&mut bytes);
        assert!(decode(&bytes).is_ok());
        bytes[1] = 1;
        assert_eq!(decode(&bytes), Err(DecodeError::InvalidField { field: "flags of Commit", at: 1 }));
    }

    #[test]
    fn a_time_beyond_the_range_is_refused() {
        let mut bytes = Vec::new();
        Begin { final_lsn: Lsn(1), commit_time: 0, xid: 1 }.encode(&mut bytes);
        bytes[9..17].copy_from_slice(&i64::MAX.to_be_bytes());
        assert_eq!(decode(&bytes), Err(DecodeError::InvalidField { field: "commit time", at: 9 }));
    }
}
