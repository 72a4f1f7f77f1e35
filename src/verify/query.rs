//! The SQL that reads rows. It reads each row's id, the topic that it is meant for, what it is
//! ordered by, and its mark.

use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use super::{
    entry::{NO_TOPIC, OrderValue, RowEntry, order_value},
    id,
    routes::TopicNumbers,
};
use crate::{
    Code, Error, Result,
    config::{Mark, Source},
    postgres::catalog::{
        ColumnInfo, TableInfo,
        output::{column_sql, template_sql, text_sql},
    },
};

/// Microseconds from 1970 to 2000, where Postgres counts from.
const EPOCH: i64 = 946_684_800_000_000;

/// How the rows of one table are read.
#[derive(Debug)]
pub(super) struct RowQuery {
    source: u16,
    table: u16,
    mark: Mark,
    select: String,
    /// Of the table's rows, those that the publication sends.
    filter: String,
    /// Of these, those that are young enough.
    since: String,
    /// The condition for certain ids, which are parameter 1.
    chosen: String,
    id: Type,
    order: Option<OrderColumn>,
    /// Where the topic is the same for all rows.
    topic: Option<String>,
}

/// What a query is made of besides its table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) source: &'a Source,
    /// The column to order by in place of the creation time.
    pub(super) order_by: Option<&'a str>,
    /// Milliseconds since the Unix epoch.
    pub(super) since: Option<i64>,
    /// Read what the row's record is made of.
    pub(super) content: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OrderColumn {
    Number,
    /// Microseconds. Where records will be compared with it, it is cut to milliseconds.
    Time,
    Date,
    Uuid,
}

/// One row as it was read.
pub(super) struct ReadRow {
    pub(super) entry: RowEntry,
    pub(super) topic: u32,
}

impl RowQuery {
    /// The query of table number `table` of source number `source`. `row_filter` is the
    /// publication's.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a column is missing; [`Code::ConfigInvalid`] when rows cannot
    /// be ordered by it, or `--since` cannot be compared with it.
    pub(super) fn new(
        source: u16,
        table: u16,
        info: &TableInfo,
        row_filter: Option<&str>,
        shape: Shape<'_>,
    ) -> Result<Self> {
        let Shape { source: config, order_by, since, content } = shape;
        let columns = &config.mapping.columns;
        let id = info.needed_column(&columns.id)?;
        let topic = config.mapping.topic.constant();
        let topic_sql =
            if topic.is_some() { "NULL::text".to_owned() } else { template_sql("t", &config.mapping.topic, info)? };
        let order = Order::of(info, order_by, &columns.created_at)?;
        let marked = match config.mark {
            Mark::Update => {
                format!("num_nulls({}) = 0", column_sql("t", &info.needed_column(&columns.published_at)?.name))
            }
            Mark::Delete | Mark::None => "false".to_owned(),
        };
        let Since { young, undated } = Since::of(info, &columns.created_at, since)?;
        let values = if content { content_sql(info) } else { "NULL::text[]".to_owned() };
        let select = format!(
            "SELECT {} AS i, {topic_sql} AS t, {} AS o, {marked} AS m, {undated} AS n, {values} AS v FROM {} t",
            id_sql(id),
            order.sql,
            info.sql_name()
        );
        Ok(Self {
            source,
            table,
            mark: config.mark,
            select,
            filter: row_filter.map_or_else(|| "true".to_owned(), |filter| format!("({filter})")),
            since: young,
            chosen: chosen_sql(id),
            id: Type::from_oid(id.base_type_oid).unwrap_or(Type::TEXT),
            order: order.column,
            topic,
        })
    }

    /// All rows that are to be judged.
    pub(super) fn all(&self) -> String {
        format!("{} WHERE {} AND {}", self.select, self.filter, self.since)
    }

    /// The rows with the ids of parameter 1, a `text[]`.
    pub(super) fn chosen(&self) -> String {
        format!("{} WHERE {} AND {}", self.select, self.filter, self.chosen)
    }

    /// The text by which the query asks for a row of this table. `None` when no row of it can have
    /// such an id.
    pub(super) fn askable(&self, id: &[u8]) -> Option<String> {
        let text = id::text(id);
        let number = || text.parse::<i64>().ok().filter(|number| number.to_string() == text);
        let askable = match self.id {
            // Seventeen bytes, the first of which says that this is a uuid.
            Type::UUID => id.len() == 17 && uuid::Uuid::try_parse(&text).is_ok(),
            Type::INT8 => number().is_some(),
            Type::INT4 => number().is_some_and(|number| i32::try_from(number).is_ok()),
            Type::INT2 => number().is_some_and(|number| i16::try_from(number).is_ok()),
            // A text with a zero byte cannot be sent.
            _ => !text.contains('\0'),
        };
        askable.then_some(text)
    }

    /// Reads a row and writes its id into `id`.
    pub(super) fn read(&self, row: &Row, topics: &mut TopicNumbers, id: &mut Vec<u8>) -> ReadRow {
        let raw = |column| row.get::<_, Option<Raw<'_>>>(column).map(|raw| raw.0);
        id.clear();
        match (raw(0), &self.id) {
            (Some(bytes), &Type::UUID) if bytes.len() == 16 => {
                id::put_uuid(bytes.try_into().unwrap_or_default(), id);
            }
            (bytes, _) => id::put_text(bytes.unwrap_or_default(), id),
        }
        let topic = match &self.topic {
            Some(topic) => topics.number(topic),
            None => raw(1).map_or(NO_TOPIC, |name| topics.number(&String::from_utf8_lossy(name))),
        };
        let order = self.order.zip(raw(2)).and_then(|(column, bytes)| column.value(bytes, self.mark));
        let (source, table) = (self.source, self.table);
        let entry = RowEntry { source, table, marked: row.get(3), optional: row.get(4), order, content: None };
        ReadRow { entry, topic }
    }
}

