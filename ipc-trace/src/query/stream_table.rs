//! The virtual tables of SQLite: rows come from a stream, which begins where the conditions allow.

use std::{
    borrow::Cow,
    ffi::{CStr, CString, c_int},
    sync::Arc,
    vec,
};

use rusqlite::{
    Connection, Error, ffi,
    types::ValueRef,
    vtab::{Context, Filters, IndexInfo, Module, VTab, VTabConfig, VTabConnection, VTabCursor},
};

use super::{
    RowSource, RowStream, StreamRow, StreamTable,
    conditions::{ColumnComparison, Conditions, Value},
    schema,
};
use crate::rows::{Cell, Row as _, sql::SqlCell};

/// What reading all costs, so that no plan reads the recordings once for each row of another table.
const COST: f64 = 1e12;
const ROWS: i64 = 10_000_000;

/// Adds a table to a database.
pub(super) fn add(
    connection: &Connection,
    table: StreamTable,
    source: Arc<dyn RowSource>,
) -> rusqlite::Result<()> {
    const MODULE: &Module<'_, StreamVTab> = &Module::eponymous_only_module();
    connection.create_module(table.table().name, MODULE, Some(StreamAux { table, source }))
}

/// What a table is made from.
struct StreamAux {
    table: StreamTable,
    source: Arc<dyn RowSource>,
}

/// A table.
#[repr(C)]
struct StreamVTab {
    /// SQLite's part: the first one
    base: ffi::sqlite3_vtab,
    table: StreamTable,
    source: Arc<dyn RowSource>,
}

// SAFETY: the structure is `repr(C)`, and SQLite's part is the first one.
unsafe impl<'vtab> VTab<'vtab> for StreamVTab {
    type Aux = StreamAux;
    type Cursor = StreamCursor;

    fn connect(
        connection: &mut VTabConnection,
        aux: Option<&StreamAux>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _args: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, Self)> {
        let Some(StreamAux { table, source }) = aux else {
            return Err(Error::ModuleError("a table without rows".to_owned()));
        };
        connection.config(VTabConfig::Innocuous)?;
        let create = CString::new(format!("CREATE TABLE {}", schema(table.table(), "x")))?;
        let this =
            Self { base: ffi::sqlite3_vtab::default(), table: *table, source: Arc::clone(source) };
        Ok((Cow::Owned(create), this))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let columns = self.table.table().columns;
        let (mut used, mut plan) = (Vec::new(), String::new());
        for (at, constraint) in info.constraints().enumerate() {
            let column = usize::try_from(constraint.column()).ok();
            let Some(column) = column.and_then(|column| columns.get(column)) else { continue };
            // For IN (…), all would be read once for each value.
            if !constraint.is_usable() || info.is_in_constraint(at)? {
                continue;
            }
            if let Some(comparison) = ColumnComparison::used(column.name, constraint.operator()) {
                plan.extend([column.name, ","]);
                plan.insert(plan.len() - 1, comparison.sign());
                used.push(at);
            }
        }
        for (place, at) in used.iter().enumerate() {
            let place = c_int::try_from(place + 1).unwrap_or(c_int::MAX);
            info.constraint_usage(*at).set_argv_index(place);
        }
        let rows = ROWS >> (2 * used.len().min(10));
        info.set_estimated_rows(rows.max(1));
        info.set_estimated_cost(COST + rows as f64);
        info.set_idx_str(&plan);
        Ok(true)
    }

    fn open(&'vtab mut self) -> rusqlite::Result<StreamCursor> {
        Ok(StreamCursor {
            base: ffi::sqlite3_vtab_cursor::default(),
            table: self.table,
            source: Arc::clone(&self.source),
            stream: None,
            batch: Vec::new().into_iter(),
            row: None,
            rowid: 0,
        })
    }
}

/// A place in the rows of a table.
#[repr(C)]
struct StreamCursor {
    /// SQLite's part: the first one
    base: ffi::sqlite3_vtab_cursor,
    table: StreamTable,
    source: Arc<dyn RowSource>,
    stream: Option<RowStream>,
    batch: vec::IntoIter<StreamRow>,
    /// `None`: the end
    row: Option<StreamRow>,
    rowid: i64,
}

impl StreamCursor {
    fn conditions(plan: &str, args: &Filters<'_>) -> Conditions {
        let mut conditions = Conditions::default();
        for (column, value) in plan.split_terminator(',').zip(args.iter()) {
            let Some(sign) = column.chars().last() else { continue };
            let column = column.strip_suffix(sign).unwrap_or(column);
            let value = match value {
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                // A comparison with null is never true.
                ValueRef::Null => {
                    conditions.is_none = true;
                    continue;
                }
                ValueRef::Real(_) | ValueRef::Blob(_) => continue,
            };
            if let Some(comparison) = ColumnComparison::of_sign(sign) {
                conditions.add(column, comparison, value);
            }
        }
        conditions
    }
}

// SAFETY: the structure is `repr(C)`, and SQLite's part is the first one.
unsafe impl VTabCursor for StreamCursor {
    fn filter(
        &mut self,
        _number: c_int,
        plan: Option<&str>,
        args: &Filters<'_>,
    ) -> rusqlite::Result<()> {
        let conditions = Self::conditions(plan.unwrap_or_default(), args);
        (self.stream, self.rowid) = (None, 0);
        self.batch = Vec::new().into_iter();
        if !conditions.is_none {
            let stream = self.source.stream(self.table, conditions);
            self.stream = Some(stream.map_err(Error::ModuleError)?);
        }
        self.next()
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.rowid += 1;
        self.row = self.batch.next();
        while self.row.is_none() {
            // The sender is gone: that was all, or a signal has ended it.
            let Some(Ok(rows)) = self.stream.as_ref().map(std::sync::mpsc::Receiver::recv) else {
                self.stream = None;
                return match self.source.ends() {
                    true => Err(Error::ModuleError("the query was interrupted".to_owned())),
                    false => Ok(()),
                };
            };
            self.batch = rows.map_err(Error::ModuleError)?.into_iter();
            self.row = self.batch.next();
        }
        Ok(())
    }

    fn eof(&self) -> bool {
        self.row.is_none()
    }

    fn column(&self, context: &mut Context, column: c_int) -> rusqlite::Result<()> {
        let column = usize::try_from(column).unwrap_or(usize::MAX);
        let cell = self.row.as_ref().map_or(Cell::Null, |row| row.cell(column));
        context.set_result(SqlCell(cell))
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.rowid)
    }
}
