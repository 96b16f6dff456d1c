//! Rows as SQLite has them, in queries and in exported databases.

use rusqlite::{
    Connection, ToSql,
    types::{ToSqlOutput, Value, ValueRef},
};

use super::{Cell, ColumnType, Row, Table};

/// A cell as SQLite takes it.
pub(crate) struct SqlCell<'a>(pub Cell<'a>);

impl ToSql for SqlCell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match &self.0 {
            Cell::Null => ToSqlOutput::Owned(Value::Null),
            Cell::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Cell::Boolean(value) => ToSqlOutput::Owned(Value::Integer((*value).into())),
            Cell::Time(ns) => ToSqlOutput::Owned(Value::Text(Cell::time_text(*ns))),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

impl ColumnType {
    /// Its type in CREATE TABLE.
    pub(crate) const fn sql(self) -> &'static str {
        match self {
            Self::Integer | Self::Boolean => "INTEGER",
            Self::Time | Self::Text | Self::Json => "TEXT",
        }
    }
}

/// Inserts rows into a table.
///
/// # Errors
/// SQLite can't write them.
pub(crate) fn insert<'a>(
    connection: &Connection,
    table: &Table,
    rows: impl Iterator<Item = &'a dyn Row>,
) -> rusqlite::Result<()> {
    let places = vec!["?"; table.columns.len()].join(", ");
    let mut insert =
        connection.prepare(&format!("INSERT INTO {} VALUES ({places})", table.name))?;
    for row in rows {
        for at in 0..table.columns.len() {
            insert.raw_bind_parameter(at + 1, SqlCell(row.cell(at)))?;
        }
        insert.raw_execute()?;
    }
    Ok(())
}