/// What the row's record is made of, if that was asked for.
pub(super) fn values(row: &Row) -> Option<Vec<Option<&[u8]>>> {
    let values = row.get::<_, Option<Vec<Option<Raw<'_>>>>>(5)?;
    Some(values.into_iter().map(|value| value.map(|raw| raw.0)).collect())
}

/// A value as the server sent it.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl OrderColumn {
    fn of(r#type: Option<&Type>) -> Option<Self> {
        match *r#type? {
            Type::INT2 | Type::INT4 | Type::INT8 => Some(Self::Number),
            Type::TIMESTAMP | Type::TIMESTAMPTZ => Some(Self::Time),
            Type::DATE => Some(Self::Date),
            Type::UUID => Some(Self::Uuid),
            _ => None,
        }
    }

    /// The value of the binary form.
    fn value(self, raw: &[u8], mark: Mark) -> Option<OrderValue> {
        let number = match *raw {
            [a, b] => i64::from(i16::from_be_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
            _ if raw.len() == 8 => i64::from_be_bytes(raw.try_into().ok()?),
            _ => return Some(u128::from_be_bytes(raw.try_into().ok()?)),
        };
        Some(order_value(match self {
            Self::Time => {
                let micros = number.saturating_add(EPOCH);
                // A deleted row leaves only its record behind, whose time has milliseconds.
                if mark == Mark::Delete { micros.div_euclid(1000).saturating_mul(1000) } else { micros }
            }
            Self::Number | Self::Date | Self::Uuid => number,
        }))
    }
}

/// The text that pgoutput would send. A uuid stays a uuid, since its binary form is shorter than
/// its text.
fn id_sql(id: &ColumnInfo) -> String {
    let name = column_sql("t", &id.name);
    match Type::from_oid(id.base_type_oid) {
        Some(Type::UUID) => name,
        _ => text_sql("t", id),
    }
}

/// The values of the published columns, as pgoutput would send them.
fn content_sql(info: &TableInfo) -> String {
    let values: Vec<_> = info.published_columns().map(|column| text_sql("t", column)).collect();
    format!("ARRAY[{}]::text[]", values.join(", "))
}

fn chosen_sql(id: &ColumnInfo) -> String {
    let name = column_sql("t", &id.name);
    match Type::from_oid(id.base_type_oid) {
        Some(Type::UUID | Type::INT2 | Type::INT4 | Type::INT8 | Type::TEXT | Type::VARCHAR) => {
            format!("{name} = ANY ($1::text[]::{}[])", id.cast_name)
        }
        // For all other types no index serves, but the server refuses no text either.
        _ => format!("({}) = ANY ($1::text[])", text_sql("t", id)),
    }
}

/// What a table's rows are ordered by.
struct Order {
    /// `None`: their order is not judged.
    column: Option<OrderColumn>,
    sql: String,
}

impl Order {
    fn of(info: &TableInfo, order_by: Option<&str>, created_at: &str) -> Result<Self> {
        let order = |column: &ColumnInfo| Self {
            column: OrderColumn::of(Type::from_oid(column.base_type_oid).as_ref()),
            sql: column_sql("t", &column.name),
        };
        let Some(name) = order_by else {
            let created = info.column(created_at).map(order);
            let none = Self { column: None, sql: "NULL::int8".to_owned() };
            return Ok(created.filter(|order| order.column == Some(OrderColumn::Time)).unwrap_or(none));
        };
        let column = info.needed_column(name)?;
        let order = order(column);
        if order.column.is_none() {
            let (table, kind) = (info.display_name(), &column.type_name);
            let text = format!(
                "column {name} of table {table} has type {kind}; order is judged by smallint, integer, bigint, date, \
                 timestamp, timestamptz or uuid"
            );
            return Err(Error::new(Code::ConfigInvalid, text));
        }
        Ok(order)
    }
}

/// Conditions on the creation time.
struct Since {
    /// The row is young enough, or has no creation time.
    young: String,
    /// `--since` is asked for, and the row has no creation time.
    undated: String,
}

impl Since {
    fn of(info: &TableInfo, created_at: &str, since: Option<i64>) -> Result<Self> {
        let Some(since) = since else { return Ok(Self { young: "true".to_owned(), undated: "false".to_owned() }) };
        let column = info.column(created_at);
        let zone = match column.and_then(|column| Type::from_oid(column.base_type_oid)) {
            Some(Type::TIMESTAMP) => "timestamp '1970-01-01 00:00:00'",
            Some(Type::TIMESTAMPTZ) => "timestamptz '1970-01-01 00:00:00+00'",
            _ => {
                let table = info.display_name();
                let text =
                    format!("--since needs a creation time, and table {table} has no timestamp column {created_at}");
                return Err(Error::new(Code::ConfigInvalid, text));
            }
        };
        let name = column_sql("t", created_at);
        let young = format!("({name} >= {zone} + {since} * interval '1 millisecond' OR {name} IS NULL)");
        Ok(Self { young, undated: format!("{name} IS NULL") })
    }
}
