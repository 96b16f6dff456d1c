//! A folder of Parquet files, as Hive, Spark, DuckDB and ClickHouse lay tables out:
//! `TABLE/host=HOST/date=DAY/part-N.parquet`.
//!
//! | module | its job |
//! | --- | --- |
//! | `partition` | names of folders |
//! | `layout` | the schema of a table's files |
//! | `columns` | the values of a row group |
//!
//! Invariant: memory and open files are bounded, however many hosts and days there are.

mod columns;
mod layout;
mod partition;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io,
    path::Path,
};

use parquet::{errors::ParquetError, file::writer::SerializedFileWriter};

use self::{
    columns::RowGroup,
    layout::TableLayout,
    partition::{DayOf, Partition},
};
use super::{
    new_path::NewFolder,
    table_thread::{RowList, TableSummary, TableWriter},
};
use crate::rows::Table;

/// What is kept at a time.
#[derive(Clone, Copy, Debug)]
struct ParquetLimits {
    /// Rows of a row group
    group_rows: usize,
    /// Bytes of all row groups that aren't written yet
    bytes: usize,
    /// Open files
    files: usize,
    /// Folders of files, over all
    partitions: usize,
}

const LIMITS: ParquetLimits =
    ParquetLimits { group_rows: 250_000, bytes: 192 << 20, files: 16, partitions: 100_000 };

/// A file that is being written.
struct OpenPart {
    partition: Partition,
    writer: SerializedFileWriter<File>,
    group: RowGroup,
    /// When it was last written to
    used: u64,
}

impl OpenPart {
    fn flush(&mut self) -> io::Result<()> {
        self.group.write(&mut self.writer).map_err(failed)
    }
}

/// Writes the folder.
pub(crate) struct ParquetFolder {
    folder: NewFolder,
    layouts: Vec<TableLayout>,
    limits: ParquetLimits,
    open: Vec<OpenPart>,
    /// How many files there are of each partition
    parts: HashMap<Partition, u32>,
    /// Counts changes of the partition
    clock: u64,
    summary: TableSummary,
}

