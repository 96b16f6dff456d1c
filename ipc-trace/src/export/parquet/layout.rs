//! The schema of a table's files, and how its columns are encoded.

use std::{fs::File, sync::Arc};

use parquet::{
    basic::{
        Compression, ConvertedType, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical,
        ZstdLevel,
    },
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
        writer::SerializedFileWriter,
    },
    schema::types::{ColumnPath, Type, TypePtr},
};

use super::partition::{DayOf, Partition};
use crate::rows::{Cell, ColumnType, Row, Table, TableColumn};

/// The columns that are folders.
const HOST: &str = "host";
const DATE: &str = "date";
/// The column that says the day faster than `date`.
const TIME_NS: &str = "time_ns";
const DAY_NS: i64 = 86_400_000_000_000;
/// zstd's level: higher ones take longer than all else.
const LEVEL: i32 = 1;

/// A column of a file: its place in the table, and its type.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileColumn {
    pub place: usize,
    pub kind: ColumnType,
}

/// How a table is stored.
#[derive(Debug)]
pub(super) struct TableLayout {
    /// The table
    pub table: &'static Table,
    columns: Vec<FileColumn>,
    host: Option<usize>,
    date: Option<usize>,
    time_ns: Option<usize>,
    schema: TypePtr,
    properties: Arc<WriterProperties>,
}

impl TableLayout {
    pub(super) fn new(table: &'static Table) -> Result<Self, ParquetError> {
        let stored = || {
            let columns = table.columns.iter().enumerate();
            columns.filter(|(_, column)| column.name != HOST && column.name != DATE)
        };
        let fields = stored().map(|(_, column)| field(column).map(Arc::new));
        let fields = fields.collect::<Result<_, _>>()?;
        let schema = Type::group_type_builder(table.name).with_fields(fields).build()?;
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("ipc-trace version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL)?))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_key_value_metadata(Some(docs(table)));
        for (_, column) in stored() {
            let path = ColumnPath::from(column.name);
            if matches!(column.kind, ColumnType::Integer | ColumnType::Time) {
                // Also where a dictionary would grow too large.
                properties =
                    properties.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
            }
            // Their values hardly repeat, and follow one another closely.
            let is_rising = column.kind == ColumnType::Time || column.name.ends_with("_ns");
            if column.name == "seq" || is_rising && !column.name.starts_with("start_") {
                properties = properties.set_column_dictionary_enabled(path, false);
            }
        }
        Ok(Self {
            table,
            columns: stored()
                .map(|(place, column)| FileColumn { place, kind: column.kind })
                .collect(),
            host: table.place(HOST),
            date: table.place(DATE),
            time_ns: table.place(TIME_NS),
            schema: Arc::new(schema),
            properties: Arc::new(properties.build()),
        })
    }

    /// The columns of its files.
    pub(super) fn columns(&self) -> &[FileColumn] {
        &self.columns
    }

    /// Whether its files are in a folder for each day.
    pub(super) const fn has_date(&self) -> bool {
        self.date.is_some()
    }

    /// Begins a file.
    pub(super) fn writer(&self, file: File) -> Result<SerializedFileWriter<File>, ParquetError> {
        let (schema, properties) = (Arc::clone(&self.schema), Arc::clone(&self.properties));
        SerializedFileWriter::new(file, schema, properties)
    }

    /// Where a row belongs.
    pub(super) fn partition(&self, row: &dyn Row) -> (Partition, DayOf) {
        let text = |place: Option<usize>| match place.map(|place| row.cell(place)) {
            Some(Cell::Text(text)) => Some(text.into_owned()),
            _ => None,
        };
        let host = text(self.host).unwrap_or_default();
        let date = self.date.map(|_| text(self.date).unwrap_or_default());
        (Partition { table: self.table.name, host, date }, self.day(row))
    }

    /// Whether a row is of this host and day. It is asked for each row, and making the text of a date takes long.
    pub(super) fn is_in(&self, row: &dyn Row, host: &str, day: DayOf) -> bool {
        let is_of_host = self
            .host
            .is_some_and(|place| matches!(row.cell(place), Cell::Text(text) if text == host));
        is_of_host && (self.date.is_none() || day.is_some() && self.day(row) == day)
    }

    fn day(&self, row: &dyn Row) -> DayOf {
        match self.time_ns.filter(|_| self.date.is_some()).map(|place| row.cell(place)) {
            Some(Cell::Integer(ns)) => Some(ns.div_euclid(DAY_NS)),
            _ => None,
        }
    }
}

/// What a row is, and what its columns have: a file says it.
fn docs(table: &Table) -> Vec<KeyValue> {
    let doc = |name: String, doc: &str| KeyValue::new(name, doc.trim().to_owned());
    let columns = table.columns.iter();
    let columns = columns.map(|column| doc(format!("{}.{}", table.name, column.name), column.doc));
    [doc(table.name.to_owned(), table.doc)].into_iter().chain(columns).collect()
}

fn field(column: &TableColumn) -> Result<Type, ParquetError> {
    let (physical, logical) = match column.kind {
        ColumnType::Integer => (Physical::INT64, None),
        ColumnType::Boolean => (Physical::BOOLEAN, None),
        // Spark reads no nanoseconds. The exact time is another column.
        ColumnType::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
        ColumnType::Text | ColumnType::Json => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_converted_type(ConvertedType::NONE)
        .with_logical_type(logical)
        .build()
}
