//! The encoder of one source: a binding for each table, and how a row passes through its binding.

use std::{borrow::Cow, collections::HashMap};

use super::{
    binding::{Binding, Row},
    cell::{Kind, Text},
    draft::Draft,
    envelope::{Content, Shape, names},
    event::{Attributes, Event},
    poison::{Failure, Poison, PoisonReason},
    records::{HeaderNames, Records, Span},
    template::{Rendering, check_topic, only_column, render},
    times::Times,
    timestamp,
};
use crate::{
    Code, Error,
    config::{Mapping, Mark},
    pgoutput::{RelationSchema, Tuple, Type},
};

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// It is the last row of the arena now.
    Published,
    /// Its mark column was set when it was inserted. Such a row is counted and passed over.
    AlreadyMarked,
}

/// Turns the rows of one source into records.
///
/// Where `created_at` is NULL (or, for the `debezium` envelope, where the table has no such
/// column), the commit time of the row's transaction takes its place. [`Encoder::begin`] brings
/// that time, which is the same whenever the row is sent again. The backfill knows no commit time
/// and calls `begin` with the time of its snapshot.
#[derive(Debug)]
pub struct Encoder {
    pub(super) mapping: Mapping,
    mark: Mark,
    pub(super) position_topic: String,
    pub(super) shape: Shape,
    pub(super) names: HeaderNames,
    /// Kinds of types that are not built in, as the server named them.
    kinds: HashMap<u32, Kind>,
    /// Ordered by oid.
    bindings: Vec<Binding>,
    /// Microseconds since the Unix epoch.
    pub(super) commit_time: i64,
    /// Which times the brokers have refused.
    pub(crate) times: Times,
}

