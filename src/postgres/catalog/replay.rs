//! The rows that a request publishes again, in an order that every run of the request reads alike.
//!
//! In: a session, the source's tables, and what was asked for. Out: rows, each with its place in the
//! order. What must hold: a row keeps its place for as long as the request lasts. So the order stands
//! on what nobody changes (a column that only grows, or the creation time, then the table and the id)
//! and not on where the server keeps a row: a mark moves it.

use tokio_postgres::{Client, Row, types::Type};

use super::{
    ColumnInfo, TableInfo,
    backfill::{Raw, begin, common_type, ordering_cast},
    failed,
    names::quote_literal,
    output::{column_sql, template_sql, text_sql},
    publications::{self, Membership},
    retention::Micros,
};
use crate::{
    Code, Error, Result,
    config::{Mark, Source},
};

/// Which rows are asked for. An empty list, or `None`, leaves nothing out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) ids: Option<Vec<String>>,
    pub(crate) keys: Vec<String>,
    pub(crate) types: Vec<String>,
    /// Created then or later.
    pub(crate) since: Option<Micros>,
    /// Created before then.
    pub(crate) until: Option<Micros>,
}

/// Where a row stands in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowPlace {
    /// Text of the column that comes first in the order. `None`: NULL, or no such column.
    pub(crate) order: Option<String>,
    /// Index of its table in configuration order.
    pub(crate) table: u16,
    /// Text of its id.
    pub(crate) id: String,
}

/// One row.
#[derive(Debug)]
pub(crate) struct PlacedRow {
    pub(crate) place: RowPlace,
    /// As in [`super::backfill::BackfillRow`].
    pub(crate) columns: Vec<Option<Box<[u8]>>>,
}

/// What is asked of the tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) source: &'a Source,
    pub(crate) tables: &'a [TableInfo],
    pub(crate) chosen: &'a Chosen,
    /// Only rows that were published by then, as far as the tables tell.
    pub(crate) by: Micros,
    /// Only rows behind this place.
    pub(crate) after: Option<&'a RowPlace>,
}

/// An open reading, in a transaction with a snapshot of its own. The transaction ends with the
/// session.
#[derive(Debug)]
pub(crate) struct ReplayCursor<'a> {
    client: &'a Client,
}

impl<'a> ReplayCursor<'a> {
    /// Begins the transaction, whose snapshot is of this moment.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn begin(client: &'a Client) -> Result<Self> {
        begin(client, "").await.map_err(|error| failed("begin to read the rows of a replay", error))?;
        Ok(Self { client })
    }

    /// How many rows are asked for.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn count(&self, asked: Asked<'_>) -> Result<u64> {
        let sql = Query::new(self.client, asked).await?.count();
        let counted = self.client.query_typed(&sql, &[]).await;
        let counted = counted.map_err(|error| failed("count the rows of a replay", error))?;
        Ok(counted.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    /// Opens the cursor.
    ///
    /// # Errors
    /// [`Code::ColumnInvalid`] when a table lacks a column or its type cannot serve;
    /// [`Code::ConfigInvalid`] when rows cannot be chosen by their creation time; what the server says.
    pub(crate) async fn open(&self, asked: Asked<'_>) -> Result<()> {
        let declare =
            format!("DECLARE outboxd_replay NO SCROLL CURSOR FOR {}", Query::new(self.client, asked).await?.rows());
        self.client.batch_execute(&declare).await.map_err(|error| failed("read the rows of a replay", error))
    }

    /// The next rows. Fewer than `limit` mean the end.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) async fn fetch(&self, limit: usize) -> Result<Vec<PlacedRow>> {
        let sql = format!("FETCH FORWARD {} FROM outboxd_replay", limit.max(1));
        let rows =
            self.client.query_typed(&sql, &[]).await.map_err(|error| failed("read the rows of a replay", error))?;
        rows.iter().map(placed_row).collect()
    }
}

fn placed_row(row: &Row) -> Result<PlacedRow> {
    let table = u16::try_from(row.get::<_, i32>(0))
        .map_err(|error| Error::new(Code::Internal, "a row of a replay").because(error))?;
    let text = |column: usize| -> Result<Option<String>> {
        let Some(Raw(bytes)) = row.get(column) else { return Ok(None) };
        let text = String::from_utf8(bytes.into_vec());
        let unreadable = |error| Error::new(Code::RowInvalid, "a row whose id is not UTF-8").because(error);
        text.map(Some).map_err(unreadable)
    };
    let place = RowPlace { order: text(1)?, table, id: text(2)?.unwrap_or_default() };
    let values: Vec<Option<Raw>> = row.get(3);
    Ok(PlacedRow { place, columns: values.into_iter().map(|value| value.map(|raw| raw.0)).collect() })
}

/// The query, in its parts, one for each table.
struct Query {
    parts: Vec<String>,
    counts: Vec<String>,
}

/// How ids are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdKey {
    /// As what they are: all tables have one type, whose order nothing changes.
    Native,
    /// As text, byte by byte.
    Text,
}

