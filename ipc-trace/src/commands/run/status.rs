//! The status line of a terminal: erased before other lines, written anew below them.
//!
//! Invariant: there is none where COMMAND shares the terminal, or where a line can't be erased.

use std::time::Instant;

use crate::{event::Pending, sinks::text::footer::Footer, sinks::text::style::Palette};

/// Back to the start of the line, and erase it (ECMA-48: EL).
const ERASE: &[u8] = b"\r\x1b[K";

/// The line below the others.
#[derive(Debug)]
pub(crate) struct Status {
    begin: Instant,
    /// The look before: when, and calls seen until then
    before: (Instant, u64),
    text: String,
    shown: bool,
}

/// What is going on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now<'a> {
    /// Calls seen since the start
    pub seen: u64,
    /// Calls for which the ring had no room, since the start
    pub dropped: u64,
    /// Calls for which the kernel did not run the program, since the start
    pub missed: u64,
    /// Calls that have been in the kernel for long
    pub pending: &'a [Pending],
}

impl Status {
    /// Nothing is known yet, so nothing is shown.
    #[must_use]
    pub(crate) fn new() -> Self {
        let begin = Instant::now();
        Self { begin, before: (begin, 0), text: String::new(), shown: false }
    }

    /// Takes a new look, in at most `width` cells.
    pub(crate) fn update(&mut self, now: Now<'_>, palette: Palette, width: usize) {
        let (then, seen) = self.before;
        let at = Instant::now();
        let seconds = at.duration_since(then).as_secs_f64();
        let footer = Footer {
            elapsed: at.duration_since(self.begin),
            seen: now.seen,
            rate: if seconds > 0.0 { now.seen.saturating_sub(seen) as f64 / seconds } else { 0.0 },
            dropped: now.dropped,
            missed: now.missed,
            pending: now.pending,
        };
        // One cell is left free: in the last one, some terminals go on to the next line.
        self.text = footer.line(palette, width.saturating_sub(1)).to_string();
        self.before = (at, now.seen);
    }

    /// Bytes to write before other lines.
    pub(crate) fn erase(&mut self) -> &'static [u8] {
        if std::mem::take(&mut self.shown) { ERASE } else { b"" }
    }

    /// Bytes to write after them.
    pub(crate) fn show(&mut self) -> &[u8] {
        self.shown = !self.text.is_empty();
        self.text.as_bytes()
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_erased_once_it_was_shown() {
        let mut status = Status::new();
        assert!(status.show().is_empty());
        assert!(status.erase().is_empty());
        let now = Now { seen: 12_345, dropped: 0, missed: 0, pending: &[] };
        status.update(now, Palette::PLAIN, 80);
        let text = String::from_utf8(status.show().to_vec()).unwrap();
        assert!(text.contains("12,345 calls"), "{text}");
        assert_eq!(status.erase(), ERASE);
        assert!(status.erase().is_empty());
    }
}
