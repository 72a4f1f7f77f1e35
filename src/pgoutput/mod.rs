//! The messages of Postgres's logical decoding plug-in `pgoutput`, protocol version 1: bytes in,
//! borrowed views out.
//!
//! ```text
//!   one XLogData payload                    Message<'a>, borrowing from the payload
//!   ┌───┬───────────────────────┐  decode   Begin ─ Relation ─ Insert ─ Insert ─ … ─ Commit
//!   │tag│ fields, big endian    │ ────────▶     (Origin, Type, Update, Delete, Truncate, Logical)
//!   └───┴───────────────────────┘
//!
//!   one row of the backfill ─▶ TupleWriter ─▶ the bytes of a Tuple<'a>
//! ```
//!
//! What must hold:
//! - any bytes give a message or a [`DecodeError`], never a panic, and a message uses up all its
//!   bytes;
//! - nothing checks again what is validated here: walking a [`Tuple`] or the columns of a
//!   [`Relation`] cannot fail;
//! - decoding an Insert allocates nothing.
//!
//! Source: PostgreSQL documentation, chapter "Frontend/Backend Protocol", page "Logical Replication
//! Message Formats".

#[cfg(test)]
mod encode;
mod logical;
mod read;
mod relation;
mod row;
mod transaction;
mod tuple;

pub(crate) use logical::LogicalMessage;
pub use read::DecodeError;
pub use relation::{ColumnSchema, Relation, RelationSchema, Type};
pub use row::{Delete, Insert, OldRow, Truncate, Update};
pub use transaction::{Begin, Commit, Origin};
pub use tuple::{Column, Columns, Tuple, TupleWriter};

use read::Reader;

/// One message of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction starts; its rows follow.
    Begin(Begin),
    /// The transaction is complete.
    Commit(Commit),
    /// The transaction was replicated from elsewhere.
    Origin(Origin<'a>),
    /// The shape of a table, sent before its first row and after each change.
    Relation(Relation<'a>),
    /// The name of a type that is not built in, sent before the relation that uses it.
    Type(Type<'a>),
    /// A new row.
    Insert(Insert<'a>),
    /// A changed row.
    Update(Update<'a>),
    /// A deleted row.
    Delete(Delete<'a>),
    /// Emptied tables.
    Truncate(Truncate<'a>),
    /// `pg_logical_emit_message`.
    Logical(LogicalMessage<'a>),
}

/// Decodes one message.
///
/// # Errors
/// When `bytes` are not exactly one well-formed message of protocol version 1.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let message = match reader.u8()? {
        b'I' => Message::Insert(Insert::decode(&mut reader)?),
        b'B' => Message::Begin(Begin::decode(&mut reader)?),
        b'C' => Message::Commit(Commit::decode(&mut reader)?),
        b'R' => Message::Relation(Relation::decode(&mut reader)?),
        b'Y' => Message::Type(Type::decode(&mut reader)?),
        b'O' => Message::Origin(Origin::decode(&mut reader)?),
        b'U' => Message::Update(Update::decode(&mut reader)?),
        b'D' => Message::Delete(Delete::decode(&mut reader)?),
        b'T' => Message::Truncate(Truncate::decode(&mut reader)?),
        b'M' => Message::Logical(LogicalMessage::decode(&mut reader)?),
        tag => return Err(DecodeError::UnknownTag { tag }),
    };
    reader.finish()?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Lsn;

    /// One valid message of each kind.
    fn samples() -> Vec<Vec<u8>> {
        let mut tuple = TupleWriter::new();
        let mut buffer = Vec::new();
        tuple.begin(&mut buffer);
        tuple.text(&mut buffer, b"4d47e190");
        tuple.null(&mut buffer);
        tuple.text(&mut buffer, b"");
        tuple.finish(&mut buffer);
        let row = Tuple::parse(&buffer).unwrap();
        let schema = RelationSchema {
            oid: 16_385,
            schema: "public".into(),
            name: "order_outbox".into(),
            replica_identity: b'd',
            columns: vec![
                ColumnSchema { name: "id".into(), type_oid: 2950, type_modifier: -1, key: true },
                ColumnSchema { name: "payload".into(), type_oid: 3802, type_modifier: -1, key: false },
            ],
        };
        let mut relation = Vec::new();
        schema.encode(&mut relation);
        let messages = [
            Message::Begin(Begin { final_lsn: Lsn(7), commit_time: 1_700_000_000_000_000, xid: 9 }),
            Message::Commit(Commit { commit_lsn: Lsn(7), end_lsn: Lsn(8), commit_time: 1_700_000_000_000_000 }),
            Message::Origin(Origin { commit_lsn: Lsn(3), name: "elsewhere" }),
            Message::Type(Type { oid: 16_400, schema: "public", name: "mood" }),
            Message::Insert(Insert { relation: 16_385, row }),
            Message::Update(Update { relation: 16_385, old: OldRow::None, new: row }),
            Message::Update(Update { relation: 16_385, old: OldRow::Key(row), new: row }),
            Message::Delete(Delete { relation: 16_385, old: OldRow::Full(row) }),
            Message::Logical(LogicalMessage { transactional: true, lsn: Lsn(5), prefix: "outboxd", content: b"x\0y" }),
        ];
        let mut samples = vec![relation];
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(decode(&bytes), Ok(message));
            samples.push(bytes);
        }
        let mut truncate = Vec::new();
        Truncate::encode_relations(true, false, &[1, 2], &mut truncate);
        samples.push(truncate);
        samples
    }

    /// Walks everything that a message offers lazily.
    fn walk(message: &Message<'_>) {
        match message {
            Message::Relation(relation) => {
                let schema = relation.to_schema();
                assert_eq!(schema.columns.len(), relation.columns.len());
            }
            Message::Insert(insert) => assert_eq!(insert.row.iter().count(), insert.row.len()),
            Message::Truncate(truncate) => assert_eq!(4 * truncate.relations().count(), truncate.oids.len()),
            _ => {}
        }
    }

    #[test]
    fn every_kind_of_message_reads_back_as_it_was_written() {
        for bytes in samples() {
            let message = decode(&bytes).unwrap();
            let mut again = Vec::new();
            message.encode(&mut again);
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_message_cut_anywhere_or_with_a_byte_too_many_is_refused() {
        for bytes in samples() {
            for end in 0..bytes.len() {
                assert!(decode(&bytes[..end]).is_err(), "{:?} cut at {end}", bytes[0] as char);
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(decode(&longer).is_err(), "{:?} with a byte too many", bytes[0] as char);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = decode(&bytes) {
                walk(&message);
            }
        }

        #[test]
        fn a_message_with_bytes_changed_gives_a_message_or_an_error(
            which in 0..11usize,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let samples = samples();
            let mut bytes = samples[which % samples.len()].clone();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(message) = decode(&bytes) {
                walk(&message);
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(decode(&again), Ok(message));
            }
        }
    }
}