impl Encoder {
    /// An encoder without tables. `position_topic` is refused as a target (rule 3).
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] when an envelope of CloudEvents has a header `ce_…` whose name is
    /// not allowed.
    pub fn new(mapping: &Mapping, mark: Mark, position_topic: &str) -> Result<Self, Error> {
        let shape = Shape::new(mapping)?;
        let names = Shape::header_names(mapping);
        Ok(Self {
            mapping: mapping.clone(),
            mark,
            position_topic: position_topic.to_owned(),
            shape,
            names,
            kinds: HashMap::new(),
            bindings: Vec::new(),
            commit_time: 0,
            times: Times::default(),
        })
    }

    /// Takes a Type message, which comes before the Relation that uses the type. With it a column
    /// of a domain over jsonb serves as one of jsonb.
    pub(crate) fn learn(&mut self, r#type: &Type<'_>) {
        self.kinds.insert(r#type.oid, Kind::named(r#type));
    }

    /// Takes a Relation message of table number `table` of the source. A table that changes in
    /// mid-stream sends another one. The encoder then forgets the old binding, even if the table
    /// can no longer serve.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a column that the mapping needs is missing or has a type that
    /// cannot serve. The error names the table, the column and the configuration key.
    pub fn bind(&mut self, relation: &RelationSchema, table: u16) -> Result<(), Error> {
        let place = self.bindings.binary_search_by_key(&relation.oid, |binding| binding.oid);
        if let Ok(known) = place {
            self.bindings.remove(known);
        }
        let kind_of = |oid: u32| self.kinds.get(&oid).copied().unwrap_or_else(|| Kind::of(oid));
        let binding = Binding::new(&self.mapping, self.mark, relation, table, &kind_of)?;
        self.bindings.insert(place.unwrap_or_else(|place| place), binding);
        Ok(())
    }

    /// Whether a Relation message has bound this table.
    #[must_use]
    pub(crate) fn is_bound(&self, relation: u32) -> bool {
        self.binding(relation).is_ok()
    }

    /// `schema.table` of a bound table.
    #[must_use]
    pub(crate) fn table(&self, relation: u32) -> Option<&str> {
        self.binding(relation).ok().map(|binding| binding.label.as_str())
    }

    /// A transaction starts. `commit_time` is in microseconds since the Unix epoch.
    pub(crate) fn begin(&mut self, commit_time: i64) {
        self.commit_time = commit_time;
    }

    /// Appends the record of an inserted row.
    ///
    /// # Errors
    /// [`Failure::Poison`] when the row cannot become a record, [`Failure::Protocol`] when the row
    /// does not fit its Relation message. Nothing is left behind in `out`.
    pub fn encode(&self, relation: u32, row: &Tuple<'_>, out: &mut Records) -> Result<Encoded, Failure> {
        let row = self.row(relation, row)?;
        if row.is_marked() {
            return Ok(Encoded::AlreadyMarked);
        }
        let event = Event::read(&row, self.commit_time)?;
        let mut draft = Draft::start(out, &self.names, row.binding.table);
        self.topic(&row, &mut draft)?;
        self.write(&row, &event, &mut draft)?;
        self.stamp(Some(event.timestamp), Some(event.time), &mut draft);
        draft.finish()?;
        Ok(Encoded::Published)
    }

    /// Appends a row that is to be marked and not to be published: it was published before (rule
    /// 10).
    ///
    /// # Errors
    /// As [`Self::encode`]; the only poison is an id that is NULL or unreadable.
    pub(crate) fn marks_only(&self, relation: u32, row: &Tuple<'_>, out: &mut Records) -> Result<Encoded, Failure> {
        let row = self.row(relation, row)?;
        if row.is_marked() {
            return Ok(Encoded::AlreadyMarked);
        }
        let id = row.id()?;
        let mut draft = Draft::start(out, &self.names, row.binding.table);
        let id = draft.put_text(Some(&id));
        draft.id(id);
        draft.finish()?;
        Ok(Encoded::Published)
    }

    /// The id column's text; `None` when it is NULL or unreadable, or the table is not bound. The
    /// text is borrowed from the row, unless the row came in binary form.
    #[must_use]
    pub(crate) fn event_id<'a>(&self, relation: u32, row: &Tuple<'a>) -> Option<Cow<'a, str>> {
        Some(owned_where_printed(self.row(relation, row).ok()?.id().ok()?))
    }

    /// The event type's text; `None` when it is NULL or unreadable, or the table is not bound or has
    /// no such column.
    #[must_use]
    pub(crate) fn event_type<'a>(&self, relation: u32, row: &Tuple<'a>) -> Option<Cow<'a, str>> {
        let row = self.row(relation, row).ok()?;
        Some(owned_where_printed(row.text(row.binding.event_type?).ok()??))
    }

    pub(super) fn row<'a>(&self, relation: u32, row: &Tuple<'a>) -> Result<Row<'_, 'a>, Error> {
        Row::new(self.binding(relation)?, row)
    }

    /// Gives the record its time: `wanted`, in milliseconds since the Unix epoch, or the time of
    /// sending, as far as the brokers take it. The event's own time, in microseconds, goes into a
    /// header where it is another one.
    pub(super) fn stamp(&self, wanted: Option<i64>, own: Option<i64>, draft: &mut Draft<'_>) {
        let chosen = self.times.choose(draft.topic_text(), wanted, self.commit_time.div_euclid(1000));
        draft.timestamp(chosen);
        if own.is_none() || chosen == own.map(|micros| micros.div_euclid(1000)) {
            return;
        }
        let at = draft.position();
        // A time that RFC 3339 cannot express is no part of the header. The error names it.
        if own.is_some_and(|micros| timestamp::write_rfc3339(micros, draft.out()).is_ok()) {
            let value = draft.since(at);
            draft.header(names::EVENT_TIME, value);
        }
    }

    /// Writes id, key, value and headers.
    pub(super) fn write(&self, row: &Row<'_, '_>, event: &Event<'_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
        let attributes = event.write_attributes(draft);
        draft.id(attributes.id);
        let key = Self::key(row, &attributes, draft)?;
        draft.key(key);
        self.shape.write(Content { row, event, attributes: &attributes }, draft)
    }

    /// Writes the key, unless an attribute in the draft has the same bytes.
    pub(super) fn key(row: &Row<'_, '_>, attributes: &Attributes, draft: &mut Draft<'_>) -> Result<Span, Poison> {
        let binding = row.binding;
        if let Some(used) = only_column(&binding.key) {
            if Some(used) == binding.aggregate_id {
                return Ok(attributes.aggregate_id);
            }
            // With a template of exactly one column, NULL becomes Kafka's null.
            return Ok(draft.put_text(row.text(used)?.as_deref()));
        }
        let at = draft.position();
        let put = |text: &str| draft.out().extend_from_slice(text.as_bytes());
        match render(&binding.key, "", |used| row.text(used), put) {
            Ok(()) => Ok(draft.since(at)),
            Err(Rendering::Poison(poison)) => Err(poison),
            Err(Rendering::Null(used)) => {
                Err(row.cell(used).poison(PoisonReason::NullKeyColumn, "of the key template is NULL"))
            }
        }
    }

    fn topic(&self, row: &Row<'_, '_>, draft: &mut Draft<'_>) -> Result<(), Poison> {
        let name = draft.topic_name();
        name.clear();
        Self::render_topic(row, name)?;
        draft.topic(|name| check_topic(name, &self.position_topic))
    }

    pub(super) fn render_topic(row: &Row<'_, '_>, name: &mut String) -> Result<(), Poison> {
        match render(&row.binding.topic, "", |used| row.text(used), |text| name.push_str(text)) {
            Ok(()) => Ok(()),
            Err(Rendering::Poison(poison)) => Err(poison),
            Err(Rendering::Null(used)) => {
                Err(row.cell(used).poison(PoisonReason::NullTopicColumn, "of the topic template is NULL"))
            }
        }
    }

    fn binding(&self, relation: u32) -> Result<&Binding, Error> {
        let unbound = |_| {
            let message = format!("a row of relation {relation}, which no Relation message has described");
            Error::new(Code::PostgresProtocol, message)
        };
        let place = self.bindings.binary_search_by_key(&relation, |binding| binding.oid).map_err(unbound)?;
        Ok(&self.bindings[place])
    }
}

/// The text, borrowed from its row where the row came in text form.
fn owned_where_printed(text: Text<'_>) -> Cow<'_, str> {
    match text {
        Text::Borrowed(text) => Cow::Borrowed(text),
        printed @ Text::Printed(..) => Cow::Owned(printed.to_string()),
    }
}
