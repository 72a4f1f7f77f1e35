//! Checks the names of the outside world, once: tables as in SQL, topics as in Kafka, slots as in
//! Postgres. Every function says what is wrong with the name. Its caller knows where the name was
//! written.

use super::TableName;

/// NAMEDATALEN - 1.
/// Source: PostgreSQL documentation, "Identifiers and Key Words".
const IDENTIFIER_BYTES: usize = 63;

/// Kafka's `Topic.MAX_NAME_LENGTH`.
pub(crate) const TOPIC_BYTES: usize = 249;

/// The topic of a row that is so broken that the template gives no name for its dead-letter topic.
pub(crate) const FALLBACK_TOPIC: &str = "outboxd.dead-letter";

/// Why Kafka does not allow a name for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IllegalTopic {
    Empty,
    /// It has more than [`TOPIC_BYTES`].
    TooLong,
    /// It is `.` or `..`, or has a character that [`topic_character`] refuses.
    Characters,
}

/// Reads `name` or `schema.name`, with quotes where SQL would want them.
///
/// SQL folds an unquoted name to lower case. A person who writes capitals without quotes more often
/// means them as they stand. So such a name is refused, and outboxd never looks for a table under
/// another name.
pub(super) fn table(text: &str) -> Result<TableName, String> {
    let (first, rest) = identifier(text.trim())?;
    let Some(rest) = rest.strip_prefix('.') else {
        return if rest.is_empty() {
            Ok(TableName { schema: None, name: first })
        } else {
            Err(format!("found {text:?}; allowed: a table as name or schema.name, quoted as in SQL where needed"))
        };
    };
    let (second, rest) = identifier(rest)?;
    if !rest.is_empty() {
        return Err(format!("found {text:?}; allowed: a table as name or schema.name, without the database"));
    }
    Ok(TableName { schema: Some(first), name: second })
}

fn identifier(text: &str) -> Result<(String, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut rest = quoted;
        loop {
            let end = rest.find('"').ok_or_else(|| format!("found {text:?}; a double quote is not closed"))?;
            name.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            // Two quotes within quotes stand for one.
            let Some(after) = rest.strip_prefix('"') else { break };
            name.push('"');
            rest = after;
        }
        return column(&name).map(|()| (name, rest));
    }
    let end = text.find(|c: char| c == '.' || c.is_whitespace() || c == '"').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let legal = |c: char| c == '_' || c == '$' || c.is_ascii_digit() || c.is_ascii_lowercase() || !c.is_ascii();
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        let lower = name.to_lowercase();
        return Err(format!("found {name:?}; write '\"{name}\"' for a table with capitals, {lower:?} for one without"));
    }
    if name.starts_with(|c: char| c.is_ascii_digit() || c == '$') || !name.chars().all(legal) {
        return Err(format!("found {name:?}; write '\"{name}\"' for a table with such characters"));
    }
    column(name).map(|()| (name.to_owned(), rest))
}

/// Checks the name of a column, which is taken verbatim.
pub(super) fn column(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > IDENTIFIER_BYTES || name.contains('\0') {
        return Err(format!("found {name:?}; allowed: a name of 1 to {IDENTIFIER_BYTES} bytes"));
    }
    Ok(())
}

/// Checks the name of a source. It is short enough for slot `outboxd_<name>` to be legal.
pub(super) fn source(name: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || name.len() > 54 || !name.bytes().all(legal) {
        return Err(format!("found {name:?}; allowed: 1 to 54 characters of a-z, 0-9 and _"));
    }
    Ok(())
}

/// Makes the name of a source out of that of a database.
pub(super) fn source_from_database(database: &str) -> String {
    let legal = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' };
    database.to_lowercase().chars().map(legal).take(54).collect()
}

/// Checks as Postgres's `ReplicationSlotValidateName` does.
pub(super) fn slot(name: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || name.len() > IDENTIFIER_BYTES || !name.bytes().all(legal) {
        return Err(format!("found {name:?}; allowed: 1 to {IDENTIFIER_BYTES} characters of a-z, 0-9 and _"));
    }
    Ok(())
}

/// Whether Kafka allows the character in a topic's name.
pub(super) fn topic_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Kafka's rules for the name of a topic.
/// Source: Kafka, `org.apache.kafka.common.internals.Topic`, `validate`.
pub(crate) fn check_topic(name: &str) -> Result<(), IllegalTopic> {
    if name.is_empty() {
        Err(IllegalTopic::Empty)
    } else if name.len() > TOPIC_BYTES {
        Err(IllegalTopic::TooLong)
    } else if name == "." || name == ".." || !name.chars().all(topic_character) {
        Err(IllegalTopic::Characters)
    } else {
        Ok(())
    }
}

/// [`check_topic`], in words.
pub(super) fn topic(name: &str) -> Result<(), String> {
    check_topic(name).map_err(|_| {
        format!("found {name:?}; allowed: 1 to {TOPIC_BYTES} characters of a-z, A-Z, 0-9, '.', '_' and '-'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: Option<&str>, name: &str) -> TableName {
        TableName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn tables_are_written_as_in_sql() {
        assert_eq!(table("order_outbox"), Ok(name(None, "order_outbox")));
        assert_eq!(table("app.order_outbox"), Ok(name(Some("app"), "order_outbox")));
        assert_eq!(table("\"My Table\""), Ok(name(None, "My Table")));
        assert_eq!(table("\"A.b\".\"c\"\"d\""), Ok(name(Some("A.b"), "c\"d")));
        for text in ["", ".", "a.", ".a", "a.b.c", "a b", "\"a", "\"\"", "1a", "a-b", "a\"b\""] {
            assert!(table(text).is_err(), "{text:?} was taken for a table");
        }
        assert_eq!(
            table("OrderOutbox").unwrap_err(),
            "found \"OrderOutbox\"; write '\"OrderOutbox\"' for a table with capitals, \"orderoutbox\" for one without"
        );
    }

    #[test]
    fn a_source_name_comes_out_of_any_database_name() {
        assert_eq!(source_from_database("Order-Service"), "order_service");
        assert_eq!(source_from_database("é"), "_");
        assert_eq!(source(&source_from_database(&"x".repeat(80))), Ok(()));
    }
}
