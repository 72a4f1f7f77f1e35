//! Messages written with `pg_logical_emit_message`.

use super::read::{DecodeError, Reader};
use crate::Lsn;

/// `M`: a message from `pg_logical_emit_message`. The server sends it when START_REPLICATION asked
/// for `messages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// It is part of a transaction. Otherwise it may stand between transactions, and by itself it
    /// releases no WAL (rule 30).
    pub(crate) transactional: bool,
    /// Its place in the WAL.
    pub(crate) lsn: Lsn,
    /// Whose it is.
    pub(crate) prefix: &'a str,
    /// What it says, any bytes.
    pub(crate) content: &'a [u8],
}

impl<'a> LogicalMessage<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        if flags > 1 {
            return Err(reader.invalid("flags of a logical message", 1));
        }
        let lsn = reader.lsn()?;
        let prefix = reader.name("prefix of a logical message")?;
        let length = reader.count32("length of a logical message")?;
        Ok(Self { transactional: flags == 1, lsn, prefix, content: reader.bytes(length)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::{Message, decode};

    #[test]
    fn a_message_from_the_wire_has_prefix_and_content() {
        let bytes = b"M\x00\x00\x00\x00\x00\x01\x94\x22\x08beat\0\x00\x00\x00\x02hi";
        let Ok(Message::Logical(message)) = decode(bytes) else { panic!("not a logical message") };
        assert_eq!((message.transactional, message.prefix, message.content), (false, "beat", &b"hi"[..]));
        assert_eq!(message.lsn, Lsn(0x194_2208));
    }
}