impl Query {
    async fn new(client: &Client, asked: Asked<'_>) -> Result<Self> {
        // As in a backfill: what the stream leaves out was never published.
        let publication = publications::publication(client, &asked.source.publication).await?;
        let filter = |table: &TableInfo| match publication.as_ref().map(|publication| publication.membership(table)) {
            Some(Membership::Listed(listed)) => listed.row_filter.clone(),
            _ => None,
        };
        let filters: Vec<_> = asked.tables.iter().map(filter).collect();
        Self::of(asked, &filters)
    }

    fn of(asked: Asked<'_>, filters: &[Option<String>]) -> Result<Self> {
        let Asked { source, tables, .. } = asked;
        let (order, cast) = order_of(source, tables)?;
        let id_name = &source.mapping.columns.id;
        let ids = tables.iter().map(|table| table.needed_column(id_name)).collect::<Result<Vec<_>>>()?;
        let has_order =
            |id: &&ColumnInfo| id.base_type_oid == ids[0].base_type_oid && Native::of(id.base_type_oid).is_some();
        let id = if ids.iter().all(has_order) { IdKey::Native } else { IdKey::Text };
        let mut query = Self { parts: Vec::new(), counts: Vec::new() };
        for (number, table) in (0_u16..).zip(tables) {
            let own = ids[usize::from(number)];
            let key = Key { order: order.clone(), cast, id: own, by: id };
            let mut conditions = conditions(asked, table)?;
            conditions.extend(filters.get(usize::from(number)).cloned().flatten().map(|filter| format!("({filter})")));
            conditions.push(format!("num_nulls({}) = 0", column_sql("t", &own.name)));
            conditions.extend(asked.after.and_then(|after| key.behind(after, number, table)));
            let condition = conditions.join(" AND ");
            let (from, order, id) = (table.sql_only(), key.order_sql(), key.id_sql());
            let values: Vec<_> = table.published_columns().map(|column| text_sql("s", column)).collect();
            query.counts.push(format!("SELECT count(*) AS n FROM {from} t WHERE {condition}"));
            query.parts.push(format!(
                "(SELECT {number}::int4 AS i, s.outboxd_k AS k, s.outboxd_d AS d, {} AS n, ARRAY[{}]::text[] AS v
  FROM (SELECT t.*, {order} AS outboxd_k, {id} AS outboxd_d FROM {from} t WHERE {condition}
        ORDER BY outboxd_k NULLS FIRST, outboxd_d OFFSET 0) s)",
                text_sql("s", own),
                values.join(", ")
            ));
        }
        Ok(query)
    }

    fn rows(&self) -> String {
        format!(
            "SELECT i, k::text, n, v FROM (\n{}\n) o ORDER BY k NULLS FIRST, i, d",
            self.parts.join("\nUNION ALL\n")
        )
    }

    fn count(&self) -> String {
        format!("SELECT sum(n)::int8 FROM ({}) o", self.counts.join(" UNION ALL "))
    }
}

/// The column that comes first in the order, and how it is cast where the tables have it with
/// different types. `None` where the tables have no such column, or cannot be put in one order by it.
fn order_of(source: &Source, tables: &[TableInfo]) -> Result<(Option<String>, Option<&'static str>)> {
    if let Some(name) = &source.backfill_order_by {
        return Ok((Some(name.clone()), ordering_cast(tables, name)?));
    }
    let name = &source.mapping.columns.created_at;
    let all_have_it = tables.iter().all(|table| table.column(name).is_some());
    Ok(match common_type(tables, name).filter(|_| all_have_it) {
        Some(cast) => (Some(name.clone()), cast),
        None => (None, None),
    })
}

/// The order of one table.
struct Key<'a> {
    order: Option<String>,
    cast: Option<&'static str>,
    id: &'a ColumnInfo,
    by: IdKey,
}

impl Key<'_> {
    fn order_sql(&self) -> String {
        match (&self.order, self.cast) {
            (None, _) => "NULL::int8".to_owned(),
            (Some(name), None) => column_sql("t", name),
            (Some(name), Some(cast)) => format!("{}::{cast}", column_sql("t", name)),
        }
    }

    fn id_sql(&self) -> String {
        match self.by {
            IdKey::Native => column_sql("t", &self.id.name),
            IdKey::Text => format!("({}) COLLATE \"C\"", text_sql("t", self.id)),
        }
    }

    /// The rows of table number `number` that stand behind a place. `None`: all of them.
    fn behind(&self, after: &RowPlace, number: u16, table: &TableInfo) -> Option<String> {
        let order = self.order_sql();
        let typed = |text: &str| {
            let of = self.order.as_ref().and_then(|name| table.column(name)).map(|column| column.cast_name.as_str());
            format!("{}::{}", quote_literal(text), self.cast.or(of).unwrap_or("int8"))
        };
        let id = match self.by {
            IdKey::Native => format!("{} > {}::{}", self.id_sql(), quote_literal(&after.id), self.id.cast_name),
            IdKey::Text => format!("{} > {}", self.id_sql(), quote_literal(&after.id)),
        };
        let (greater, equal) = match &after.order {
            Some(text) => (format!("{order} > {}", typed(text)), format!("{order} = {}", typed(text))),
            None => (format!("{order} IS NOT NULL"), format!("{order} IS NULL")),
        };
        Some(match number.cmp(&after.table) {
            std::cmp::Ordering::Less => format!("({greater})"),
            std::cmp::Ordering::Equal => format!("({greater} OR ({equal} AND {id}))"),
            std::cmp::Ordering::Greater => format!("({greater} OR {equal})"),
        })
    }
}

