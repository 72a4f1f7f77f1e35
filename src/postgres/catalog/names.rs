//! Names and texts inside SQL. These functions alone put names into a statement that cannot take
//! them as parameters (DDL, FROM, grants).

use crate::config::TableName;

/// `name` as an SQL identifier. It is always quoted, so reserved words and upper-case letters need
/// no care. Source: PostgreSQL documentation, "Identifiers and Key Words".
#[must_use]
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as an SQL string constant. It means the same whatever `standard_conforming_strings` says.
/// Source: PostgreSQL documentation, "String Constants with C-Style Escapes".
#[must_use]
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// `schema.name`, both quoted.
#[must_use]
pub(crate) fn quote_qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// A configured table as SQL, quoted. Without a schema the session's search_path decides.
#[must_use]
pub(crate) fn quote_table(table: &TableName) -> String {
    table.schema.as_ref().map_or_else(|| quote_ident(&table.name), |schema| quote_qualified(schema, &table.name))
}

/// A configured table as a person writes it: `name` or `schema.name`.
#[must_use]
pub(crate) fn display_table(table: &TableName) -> String {
    table.schema.as_ref().map_or_else(|| table.name.clone(), |schema| format!("{schema}.{}", table.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_name_stays_in_the_name() {
        assert_eq!(quote_ident("order_outbox"), r#""order_outbox""#);
        assert_eq!(quote_ident("Select"), r#""Select""#);
        assert_eq!(quote_ident(r#"a"; DROP TABLE b; --"#), r#""a""; DROP TABLE b; --""#);
        assert_eq!(quote_qualified("a.b", "c"), r#""a.b"."c""#);
    }

    #[test]
    fn a_quote_or_backslash_in_a_text_stays_in_the_text() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(quote_literal(""), "''");
    }
}
