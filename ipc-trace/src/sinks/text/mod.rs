//! The text output: events as text for a terminal.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`units`] | durations, sizes, counts and times of day |
//! | [`style`] | roles of text, and their colours |
//! | [`args`] | a call with its arguments, by the names of its man page |
//! | [`call`] | one line for a call that returned |
//! | [`line`](mod@line) | one line for any other event of `live` |
//! | [`findings`] | findings, in a line and in full |
//! | [`objects`] | creation and removal of objects, and the objects of a namespace |
//! | [`summary`] | backends, accounting, COMMAND's exit status, pending calls |
//! | [`status_line`] | the line below the others that is rewritten |
//! | [`wrap`] | wraps words to a width, and formats tables |
//! | [`report`] | `report`, namespace by namespace |
//! | [`ls`] | `ls`: a snapshot, by namespace |
//! | [`doctor`] | `doctor`: the summary, the problems, the details |
//!
//! Invariant: these are functions from values to text. They use no file, clock, terminal or kernel; width and colours
//! are parameters. Bytes from other processes go through `event/escape.rs`, so that no name can move the cursor, hide
//! itself or forge a line. An unknown value is `?` or omitted, never invented.

pub(crate) mod args;
pub(crate) mod call;
mod containers;
pub(crate) mod doctor;
pub(crate) mod findings;
pub(crate) mod line;
pub(crate) mod ls;
pub(crate) mod objects;
pub(crate) mod report;
pub(crate) mod status_line;
pub(crate) mod style;
pub(crate) mod summary;
pub(crate) mod units;
pub(crate) mod wrap;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod snapshot_tests;

use std::{fmt::Write as _, sync::Arc};

use ipc_trace_common::record::NsRef;
use unicode_width::UnicodeWidthStr as _;

use super::{Format, Screen};
use crate::event::{Event, escape::escaped, objects::ObjectEventKind};

/// Writes text.
#[derive(Debug)]
pub(crate) struct TextSink {
    screen: Screen,
    /// Reused for each line
    line: String,
    /// The namespaces of existing objects that are not output yet
    present: Vec<NsRef>,
    /// The host, as each line begins with it
    host: Option<String>,
}

impl TextSink {
    /// For this screen.
    #[must_use]
    pub(crate) const fn new(screen: Screen) -> Self {
        Self { screen, line: String::new(), present: Vec::new(), host: None }
    }
}

impl TextSink {
    /// Appends the lines that were written.
    fn append(&self, out: &mut Vec<u8>) {
        let Some(host) = &self.host else { return out.extend_from_slice(self.line.as_bytes()) };
        for line in self.line.split_inclusive('\n') {
            out.extend_from_slice(host.as_bytes());
            out.extend_from_slice(line.as_bytes());
        }
    }
}

impl Format for TextSink {
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let Screen { style, width, min_confidence } = self.screen;
        let width = width.saturating_sub(self.host.as_ref().map_or(0, |host| host.width()));
        // A count of existing objects is enough; there may be thousands.
        if let Event::Object(object) = event
            && object.event == ObjectEventKind::Present
        {
            let ns = object.ipc_ns;
            return self.present.push(NsRef { inum: ns.inum, generation: ns.r#gen });
        }
        // One line per finding is enough; the final summary has its total.
        if let Event::Finding(line) = event
            && (!line.new || line.finding.confidence < min_confidence)
        {
            return;
        }
        self.settle(out);
        self.line.clear();
        let line = &mut self.line;
        let palette = style.palette;
        let before = match event {
            Event::End(end) => {
                findings::summary(line, &end.findings, min_confidence, palette, width)
            }
            Event::Report(report) => {
                write!(line, "{}", report::text(report, min_confidence, palette, width))
            }
            Event::Start(_)
            | Event::Ipc(_)
            | Event::Namespace(_)
            | Event::Object(_)
            | Event::Container(_)
            | Event::Loss(_)
            | Event::Resync(_)
            | Event::Finding(_)
            | Event::Status(_) => Ok(()),
        };
        // Writing to a string does not fail.
        let _ = before.and_then(|()| line::write(line, event, style, width));
        self.append(out);
    }

    fn set_host(&mut self, host: Option<Arc<str>>) {
        let escaped = |host: &Arc<str>| format!("{} ", escaped(host.as_bytes(), usize::MAX));
        self.host = host.as_ref().map(escaped);
    }

    fn settle(&mut self, out: &mut Vec<u8>) {
        if self.present.is_empty() {
            return;
        }
        self.line.clear();
        // Writing to a string does not fail.
        let _ = objects::present(&mut self.line, self.present.drain(..), self.screen.style);
        self.append(out);
    }
}
