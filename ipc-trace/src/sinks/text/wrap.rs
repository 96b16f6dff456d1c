//! Wraps words to a width, and formats tables. Widths are terminal cells; colours take none.

use std::fmt;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::style::{Palette, Role};

/// Text with its role. The text is escaped already: names went through `escape`.
#[derive(Clone, Debug)]
pub(super) struct Span {
    role: Role,
    text: String,
}

impl Span {
    pub(super) fn new(role: Role, text: impl fmt::Display) -> Self {
        Self { role, text: text.to_string() }
    }

    pub(super) fn width(&self) -> usize {
        self.text.width()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub(super) fn paint(&self, palette: Palette) -> impl fmt::Display {
        palette.paint(self.role, &self.text)
    }

    /// The same text, cut to `width` cells.
    pub(super) fn clipped(&self, width: usize) -> Self {
        if self.width() <= width {
            return self.clone();
        }
        let Some(mut room) = width.checked_sub(1) else {
            return Self { role: self.role, text: String::new() };
        };
        let fits = self.text.chars().take_while(|char| {
            let rest = room.checked_sub(char.width().unwrap_or(0));
            room = rest.unwrap_or(0);
            rest.is_some()
        });
        let mut text: String = fits.collect();
        text.push('…');
        Self { role: self.role, text }
    }
}

/// The position of a paragraph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Cells of a line
    pub(super) width: usize,
    /// Cells that are already used on the first line
    pub(super) used: usize,
    /// Cells left free at the start of the others
    pub(super) indent: usize,
}

/// Writes `spans` separated by `between`, on as many lines as needed, without a newline after the last. A span that
/// is wider than a line is cut.
pub(super) fn flow(
    out: &mut dyn fmt::Write,
    spans: &[Span],
    between: &str,
    shape: Shape,
    palette: Palette,
) -> fmt::Result {
    let mut used = shape.used;
    let room = shape.width.saturating_sub(shape.indent);
    for (index, span) in spans.iter().enumerate() {
        let span = span.clipped(room);
        if index > 0 {
            // A comma stays at the end of the line, and needs its cell; a dot between spaces is dropped.
            let kept = if between.starts_with(' ') { "" } else { between.trim_end() };
            let after = if index + 1 == spans.len() { 0 } else { kept.width() };
            if used + between.width() + span.width() + after > shape.width {
                write!(out, "{kept}\n{:indent$}", "", indent = shape.indent)?;
                used = shape.indent;
            } else {
                out.write_str(between)?;
                used += between.width();
            }
        }
        write!(out, "{}", span.paint(palette))?;
        used += span.width();
    }
    Ok(())
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words
    Left,
    /// Numbers
    Right,
}

/// Rows of cells in columns, and at the end of each row a list of words that takes the rest of the width, or lines of
/// its own if that is little.
#[derive(Debug)]
pub(super) struct TextTable<'a> {
    pub(super) columns: &'a [(&'static str, Align)],
    pub(super) notes: &'static str,
    pub(super) rows: Vec<TextRow>,
}

/// A row: a cell for each column, then the words.
#[derive(Debug)]
pub(super) struct TextRow {
    pub(super) cells: Vec<Span>,
    pub(super) notes: Vec<Span>,
}

const INDENT: usize = 2;
const GAP: usize = 2;
/// Words get lines of their own instead of a column with fewer cells than this.
const NARROW: usize = 32;
const NOTES_BETWEEN: &str = ", ";

impl TextTable<'_> {
    /// Writes the table; empty columns are omitted.
    pub(super) fn write(
        &self,
        out: &mut dyn fmt::Write,
        width: usize,
        palette: Palette,
    ) -> fmt::Result {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (heading, _))| {
                let cells = self.rows.iter().filter_map(|row| row.cells.get(index));
                match cells.map(Span::width).max() {
                    None | Some(0) => 0,
                    Some(widest) => widest.max(heading.width()),
                }
            })
            .collect();
        let columns = widths.iter().filter(|width| **width > 0);
        let (columns, text) = columns.fold((0, INDENT), |(n, sum), width| (n + 1, sum + width));
        // Numbers may be wide if they must, at the cost of spacing.
        let gap = if text + columns * GAP > width + GAP { 1 } else { GAP };
        let taken = text + columns * gap;
        let longest = self.rows.iter().map(|row| list_width(&row.notes)).max().unwrap_or(0);
        let left = width.saturating_sub(taken);
        let beside = longest <= left || left >= NARROW;

        let mut cursor = Cursor { out, palette, at: 0 };
        let headings = self.columns.iter().map(|(heading, _)| Span::new(Role::Dim, heading));
        self.cells(&mut cursor, &widths, gap, &headings.collect::<Vec<_>>())?;
        if longest > 0 && beside {
            cursor.put(taken, &Span::new(Role::Dim, self.notes))?;
        }
        cursor.end()?;
        for row in &self.rows {
            self.cells(&mut cursor, &widths, gap, &row.cells)?;
            if !row.notes.is_empty() {
                let indent = if beside { taken } else { 2 * INDENT };
                if !beside {
                    cursor.end()?;
                }
                cursor.go_to(indent)?;
                let shape = Shape { width, used: indent, indent };
                flow(cursor.out, &row.notes, NOTES_BETWEEN, shape, palette)?;
            }
            cursor.end()?;
        }
        Ok(())
    }

    fn cells(
        &self,
        cursor: &mut Cursor<'_>,
        widths: &[usize],
        gap: usize,
        cells: &[Span],
    ) -> fmt::Result {
        let mut start = INDENT;
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(self.columns) {
            if *width == 0 {
                continue;
            }
            let before = match align {
                Align::Left => 0,
                Align::Right => width.saturating_sub(cell.width()),
            };
            cursor.put(start + before, cell)?;
            start += width + gap;
        }
        Ok(())
    }
}

fn list_width(spans: &[Span]) -> usize {
    let between = spans.len().saturating_sub(1) * NOTES_BETWEEN.len();
    spans.iter().map(Span::width).sum::<usize>() + between
}

/// Writes a line from left to right; blanks only before text, so that no line ends with any.
struct Cursor<'a> {
    out: &'a mut dyn fmt::Write,
    palette: Palette,
    at: usize,
}

impl Cursor<'_> {
    fn go_to(&mut self, column: usize) -> fmt::Result {
        let blanks = column.saturating_sub(self.at);
        self.at = self.at.max(column);
        write!(self.out, "{:blanks$}", "")
    }

    fn put(&mut self, column: usize, span: &Span) -> fmt::Result {
        if span.is_empty() {
            return Ok(());
        }
        self.go_to(column)?;
        self.at += span.width();
        write!(self.out, "{}", span.paint(self.palette))
    }

    fn end(&mut self) -> fmt::Result {
        self.at = 0;
        self.out.write_char('\n')
    }
}
