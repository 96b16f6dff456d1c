//! The line below the others that `live` rewrites: what is going on right now.

use std::fmt::{self, Display};

use super::{
    flow::Span,
    style::{Palette, Role},
    summary::{calls, longest},
    units::{Duration, GroupedCount, Rate},
};
use crate::event::PendingCall;

/// What the footer tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footer<'a> {
    /// Since the start
    pub elapsed: std::time::Duration,
    /// Calls seen since the start
    pub seen: u64,
    /// Calls a second, lately
    pub rate: f64,
    /// Calls for which the ring had no room, since the start
    pub dropped: u64,
    /// Calls for which the kernel did not run the program, since the start
    pub missed: u64,
    /// Calls that have been in the kernel for long
    pub pending: &'a [PendingCall],
}

/// The line, without its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FooterLine<'a> {
    footer: &'a Footer<'a>,
    palette: Palette,
    width: usize,
}

const BETWEEN: &str = " · ";
/// Cells of [`BETWEEN`].
const BETWEEN_WIDTH: usize = 3;

impl<'a> Footer<'a> {
    /// The footer in at most `width` cells: where there are too few, what is less urgent goes.
    #[must_use]
    pub(crate) const fn line(&'a self, palette: Palette, width: usize) -> FooterLine<'a> {
        FooterLine { footer: self, palette, width }
    }

    /// The parts in the order in which they stand, each with how long it is worth keeping: the
    /// greatest number goes first. Of a part that comes in two lengths the first that fits is taken.
    fn parts(&self) -> Vec<(u8, Span)> {
        // Fractions of a second would only flicker.
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

impl Display for FooterLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.footer.parts();
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
    use crate::sinks::text::samples::pending;

    fn footer(pending: &[PendingCall]) -> Footer<'_> {
        Footer {
            elapsed: std::time::Duration::from_millis(83_700),
            seen: 1_234_567,
            rate: 812.4,
            dropped: 0,
            missed: 0,
            pending,
        }
    }

    #[test]
    fn all_is_well() {
        let line = footer(&[]).line(Palette::PLAIN, 80).to_string();
        assert_eq!(line, "1 min 23 s · 812/s · 1,234,567 calls");
    }

    #[test]
    fn what_is_urgent_stays() {
        let pending = pending();
        let footer = Footer { dropped: 812, missed: 3, ..footer(&pending) };
        let lines: Vec<String> = [120, 80, 60, 40, 20, 9, 4, 0]
            .map(|width| {
                let line = footer.line(Palette::PLAIN, width).to_string();
                assert!(line.width() <= width, "{line}");
                format!("{width:>3}|{line}")
            })
            .into();
        insta::assert_snapshot!("footer", lines.join("\n"));
    }

    #[test]
    fn the_longest_call_is_not_the_first() {
        let mut pending = pending();
        pending.reverse();
        assert!(footer(&pending).line(Palette::PLAIN, 120).to_string().contains("semop 14 s"));
    }
}
