//! A column in SQL as the text that pgoutput sends for it. The backfill and `verify` read rows with
//! this expression, so that a row gives the same text from a query as from the stream.
//!
//! pgoutput calls the output function of the column's type, and `format('%s', …)` calls the same
//! one. A cast to text does not: `bool` would give `true` for `t`, and `character(n)` would lose
//! its padding. What an output function writes also depends on `DateStyle`, `TimeZone`,
//! `IntervalStyle`, `bytea_output` and `extra_float_digits`; `ConnectOptions` sets these to the
//! same values for replication sessions and for ordinary ones.

use tokio_postgres::types::Type;

use super::{
    ColumnInfo, TableInfo,
    names::{quote_ident, quote_literal},
};
use crate::{
    Result,
    config::{Template, TemplatePart},
};

/// The text of `column` in the row that the query calls `row`. NULL gives NULL.
pub(crate) fn text_sql(row: &str, column: &ColumnInfo) -> String {
    let name = column_sql(row, &column.name);
    match Type::from_oid(column.base_type_oid) {
        // The output function of these two types gives the value itself. So does the cast, which
        // costs nothing.
        Some(Type::TEXT | Type::VARCHAR) => format!("{name}::text"),
        // `format` gives the empty text for NULL. `IS NULL` is no test for that, since it is also
        // true of a composite value whose fields are all NULL.
        _ => format!("CASE WHEN num_nulls({name}) = 0 THEN format('%s', {name}) END"),
    }
}

/// The column of this name in the row that the query calls `row`.
pub(crate) fn column_sql(row: &str, column: &str) -> String {
    format!("{row}.{}", quote_ident(column))
}

/// The name that a topic's template gives for the row that the query calls `row`. NULL where one of
/// its columns is NULL: such a row has no topic.
///
/// # Errors
/// `column-invalid`: the table lacks a column.
pub(crate) fn template_sql(row: &str, template: &Template, table: &TableInfo) -> Result<String> {
    let part = |part: &TemplatePart| match part {
        TemplatePart::Text(text) => Ok(quote_literal(text)),
        TemplatePart::Column(name) => Ok(format!("({})", text_sql(row, table.needed_column(name)?))),
        // The template of a topic never has this part.
        TemplatePart::Topic => Ok("NULL::text".to_owned()),
    };
    Ok(template.parts().iter().map(part).collect::<Result<Vec<_>>>()?.join(" || "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, base: &Type) -> ColumnInfo {
        ColumnInfo {
            name: name.to_owned(),
            attnum: 1,
            type_oid: base.oid(),
            type_modifier: -1,
            type_name: base.name().to_owned(),
            cast_name: base.name().to_owned(),
            base_type_oid: base.oid(),
            not_null: false,
            has_default: false,
            generated: None,
            part_of_partition_key: false,
        }
    }

    #[test]
    fn only_text_is_cast() {
        assert_eq!(text_sql("t", &column("note", &Type::TEXT)), r#"t."note"::text"#);
        assert_eq!(text_sql("s", &column("a\"b", &Type::VARCHAR)), r#"s."a""b"::text"#);
        for base in [Type::BOOL, Type::BPCHAR, Type::NAME, Type::CHAR, Type::BYTEA, Type::JSONB, Type::TEXT_ARRAY] {
            let expected = r#"CASE WHEN num_nulls(t."x") = 0 THEN format('%s', t."x") END"#;
            assert_eq!(text_sql("t", &column("x", &base)), expected, "{base}");
        }
    }
}
