//! Queries over rows that are made up, for what no recording brings about.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
    mpsc,
};

use rusqlite::types::ValueRef;

use super::*;
use crate::{
    rows::{RowRun, calls::CallRows},
    sinks::text::fixtures::every_operation,
};

/// A row for each operation, again and again.
struct FixedRows {
    times: usize,
    ends: Arc<AtomicBool>,
}

impl RowSource for FixedRows {
    fn stream(&self, table: StreamTable, conditions: Conditions) -> Result<RowStream, String> {
        let (sender, stream) = mpsc::channel();
        let mut rows = CallRows::new(RowRun::new("web1", Some("run")));
        if table == StreamTable::Calls {
            for _ in 0..self.times {
                let all = every_operation();
                let wanted = all.iter().filter(|ipc| conditions.wants_call(ipc));
                let batch = wanted.map(|ipc| StreamRow::Call(rows.row(ipc))).collect();
                sender.send(Ok(batch)).unwrap();
            }
        } else {
            sender.send(Err("no such rows".to_owned())).unwrap();
        }
        Ok(stream)
    }

    fn state(&self) -> Result<StateRows, String> {
        Ok(StateRows::default())
    }

    fn files(&self) -> Result<Vec<FileRow>, String> {
        let file = |file: &str| FileRow { file: file.to_owned(), ..FileRow::default() };
        Ok(vec![file("a.rec"), file("b.rec")])
    }

    fn ends(&self) -> bool {
        self.ends.load(Relaxed)
    }
}

fn database(times: usize) -> Database {
    Database::new(Arc::new(FixedRows { times, ends: Arc::default() }), None).unwrap()
}

/// Collects rows as text.
#[derive(Default)]
struct Collected(Vec<Vec<String>>);

impl TakeRows for Collected {
    type Error = QueryError;

    fn begin(&mut self, _: &[String]) -> Result<(), QueryError> {
        Ok(())
    }

    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), QueryError> {
        let text = |value: &ValueRef<'_>| match value {
            ValueRef::Null => "null".to_owned(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Real(number) => number.to_string(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ValueRef::Blob(_) => "blob".to_owned(),
        };
        self.0.push(row.iter().map(text).collect());
        Ok(())
    }

    fn end(&mut self) -> Result<(), QueryError> {
        Ok(())
    }
}

fn rows(database: &Database, sql: &str) -> Result<Vec<Vec<String>>, QueryError> {
    let mut all = Collected::default();
    database.run(sql, &[], &mut all)?;
    Ok(all.0)
}

fn error(sql: &str) -> String {
    rows(&database(1), sql).unwrap_err().to_string()
}

#[test]
fn every_column_of_every_table_can_be_asked_for() {
    let database = database(3);
    let calls = rows(&database, "SELECT count(*), count(DISTINCT op) FROM calls").unwrap();
    let operations = every_operation();
    assert_eq!(calls[0][0], (3 * operations.len()).to_string());
    for table in crate::rows::TABLES {
        let streams = ["losses", "counts"].contains(&table.name);
        for column in table.columns {
            let sql = format!("SELECT {} FROM {}", column.name, table.name);
            assert_eq!(rows(&database, &sql).is_err(), streams, "{sql}");
        }
    }
    assert_eq!(rows(&database, "SELECT file FROM files ORDER BY 1").unwrap().len(), 2);
    assert_eq!(rows(&database, "SELECT count(*) FROM files").unwrap(), [["2"]], "filled once");
}

#[test]
fn conditions_give_the_rows_that_sqlite_would_choose() {
    let database = database(2);
    let names = ["host", "pid", "op", "ipc_ns", "container", "time", "time_ns", "date"];
    for name in names {
        let values = rows(&database, &format!("SELECT DISTINCT {name} FROM calls")).unwrap();
        for value in values.iter().map(|row| row[0].clone()) {
            for comparison in ["=", ">", ">=", "<", "<="] {
                let is_number = ["pid", "ipc_ns", "time_ns"].contains(&name);
                let value = if is_number { value.clone() } else { format!("'{value}'") };
                let count = |column: &str| {
                    let sql =
                        format!("SELECT count(*) FROM calls WHERE {column} {comparison} {value}");
                    rows(&database, &sql).unwrap()
                };
                // An expression is no column, so nothing is known of it before the rows are read.
                let unknown =
                    if is_number { format!("({name} + 0)") } else { format!("({name} || '')") };
                assert_eq!(count(name), count(&unknown), "{name} {comparison} {value}");
            }
        }
    }
    let [known, unknown] = ["op", "(op || '')"].map(|op| {
        let sql = format!("SELECT count(*) FROM calls WHERE {op} IN ('semop', 'msgsnd')");
        rows(&database, &sql).unwrap()
    });
    assert_eq!(known, unknown);
    assert_eq!(
        rows(&database, "SELECT count(*) FROM calls WHERE pid = 1 AND pid = 2").unwrap(),
        [["0"]]
    );
    assert_eq!(rows(&database, "SELECT count(*) FROM calls WHERE pid = NULL").unwrap(), [["0"]]);
}

