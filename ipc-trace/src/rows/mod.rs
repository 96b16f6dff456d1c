//! What recordings hold as rows of tables: for SQL and for exports.
//!
//! | module | its job |
//! | --- | --- |
//! | `cell` | values of columns |
//! | [`calls`] | a row for each call |
//! | [`counts`] | a row for each second, namespace, container, operation and error |
//! | [`losses`] | a row for each kind of lost events |
//! | `sql` | rows as SQLite has them |
//! | [`state`] | namespaces, processes, containers, objects and findings, as a report has them |
//! | [`files`] | a row for each run in a file |
//!
//! **To add a column**: a line of its table. **To add a table**: a `table!`, and a row of [`TABLES`].
//!
//! Invariant: rows have what the events have, and nothing else; what is unknown is null.

pub(crate) mod calls;
mod cell;
pub(crate) mod counts;
pub(crate) mod files;
pub(crate) mod losses;
#[cfg(feature = "sqlite")]
pub(crate) mod sql;
pub(crate) mod state;

use std::sync::Arc;

pub(crate) use cell::Cell;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    /// 64 bits, signed
    Integer,
    /// Yes or no
    Boolean,
    /// A time of day, nanoseconds since 1970
    Time,
    /// UTF-8; bytes of a name that are no valid UTF-8 are `\xNN`
    Text,
    /// Text that is JSON
    Json,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableColumn {
    /// Its name
    pub name: &'static str,
    /// Its type
    pub kind: ColumnType,
    /// What it has
    pub doc: &'static str,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name
    pub name: &'static str,
    /// What a row is
    pub doc: &'static str,
    /// Its columns
    pub columns: &'static [TableColumn],
}

impl Table {
    /// The place of a column.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// A row of a table.
pub(crate) trait Row {
    /// The value of a column, by its place; null: there is no such column.
    fn cell(&self, column: usize) -> Cell<'_>;
}

/// All tables.
pub(crate) static TABLES: [&Table; 9] = [
    &calls::CALLS,
    &counts::COUNTS,
    &state::FINDINGS,
    &state::OBJECTS,
    &state::NAMESPACES,
    &state::PROCESSES,
    &state::CONTAINERS,
    &losses::LOSSES,
    &files::FILES,
];

/// The run that rows are of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowRun {
    /// The host's name
    pub host: String,
    /// The run's id, if known
    pub run_id: Option<String>,
}

impl RowRun {
    pub(crate) fn new(host: &str, run_id: Option<&str>) -> Arc<Self> {
        Arc::new(Self { host: host.to_owned(), run_id: run_id.map(ToOwned::to_owned) })
    }
}

/// Defines a table, and the cells of its rows.
macro_rules! table {
    (
        $(#[doc = $doc:literal])+
        $name:ident = $text:literal, $row:ty {
            $($(#[doc = $column_doc:literal])+ $column:ident: $kind:ident = $cell:expr,)+
        }
    ) => {
        $(#[doc = $doc])+
        pub(crate) static $name: $crate::rows::Table = $crate::rows::Table {
            name: $text,
            doc: concat!($($doc),+),
            columns: &[$($crate::rows::TableColumn {
                name: stringify!($column),
                kind: $crate::rows::ColumnType::$kind,
                doc: concat!($($column_doc),+),
            }),+],
        };

        impl $crate::rows::Row for $row {
            fn cell(&self, column: usize) -> $crate::rows::Cell<'_> {
                const CELLS: &[fn(&$row) -> $crate::rows::Cell<'_>] = &[$($cell),+];
                CELLS.get(column).map_or($crate::rows::Cell::Null, |cell| cell(self))
            }
        }
    };
}
use table;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_of_no_engine_and_unique() {
        // Reserved in SQLite, DuckDB, ClickHouse or Spark.
        const RESERVED: [&str; 12] = [
            "from", "to", "order", "group", "key", "index", "foreign", "table", "end", "user",
            "check", "values",
        ];
        for table in TABLES {
            let names: BTreeSet<_> = table.columns.iter().map(|column| column.name).collect();
            assert_eq!(names.len(), table.columns.len(), "{}", table.name);
            for column in table.columns {
                assert!(!RESERVED.contains(&column.name), "{}.{}", table.name, column.name);
                assert!(!column.doc.trim().is_empty());
                if column.kind == ColumnType::Time {
                    let exact = format!("{}_ns", column.name);
                    let exact = table.place(&exact).map(|at| table.columns[at].kind);
                    assert_eq!(exact, Some(ColumnType::Integer), "{}.{}", table.name, column.name);
                }
            }
        }
    }
}
