//! The status line of a terminal: erased before other lines, written anew below them.
//!
//! Invariant: there is none if COMMAND shares the terminal, or if a line can't be erased.

use std::time::Instant;

use super::{Screen, text::status_line::StatusLine};
use crate::event::{Accounting, OpAccounting, PendingCall, Status};

/// A call that has been in the kernel for that long is shown.
const LONG_CALL_NS: u64 = 10_000_000_000;
/// Returns to the start of the line, and erases it (ECMA-48: EL).
pub(crate) const ERASE: &[u8] = b"\r\x1b[K";

/// The status line.
#[derive(Debug)]
pub(crate) struct Bar {
    begin: Instant,
    /// The last update: when, and the calls seen by then
    before: (Instant, u64),
    text: String,
    shown: bool,
}

impl Bar {
    /// Nothing is known yet, so nothing is shown.
    #[must_use]
    pub(crate) fn new() -> Self {
        let begin = Instant::now();
        Self { begin, before: (begin, 0), text: String::new(), shown: false }
    }

    /// Updates the text.
    pub(super) fn update(&mut self, status: &Status, screen: Screen) {
        let (then, before) = self.before;
        let at = Instant::now();
        let seconds = at.duration_since(then).as_secs_f64();
        let Accounting { total: OpAccounting { seen, dropped, .. }, missed, .. } =
            status.accounting;
        let is_long = |call: &&PendingCall| call.for_ns >= LONG_CALL_NS;
        let pending: Vec<_> = status.pending.iter().filter(is_long).cloned().collect();
        let status_line = StatusLine {
            elapsed: at.duration_since(self.begin),
            seen,
            rate: if seconds > 0.0 { seen.saturating_sub(before) as f64 / seconds } else { 0.0 },
            dropped,
            missed,
            pending: &pending,
        };
        // One cell is left free: some terminals start the next line after the last cell.
        let width = screen.width.saturating_sub(1);
        self.text = status_line.line(screen.style.palette, width).to_string();
        self.before = (at, seen);
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

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use ipc_trace_common::op::Abi;

    use super::*;
    use crate::{
        event::value::Timestamp,
        sinks::text::{call::LineStyle, style::Palette},
    };

    #[test]
    fn shown_line_is_erased_once() {
        let mut bar = Bar::new();
        assert!(bar.show().is_empty());
        assert!(bar.erase().is_empty());
        let total = OpAccounting { seen: 12_345, ..OpAccounting::default() };
        let accounting = Accounting { total, ..Accounting::default() };
        let time = Timestamp(UNIX_EPOCH);
        let status = Status { time, accounting, minute: false, pending: Vec::new() };
        let style = LineStyle { palette: Palette::PLAIN, native: Abi::X86_64 };
        bar.update(&status, Screen { style, width: 80, min_confidence: 0 });
        let text = String::from_utf8(bar.show().to_vec()).unwrap();
        assert!(text.contains("12,345 calls"), "{text}");
        assert_eq!(bar.erase(), ERASE);
        assert!(bar.erase().is_empty());
    }
}
