//! The rows of a query as a table for people, JSON lines, or CSV.

use clap::ValueEnum;
use rusqlite::types::ValueRef;
use serde_json::Value as Json;
use unicode_width::UnicodeWidthStr as _;

use super::{QueryError, TakeRows};
use crate::{
    event::escape::escaped,
    sinks::output::{Output, OutputError},
};

/// How many rows a table waits for, to find the widths of its columns.
const MEASURED: usize = 1000;
/// How many bytes are collected before they are written.
const TOGETHER: usize = 1 << 16;

/// How rows look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowFormat {
    /// For people
    #[default]
    Table,
    /// One object for each row
    Json,
    /// As RFC 4180 has it; control characters are escaped
    Csv,
}

/// Why printing failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrintError {
    /// The query did
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The output did
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// A cell of a table: its text, and whether it is a number.
type Shown = (String, bool);

/// Prints rows.
pub(crate) struct RowPrinter {
    format: RowFormat,
    output: Output,
    bytes: Vec<u8>,
    names: Vec<String>,
    /// Rows that wait for the widths
    waiting: Vec<Vec<Shown>>,
    /// `None`: not known yet
    widths: Option<Vec<usize>>,
}

impl RowPrinter {
    /// To an output.
    pub(crate) const fn new(format: RowFormat, output: Output) -> Self {
        Self {
            format,
            output,
            bytes: Vec::new(),
            names: Vec::new(),
            waiting: Vec::new(),
            widths: None,
        }
    }

    fn flush(&mut self) -> Result<(), PrintError> {
        let written = self.output.write_all(&self.bytes);
        self.bytes.clear();
        Ok(written?)
    }

    fn line(&mut self, line: &str) {
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.push(b'\n');
    }

    /// Prints the head of a table and the rows that waited.
    fn measure(&mut self) {
        if self.widths.is_some() {
            return;
        }
        let mut widths: Vec<_> = self.names.iter().map(|name| name.width()).collect();
        for row in &self.waiting {
            for (width, (text, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(text.width());
            }
        }
        // A column of numbers has its name on their side.
        let is_number = |at: usize| {
            let mut cells = self.waiting.iter().filter_map(|row| row.get(at));
            cells.any(|cell| cell.1)
                && self.waiting.iter().all(|row| {
                    row.get(at).is_some_and(|(text, is_number)| *is_number || text == NULL)
                })
        };
        let head: Vec<Shown> =
            self.names.iter().enumerate().map(|(at, name)| (name.clone(), is_number(at))).collect();
        let rows = std::mem::take(&mut self.waiting);
        self.table_line(&head, &widths);
        for row in rows {
            self.table_line(&row, &widths);
        }
        self.widths = Some(widths);
    }

    fn table_line(&mut self, row: &[Shown], widths: &[usize]) {
        let mut line = String::new();
        for (at, ((text, is_number), width)) in row.iter().zip(widths).enumerate() {
            let gap = " ".repeat(width.saturating_sub(text.width()));
            if at > 0 {
                line.push_str("  ");
            }
            match is_number {
                true => line.extend([gap.as_str(), text.as_str()]),
                false => line.extend([text.as_str(), gap.as_str()]),
            }
        }
        self.line(line.trim_end());
    }
}

/// What stands for no value.
const NULL: &str = "-";

fn safe(text: &[u8]) -> String {
    escaped(text, usize::MAX).to_string()
}

fn shown(value: ValueRef<'_>) -> Shown {
    match value {
        ValueRef::Null => (NULL.to_owned(), false),
        ValueRef::Integer(number) => (number.to_string(), true),
        ValueRef::Real(number) => (real(number), true),
        ValueRef::Text(text) => (safe(text), false),
        ValueRef::Blob(bytes) => (hex(bytes), false),
    }
}

/// A number with three decimals at most: more say nothing about a percentile.
fn real(number: f64) -> String {
    let text = format!("{number:.3}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => hex(bytes).into(),
    }
}

/// A field of CSV.
fn field(text: &str) -> String {
    match text.contains([',', '"']) || text.is_empty() {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

impl TakeRows for RowPrinter {
    type Error = PrintError;

    fn begin(&mut self, names: &[String]) -> Result<(), PrintError> {
        self.names = match self.format {
            RowFormat::Json => names.to_vec(),
            RowFormat::Table | RowFormat::Csv => {
                names.iter().map(|name| safe(name.as_bytes())).collect()
            }
        };
        if self.format == RowFormat::Csv {
            let head: Vec<_> = self.names.iter().map(|name| field(name)).collect();
            self.line(&head.join(","));
        }
        Ok(())
    }

    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), PrintError> {
        match self.format {
            RowFormat::Json => {
                // In the order of the columns.
                let members = self.names.iter().zip(row);
                let members: Vec<_> = members
                    .map(|(name, value)| format!("{}:{}", Json::from(name.as_str()), json(*value)))
                    .collect();
                self.line(&format!("{{{}}}", members.join(",")));
            }
            RowFormat::Csv => {
                let cells: Vec<_> = row
                    .iter()
                    .map(|value| match *value == ValueRef::Null {
                        true => String::new(),
                        false => field(&shown(*value).0),
                    })
                    .collect();
                self.line(&cells.join(","));
            }
            RowFormat::Table => {
                let cells: Vec<_> = row.iter().map(|value| shown(*value)).collect();
                match self.widths.take() {
                    Some(widths) => {
                        self.table_line(&cells, &widths);
                        self.widths = Some(widths);
                    }
                    None => {
                        self.waiting.push(cells);
                        if self.waiting.len() >= MEASURED {
                            self.measure();
                        }
                    }
                }
            }
        }
        if self.bytes.len() >= TOGETHER {
            self.flush()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), PrintError> {
        if self.format == RowFormat::Table {
            self.measure();
        }
        self.flush()
    }
}
