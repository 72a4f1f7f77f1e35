//! The SQL of `migrations/`, embedded in the binary. The files name each statement.

use crate::{Code, Error, Result};

const OUTBOX_TABLE: &str = include_str!("../../migrations/0001_outbox_table.sql");
const ROLE: &str = include_str!("../../migrations/0002_role.sql");
const PUBLICATION: &str = include_str!("../../migrations/0003_publication.sql");

/// The outbox tables of the guide that outboxd began with, for examples and tests: (table, SQL).
pub const SEED_TABLES: &[(&str, &str)] = &[
    ("user_outbox", include_str!("../../migrations/seed/user_outbox.sql")),
    ("order_outbox", include_str!("../../migrations/seed/order_outbox.sql")),
    ("logistics_outbox", include_str!("../../migrations/seed/logistics_outbox.sql")),
];

/// The statement of that name, with each `{{word}}` replaced by its value. A value must be SQL
/// already, for example a quoted name.
///
/// # Errors
/// [`Code::Internal`] when there is no such statement, or a word has no value.
pub fn statement(name: &str, words: &[(&str, &str)]) -> Result<String> {
    let template = [OUTBOX_TABLE, ROLE, PUBLICATION]
        .into_iter()
        .find_map(|file| find(file, name))
        .ok_or_else(|| Error::new(Code::Internal, format!("there is no migration statement {name}")))?;
    let mut sql = String::with_capacity(template.len());
    let mut rest = template;
    // This goes once from left to right, so nothing is replaced inside a value that holds braces.
    while let Some((before, after)) = rest.split_once("{{") {
        let (word, after) = after
            .split_once("}}")
            .ok_or_else(|| Error::new(Code::Internal, format!("an open brace in the migration {name}")))?;
        let value = words
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, value)| *value)
            .ok_or_else(|| Error::new(Code::Internal, format!("the migration {name} has no value for {word}")))?;
        sql.push_str(before);
        sql.push_str(value);
        rest = after;
    }
    sql.push_str(rest);
    Ok(sql)
}

/// The text from the statement's name to its semicolon, without the semicolon.
fn find<'a>(file: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = file.split_once(&format!("-- name: {name}\n"))?;
    after.split_once(";\n").map(|(statement, _)| statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_filled_in_once() {
        let sql =
            statement("grant-update", &[("published_at", "\"a{{role}}\""), ("table", "t"), ("role", "r")]).unwrap();
        assert_eq!(sql, "GRANT UPDATE (\"a{{role}}\") ON t TO r");
        assert!(statement("grant-update", &[("table", "t")]).is_err());
        assert!(statement("grant", &[]).is_err());
    }

    #[test]
    fn every_statement_of_the_files_can_be_found_and_ends() {
        for file in [OUTBOX_TABLE, ROLE, PUBLICATION] {
            for (_, name) in file.lines().filter_map(|line| line.split_once("-- name: ")) {
                assert!(find(file, name).is_some(), "{name}");
            }
        }
    }
}