/// Types of ids that have one order everywhere.
enum Native {
    Uuid,
    Integer,
}

impl Native {
    fn of(oid: u32) -> Option<Self> {
        match Type::from_oid(oid)? {
            Type::UUID => Some(Self::Uuid),
            Type::INT2 | Type::INT4 | Type::INT8 => Some(Self::Integer),
            _ => None,
        }
    }
}

/// Which rows of a table are asked for, wherever they stand in the order.
fn conditions(asked: Asked<'_>, table: &TableInfo) -> Result<Vec<String>> {
    let Asked { source, chosen, by, .. } = asked;
    let columns = &source.mapping.columns;
    let mut conditions = Vec::new();
    match source.mark {
        Mark::Update => {
            let mark = table.needed_column(&columns.published_at)?;
            let name = column_sql("t", &mark.name);
            conditions.push(format!("{name} IS NOT NULL AND {} <= {}", mark.as_utc(&name), moment(by)));
        }
        Mark::Delete | Mark::None => {
            if let Some(created) = table.column(&columns.created_at).filter(|column| holds_time(column)) {
                let name = column_sql("t", &created.name);
                conditions.push(format!("({name} IS NULL OR {} <= {})", created.as_utc(&name), moment(by)));
            }
        }
    }
    if let Some(ids) = &chosen.ids {
        conditions.push(id_condition(table.needed_column(&columns.id)?, ids));
    }
    if !chosen.keys.is_empty() {
        let key = template_sql("t", &source.mapping.key, table)?;
        conditions.push(format!("({key}) = ANY ({})", texts(&chosen.keys)));
    }
    if !chosen.types.is_empty() {
        conditions.push(match table.column(&columns.event_type) {
            Some(column) => format!("({}) = ANY ({})", text_sql("t", column), texts(&chosen.types)),
            None => "false".to_owned(),
        });
    }
    if chosen.since.is_some() || chosen.until.is_some() {
        let created = table.column(&columns.created_at).filter(|column| holds_time(column)).ok_or_else(|| {
            let (table, column) = (table.display_name(), &columns.created_at);
            let text = format!("--since and --until need a creation time, and table {table} has no time {column}");
            Error::new(Code::ConfigInvalid, text)
        })?;
        let at = created.as_utc(&column_sql("t", &created.name));
        conditions.extend(chosen.since.map(|since| format!("{at} >= {}", moment(since))));
        conditions.extend(chosen.until.map(|until| format!("{at} < {}", moment(until))));
    }
    Ok(conditions)
}

fn holds_time(column: &ColumnInfo) -> bool {
    column.is_time() || column.base_type_oid == Type::DATE.oid()
}

/// A moment as SQL.
fn moment(at: Micros) -> String {
    format!("(timestamptz '1970-01-01 00:00:00+00' + {at} * interval '1 microsecond')")
}

fn texts<T: AsRef<str>>(texts: &[T]) -> String {
    let quoted: Vec<_> = texts.iter().map(|text| quote_literal(text.as_ref())).collect();
    format!("ARRAY[{}]::text[]", quoted.join(", "))
}

/// The rows with one of these ids. An id that the column's type cannot hold is none of a row's.
fn id_condition(id: &ColumnInfo, ids: &[String]) -> String {
    let is_number = |text: &str| text.parse::<i64>().is_ok();
    let fits = |text: &&String| match Native::of(id.base_type_oid) {
        Some(Native::Uuid) => uuid::Uuid::try_parse(text).is_ok(),
        Some(Native::Integer) => is_number(text),
        None => true,
    };
    let fitting: Vec<&String> = ids.iter().filter(fits).collect();
    if fitting.is_empty() {
        return "false".to_owned();
    }
    let name = column_sql("t", &id.name);
    match Type::from_oid(id.base_type_oid) {
        Some(Type::UUID) => format!("{name} = ANY ({}::uuid[])", texts(&fitting)),
        // A number that is too large for the column is compared all the same.
        Some(Type::INT2 | Type::INT4 | Type::INT8) => format!("{name} = ANY ({}::int8[])", texts(&fitting)),
        Some(Type::TEXT | Type::VARCHAR) => format!("{name} = ANY ({})", texts(&fitting)),
        // For all other types no index serves, but the server refuses no text either.
        _ => format!("({}) = ANY ({})", text_sql("t", id), texts(&fitting)),
    }
}
