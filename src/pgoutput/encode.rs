//! Writes messages as the server would send them. Only tests use it.

use super::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, OldRow, Origin, Relation, RelationSchema, Truncate, Tuple,
    TupleWriter, Type, Update, read::POSTGRES_EPOCH_MICROS,
};

/// Appends a name and the zero byte that ends it. The tests' names hold no zero byte.
fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

fn put_timestamp(out: &mut Vec<u8>, since_unix_epoch: i64) {
    out.extend_from_slice(&(since_unix_epoch - POSTGRES_EPOCH_MICROS).to_be_bytes());
}

impl Message<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Begin(message) => message.encode(out),
            Self::Commit(message) => message.encode(out),
            Self::Origin(message) => message.encode(out),
            Self::Relation(message) => message.encode(out),
            Self::Type(message) => message.encode(out),
            Self::Insert(message) => message.encode(out),
            Self::Update(message) => message.encode(out),
            Self::Delete(message) => message.encode(out),
            Self::Truncate(message) => message.encode(out),
            Self::Logical(message) => message.encode(out),
        }
    }
}

impl Begin {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'B');
        out.extend_from_slice(&self.final_lsn.0.to_be_bytes());
        put_timestamp(out, self.commit_time);
        out.extend_from_slice(&self.xid.to_be_bytes());
    }
}

impl Commit {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"C\0");
        out.extend_from_slice(&self.commit_lsn.0.to_be_bytes());
        out.extend_from_slice(&self.end_lsn.0.to_be_bytes());
        put_timestamp(out, self.commit_time);
    }
}

impl Origin<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'O');
        out.extend_from_slice(&self.commit_lsn.0.to_be_bytes());
        put_name(out, self.name);
    }
}

impl Relation<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.to_schema().encode(out);
    }
}

impl RelationSchema {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'R');
        out.extend_from_slice(&self.oid.to_be_bytes());
        put_name(out, &self.schema);
        put_name(out, &self.name);
        out.push(self.replica_identity);
        out.extend_from_slice(&i16::try_from(self.columns.len()).unwrap().to_be_bytes());
        for column in &self.columns {
            out.push(u8::from(column.key));
            put_name(out, &column.name);
            out.extend_from_slice(&column.type_oid.to_be_bytes());
            out.extend_from_slice(&column.type_modifier.to_be_bytes());
        }
    }
}

impl Type<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'Y');
        out.extend_from_slice(&self.oid.to_be_bytes());
        put_name(out, self.schema);
        put_name(out, self.name);
    }
}

impl Insert<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'I');
        out.extend_from_slice(&self.relation.to_be_bytes());
        out.push(b'N');
        self.row.encode(out);
    }
}

impl OldRow<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, tuple) = match self {
            Self::None => return,
            Self::Key(tuple) => (b'K', tuple),
            Self::Full(tuple) => (b'O', tuple),
        };
        out.push(kind);
        tuple.encode(out);
    }
}

impl Update<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'U');
        out.extend_from_slice(&self.relation.to_be_bytes());
        self.old.encode(out);
        out.push(b'N');
        self.new.encode(out);
    }
}

impl Delete<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'D');
        out.extend_from_slice(&self.relation.to_be_bytes());
        self.old.encode(out);
    }
}

impl Truncate<'_> {
    pub(super) fn relations(&self) -> impl Iterator<Item = u32> {
        self.oids.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let relations: Vec<u32> = self.relations().collect();
        Self::encode_relations(self.cascade, self.restart_identity, &relations, out);
    }

    pub(super) fn encode_relations(cascade: bool, restart_identity: bool, relations: &[u32], out: &mut Vec<u8>) {
        out.push(b'T');
        out.extend_from_slice(&i32::try_from(relations.len()).unwrap().to_be_bytes());
        out.push(u8::from(cascade) | u8::from(restart_identity) << 1);
        for oid in relations {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    }
}

impl LogicalMessage<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(b'M');
        out.push(u8::from(self.transactional));
        out.extend_from_slice(&self.lsn.0.to_be_bytes());
        put_name(out, self.prefix);
        out.extend_from_slice(&i32::try_from(self.content.len()).unwrap().to_be_bytes());
        out.extend_from_slice(self.content);
    }
}

impl Tuple<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(self.values);
    }
}

impl TupleWriter {
    /// The next column has this binary form.
    pub(crate) fn binary(&mut self, out: &mut Vec<u8>, value: &[u8]) {
        self.put(out, b'b', value);
    }
}
