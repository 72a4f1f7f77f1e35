//! Makes an event of a row: the encoder of the relay, and what the source does with a row that
//! cannot become a record.

use super::event::{Event, Fate, Place};
use crate::{
    Code, Error, Result,
    config::{Mark, OnPoison, Source},
    outbox::{Encoded, Encoder, Failure, Poison, PoisonReason, Records},
    pgoutput::{RelationSchema, Tuple, Type},
};

/// What is kept of the memory of the largest record so far.
const KEPT_BYTES: usize = 1 << 20;

/// Encodes the rows of one source, one at a time.
pub(super) struct Rows {
    source: String,
    on_poison: OnPoison,
    mark: Mark,
    encoder: Encoder,
    records: Records,
}

/// A row of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// Oid of its table.
    pub(super) relation: u32,
    pub(super) tuple: Tuple<'a>,
    pub(super) place: Option<Place>,
}

impl Rows {
    /// For these tables, in the order of the configuration.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a column that the mapping needs is missing or cannot serve.
    pub(super) fn new(source: &Source, position_topic: &str, tables: &[RelationSchema]) -> Result<Self> {
        let mut rows = Self {
            source: source.name.clone(),
            on_poison: source.on_poison,
            mark: source.mark,
            encoder: Encoder::new(&source.mapping, source.mark, position_topic)?,
            records: Records::new(),
        };
        (0..).zip(tables).try_for_each(|(number, table)| rows.bind(table, number))?;
        Ok(rows)
    }

    /// As [`Encoder::bind`].
    ///
    /// # Errors
    /// As [`Encoder::bind`].
    pub(super) fn bind(&mut self, table: &RelationSchema, number: u16) -> Result<()> {
        self.encoder.bind(table, number)
    }

