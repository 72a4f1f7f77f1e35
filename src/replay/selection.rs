//! What a person asked for, and what makes two requests the same. Pure.

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    Code, Error, Result,
    config::Source,
    postgres::catalog::{
        replay::Chosen,
        retention::{Micros, rfc3339},
    },
};

/// The longest name of a request. Kafka takes longer ids, and nobody should have to read them.
const NAME_BYTES: usize = 100;

/// The name of a request: 1 to 100 characters of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// A name that nobody has used.
    pub(crate) fn new() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    /// # Errors
    /// Says what is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > NAME_BYTES || !text.bytes().all(legal) {
            return Err(format!("allowed: 1 to {NAME_BYTES} characters of A-Z, a-z, 0-9, '.', '_' and '-'"));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of its record in the position topic. No source's name has a slash, so no source's
    /// position has this key.
    pub(super) fn key(&self, source: &str) -> String {
        format!("{source}/replay/{}", self.0)
    }

    /// Its transactional.id. No source's name has a hyphen, so no source has this id.
    pub(super) fn transactional_id(&self, source: &str) -> String {
        format!("outboxd-{source}-replay-{}", self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which rows go where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) ids: Vec<String>,
    pub(crate) keys: Vec<String>,
    pub(crate) types: Vec<String>,
    /// Created then or later.
    pub(crate) since: Option<Micros>,
    /// Created before then.
    pub(crate) until: Option<Micros>,
    /// Of the rows, those that went to a dead-letter topic.
    pub(crate) dead_letter: bool,
    /// Every row is meant.
    pub(crate) all: bool,
    /// The topic for all rows, in place of the usual ones.
    pub(crate) to: Option<String>,
}

/// What the hash is made of.
#[derive(Serialize)]
struct Hashed<'a> {
    ids: &'a [String],
    keys: &'a [String],
    types: &'a [String],
    since: Option<Micros>,
    until: Option<Micros>,
    dead_letter: bool,
    to: Option<&'a str>,
    /// The order of a request, with which its record names a row.
    tables: Vec<String>,
    order_by: Option<&'a str>,
}

impl Selection {
    /// The same, with each list in order and without repetitions.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`]: nothing is chosen, or `--all` beside what chooses.
    pub(crate) fn checked(mut self) -> Result<Self> {
        for list in [&mut self.ids, &mut self.keys, &mut self.types] {
            list.sort_unstable();
            list.dedup();
        }
        let narrows = !(self.ids.is_empty() && self.keys.is_empty() && self.types.is_empty())
            || self.since.is_some()
            || self.until.is_some()
            || self.dead_letter;
        let problem = match (narrows, self.all) {
            (false, false) => {
                "nothing says which rows are meant: give --id, --key, --type, --since, --until or --dead-letter, or --all"
            }
            (true, true) => "--all means every row, and something else chooses among them",
            _ => return Ok(self),
        };
        Err(Error::new(Code::ConfigInvalid, problem))
    }

    /// What the tables are asked for. `letters` are the ids of the rows that went to a dead-letter
    /// topic, where those are meant.
    pub(super) fn chosen(&self, letters: Option<Vec<String>>) -> Chosen {
        let is_asked_for = |id: &String| self.ids.is_empty() || self.ids.contains(id);
        let of_letters = letters.map(|ids| ids.into_iter().filter(is_asked_for).collect());
        Chosen {
            ids: of_letters.or_else(|| (!self.ids.is_empty()).then(|| self.ids.clone())),
            keys: self.keys.clone(),
            types: self.types.clone(),
            since: self.since,
            until: self.until,
        }
    }

