//! A table of keys as a person wrote them, each with its place in a file, a flag or a variable.
//! Each function that reads a key says what it allows. An error names the place, the key, what was
//! found and what is allowed.

use std::{fmt, ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use crate::{Code, Error, Result};

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A line of the file, counted from 1.
    File(Arc<Path>, usize),
    /// A flag, with its variable.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value as written, `${VARIABLE}` already replaced.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Entry>),
    Table(Section),
    /// The kind of value, and its text: a float, or a date, which no key takes.
    Other(&'static str, String),
}

impl Value {
    fn kind(&self) -> &str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind, _) => kind,
        }
    }

    /// The value as messages show it. It must not be called for a secret.
    pub(super) fn found(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Bool(bool) => bool.to_string(),
            Self::List(_) | Self::Table(_) => self.kind().to_owned(),
            Self::Other(kind, text) => format!("{kind} {text}"),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A key with its value, taken out of its section.
#[derive(Debug, Clone)]
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
    /// For example `mark in [[source]]`. A flag has no label, since its name says enough.
    label: String,
}

impl<T> Item<T> {
    /// The error that `problem` describes, at the place of the key.
    pub(super) fn refuse(&self, problem: impl fmt::Display) -> Error {
        self.refuse_as(Code::ConfigInvalid, problem)
    }

    pub(super) fn refuse_as(&self, code: Code, problem: impl fmt::Display) -> Error {
        let separator = if self.label.is_empty() { "" } else { ": " };
        Error::new(code, format!("{}: {}{separator}{problem}", self.origin, self.label))
    }

    /// Gives the place another name than key and section.
    pub(super) fn relabel(&mut self, label: &str) {
        self.label = label.to_owned();
    }

    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Item<U> {
        Item { value: map(self.value), origin: self.origin, label: self.label }
    }
}

/// A table as written.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// The title as the file has it: `[kafka]`, `[[source]]`.
    pub(super) title: String,
    /// Where it begins.
    pub(super) origin: Origin,
    /// In the order of the file.
    pub(super) entries: Vec<(String, Entry)>,
}

impl Section {
    pub(super) fn new(title: impl Into<String>, origin: Origin) -> Self {
        Self { title: title.into(), origin, entries: Vec::new() }
    }

    /// Writes a key, in place of one that is there.
    pub(super) fn put(&mut self, key: &str, value: Value, origin: Origin) {
        self.entries.retain(|(name, _)| name != key);
        self.entries.push((key.to_owned(), Entry { value, origin }));
    }

