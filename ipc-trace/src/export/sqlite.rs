//! A SQLite database with a table for each of ours.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    new_path::{NewFile, NewFolder},
    table_thread::{RowList, TableSummary, TableWriter},
};
use crate::rows::{Table, sql};

/// How many rows are written in a transaction.
const ROWS: u64 = 100_000;
/// How many bytes of the database SQLite keeps in memory, in KiB: of indexes that are made, too.
const CACHE_KIB: i64 = 64 << 10;
/// How many of SQLite's steps are between two checks whether to go on.
const STEPS: i32 = 10_000;

/// What is looked up often: the table, the index, and its columns.
const INDEXES: &[(&str, &str, &[&str])] = &[
    ("calls", "calls_by_time", &["time_ns"]),
    ("calls", "calls_by_pid", &["pid"]),
    ("calls", "calls_by_object", &["ipc_ns", "object_kind", "object_id"]),
    ("findings", "findings_by_class", &["class"]),
];

/// Writes a database.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    // Before the file: its locks end with any descriptor of the file.
    db: Connection,
    file: NewFile,
    /// For what is sorted
    scratch: NewFolder,
    tables: Vec<&'static Table>,
    /// Rows since the last transaction
    pending: u64,
    summary: TableSummary,
}

impl SqliteFile {
    /// Makes it with these tables; all that it opens later are new files. `ends`: whether to stop.
    ///
    /// # Errors
    /// It exists, or can't be made.
    pub(crate) fn create(
        path: &Path,
        tables: &[&'static Table],
        ends: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let file = NewFile::create(path)?;
        let scratch = NewFolder::create(&scratch_of(path))?;
        let mut db = open(path, &scratch_of(path), tables).map_err(failed)?;
        db.progress_handler(STEPS, Some(ends)).map_err(failed)?;
        let rows = tables.iter().map(|table| (table.name, 0)).collect();
        Ok(Self {
            db,
            file,
            scratch,
            tables: tables.to_vec(),
            pending: 0,
            summary: TableSummary { rows, bytes: 0 },
        })
    }

    fn insert(&mut self, table: &'static Table, rows: &dyn RowList) -> rusqlite::Result<()> {
        let all = (0..rows.len()).filter_map(|at| rows.row(at));
        sql::insert(&self.db, table, all)?;
        self.pending += rows.len() as u64;
        if self.pending >= ROWS {
            self.pending = 0;
            self.db.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    fn complete(&self) -> rusqlite::Result<()> {
        self.db.execute_batch("COMMIT")?;
        for (table, index, columns) in INDEXES {
            let has_all = |of: &&Table| {
                of.name == *table && columns.iter().all(|one| of.place(one).is_some())
            };
            if self.tables.iter().any(has_all) {
                let (table, columns) = (quoted(table), columns.join(", "));
                self.db.execute_batch(&format!("CREATE INDEX {index} ON {table} ({columns})"))?;
            }
        }
        Ok(())
    }
}

impl TableWriter for SqliteFile {
    fn write(&mut self, table: &'static Table, rows: &dyn RowList) -> io::Result<()> {
        self.insert(table, rows).map_err(failed)?;
        *self.summary.rows.entry(table.name).or_default() += rows.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<TableSummary> {
        self.complete().map_err(failed)?;
        let Self { db, file, scratch, mut summary, .. } = *self;
        db.close().map_err(|(_, error)| failed(error))?;
        drop(scratch);
        summary.bytes = file.keep()?;
        Ok(summary)
    }
}

/// The folder for what is sorted: beside the database, where there is room.
fn scratch_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    name.into()
}

fn open(path: &Path, scratch: &Path, tables: &[&'static Table]) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    // The file is new, and is removed on a failure: it needs no journal.
    for (name, value) in [("journal_mode", "OFF"), ("locking_mode", "EXCLUSIVE")] {
        db.pragma_update_and_check(None, name, value, |_| Ok(()))?;
    }
    db.pragma_update(None, "synchronous", "OFF")?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "temp_store", "FILE")?;
    if let Some(scratch) = scratch.to_str() {
        db.pragma_update(None, "temp_store_directory", scratch)?;
    }
    // It opens /dev/urandom once, for names of temporary files: now, as later it can't.
    db.query_row("SELECT random()", [], |_| Ok(()))?;
    for table in tables {
        db.execute_batch(&create_table(table))?;
    }
    db.execute_batch("BEGIN")?;
    Ok(db)
}

/// The database shows what its columns have.
fn create_table(table: &Table) -> String {
    let mut sql = format!("CREATE TABLE {} ( --{}\n", quoted(table.name), table.doc);
    for (at, column) in table.columns.iter().enumerate() {
        let kind = column.kind.sql();
        let comma = if at + 1 < table.columns.len() { "," } else { "" };
        // Writing to memory doesn't fail.
        let _ = writeln!(sql, "  {} {kind}{comma} --{}", quoted(column.name), column.doc);
    }
    sql.push_str(") STRICT");
    sql
}

/// A name of ours, which has no quotes.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn failed(error: rusqlite::Error) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value;

    use super::*;
    use crate::rows::{
        TABLES,
        files::{FILES, FileRow},
    };

    fn row() -> FileRow {
        let file = "a'b\"\0c".to_owned();
        FileRow {
            file,
            times: Some((1, 1_700_000_000_000_000_001)),
            closed: true,
            ..FileRow::default()
        }
    }

    #[test]
    fn database_has_what_rows_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.db");
        let mut file = SqliteFile::create(&path, &TABLES, || false).unwrap();
        file.write(&FILES, &vec![row(), row()]).unwrap();
        let summary = Box::new(file).finish().unwrap();
        assert_eq!((summary.rows["files"], summary.rows["calls"]), (2, 0));
        // Nothing else is left.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let db = Connection::open(&path).unwrap();
        let text = "SELECT file, first, last_ns, is_closed, is_counts, run_id FROM files LIMIT 1";
        let found = db.query_row(text, [], |row| {
            (0..6).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>()
        });
        let text = |text: &str| Value::Text(text.to_owned());
        let expected = [
            text("a'b\"\0c"),
            text("1970-01-01T00:00:00.000000001Z"),
            Value::Integer(1_700_000_000_000_000_001),
            Value::Integer(1),
            Value::Integer(0),
            Value::Null,
        ];
        assert_eq!(found.unwrap(), expected);
        let made = |kind: &str| -> i64 {
            let count = "SELECT count(*) FROM sqlite_schema WHERE type = ?";
            db.query_row(count, [kind], |row| row.get(0)).unwrap()
        };
        assert_eq!((made("table"), made("index")), (TABLES.len() as i64, INDEXES.len() as i64));
        let checked: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(checked, "ok");
    }

    #[test]
    fn unfinished_database_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.db");
        let mut file = SqliteFile::create(&path, &TABLES, || true).unwrap();
        file.write(&FILES, &vec![row()]).unwrap();
        // It needs no journal.
        let journals = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(journals.count(), 2);
        // A signal has come.
        let rows: Vec<_> = (0..20_000).map(|_| row()).collect();
        drop(file.write(&FILES, &rows));
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(&path, "mine").unwrap();
        let error = SqliteFile::create(&path, &TABLES, || false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
