//! One row while it is written into the arena. A draft that is dropped before it is finished leaves
//! nothing behind. So nobody has to clean up after a row that turns out to be poison half-way.

use super::{
    poison::{Poison, PoisonReason},
    records::{Header, HeaderNames, RECORD_MAX_BYTES, Records, Row, Span},
};

/// A row that is not yet in the arena.
pub(super) struct Draft<'r> {
    records: &'r mut Records,
    row: Row,
    finished: bool,
}

impl<'r> Draft<'r> {
    /// Starts a row of table number `table` whose headers have these names.
    pub(super) fn start(records: &'r mut Records, names: &HeaderNames, table: u16) -> Self {
        let row = Row {
            start: records.bytes.len(),
            first_header: records.headers.len(),
            timestamp: None,
            partition: None,
            key: Span::NULL,
            value: Span::NULL,
            id: Span::NULL,
            topic: None,
            names: records.header_names(names),
            table,
        };
        Self { records, row, finished: false }
    }

    /// The buffer. The caller writes at its end and leaves what lies before as it is.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.records.bytes
    }

    /// Bytes written so far.
    pub(super) fn position(&self) -> usize {
        self.records.bytes.len() - self.row.start
    }

    /// What was written since `position`.
    pub(super) fn since(&self, position: usize) -> Span {
        Span::new(position, self.position())
    }

    /// Writes `bytes` and tells where.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Span {
        let at = self.position();
        self.records.bytes.extend_from_slice(bytes);
        self.since(at)
    }

    /// Writes `text`, or nothing for NULL, and tells where.
    pub(super) fn put_text(&mut self, text: Option<&str>) -> Span {
        text.map_or(Span::NULL, |text| self.put(text.as_bytes()))
    }

    pub(super) fn id(&mut self, id: Span) {
        self.row.id = id;
    }

    pub(super) fn key(&mut self, key: Span) {
        self.row.key = key;
    }

    pub(super) fn value(&mut self, value: Span) {
        self.row.value = value;
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn timestamp(&mut self, timestamp: Option<i64>) {
        self.row.timestamp = timestamp;
    }

    /// The name of the row's topic, which was set last.
    pub(super) fn topic_text(&self) -> &str {
        &self.records.topics.draft
    }

    pub(super) fn header(&mut self, name: u16, value: Span) {
        self.records.headers.push(Header { name, value });
    }

    /// Takes back everything but the topic and the timestamp.
    pub(super) fn restart(&mut self) {
        self.records.bytes.truncate(self.row.start);
        self.records.headers.truncate(self.row.first_header);
        (self.row.key, self.row.value, self.row.id) = (Span::NULL, Span::NULL, Span::NULL);
    }

    /// Where the caller puts the topic's name together; [`Self::topic`] takes it from there.
    pub(super) fn topic_name(&mut self) -> &mut String {
        &mut self.records.topics.draft
    }

    /// Takes the name in `topic_name` as the row's topic. It calls `check` only for a name that is
    /// new to the arena.
    pub(super) fn topic(&mut self, check: impl FnOnce(&str) -> Result<(), Poison>) -> Result<(), Poison> {
        let topics = &mut self.records.topics;
        let known = topics.find();
        let number = if let Some(number) = known {
            number
        } else {
            check(&topics.draft)?;
            topics.intern()
        };
        self.row.topic = Some(number);
        Ok(())
    }

    /// The row is in the arena from here on.
    pub(super) fn finish(mut self) -> Result<(), Poison> {
        let bytes = self.position();
        if bytes > RECORD_MAX_BYTES {
            let detail = format!("the record has {bytes} bytes; Kafka takes at most {RECORD_MAX_BYTES}");
            return Err(Poison::new(PoisonReason::TooLarge, detail));
        }
        if let Some(topic) = self.row.topic {
            self.records.topics.count(topic);
        }
        self.records.rows.push(self.row);
        self.finished = true;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.restart();
        }
    }
}
