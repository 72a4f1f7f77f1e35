//! The encoder of one source.

use super::{Failure, Poison, Records};
use crate::{
    Error,
    config::{Mapping, Mark},
    pgoutput::{RelationSchema, Tuple, Type},
};

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// It is the last row of the arena now.
    Published,
    /// Its mark column was set when it was inserted: counted and passed over.
    AlreadyMarked,
}

/// Turns the rows of one source into records.
#[derive(Debug)]
pub struct Encoder {}

#[allow(unused_variables, clippy::unused_self, clippy::needless_pass_by_value, clippy::todo, missing_docs)]
impl Encoder {
    pub fn new(mapping: &Mapping, mark: Mark, position_topic: &str) -> Result<Self, Error> {
        todo!()
    }
    pub fn learn(&mut self, r#type: &Type<'_>) {
        todo!()
    }
    pub fn bind(&mut self, relation: &RelationSchema, table: u16) -> Result<(), Error> {
        todo!()
    }
    pub fn begin(&mut self, commit_time: i64) {
        todo!()
    }
    pub fn encode(&self, relation: u32, row: &Tuple<'_>, out: &mut Records) -> Result<Encoded, Failure> {
        todo!()
    }
    pub fn marks_only(&self, relation: u32, row: &Tuple<'_>, out: &mut Records) -> Result<Encoded, Failure> {
        todo!()
    }
    pub fn event_id<'a>(&self, relation: u32, row: &Tuple<'a>) -> Option<std::borrow::Cow<'a, str>> {
        todo!()
    }
    pub fn encode_dead_letter(
        &self,
        relation: u32,
        row: &Tuple<'_>,
        poison: &Poison,
        out: &mut Records,
    ) -> Result<(), Failure> {
        todo!()
    }
    pub fn encode_dead_letter_without_payload(
        &self,
        relation: u32,
        row: &Tuple<'_>,
        poison: &Poison,
        out: &mut Records,
    ) -> Result<(), Failure> {
        todo!()
    }
}
