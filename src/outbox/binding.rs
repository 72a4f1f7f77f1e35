//! Which column of a table is the id, the payload, a part of the topic. Each is looked up by name
//! once for each Relation message, so a row is read by number.

use super::{
    cell::{Cell, Kind, Payload, Text},
    poison::{Poison, PoisonReason},
    template::Part,
};
use crate::{
    Code, Error,
    config::{Columns, Envelope, Mapping, Mark, Template, TemplatePart},
    pgoutput::{Column, RelationSchema, Tuple},
};

/// A column that the mapping uses, by its number among those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UsedColumn(u16);

/// A row keeps this many used columns at hand, and finds those beyond by walking the tuple. A
/// mapping with the seven columns, a few headers and one or two templates uses fewer.
const AT_HAND: usize = 16;

const NOT_USED: u16 = u16::MAX;

/// One table's columns, bound to what they are for.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) oid: u32,
    /// Index of the table in the source's `tables`.
    pub(super) table: u16,
    /// `schema.table`, for messages.
    pub(super) label: String,
    columns: Vec<BoundColumn>,
    /// For each column of the table its number among the used ones, or [`NOT_USED`].
    used: Vec<u16>,
    pub(super) id: UsedColumn,
    pub(super) payload: UsedColumn,
    /// The `debezium` envelope does not use these three: there they are `None`.
    pub(super) event_type: Option<UsedColumn>,
    pub(super) aggregate_type: Option<UsedColumn>,
    pub(super) aggregate_id: Option<UsedColumn>,
    created_at: Option<UsedColumn>,
    mark: Option<UsedColumn>,
    pub(super) topic: Vec<Part>,
    pub(super) key: Vec<Part>,
    pub(super) dead_letter_topic: Vec<Part>,
    /// The columns of the extra headers, in configuration order.
    pub(super) extras: Vec<UsedColumn>,
}

#[derive(Debug)]
struct BoundColumn {
    name: Box<str>,
    ordinal: usize,
    kind: Kind,
}

/// One row, whose values are read by [`UsedColumn`].
#[derive(Debug)]
pub(super) struct Row<'b, 'a> {
    pub(super) binding: &'b Binding,
    at_hand: [Column<'a>; AT_HAND],
    tuple: Tuple<'a>,
}

/// Looks columns up by name, and numbers those that are used.
struct Binder<'s> {
    relation: &'s RelationSchema,
    label: String,
    kind_of: &'s dyn Fn(u32) -> Kind,
    columns: Vec<BoundColumn>,
}

impl Binding {
    /// Binds a table as the server describes it. `kind_of` tells the kind of a type by its oid.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a column that the mapping needs is missing or has a type that
    /// cannot serve.
    pub(super) fn new(
        mapping: &Mapping,
        mark: Mark,
        relation: &RelationSchema,
        table: u16,
        kind_of: &dyn Fn(u32) -> Kind,
    ) -> Result<Self, Error> {
        let label = format!("{}.{}", relation.schema, relation.name);
        let mut binder = Binder { relation, label, kind_of, columns: Vec::new() };
        let Columns { id, aggregate_type, aggregate_id, event_type, payload, created_at, published_at } =
            &mapping.columns;
        // The Event Router's envelope reads no type, and by default its table has no timestamp.
        let router = matches!(mapping.envelope, Envelope::Debezium(_));
        let id = binder.scalar(id, "columns.id")?;
        let payload = binder.payload(payload)?;
        let mut attribute = |name: &str, key: &str| {
            if router { Ok(None) } else { binder.scalar(name, key).map(Some) }
        };
        let event_type = attribute(event_type, "columns.event_type")?;
        let aggregate_type = attribute(aggregate_type, "columns.aggregate_type")?;
        let aggregate_id = attribute(aggregate_id, "columns.aggregate_id")?;
        let created_at = binder.created_at(created_at, router)?;
        let mark = if mark == Mark::Update { Some(binder.column(published_at, "columns.published_at")?) } else { None };
        let topic = binder.template(&mapping.topic, "topic")?;
        let key = binder.template(&mapping.key, "key")?;
        let dead_letter_topic = binder.template(&mapping.dead_letter_topic, "dead_letter_topic")?;
        let header = |(header, column): &(String, String)| binder.column(column, &format!("headers.{header}"));
        let extras = mapping.headers.iter().map(header).collect::<Result<_, _>>()?;
        let mut used = vec![NOT_USED; relation.columns.len()];
        for (number, column) in (0..NOT_USED).zip(&binder.columns) {
            used[column.ordinal] = number;
        }
        Ok(Self {
            oid: relation.oid,
            table,
            label: binder.label,
            columns: binder.columns,
            used,
            id,
            payload,
            event_type,
            aggregate_type,
            aggregate_id,
            created_at,
            mark,
            topic,
            key,
            dead_letter_topic,
            extras,
        })
    }
}

