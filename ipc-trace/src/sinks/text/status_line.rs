//! The status line, which `live` rewrites below the others: current activity.

use std::fmt::{self, Display};

use super::{
    style::{Palette, Role},
    summary::{calls, longest},
    units::{Duration, GroupedCount, Rate},
    wrap::Span,
};
use crate::event::PendingCall;

/// The data of the status line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusLine<'a> {
    /// Time since the start
    pub elapsed: std::time::Duration,
    /// Calls seen since the start
    pub seen: u64,
    /// Recent calls per second
    pub rate: f64,
    /// Calls for which the ring had no room, since the start
    pub dropped: u64,
    /// Calls for which the kernel did not run the program, since the start
    pub missed: u64,
    /// Calls that have been in the kernel for a long time
    pub pending: &'a [PendingCall],
}

/// The line, without its newline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusLineText<'a> {
    status_line: &'a StatusLine<'a>,
    palette: Palette,
    width: usize,
}

const BETWEEN: &str = " · ";
/// Cells of [`BETWEEN`].
const BETWEEN_WIDTH: usize = 3;

impl<'a> StatusLine<'a> {
    /// The status line in at most `width` cells: if it is too long, the least urgent parts are dropped.
    #[must_use]
    pub(crate) const fn line(&'a self, palette: Palette, width: usize) -> StatusLineText<'a> {
        StatusLineText { status_line: self, palette, width }
    }

    /// The parts in order, each with its priority: the greatest number is dropped first. If a part comes in two
    /// lengths, the first that fits is used.
    fn parts(&self) -> Vec<(u8, Span)> {
        // Fractions of a second would flicker.
        let elapsed = Duration(self.elapsed.as_secs().saturating_mul(1_000_000_000));
        let mut parts = vec![
            (3, Span::new(Role::Dim, elapsed)),
            (2, Span::new(Role::Plain, Rate(self.rate))),
            (
                4,
                Span::new(
                    Role::Plain,
                    format_args!("{} {}", GroupedCount(self.seen), calls(self.seen)),
                ),
            ),
        ];
        if self.dropped > 0 {
            parts.push((
                0,
                Span::new(Role::Loss, format_args!("{} lost", GroupedCount(self.dropped))),
            ));
        }
        if self.missed > 0 {
            parts.push((
                0,
                Span::new(Role::Loss, format_args!("{} missed", GroupedCount(self.missed))),
            ));
        }
        if let Some(longest) = longest(self.pending) {
            let count = self.pending.len();
            parts.push((1, Span::new(Role::Plain, format_args!("{count} pending"))));
            parts.push((5, Span::new(Role::Plain, format_args!("longest {longest}"))));
        }
        parts
    }
}

impl Display for StatusLineText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.status_line.parts();
        let needed = |parts: &[(u8, Span)]| {
            let text: usize = parts.iter().map(|(_, span)| span.width()).sum();
            text + BETWEEN_WIDTH * parts.len().saturating_sub(1)
        };
        while parts.len() > 1 && needed(&parts) > self.width {
            let last = parts.iter().enumerate().max_by_key(|(_, (rank, _))| *rank);
            let Some((index, _)) = last else { break };
            parts.remove(index);
        }
        for (index, (_, span)) in parts.iter().enumerate() {
            if index > 0 {
                write!(f, "{}", self.palette.paint(Role::Dim, BETWEEN))?;
            }
            write!(f, "{}", span.clipped(self.width).paint(self.palette))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::*;
    use crate::sinks::text::fixtures::pending;

    fn status_line(pending: &[PendingCall]) -> StatusLine<'_> {
        StatusLine {
            elapsed: std::time::Duration::from_millis(83_700),
            seen: 1_234_567,
            rate: 812.4,
            dropped: 0,
            missed: 0,
            pending,
        }
    }

    #[test]
    fn shows_all_parts() {
        let line = status_line(&[]).line(Palette::PLAIN, 80).to_string();
        assert_eq!(line, "1 min 23 s · 812/s · 1,234,567 calls");
    }

    #[test]
    fn urgent_parts_stay_on_narrow_terminal() {
        let pending = pending();
        let status_line = StatusLine { dropped: 812, missed: 3, ..status_line(&pending) };
        let lines: Vec<String> = [120, 80, 60, 40, 20, 9, 4, 0]
            .map(|width| {
                let line = status_line.line(Palette::PLAIN, width).to_string();
                assert!(line.width() <= width, "{line}");
                format!("{width:>3}|{line}")
            })
            .into();
        insta::assert_snapshot!("status_line", lines.join("\n"));
    }

    #[test]
    fn longest_pending_call_is_shown() {
        let mut pending = pending();
        pending.reverse();
        assert!(status_line(&pending).line(Palette::PLAIN, 120).to_string().contains("semop 14 s"));
    }
}
