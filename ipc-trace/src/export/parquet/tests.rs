use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use parquet::{
    file::{
        reader::{FileReader as _, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
    record::Field,
};
use proptest::prelude::*;

use super::{partition::escape, *};
use crate::rows::{Cell, ColumnType, Row, TableColumn};

const fn column(name: &'static str, kind: ColumnType) -> TableColumn {
    TableColumn { name, kind, doc: " A column" }
}

/// A column of each type, and those that are folders.
static ROWS: Table = Table {
    name: "rows",
    doc: " A row",
    columns: &[
        column("number", ColumnType::Integer),
        column("host", ColumnType::Text),
        column("date", ColumnType::Text),
        column("time", ColumnType::Time),
        column("time_ns", ColumnType::Integer),
        column("is_true", ColumnType::Boolean),
        column("text", ColumnType::Text),
        column("json", ColumnType::Json),
    ],
};
static OTHERS: Table =
    Table { name: "others", doc: " A row", columns: &[column("host", ColumnType::Text)] };

/// A row: a cell for each column.
#[derive(Clone, Debug)]
struct CellRow(Vec<Cell<'static>>);

impl Row for CellRow {
    fn cell(&self, column: usize) -> Cell<'_> {
        self.0.get(column).cloned().unwrap_or(Cell::Null)
    }
}

fn row(host: &str, day: i64, others: [Cell<'static>; 4]) -> CellRow {
    let time = day * 86_400_000_000_000 + 1_234_567;
    let date = Cell::time_text(time)[..10].to_owned();
    let [number, is_true, text, json] = others;
    CellRow(vec![
        number,
        Cell::Text(host.to_owned().into()),
        Cell::Text(date.into()),
        Cell::Time(time),
        Cell::Integer(time),
        is_true,
        text,
        json,
    ])
}

fn plain_row(host: &str, day: i64, number: i64) -> CellRow {
    row(host, day, [Cell::Integer(number), Cell::Null, Cell::Null, Cell::Null])
}

/// All files in a folder, from it on.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The rows of a file, each by the names of its columns.
fn read(path: &Path) -> Vec<BTreeMap<String, Field>> {
    let options = ReadOptionsBuilder::new().build();
    let file = fs::File::open(path).unwrap();
    let reader = SerializedFileReader::new_with_options(file, options).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().into_columns().into_iter().collect()).collect()
}

fn field(cell: &Cell<'_>) -> Field {
    match cell {
        Cell::Null => Field::Null,
        Cell::Integer(number) => Field::Long(*number),
        Cell::Boolean(value) => Field::Bool(*value),
        Cell::Time(ns) => Field::TimestampMicros(ns / 1000),
        Cell::Text(text) => Field::Str(text.to_string()),
    }
}

/// Writes rows, in batches, and reads them: by folder, in order.
fn written(
    rows: &[CellRow],
    limits: ParquetLimits,
) -> BTreeMap<String, Vec<BTreeMap<String, Field>>> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("out");
    let mut folder = ParquetFolder::with_limits(&path, &[&ROWS, &OTHERS], limits).unwrap();
    for batch in rows.chunks(7) {
        folder.write(&ROWS, &batch.to_vec()).unwrap();
    }
    let summary = Box::new(folder).finish().unwrap();
    assert_eq!(summary.rows["rows"], rows.len() as u64);
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut parts = files(&path);
    let number = |path: &PathBuf| -> u32 {
        let name = path.file_stem().unwrap().to_str().unwrap();
        name.strip_prefix("part-").unwrap().parse().unwrap()
    };
    parts.sort_by_key(number);
    let bytes: u64 = parts.iter().map(|part| fs::metadata(part).unwrap().len()).sum();
    assert_eq!(summary.bytes, bytes);
    for part in parts {
        let folder = part.parent().unwrap().strip_prefix(&path).unwrap();
        found.entry(folder.to_str().unwrap().to_owned()).or_default().extend(read(&part));
    }
    found
}

const SMALL: ParquetLimits =
    ParquetLimits { group_rows: 10, bytes: 2000, files: 2, partitions: 20 };

fn cell(kind: ColumnType) -> BoxedStrategy<Cell<'static>> {
    let value = match kind {
        ColumnType::Integer | ColumnType::Time => any::<i64>().prop_map(Cell::Integer).boxed(),
        ColumnType::Boolean => any::<bool>().prop_map(Cell::Boolean).boxed(),
        ColumnType::Text | ColumnType::Json => {
            let texts = prop_oneof!["[a-c]{0,2}", any::<String>()];
            texts.prop_map(|text| Cell::Text(text.into())).boxed()
        }
    };
    prop_oneof![1 => Just(Cell::Null), 3 => value].boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every cell that is written is read again, whatever is kept at a time.
    #[test]
    fn files_have_what_rows_have(
        rows in prop::collection::vec(
            (
                "[ab]",
                0..3_i64,
                [
                    cell(ColumnType::Integer),
                    cell(ColumnType::Boolean),
                    cell(ColumnType::Text),
                    cell(ColumnType::Json),
                ],
            )
                .prop_map(|(host, day, others)| row(&host, day, others)),
            1..60,
        ),
        is_small in any::<bool>(),
    ) {
        let found = written(&rows, if is_small { SMALL } else { LIMITS });
        let mut expected: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for row in &rows {
            let text = |place: usize| {
                let Cell::Text(text) = row.cell(place) else { panic!("no text") };
                text.into_owned()
            };
            let stored = ROWS.columns.iter().enumerate();
            let stored = stored.filter(|(_, column)| !["host", "date"].contains(&column.name));
            let stored = stored.map(|(at, column)| (column.name.to_owned(), field(&row.cell(at))));
            let folder = format!("rows/host={}/date={}", text(1), text(2));
            expected.entry(folder).or_default().push(stored.collect::<BTreeMap<_, _>>());
        }
        // A table without rows has a file, too.
        let others = found.keys().filter(|folder| folder.starts_with("others/")).count();
        prop_assert_eq!(others, 1);
        let rows: BTreeMap<_, _> =
            found.into_iter().filter(|(folder, _)| folder.starts_with("rows/")).collect();
        prop_assert_eq!(rows, expected);
    }
}