    /// What tells this selection, of these tables in their order, from any other.
    #[expect(clippy::expect_used, reason = "writing plain structs with string keys to memory cannot fail")]
    pub(super) fn hash(&self, source: &Source) -> String {
        let hashed = Hashed {
            ids: &self.ids,
            keys: &self.keys,
            types: &self.types,
            since: self.since,
            until: self.until,
            dead_letter: self.dead_letter,
            to: self.to.as_deref(),
            tables: source.tables.iter().map(ToString::to_string).collect(),
            order_by: source.backfill_order_by.as_deref(),
        };
        let text = serde_json::to_vec(&hashed).expect("a selection is plain data");
        Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// As a person asked for it.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (what, list) in [("id", &self.ids), ("key", &self.keys), ("type", &self.types)] {
            match &list[..] {
                [] => {}
                [one] => parts.push(format!("{what} {one}")),
                several => parts.push(format!("{} {what}s", several.len())),
            }
        }
        parts.extend(self.since.map(|since| format!("since {}", rfc3339(since))));
        parts.extend(self.until.map(|until| format!("until {}", rfc3339(until))));
        if self.dead_letter {
            parts.push("dead letters".to_owned());
        }
        if self.all {
            parts.push("all rows".to_owned());
        }
        f.write_str(&parts.join(", "))?;
        self.to.as_ref().map_or(Ok(()), |topic| write!(f, ", to {topic}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, config::Flags};

    fn source(tables: &str) -> Source {
        let text = format!(
            "[[source]]\nname = \"shop\"\nurl = \"postgres://u@db/shop\"\ntables = [{tables}]\n[kafka]\nbrokers = \"k\"\n"
        );
        Config::from_text(&text, &Flags::default(), &|_| None).unwrap().sources.remove(0)
    }

    fn ids(ids: &[&str]) -> Selection {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        Selection { ids, ..Selection::default() }.checked().unwrap()
    }

    #[test]
    fn something_has_to_choose_and_all_is_said_as_such() {
        assert!(Selection::default().checked().is_err());
        assert!(Selection { to: Some("t".into()), ..Selection::default() }.checked().is_err());
        assert!(Selection { all: true, ..Selection::default() }.checked().is_ok());
        assert!(Selection { all: true, since: Some(1), ..Selection::default() }.checked().is_err());
    }

    #[test]
    fn where_no_row_went_to_a_dead_letter_topic_none_is_chosen() {
        let letters = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        let dead = Selection { dead_letter: true, ..Selection::default() };
        assert_eq!(dead.chosen(letters(&[])).ids, letters(&[]));
        assert_eq!(dead.chosen(letters(&["1", "2"])).ids, letters(&["1", "2"]));
        let both = Selection { dead_letter: true, ..ids(&["2", "3"]) };
        assert_eq!(both.chosen(letters(&["1", "2"])).ids, letters(&["2"]));
        assert_eq!(both.chosen(letters(&["1"])).ids, letters(&[]));
        assert_eq!(Selection { all: true, ..Selection::default() }.chosen(None).ids, None);
    }

    #[test]
    fn the_same_rows_to_the_same_topic_are_the_same_selection() {
        let shop = source("\"a\", \"b\"");
        assert_eq!(ids(&["1", "2"]).hash(&shop), ids(&["2", "1", "2"]).hash(&shop));
        assert_ne!(ids(&["1", "2"]).hash(&shop), ids(&["1"]).hash(&shop));
        assert_ne!(ids(&["1"]).hash(&shop), Selection { to: Some("t".into()), ..ids(&["1"]) }.hash(&shop));
        assert_ne!(ids(&["1"]).hash(&shop), ids(&["1"]).hash(&source("\"b\", \"a\"")));
    }

    #[test]
    fn no_source_has_the_key_or_the_id_of_a_request() {
        let name = Name::parse("2026-11.again_1").unwrap();
        assert_eq!(name.key("order"), "order/replay/2026-11.again_1");
        assert_eq!(name.transactional_id("order"), "outboxd-order-replay-2026-11.again_1");
        for illegal in ["", "a/b", "a b", "ä", &"x".repeat(101)] {
            assert!(Name::parse(illegal).is_err(), "{illegal}");
        }
        for source in ["order/replay/x", "order-replay-x"] {
            let text = format!(
                "[[source]]\nname = \"{source}\"\nurl = \"postgres://u@db/d\"\ntables = [\"t\"]\n[kafka]\nbrokers = \"k\"\n"
            );
            assert!(Config::from_text(&text, &Flags::default(), &|_| None).is_err(), "{source}");
        }
        assert!(Name::parse(Name::new().as_str()).is_ok());
    }

    #[test]
    fn a_selection_is_told_in_a_few_words() {
        let selection = Selection {
            keys: vec!["7b0e".into()],
            types: vec!["A".into(), "B".into()],
            since: Some(1_705_314_600_000_000),
            to: Some("repair".into()),
            ..Selection::default()
        };
        assert_eq!(selection.to_string(), "key 7b0e, 2 types, since 2024-01-15T10:30:00Z, to repair");
    }
}