#[test]
fn a_query_changes_and_opens_nothing() {
    for sql in [
        "ATTACH 'x.db' AS x",
        "CREATE TABLE t(a)",
        "CREATE TEMP TABLE t(a)",
        "INSERT INTO findings(host) VALUES (1)",
        "DELETE FROM files",
        "DROP TABLE files",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA temp_store_directory = '/'",
        "SELECT * FROM pragma_hard_heap_limit",
        "SELECT load_extension('x.so')",
        "SELECT fts3_tokenizer('x', x'00')",
        "VACUUM INTO 'x.db'",
        "BEGIN",
        "REINDEX",
        "ANALYZE",
    ] {
        let error = error(sql);
        let is_denied = ["only SELECT", "no SELECT", "not authorized", "prohibited"]
            .iter()
            .any(|why| error.contains(why));
        assert!(is_denied, "{sql}: {error}");
    }
    assert!(error("SELECT 1; SELECT 2").contains("more than one statement"));
    assert!(error("").contains("no SELECT") && error("-- nothing").contains("no SELECT"));
}

#[test]
fn errors_show_the_place() {
    let shown = error("SELECT op\nFROM calls WHERE foo = 1");
    assert_eq!(shown, "no such column: foo\n  FROM calls WHERE foo = 1\n                   ^");
    assert!(error("SELEC 1").ends_with("\n  SELEC 1\n  ^"));
    assert!(error("SELECT :pid").contains("--param pid=VALUE"));
    assert_eq!(error("SELECT * FROM losses"), "no such rows");
}

#[test]
fn functions_that_sqlite_lacks() {
    let one = |sql: &str| rows(&database(1), sql).unwrap()[0][0].clone();
    let series = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 101)";
    assert_eq!(one(&format!("{series} SELECT percentile(i, 50) FROM n")), "51");
    assert_eq!(one(&format!("{series} SELECT percentile(i, 99) FROM n")), "100");
    assert_eq!(one(&format!("{series} SELECT percentile(i, 12.5) FROM n")), "13.5");
    assert_eq!(one("SELECT percentile(NULL, 50)"), "null");
    assert_eq!(one("SELECT 'worker-7' REGEXP '^worker-[0-9]+$'"), "1");
    assert_eq!(one("SELECT NULL REGEXP 'x'"), "null");
    assert_eq!(one("SELECT ns('2026-01-31T23:59:00Z')"), "1769903940000000000");
    assert!(error("SELECT percentile(1, 101)").contains("from 0 to 100"));
    assert!(error("SELECT 'x' REGEXP '('").contains("regex"));
    assert!(error("SELECT ns('noon')").contains("2026-01-31T23:59:00Z"));
    // Linear in the text, whatever the pattern.
    let evil = "SELECT printf('%.*c', 100000, 'a') REGEXP '(a*)*b'";
    assert_eq!(one(evil), "0");
    assert!(error("SELECT 'x' REGEXP '((a{1000}){1000}){1000}'").contains("size limit"));
}

#[test]
fn hostile_statements_are_bounded() {
    let large = error(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT group_concat(printf('%.*c', 100000, 'x')) FROM n",
    );
    assert!(large.contains("too big") || large.contains("memory"), "{large}");
    let many = error(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT percentile(i, 50) FROM n",
    );
    assert!(many.contains("values at a time"), "{many}");
}

#[test]
fn a_signal_ends_any_statement() {
    let ends = Arc::<AtomicBool>::default();
    let database =
        Database::new(Arc::new(FixedRows { times: 1, ends: Arc::clone(&ends) }), None).unwrap();
    let signal = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        ends.store(true, Relaxed);
    });
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let ended = rows(&database, endless).unwrap_err();
    assert!(matches!(ended, QueryError::Interrupted), "{ended}");
    signal.join().unwrap();
}

#[test]
fn named_questions_are_complete() {
    let database = database(1);
    for query in named::ALL {
        assert!(query.when().ends_with(['?', '.']), "{}: {}", query.name, query.when());
        let value = |param: &named::Param| param.default.unwrap_or("1").to_owned();
        let mut params: Vec<_> =
            query.params().iter().map(|param| (param.name.to_owned(), value(param))).collect();
        if query.name == "changed-between" {
            params[0].1 = "2026-01-31T23:59:00Z".to_owned();
        }
        let asked = database.run(query.sql, &params, &mut Collected::default());
        // Of counts the source has none.
        if let Err(error) = asked {
            assert_eq!(error.to_string(), "no such rows", "{}", query.name);
        }
    }
}
