//! The record that stands for a row which cannot become one itself. It holds the original as far as
//! that can be read, and what was wrong.

use super::{
    binding::{Row, UsedColumn},
    draft::Draft,
    encoder::Encoder,
    envelope::names,
    event::{Attributes, Event},
    poison::{Failure, Poison},
    records::{Records, Span},
    template::{Part, check_topic, render},
};
use crate::{
    config::names::FALLBACK_TOPIC,
    pgoutput::{Column, Tuple},
};

impl Encoder {
    /// Appends the dead letter of a row that [`Encoder::encode`] or a broker found to be poison.
    /// The letter is the record that the row would have been. Where that cannot be written, it has
    /// the key, the headers and the payload column's bytes as Postgres sent them. Its timestamp is
    /// the time of sending. The headers
    /// `outboxd_error_code`, `outboxd_error` and `outboxd_topic` follow; the last is the topic that
    /// the row was meant for, or null when that is unknown.
    ///
    /// # Errors
    /// [`Failure::Protocol`] as [`Encoder::encode`]; [`Failure::Poison`] only when even this record
    /// is too large.
    pub(crate) fn encode_dead_letter(
        &self,
        relation: u32,
        row: &Tuple<'_>,
        poison: &Poison,
        out: &mut Records,
    ) -> Result<(), Failure> {
        let row = self.row(relation, row)?;
        let mut draft = self.dead_letter(&row, out);
        let whole = Event::read(&row, self.commit_time).and_then(|event| self.write(&row, &event, &mut draft));
        if whole.is_err() {
            draft.restart();
            self.write_remains(&row, &mut draft);
            let payload = match row.cell(row.binding.payload).column {
                Column::Text(bytes) | Column::Binary(bytes) => draft.put(bytes),
                Column::Null | Column::Unchanged => Span::NULL,
            };
            draft.value(payload);
        }
        self.stamp(None, row.created_at().ok().flatten(), &mut draft);
        write_error(&row, poison, &mut draft);
        Ok(draft.finish()?)
    }

    /// The same without the payload, and so without `content-type`. It serves a row that is too
    /// large for the dead-letter topic, too.
    ///
    /// # Errors
    /// As [`Self::encode_dead_letter`].
    pub(crate) fn encode_dead_letter_without_payload(
        &self,
        relation: u32,
        row: &Tuple<'_>,
        poison: &Poison,
        out: &mut Records,
    ) -> Result<(), Failure> {
        let row = self.row(relation, row)?;
        let mut draft = self.dead_letter(&row, out);
        self.write_remains(&row, &mut draft);
        self.stamp(None, row.created_at().ok().flatten(), &mut draft);
        write_error(&row, poison, &mut draft);
        Ok(draft.finish()?)
    }

    /// A draft that has its topic.
    fn dead_letter<'r>(&self, row: &Row<'_, '_>, out: &'r mut Records) -> Draft<'r> {
        let mut draft = Draft::start(out, &self.names, row.binding.table);
        let intended = intended_topic(row);
        let is_unknown = intended.is_none() && row.binding.dead_letter_topic.contains(&Part::Topic);
        let name = draft.topic_name();
        name.clear();
        let rendered = render(
            &row.binding.dead_letter_topic,
            intended.as_deref().unwrap_or_default(),
            |used| row.text(used),
            |text| name.push_str(text),
        );
        if is_unknown || rendered.is_err() || draft.topic(|name| check_topic(name, &self.position_topic)).is_err() {
            let name = draft.topic_name();
            name.clear();
            name.push_str(FALLBACK_TOPIC);
            // The fallback's name is legal as it stands here, so nothing checks it.
            let _ = draft.topic(|_| Ok(()));
        }
        draft
    }

    /// Writes id, key and headers, each as far as it can be read.
    fn write_remains(&self, row: &Row<'_, '_>, draft: &mut Draft<'_>) {
        let text = |used: UsedColumn| row.text(used).ok().flatten();
        let mut attribute = |used: Option<UsedColumn>| draft.put_text(used.and_then(text).as_deref());
        let attributes = Attributes {
            id: attribute(Some(row.binding.id)),
            event_type: attribute(row.binding.event_type),
            aggregate_type: attribute(row.binding.aggregate_type),
            aggregate_id: attribute(row.binding.aggregate_id),
        };
        draft.id(attributes.id);
        let key = Self::key(row, &attributes, draft).unwrap_or(Span::NULL);
        draft.key(key);
        self.shape.write_remaining_headers(row, &attributes, draft);
    }
}

fn write_error(row: &Row<'_, '_>, poison: &Poison, draft: &mut Draft<'_>) {
    let code = draft.put(poison.reason.as_str().as_bytes());
    draft.header(names::ERROR_CODE, code);
    let detail = draft.put(poison.detail.as_bytes());
    draft.header(names::ERROR, detail);
    let topic = draft.put_text(intended_topic(row).as_deref());
    draft.header(names::TOPIC, topic);
}

/// The topic that the row was meant for, legal or not; `None` when a column of the template is
/// NULL.
fn intended_topic(row: &Row<'_, '_>) -> Option<String> {
    let mut name = String::new();
    Encoder::render_topic(row, &mut name).ok()?;
    Some(name)
}