impl Binder<'_> {
    /// Finds a column by name. `key` is the configuration key that names the column.
    fn column(&mut self, name: &str, key: &str) -> Result<UsedColumn, Error> {
        if let Some(known) = self.columns.iter().position(|column| &*column.name == name) {
            return Ok(used_column(known));
        }
        let Some(ordinal) = self.relation.columns.iter().position(|column| column.name == name) else {
            let message = format!(
                "table {} has no column {name:?}, which `{key}` of the source names: add it or name another",
                self.label
            );
            return Err(Error::new(Code::ColumnInvalid, message));
        };
        let kind = (self.kind_of)(self.relation.columns[ordinal].type_oid);
        self.columns.push(BoundColumn { name: name.into(), ordinal, kind });
        Ok(used_column(self.columns.len() - 1))
    }

    /// A column whose text can be an id, a name or a key.
    fn scalar(&mut self, name: &str, key: &str) -> Result<UsedColumn, Error> {
        let used = self.column(name, key)?;
        if self.kind(used).is_document() {
            return Err(self.unusable(used, key, "a scalar such as uuid, text or bigint"));
        }
        Ok(used)
    }

    fn payload(&mut self, name: &str) -> Result<UsedColumn, Error> {
        let used = self.column(name, "columns.payload")?;
        if !self.kind(used).is_payload() {
            return Err(self.unusable(used, "columns.payload", "jsonb, json, text, varchar or bytea"));
        }
        Ok(used)
    }

    fn created_at(&mut self, name: &str, optional: bool) -> Result<Option<UsedColumn>, Error> {
        if optional && self.relation.columns.iter().all(|column| column.name != name) {
            return Ok(None);
        }
        let used = self.column(name, "columns.created_at")?;
        if !self.kind(used).is_timestamp() {
            return Err(self.unusable(used, "columns.created_at", "timestamp or timestamptz"));
        }
        Ok(Some(used))
    }

    fn template(&mut self, template: &Template, key: &str) -> Result<Vec<Part>, Error> {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => Ok(Part::Text(text.as_str().into())),
            TemplatePart::Column(name) => Ok(Part::Column(self.column(name, key)?)),
            TemplatePart::Topic => Ok(Part::Topic),
        };
        template.parts().iter().map(part).collect()
    }

    fn kind(&self, used: UsedColumn) -> Kind {
        self.columns.get(usize::from(used.0)).map_or(Kind::Other, |column| column.kind)
    }

    fn unusable(&self, used: UsedColumn, key: &str, usable: &str) -> Error {
        let name = self.columns.get(usize::from(used.0)).map_or("", |column| &column.name);
        let column = self.relation.columns.iter().find(|column| column.name == name);
        let type_oid = column.map_or(0, |column| column.type_oid);
        let message = format!(
            "column {name:?} of table {}, which `{key}` of the source names, has the type with oid {type_oid}; it must be \
             {usable}",
            self.label
        );
        Error::new(Code::ColumnInvalid, message)
    }
}

/// A table has at most 1,600 columns.
fn used_column(index: usize) -> UsedColumn {
    UsedColumn(u16::try_from(index).unwrap_or(NOT_USED))
}

impl<'b, 'a> Row<'b, 'a> {
    /// Reads a row of the bound table.
    ///
    /// # Errors
    /// [`Code::PostgresProtocol`] when the number of columns differs from the Relation message.
    pub(super) fn new(binding: &'b Binding, tuple: &Tuple<'a>) -> Result<Self, Error> {
        if tuple.len() != binding.used.len() {
            let (has, described) = (tuple.len(), binding.used.len());
            let message = format!("a row of table {} has {has} columns, not the {described} described", binding.label);
            return Err(Error::new(Code::PostgresProtocol, message));
        }
        let mut at_hand = [Column::Null; AT_HAND];
        for (column, number) in tuple.iter().zip(&binding.used) {
            if let Some(place) = at_hand.get_mut(usize::from(*number)) {
                *place = column;
            }
        }
        Ok(Self { binding, at_hand, tuple: *tuple })
    }

    pub(super) fn cell(&self, used: UsedColumn) -> Cell<'b, 'a> {
        // The binder gave the number out as an index into `columns`.
        let column = &self.binding.columns[usize::from(used.0)];
        let at_hand = self.at_hand.get(usize::from(used.0)).copied();
        let value = at_hand.or_else(|| self.tuple.get(column.ordinal)).unwrap_or(Column::Null);
        Cell { name: &column.name, kind: column.kind, column: value }
    }

    /// A column's text; `None` is NULL.
    pub(super) fn text(&self, used: UsedColumn) -> Result<Option<Text<'a>>, Poison> {
        self.cell(used).text()
    }

    /// The id column's text.
    pub(super) fn id(&self) -> Result<Text<'a>, Poison> {
        let cell = self.cell(self.binding.id);
        cell.text()?.ok_or_else(|| cell.poison(PoisonReason::NullId, "is NULL: the event has no id"))
    }

    pub(super) fn payload(&self) -> Result<Payload<'a>, Poison> {
        self.cell(self.binding.payload).payload()
    }

    /// When the event was created, in microseconds since the Unix epoch; `None` when the row does
    /// not say.
    pub(super) fn created_at(&self) -> Result<Option<i64>, Poison> {
        self.binding.created_at.map_or(Ok(None), |used| self.cell(used).timestamp())
    }

    /// Whether the row was inserted with its mark set.
    pub(super) fn is_marked(&self) -> bool {
        self.binding.mark.is_some_and(|used| !self.cell(used).is_null())
    }
}
