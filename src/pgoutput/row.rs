//! What happened to a table: Insert, Update, Delete, Truncate. Only Insert carries events. The
//! others are decoded, counted and passed over (rule 29).

use super::{
    read::{DecodeError, Reader},
    tuple::Tuple,
};

/// `I`: a new row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert<'a> {
    /// Oid of the table. Its Relation came before.
    pub relation: u32,
    /// The row.
    pub row: Tuple<'a>,
}

/// What an Update or Delete tells of the row before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldRow<'a> {
    /// Nothing: the replica identity did not change.
    None,
    /// The columns of the replica identity; the others are NULL.
    Key(Tuple<'a>),
    /// All of it (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// `U`: a changed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    pub(crate) relation: u32,
    /// What is told of the row before.
    pub(crate) old: OldRow<'a>,
    /// The row after. It may hold [`super::Column::Unchanged`].
    pub(crate) new: Tuple<'a>,
}

/// `D`: a deleted row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    pub(crate) relation: u32,
    /// What is told of the row. A decoded message never has [`OldRow::None`].
    pub(crate) old: OldRow<'a>,
}

/// `T`: emptied tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// TRUNCATE … CASCADE.
    pub(crate) cascade: bool,
    /// TRUNCATE … RESTART IDENTITY.
    pub(crate) restart_identity: bool,
    /// Oids of the tables, four bytes each.
    pub(super) oids: &'a [u8],
}

impl<'a> Insert<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let relation = reader.u32()?;
        if reader.u8()? != b'N' {
            return Err(reader.invalid("kind of tuple in an Insert", 1));
        }
        Ok(Self { relation, row: Tuple::decode(reader)? })
    }
}

impl<'a> Update<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let relation = reader.u32()?;
        let mut kind = reader.u8()?;
        let old = match kind {
            b'K' => OldRow::Key(Tuple::decode(reader)?),
            b'O' => OldRow::Full(Tuple::decode(reader)?),
            _ => OldRow::None,
        };
        if old != OldRow::None {
            kind = reader.u8()?;
        }
        if kind != b'N' {
            return Err(reader.invalid("kind of tuple in an Update", 1));
        }
        Ok(Self { relation, old, new: Tuple::decode(reader)? })
    }
}

impl<'a> Delete<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let relation = reader.u32()?;
        let old = match reader.u8()? {
            b'K' => OldRow::Key(Tuple::decode(reader)?),
            b'O' => OldRow::Full(Tuple::decode(reader)?),
            _ => return Err(reader.invalid("kind of tuple in a Delete", 1)),
        };
        Ok(Self { relation, old })
    }
}

impl<'a> Truncate<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.count32("number of tables")?;
        let options = reader.u8()?;
        if options > 3 {
            return Err(reader.invalid("options of Truncate", 1));
        }
        let length = count.checked_mul(4).ok_or_else(|| reader.invalid("number of tables", 5))?;
        let oids = reader.bytes(length)?;
        Ok(Self { cascade: options & 1 != 0, restart_identity: options & 2 != 0, oids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::{Column, Message, decode};

    #[test]
    fn an_insert_from_the_wire_has_its_values() {
        let bytes = b"I\x00\x00\x40\x01N\x00\x02t\x00\x00\x00\x0242n";
        let Ok(Message::Insert(insert)) = decode(bytes) else { panic!("not an Insert") };
        assert_eq!(insert.relation, 0x4001);
        assert_eq!(insert.row.iter().collect::<Vec<_>>(), [Column::Text(b"42"), Column::Null]);
    }

    #[test]
    fn an_update_that_moves_the_key_has_both_rows() {
        let bytes = b"U\x00\x00\x40\x01K\x00\x01t\x00\x00\x00\x011N\x00\x01t\x00\x00\x00\x012";
        let Ok(Message::Update(update)) = decode(bytes) else { panic!("not an Update") };
        let OldRow::Key(old) = update.old else { panic!("no old key") };
        assert_eq!((old.get(0), update.new.get(0)), (Some(Column::Text(b"1")), Some(Column::Text(b"2"))));
    }

    #[test]
    fn a_tuple_of_the_wrong_kind_is_refused() {
        for bytes in [b"I\x00\x00\x40\x01K\x00\x00", b"D\x00\x00\x40\x01N\x00\x00", b"U\x00\x00\x40\x01X\x00\x00"] {
            assert!(matches!(decode(bytes), Err(DecodeError::InvalidField { at: 5, .. })), "{bytes:?}");
        }
    }

    #[test]
    fn a_truncate_names_its_tables() {
        let bytes = b"T\x00\x00\x00\x02\x03\x00\x00\x40\x01\x00\x00\x40\x02";
        let Ok(Message::Truncate(truncate)) = decode(bytes) else { panic!("not a Truncate") };
        assert!(truncate.cascade && truncate.restart_identity);
        assert_eq!(truncate.relations().collect::<Vec<_>>(), [0x4001, 0x4002]);
    }
}
