//! The values of a row group, column by column.

use std::fs::File;

use bytes::Bytes;
use foldhash::fast::RandomState;
use indexmap::IndexSet;
use parquet::{
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::writer::{SerializedColumnWriter, SerializedFileWriter},
};

use super::layout::FileColumn;
use crate::rows::{Cell, ColumnType, Row};

/// How many texts are passed on at a time.
const TEXTS: usize = 4096;
/// How large texts are kept once, over all rows; others are hardly equal.
const TEXT_OVERHEAD: usize = 64;

/// Equal texts share their bytes.
#[derive(Debug, Default)]
struct TextColumn {
    /// By row, without nulls
    numbers: Vec<u32>,
    known: IndexSet<Bytes, RandomState>,
    /// Bytes of those
    bytes: usize,
}

impl TextColumn {
    fn push(&mut self, text: &str) {
        // Most rows have what the row before has.
        let last = self.numbers.last().copied();
        let is_last = |number: &u32| {
            self.known.get_index(*number as usize).is_some_and(|known| *known == text.as_bytes())
        };
        let number = last.filter(is_last).unwrap_or_else(|| {
            let known = self.known.get_index_of(text.as_bytes()).unwrap_or_else(|| {
                self.bytes += text.len() + TEXT_OVERHEAD;
                self.known.insert_full(Bytes::copy_from_slice(text.as_bytes())).0
            });
            // A row group has fewer rows.
            u32::try_from(known).unwrap_or(u32::MAX)
        });
        self.numbers.push(number);
    }
}

/// The values of a column, without nulls.
#[derive(Debug)]
enum ColumnValues {
    Integers(Vec<i64>),
    Booleans(Vec<bool>),
    Texts(TextColumn),
}

/// A column.
#[derive(Debug)]
struct ColumnBuffer {
    values: ColumnValues,
    /// 1 for a value, 0 for null
    defined: Vec<i16>,
}

impl ColumnBuffer {
    fn new(kind: ColumnType) -> Self {
        let values = match kind {
            ColumnType::Integer | ColumnType::Time => ColumnValues::Integers(Vec::new()),
            ColumnType::Boolean => ColumnValues::Booleans(Vec::new()),
            ColumnType::Text | ColumnType::Json => ColumnValues::Texts(TextColumn::default()),
        };
        Self { values, defined: Vec::new() }
    }

    fn push(&mut self, cell: &Cell<'_>) {
        let is_value = match (&mut self.values, cell) {
            (ColumnValues::Integers(all), Cell::Integer(number)) => {
                all.push(*number);
                true
            }
            (ColumnValues::Integers(all), Cell::Time(ns)) => {
                all.push(ns.div_euclid(1000));
                true
            }
            (ColumnValues::Booleans(all), Cell::Boolean(value)) => {
                all.push(*value);
                true
            }
            (ColumnValues::Texts(all), Cell::Text(text)) => {
                all.push(text);
                true
            }
            // No cell has another type than its column.
            (_, _) => false,
        };
        self.defined.push(i16::from(is_value));
    }

    fn write(&mut self, to: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        match &mut self.values {
            ColumnValues::Integers(all) => {
                to.typed::<Int64Type>().write_batch(all, Some(&self.defined), None)?;
                all.clear();
            }
            ColumnValues::Booleans(all) => {
                to.typed::<BoolType>().write_batch(all, Some(&self.defined), None)?;
                all.clear();
            }
            ColumnValues::Texts(all) => {
                write_texts(all, &self.defined, to)?;
                all.numbers.clear();
                all.known.clear();
                all.bytes = 0;
            }
        }
        self.defined.clear();
        Ok(())
    }
}

fn write_texts(
    texts: &TextColumn,
    defined: &[i16],
    to: &mut SerializedColumnWriter<'_>,
) -> Result<(), ParquetError> {
    let to = to.typed::<ByteArrayType>();
    let mut numbers = texts.numbers.iter();
    let mut values: Vec<ByteArray> = Vec::with_capacity(TEXTS);
    for defined in defined.chunks(TEXTS) {
        values.clear();
        let count = defined.iter().filter(|level| **level > 0).count();
        let known =
            numbers.by_ref().take(count).filter_map(|at| texts.known.get_index(*at as usize));
        values.extend(known.map(|text| ByteArray::from(text.clone())));
        to.write_batch(&values, Some(defined), None)?;
    }
    Ok(())
}

/// The rows that go into the next row group.
#[derive(Debug)]
pub(super) struct RowGroup {
    columns: Vec<ColumnBuffer>,
    rows: usize,
}

impl RowGroup {
    pub(super) fn new(columns: &[FileColumn]) -> Self {
        let columns = columns.iter().map(|column| ColumnBuffer::new(column.kind)).collect();
        Self { columns, rows: 0 }
    }

    /// How many rows there are.
    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes in memory, nearly.
    pub(super) fn bytes(&self) -> usize {
        let of = |column: &ColumnBuffer| {
            let values = match &column.values {
                ColumnValues::Integers(all) => all.len() * 8,
                ColumnValues::Booleans(all) => all.len(),
                ColumnValues::Texts(all) => all.numbers.len() * 4 + all.bytes,
            };
            values + column.defined.len() * 2
        };
        self.columns.iter().map(of).sum()
    }

    /// Adds a row.
    pub(super) fn push(&mut self, columns: &[FileColumn], row: &dyn Row) {
        for (column, of) in self.columns.iter_mut().zip(columns) {
            column.push(&row.cell(of.place));
        }
        self.rows += 1;
    }

    /// Writes the rows, if there are any.
    pub(super) fn write(
        &mut self,
        to: &mut SerializedFileWriter<File>,
    ) -> Result<(), ParquetError> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(());
        }
        let mut group = to.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            column.write(&mut writer)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }
}
