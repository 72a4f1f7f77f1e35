//! Turns TOML text into [`Section`]s. Every key keeps its line, and `${VARIABLE}` is replaced in
//! every string value.

use std::{ops::Range, path::Path, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::section::{Entry, Origin, Section, Value};
use crate::{Code, Error, Result};

/// Looks up a variable of the environment.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a document. Messages call it `path`.
pub(super) fn parse(path: &Path, text: &str, env: Lookup<'_>) -> Result<Section> {
    let document = Document { path: path.into(), text, env };
    let table = DeTable::parse(text).map_err(|error| {
        let line = document.line(error.span().unwrap_or_default().start);
        // A syntax error's text may go on with an excerpt on further lines.
        let message = error.message().lines().next().unwrap_or_default().to_owned();
        Error::new(Code::ConfigInvalid, format!("{}:{line}: not valid TOML: {message}", path.display()))
    })?;
    document.section(String::new(), 1, table.get_ref())
}

struct Document<'a> {
    path: Arc<Path>,
    text: &'a str,
    env: Lookup<'a>,
}

impl Document<'_> {
    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn origin(&self, line: usize) -> Origin {
        Origin::File(self.path.clone(), line)
    }

    fn section(&self, title: String, line: usize, table: &DeTable<'_>) -> Result<Section> {
        let mut keys: Vec<_> = table.iter().collect();
        // The map sorts by name. Headers and tables have to keep the order of the file.
        keys.sort_by_key(|(key, _)| key.span().start);
        let mut section = Section::new(title, self.origin(line));
        for (key, value) in keys {
            let name = key.get_ref().to_string();
            let value = self.value(&name, value.get_ref(), key.span())?;
            section.entries.push((name, Entry { value, origin: self.origin(self.line(key.span().start)) }));
        }
        Ok(section)
    }

    fn value(&self, key: &str, value: &DeValue<'_>, span: Range<usize>) -> Result<Value> {
        let line = self.line(span.start);
        Ok(match value {
            DeValue::String(text) => Value::Text(interpolate(text, self.env).map_err(|problem| {
                Error::new(Code::ConfigInvalid, format!("{}: {key}: {problem}", self.origin(line)))
            })?),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("a number out of range", number.to_string()),
            },
            DeValue::Boolean(bool) => Value::Bool(*bool),
            DeValue::Float(number) => Value::Other("a float", number.to_string()),
            DeValue::Datetime(time) => Value::Other("a date", time.to_string()),
            DeValue::Array(entries) => {
                let entries = entries.iter().map(|entry| {
                    let value = self.value(key, entry.get_ref(), entry.span())?;
                    Ok(Entry { value, origin: self.origin(self.line(entry.span().start)) })
                });
                Value::List(entries.collect::<Result<_>>()?)
            }
            DeValue::Table(table) => Value::Table(self.section(format!("[{key}]"), line, table)?),
        })
    }
}

/// Replaces `${VARIABLE}`. `$$` is a dollar sign, and so is a `$` before any other character.
fn interpolate(text: &str, env: Lookup<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or("\"${\" without \"}\"; write \"$${\" for the characters themselves")?;
            let name = &after[..end];
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(format!("\"${{{name}}}\" does not name an environment variable"));
            }
            out.push_str(&env(name).ok_or_else(|| format!("the environment variable {name} is not set"))?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
            rest = rest.strip_prefix('$').unwrap_or(rest);
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "DB_PASSWORD").then(|| "s3cret$".to_owned())
    }

    #[test]
    fn variables_are_replaced_and_dollars_escaped() {
        assert_eq!(interpolate("a ${DB_PASSWORD} b", &env).unwrap(), "a s3cret$ b");
        assert_eq!(interpolate("$${DB_PASSWORD}", &env).unwrap(), "${DB_PASSWORD}");
        assert_eq!(interpolate("5$ and $$", &env).unwrap(), "5$ and $");
        assert_eq!(interpolate("${NOPE}", &env).unwrap_err(), "the environment variable NOPE is not set");
        assert_eq!(
            interpolate("${NOPE", &env).unwrap_err(),
            "\"${\" without \"}\"; write \"$${\" for the characters themselves"
        );
        assert_eq!(interpolate("${A-B}", &env).unwrap_err(), "\"${A-B}\" does not name an environment variable");
    }

    #[test]
    fn keys_keep_the_order_and_the_lines_of_the_file() {
        let text = "[headers]\nz = \"1\"\n\na = \"2\"\n";
        let mut document = parse(Path::new("x.toml"), text, &env).unwrap();
        let headers = document.table("headers", "[headers]").unwrap();
        let places: Vec<_> = headers.entries.iter().map(|(key, entry)| format!("{key} {}", entry.origin)).collect();
        assert_eq!(places, ["z x.toml:2", "a x.toml:4"]);
    }

    #[test]
    fn a_syntax_error_names_the_line() {
        let error = parse(Path::new("x.toml"), "a = 1\nb = \n", &env).unwrap_err();
        assert!(error.to_string().starts_with("config-invalid: x.toml:2: not valid TOML: "), "{error}");
    }
}