impl std::fmt::Debug for ParquetFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFolder").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl ParquetFolder {
    /// Makes it, for these tables.
    ///
    /// # Errors
    /// It exists, or can't be made.
    pub(crate) fn create(path: &Path, tables: &[&'static Table]) -> io::Result<Self> {
        Self::with_limits(path, tables, LIMITS)
    }

    fn with_limits(
        path: &Path,
        tables: &[&'static Table],
        limits: ParquetLimits,
    ) -> io::Result<Self> {
        let layouts = tables.iter().map(|table| TableLayout::new(table)).collect::<Result<_, _>>();
        Ok(Self {
            layouts: layouts.map_err(failed)?,
            folder: NewFolder::create(path)?,
            limits,
            open: Vec::new(),
            parts: HashMap::new(),
            clock: 0,
            summary: TableSummary {
                rows: tables.iter().map(|table| (table.name, 0)).collect(),
                bytes: 0,
            },
        })
    }

    /// The open file of a partition.
    fn part(&mut self, layout: usize, partition: Partition) -> io::Result<usize> {
        self.clock += 1;
        if let Some(at) = self.open.iter().position(|part| part.partition == partition) {
            if let Some(part) = self.open.get_mut(at) {
                part.used = self.clock;
            }
            return Ok(at);
        }
        if self.open.len() >= self.limits.files {
            let oldest = self.open.iter().enumerate().min_by_key(|(_, part)| part.used);
            if let Some((at, _)) = oldest {
                self.close(at)?;
            }
        }
        if self.parts.len() >= self.limits.partitions && !self.parts.contains_key(&partition) {
            return Err(io::Error::other(format!(
                "more than {} folders for hosts and days would be needed; give --since and --until, or fewer files",
                self.limits.partitions
            )));
        }
        let number = self.parts.entry(partition.clone()).or_insert(0);
        let within = partition.path().join(format!("part-{number}.parquet"));
        *number += 1;
        let of = self.layouts.get(layout).ok_or_else(no_table)?;
        let file = self.folder.create_file(&within)?;
        let writer = of.writer(file).map_err(failed)?;
        let group = RowGroup::new(of.columns());
        self.open.push(OpenPart { partition, writer, group, used: self.clock });
        Ok(self.open.len() - 1)
    }

    /// Writes the file that is at this place to its end.
    fn close(&mut self, at: usize) -> io::Result<()> {
        let mut part = self.open.swap_remove(at);
        part.flush()?;
        part.writer.finish().map_err(failed)?;
        part.writer.inner().sync_data()?;
        self.summary.bytes += part.writer.bytes_written() as u64;
        Ok(())
    }

    /// Writes the largest row groups while there is too much in memory.
    fn bound_bytes(&mut self) -> io::Result<()> {
        let bytes = |part: &OpenPart| part.group.bytes();
        while self.open.iter().map(bytes).sum::<usize>() > self.limits.bytes {
            let Some(largest) = self.open.iter_mut().max_by_key(|part| bytes(part)) else { break };
            largest.flush()?;
        }
        Ok(())
    }

    /// Makes an empty file for each table without rows, so that each can be asked.
    fn fill_empty(&mut self) -> io::Result<()> {
        let known = self.parts.keys().min_by_key(|known| known.date.is_none());
        let (host, date) =
            known.map_or((String::new(), None), |known| (known.host.clone(), known.date.clone()));
        let written: BTreeSet<_> = self.parts.keys().map(|known| known.table).collect();
        for at in 0..self.layouts.len() {
            let Some(of) = self.layouts.get(at) else { break };
            if !written.contains(of.table.name) {
                let date = of.has_date().then(|| date.clone().unwrap_or("1970-01-01".to_owned()));
                let (table, host) = (of.table.name, host.clone());
                self.part(at, Partition { table, host, date })?;
            }
        }
        Ok(())
    }
}

impl TableWriter for ParquetFolder {
    fn write(&mut self, table: &'static Table, rows: &dyn RowList) -> io::Result<()> {
        let layout = self.layouts.iter().position(|of| of.table.name == table.name);
        let layout = layout.ok_or_else(no_table)?;
        let mut current: Option<(usize, DayOf)> = None;
        for row in (0..rows.len()).filter_map(|at| rows.row(at)) {
            let of = self.layouts.get(layout).ok_or_else(no_table)?;
            let same = current.as_ref().filter(|(at, day)| {
                let host = self.open.get(*at).map(|part| part.partition.host.as_str());
                host.is_some_and(|host| of.is_in(row, host, *day))
            });
            let at = match same {
                Some((at, _)) => *at,
                None => {
                    let (partition, day) = of.partition(row);
                    let at = self.part(layout, partition)?;
                    current = Some((at, day));
                    at
                }
            };
            let of = self.layouts.get(layout).ok_or_else(no_table)?;
            let part = self.open.get_mut(at).ok_or_else(no_table)?;
            part.group.push(of.columns(), row);
            if part.group.rows() >= self.limits.group_rows {
                part.flush()?;
            }
        }
        *self.summary.rows.entry(table.name).or_default() += rows.len() as u64;
        self.bound_bytes()
    }

    fn finish(mut self: Box<Self>) -> io::Result<TableSummary> {
        self.fill_empty()?;
        while !self.open.is_empty() {
            self.close(self.open.len() - 1)?;
        }
        let Self { folder, summary, .. } = *self;
        folder.keep();
        Ok(summary)
    }
}

fn no_table() -> io::Error {
    io::Error::other("the export has no such table")
}

/// The system's error, if there is one.
fn failed(error: ParquetError) -> io::Error {
    let ParquetError::External(cause) = error else { return io::Error::other(error) };
    match cause.downcast::<io::Error>() {
        Ok(error) => *error,
        Err(cause) => io::Error::other(cause),
    }
}