    /// Refuses every key but these.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        for (key, entry) in &self.entries {
            if known.contains(&key.as_str()) {
                continue;
            }
            let meant = match nearest(key, known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("allowed: {}", known.join(", ")),
            };
            let place = if self.title.is_empty() { "at the top level" } else { &format!("in {}", self.title) };
            let text = format!("{}: unknown key {key:?} {place}; {meant}", entry.origin);
            return Err(Error::new(Code::ConfigUnknownKey, text));
        }
        Ok(())
    }

    /// Takes a key out.
    pub(super) fn take(&mut self, key: &str) -> Option<Item<Value>> {
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        let (_, Entry { value, origin }) = self.entries.remove(index);
        let label = match &origin {
            Origin::Flag(_) => String::new(),
            Origin::File(..) if self.title.is_empty() => key.to_owned(),
            Origin::File(..) => format!("{key} in {}", self.title),
        };
        Some(Item { value, origin, label })
    }

    /// The error for a key that has to be there.
    pub(super) fn lacks(&self, key: &str) -> Error {
        Error::new(Code::ConfigInvalid, format!("{}: {} lacks the key {key:?}", self.origin, self.title))
    }

    /// A string. The error does not repeat a value of another kind, which may be a password whose
    /// quotes were forgotten.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<Item<String>>> {
        let Some(mut item) = self.take(key) else { return Ok(None) };
        match std::mem::replace(&mut item.value, Value::Bool(false)) {
            Value::Text(text) => Ok(Some(item.map(|_| text))),
            other => Err(item.refuse(format!("found {}; expected a string, in quotes", other.kind()))),
        }
    }

    /// `true` or `false`.
    pub(super) fn bool(&mut self, key: &str, default: bool) -> Result<bool> {
        let Some(item) = self.take(key) else { return Ok(default) };
        match item.value {
            Value::Bool(bool) => Ok(bool),
            ref other => Err(item.refuse(format!("found {}; allowed: true, false", other.found()))),
        }
    }

    /// One of the named values.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<Option<Item<T>>> {
        let Some(item) = self.text(key)? else { return Ok(None) };
        let chosen = choices.iter().find(|(name, _)| *name == item.value).map(|(_, value)| *value);
        match chosen {
            Some(value) => Ok(Some(item.map(|_| value))),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
                Err(item.refuse(format!("found {:?}; allowed: {}", item.value, names.join(", "))))
            }
        }
    }

    /// A number within `range`.
    pub(super) fn count(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize> {
        let Some(item) = self.take(key) else { return Ok(default) };
        if let Value::Integer(number) = item.value
            && let Ok(number) = usize::try_from(number)
            && range.contains(&number)
        {
            return Ok(number);
        }
        let (least, most) = range.into_inner();
        Err(item.refuse(format!("found {}; allowed: a number from {least} to {most}", item.value.found())))
    }

    /// Bytes within `range`: a number, or a string with KiB, MiB or GiB.
    pub(super) fn bytes(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize> {
        let Some(item) = self.take(key) else { return Ok(default) };
        let bytes = match &item.value {
            Value::Integer(number) => usize::try_from(*number).ok(),
            Value::Text(text) => parse_bytes(text),
            _ => None,
        };
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            item.refuse(format!(
                "found {}; allowed: bytes, as a number or such as \"16MiB\", from {} to {}",
                item.value.found(),
                show_bytes(*range.start()),
                show_bytes(*range.end())
            ))
        })
    }

    /// A duration within `range`, such as `"500ms"`.
    pub(super) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration> {
        let Some(item) = self.take(key) else { return Ok(default) };
        let duration = match &item.value {
            Value::Text(text) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
            item.refuse(format!(
                "found {}; allowed: a duration such as \"5s\" or \"500ms\", from {} to {}",
                item.value.found(),
                show_duration(*range.start()),
                show_duration(*range.end())
            ))
        })
    }

    /// A list of strings.
    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Item<Vec<Item<String>>>>> {
        let Some(mut item) = self.take(key) else { return Ok(None) };
        let Value::List(entries) = std::mem::replace(&mut item.value, Value::Bool(false)) else {
            return Err(item.refuse("expected a list of strings, such as [\"order_outbox\"]"));
        };
        let mut texts = Vec::with_capacity(entries.len());
        for Entry { value, origin } in entries {
            let entry = Item { value, origin, label: item.label.clone() };
            let Value::Text(text) = &entry.value else {
                return Err(entry.refuse(format!("found {}; expected a string", entry.value.found())));
            };
            let text = text.clone();
            texts.push(entry.map(|_| text));
        }
        Ok(Some(item.map(|_| texts)))
    }

    /// A table under this one. It is empty where nobody wrote it.
    pub(super) fn table(&mut self, key: &str, title: &str) -> Result<Section> {
        let Some(item) = self.take(key) else { return Ok(Section::new(title, self.origin.clone())) };
        match item.value {
            Value::Table(section) => Ok(Section { title: title.to_owned(), ..section }),
            ref other => Err(item.refuse(format!("found {}; expected the table {title}", other.found()))),
        }
    }

    /// The keys that are left, in the order of the file. Each has to be a string.
    pub(super) fn all_texts(mut self) -> Result<Vec<(String, Item<String>)>> {
        let keys: Vec<_> = self.entries.iter().map(|(key, _)| key.clone()).collect();
        let mut texts = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(text) = self.text(&key)? {
                texts.push((key, text));
            }
        }
        Ok(texts)
    }
}

/// The known key that was most likely meant.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|known| (strsim::damerau_levenshtein(key, known), *known));
    // A key that differs in more than a third of its letters resembles another only by chance.
    scored.min().filter(|(distance, near)| *distance <= 1.max(near.len().max(key.len()) / 3)).map(|(_, near)| near)
}

fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// The shortest form that `parse_bytes` reads back.
pub(super) fn show_bytes(bytes: usize) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_carry_a_unit() {
        assert_eq!(parse_bytes("16MiB"), Some(16 << 20));
        assert_eq!(parse_bytes("4 KiB"), Some(4096));
        assert_eq!(parse_bytes("512"), Some(512));
        assert_eq!(parse_bytes("1GiB"), Some(1 << 30));
        for text in ["", "MiB", "16MB", "-1", "1.5MiB", "99999999999GiB"] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
        for bytes in [1, 1000, 1024, 16 << 20, 1 << 30, (1 << 30) - 1] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes));
        }
    }

    #[test]
    fn a_key_far_from_every_known_one_is_not_guessed_at() {
        assert_eq!(nearest("topc", &["topic", "table", "tables"]), Some("topic"));
        assert_eq!(nearest("retention", &["topic", "table", "mark"]), None);
        assert_eq!(nearest("x", &["topic", "url"]), None);
    }
}