#[test]
fn few_files_are_open_and_folders_are_limited() {
    let rows: Vec<_> = (0..40).map(|at| plain_row("a", at % 20, at)).collect();
    let found = written(&rows[..19], SMALL);
    assert_eq!(found.len(), 20);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("out");
    let mut folder = ParquetFolder::with_limits(&path, &[&ROWS], SMALL).unwrap();
    folder.write(&ROWS, &rows).unwrap();
    assert_eq!(folder.open.len(), SMALL.files);
    let error = folder.write(&ROWS, &vec![plain_row("b", 1, 1)]).unwrap_err();
    assert!(error.to_string().contains("--since"), "{error}");
    // Nothing of it stays.
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn hosts_cannot_leave_their_folder() {
    for (host, name) in [
        ("web-1.example", "web-1.example"),
        ("", "__HIVE_DEFAULT_PARTITION__"),
        ("__HIVE_DEFAULT_PARTITION__", "%5F_HIVE_DEFAULT_PARTITION__"),
        ("..", ".."),
        ("../../etc", "..%2F..%2Fetc"),
        ("a=b", "a%3Db"),
        ("100%", "100%25"),
        ("a\0\n\x7fb", "a%00%0A%7Fb"),
        ("a*?[b]", "a%2A%3F%5Bb%5D"),
        ("höst", "höst"),
    ] {
        assert_eq!(escape(host), name);
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out");
        let mut folder = ParquetFolder::create(&path, &[&ROWS]).unwrap();
        folder.write(&ROWS, &vec![plain_row(host, 1, 1)]).unwrap();
        Box::new(folder).finish().unwrap();
        let part = path.join(format!("rows/host={name}/date=1970-01-02/part-0.parquet"));
        assert_eq!(files(place.path()), [part]);
    }
    // It's said, and nothing stays.
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("out");
    let mut folder = ParquetFolder::create(&path, &[&ROWS]).unwrap();
    assert!(folder.write(&ROWS, &vec![plain_row(&"a".repeat(300), 1, 1)]).is_err());
    drop(folder);
    assert!(files(place.path()).is_empty());
}
