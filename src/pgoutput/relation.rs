//! The shape of a table, and the names of types that are not built in.

use super::read::{DecodeError, Reader};

/// `R`: the shape of a table, borrowed from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    pub(crate) oid: u32,
    /// Schema; empty for `pg_catalog`.
    pub(crate) schema: &'a str,
    pub(crate) name: &'a str,
    /// `relreplident`: `d`efault, `n`othing, `f`ull or `i`ndex.
    pub(crate) replica_identity: u8,
    pub(super) columns: RelationColumns<'a>,
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelationColumn<'a> {
    pub(crate) name: &'a str,
    /// Oid of the type. For a column of a domain it is that of the domain, not of the type under
    /// it.
    pub(crate) type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub(crate) type_modifier: i32,
    /// Part of the replica identity.
    pub(crate) key: bool,
}

/// The columns of a [`Relation`] in table order. Decoding the message has validated them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelationColumns<'a> {
    rest: &'a [u8],
    count: u16,
}

/// The shape of a table, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationSchema {
    /// Oid of the table.
    pub oid: u32,
    /// Schema; empty for `pg_catalog`.
    pub schema: String,
    /// Table.
    pub name: String,
    /// `relreplident`: `d`efault, `n`othing, `f`ull or `i`ndex.
    pub replica_identity: u8,
    /// In table order: the order of the values in each row.
    pub columns: Vec<ColumnSchema>,
}

/// One column of a [`RelationSchema`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSchema {
    /// Name.
    pub name: String,
    /// Oid of the type. For a column of a domain it is that of the domain, not of the type under
    /// it.
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub key: bool,
}

/// `Y`: the name of a type that is not built in. For a domain it is the name of the type under it
/// (`logicalrep_write_typ` looks through domains). So a column of a domain over jsonb is known as
/// jsonb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type<'a> {
    /// Oid that the relation's column has.
    pub(crate) oid: u32,
    /// Schema of the type; empty for `pg_catalog`.
    pub(crate) schema: &'a str,
    /// Its name there.
    pub(crate) name: &'a str,
}

fn column<'a>(reader: &mut Reader<'a>) -> Result<RelationColumn<'a>, DecodeError> {
    let flags = reader.u8()?;
    if flags > 1 {
        return Err(reader.invalid("flags of a column", 1));
    }
    Ok(RelationColumn {
        name: reader.name("name of a column")?,
        type_oid: reader.u32()?,
        type_modifier: reader.i32()?,
        key: flags == 1,
    })
}

impl<'a> Relation<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let oid = reader.u32()?;
        let schema = reader.name("name of a schema")?;
        let name = reader.name("name of a table")?;
        let replica_identity = reader.u8()?;
        if !b"dnfi".contains(&replica_identity) {
            return Err(reader.invalid("replica identity", 1));
        }
        let count = reader.count16("number of columns")?;
        let columns = RelationColumns { rest: reader.rest(), count };
        for _ in 0..count {
            column(reader)?;
        }
        // `decode` refuses bytes after the last column, so `columns` holds the columns and nothing
        // else.
        Ok(Self { oid, schema, name, replica_identity, columns })
    }

    /// A copy that outlives the message.
    #[must_use]
    pub(crate) fn to_schema(self) -> RelationSchema {
        let owned = |column: RelationColumn<'_>| ColumnSchema {
            name: column.name.to_owned(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            key: column.key,
        };
        RelationSchema {
            oid: self.oid,
            schema: self.schema.to_owned(),
            name: self.name.to_owned(),
            replica_identity: self.replica_identity,
            columns: self.columns.map(owned).collect(),
        }
    }
}

impl<'a> Iterator for RelationColumns<'a> {
    type Item = RelationColumn<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut reader = Reader::new(self.rest);
        // `Relation::decode` has validated the bytes, so this is always a column.
        let column = column(&mut reader).ok()?;
        self.rest = reader.rest();
        Some(column)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.count), Some(usize::from(self.count)))
    }
}

impl ExactSizeIterator for RelationColumns<'_> {}

impl<'a> Type<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { oid: reader.u32()?, schema: reader.name("name of a schema")?, name: reader.name("name of a type")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::{Message, decode};

    #[test]
    fn a_relation_from_the_wire_has_its_names_and_types() {
        let bytes = b"R\x00\x00\x40\x01public\0order_outbox\0d\x00\x02\
            \x01id\0\x00\x00\x0b\x86\xff\xff\xff\xff\
            \x00event_type\0\x00\x00\x04\x13\x00\x00\x00\x68";
        let Ok(Message::Relation(relation)) = decode(bytes) else { panic!("not a Relation") };
        let column = |name: &str, type_oid, type_modifier, key| ColumnSchema {
            name: name.to_owned(),
            type_oid,
            type_modifier,
            key,
        };
        let schema = relation.to_schema();
        assert_eq!((schema.oid, &*schema.schema, &*schema.name), (0x4001, "public", "order_outbox"));
        assert_eq!(schema.columns, [column("id", 2950, -1, true), column("event_type", 1043, 104, false)]);
        let mut again = Vec::new();
        schema.encode(&mut again);
        assert_eq!(again, bytes);
    }

    #[test]
    fn a_name_that_is_not_utf8_is_refused() {
        let bytes = b"Y\x00\x00\x40\x01public\0m\xffod\0";
        assert_eq!(decode(bytes), Err(DecodeError::InvalidField { field: "name of a type", at: 12 }));
    }
}