    /// As [`Encoder::learn`].
    pub(super) fn learn(&mut self, r#type: &Type<'_>) {
        self.encoder.learn(r#type);
    }

    /// A transaction starts. `commit_time` is in microseconds since the Unix epoch.
    pub(super) fn begin(&mut self, commit_time: i64) {
        self.encoder.begin(commit_time);
    }

    /// What becomes of the row. `None` when nothing would be sent: its mark is set already, or its
    /// table is none of the source's.
    ///
    /// # Errors
    /// The row is not one of the table that was described.
    pub(super) fn event<'a>(&'a mut self, row: Row<'a>) -> Result<Option<Event<'a>>> {
        self.records.clear();
        self.records.shrink_to(KEPT_BYTES);
        if !self.encoder.is_bound(row.relation) {
            return Ok(None);
        }
        let fate = match self.encoder.encode(row.relation, &row.tuple, &mut self.records) {
            Ok(Encoded::AlreadyMarked) => return Ok(None),
            Ok(Encoded::Published) => Fate::Sent,
            Err(Failure::Poison(poison)) => self.append_letter(row, poison)?,
            Err(Failure::Protocol(error)) => return Err(error),
        };
        let this: &'a Self = self;
        let record = this.records.last();
        let record = record.ok_or_else(|| Error::new(Code::Internal, "a row was encoded and left no record"))?;
        Ok(Some(Event {
            source: &this.source,
            table: this.encoder.table(row.relation).unwrap_or_default(),
            place: row.place,
            event_type: this.encoder.event_type(row.relation, &row.tuple),
            record,
            fate,
        }))
    }

    /// Appends the dead letter of a row. Where the row stops the source, the letter still tells its
    /// key and the topic that it was meant for.
    fn append_letter(&mut self, row: Row<'_>, poison: Poison) -> Result<Fate> {
        let Row { relation, tuple, .. } = row;
        let (encoder, records) = (&self.encoder, &mut self.records);
        let id = encoder.event_id(relation, &tuple).unwrap_or_default();
        let about = format!("event {id:?} of {}", encoder.table(relation).unwrap_or_default());
        let too_large = match encoder.encode_dead_letter(relation, &tuple, &poison, records) {
            Ok(()) => None,
            Err(Failure::Protocol(error)) => return Err(error),
            Err(Failure::Poison(too_large)) => {
                let letter = encoder.encode_dead_letter_without_payload(relation, &tuple, &poison, records);
                letter.map_err(|failure| {
                    Error::new(Code::DeadLetterRefused, format!("{about}: no dead letter fits: {failure}"))
                })?;
                Some(too_large)
            }
        };
        Ok(match (self.on_poison, too_large) {
            (OnPoison::Stop, _) => {
                let code = if poison.reason == PoisonReason::TooLarge { Code::RowTooLarge } else { Code::RowInvalid };
                Fate::Stops(Error::new(code, format!("{about}: {poison}")))
            }
            (OnPoison::DeadLetter, Some(too_large)) if self.mark == Mark::Delete => {
                let text = format!(
                    "{about}: its dead letter is refused, and mark = \"delete\" would leave its content nowhere: \
                     {too_large}"
                );
                Fate::Stops(Error::new(Code::DeadLetterRefused, text))
            }
            (OnPoison::DeadLetter, _) => Fate::DeadLetter(poison),
        })
    }
}

/// Events for the tests of what is done with them.
#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use crate::{
        Config, Lsn,
        config::Flags,
        pgoutput::{ColumnSchema, TupleWriter},
    };

    const OID: u32 = 16_385;

    /// 2024-01-15 10:30:01.25 UTC in microseconds.
    const COMMIT_TIME: i64 = 1_705_314_601_250_000;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::tail) enum Sample {
        Plain,
        /// NULL wherever it may be.
        Bare,
        DeadLetter,
        Stops,
        /// It came with its mark.
        Marked,
        /// Its payload has characters that do something to a terminal.
        Hostile,
        /// Its payload has line breaks.
        Pretty,
        /// A row that waits.
        Waiting,
    }

    /// Calls `look` with the event of a sample.
    pub(in crate::tail) fn with<T>(sample: Sample, look: impl FnOnce(&Event<'_>) -> T) -> T {
        made(sample, |event| look(event.unwrap()))
    }

    /// The same where the sample may have no event.
    pub(in crate::tail) fn made<T>(sample: Sample, look: impl FnOnce(Option<&Event<'_>>) -> T) -> T {
        let lines = match sample {
            Sample::DeadLetter => "on_poison = \"dead-letter\"\ndead_letter_topic = \"letters\"\n",
            Sample::Hostile | Sample::Bare => "envelope = \"payload\"\n",
            _ => "",
        };
        let config = format!(
            "[[source]]\nname = \"shop\"\nurl = \"postgres://u@db/shop\"\ntables = [\"order_outbox\"]\n{lines}\
             [kafka]\nbrokers = \"k\"\n"
        );
        let config = Config::from_text(&config, &Flags::default(), &|_| None).unwrap();
        let mut rows = Rows::new(&config.sources[0], "positions", &[table(sample)]).unwrap();
        rows.begin(COMMIT_TIME);
        let (mut bytes, values) = (Vec::new(), values(sample));
        let range = TupleWriter::new().row(&mut bytes, values.iter().map(|value| value.map(str::as_bytes)));
        let place = Some(Place { lsn: Lsn(0x16_B374_D848), xid: 771 }).filter(|_| sample != Sample::Waiting);
        let row = Row { relation: OID, tuple: Tuple::parse(&bytes[range]).unwrap(), place };
        look(rows.event(row).unwrap().as_ref())
    }

    fn table(sample: Sample) -> RelationSchema {
        let payload = match sample {
            Sample::Hostile => 25,
            Sample::Pretty => 114,
            _ => 3802,
        };
        let columns = [
            ("id", 25),
            ("aggregate_type", 25),
            ("aggregate_id", 25),
            ("event_type", 25),
            ("payload", payload),
            ("created_at", 1114),
            ("published_at", 1114),
        ];
        let column = |(name, type_oid): (&str, u32)| ColumnSchema {
            name: name.into(),
            type_oid,
            type_modifier: -1,
            key: name == "id",
        };
        RelationSchema {
            oid: OID,
            schema: "public".into(),
            name: "order_outbox".into(),
            replica_identity: b'd',
            columns: columns.into_iter().map(column).collect(),
        }
    }

    fn values(sample: Sample) -> [Option<&'static str>; 7] {
        let created_at = Some("2024-01-15 10:30:00.125");
        let payload = "{\"total\": 1500.00}";
        match sample {
            Sample::Plain | Sample::Waiting => {
                [Some("e1"), Some("order"), Some("7b0e"), Some("OrderCreated"), Some(payload), created_at, None]
            }
            Sample::Bare => [Some("e1"), Some("order"), None, None, None, None, None],
            Sample::DeadLetter | Sample::Stops => {
                [Some("e1"), Some("a/b"), Some("7b0e"), Some("OrderCreated"), Some(payload), created_at, None]
            }
            Sample::Marked => {
                [Some("e1"), Some("order"), Some("7b0e"), Some("OrderCreated"), Some(payload), created_at, created_at]
            }
            Sample::Hostile => {
                let payload = "a\u{1b}[2J\u{9b}2J\tb\nc\\";
                [Some("e1"), Some("order"), Some("7b\u{7}0e"), Some("OrderCreated"), Some(payload), created_at, None]
            }
            Sample::Pretty => {
                let payload = "{\n  \"total\":\r\n 1500.00, \"text\": \"a\\nb\"}";
                [Some("e1"), Some("order"), Some("7b0e"), Some("OrderCreated"), Some(payload), created_at, None]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{Sample, made, with};
    use super::*;

    #[test]
    fn a_row_is_its_record_and_one_that_is_marked_already_is_nothing() {
        with(Sample::Plain, |event| {
            assert!(matches!(event.fate, Fate::Sent));
            assert_eq!((event.source, event.table), ("shop", "public.order_outbox"));
            assert_eq!((event.topic(), event.record.key), (Some("order.events"), Some(&b"7b0e"[..])));
            assert_eq!(event.event_type.as_deref(), Some("OrderCreated"));
            assert_eq!(event.record.timestamp, Some(1_705_314_600_125));
        });
        assert!(made(Sample::Marked, |event| event.is_none()));
    }

    #[test]
    fn a_row_that_cannot_become_a_record_stops_the_source_or_is_a_dead_letter() {
        with(Sample::Stops, |event| {
            let Fate::Stops(error) = &event.fate else { panic!("{event:?}") };
            assert_eq!(error.code(), Code::RowInvalid);
            assert!(error.detail().starts_with("event \"e1\" of public.order_outbox: topic-invalid: "), "{error}");
            assert_eq!(event.topic(), Some("a/b.events"));
        });
        with(Sample::DeadLetter, |event| {
            let Fate::DeadLetter(poison) = &event.fate else { panic!("{event:?}") };
            assert_eq!(poison.reason, PoisonReason::TopicInvalid);
            assert_eq!((event.topic(), event.meant_for()), (Some("letters"), Some("a/b.events")));
        });
    }
}
