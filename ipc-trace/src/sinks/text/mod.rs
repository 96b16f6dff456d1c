//! What a person at a terminal reads: the event types as text.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`units`] | durations, sizes, counts and times of day |
//! | [`style`] | what may be coloured, and in what colour |
//! | [`args`] | a call with its arguments, by the names of its man page |
//! | [`call`] | one line for a call that returned |
//! | [`line`](mod@line) | one line for anything else that `live` says |
//! | [`findings`] | findings, in a line and in full |
//! | [`objects`] | lives of objects, and those of a namespace |
//! | [`summary`] | backends, accounting, COMMAND's end, pending calls |
//! | [`footer`] | the line that is rewritten below the others |
//! | [`flow`] | words onto lines of a width, and tables |
//! | [`report`] | `report`, namespace by namespace |
//! | [`ls`] | `ls`: what exists, by namespace |
//! | [`doctor`] | `doctor`: the verdict, what is wrong, how things stand |
//!
//! Invariant: these are functions from values to text. They know no file, clock, terminal or kernel;
//! width and colours are parameters. Bytes that another process chose go through `event/escape.rs`, so that
//! no name can move the cursor, hide itself or forge a line. A value that is not known is `?` or
//! left out, never invented.

pub(crate) mod args;
pub(crate) mod call;
mod containers;
pub(crate) mod doctor;
pub(crate) mod findings;
pub(crate) mod flow;
pub(crate) mod footer;
pub(crate) mod line;
pub(crate) mod ls;
pub(crate) mod objects;
pub(crate) mod report;
pub(crate) mod style;
pub(crate) mod summary;
pub(crate) mod units;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod snapshot_tests;

use std::fmt::Write as _;

use ipc_trace_common::record::NsRef;

use super::{Format, Screen};
use crate::event::{Event, objects::ObjectLife};

/// Writes text.
#[derive(Debug)]
pub(crate) struct TextSink {
    screen: Screen,
    /// Reused for each line
    line: String,
    /// The namespaces of objects that were there, of which no line has told
    present: Vec<NsRef>,
}

impl TextSink {
    /// For this screen.
    #[must_use]
    pub(crate) const fn new(screen: Screen) -> Self {
        Self { screen, line: String::new(), present: Vec::new() }
    }
}

impl Format for TextSink {
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let Screen { look, width, min_confidence } = self.screen;
        // A person wants to know that they are there, not each of thousands.
        if let Event::Object(object) = event
            && object.event == ObjectLife::Present
        {
            let ns = object.ipc_ns;
            return self.present.push(NsRef { inum: ns.inum, generation: ns.r#gen });
        }
        // A person reads it once; how it went on is said in the end.
        if let Event::Finding(line) = event
            && (!line.new || line.finding.confidence < min_confidence)
        {
            return;
        }
        self.settle(out);
        self.line.clear();
        let line = &mut self.line;
        let palette = look.palette;
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
        let _ = before.and_then(|()| line::write(line, event, look, width));
        out.extend_from_slice(line.as_bytes());
    }

    fn settle(&mut self, out: &mut Vec<u8>) {
        if self.present.is_empty() {
            return;
        }
        self.line.clear();
        // Writing to a string does not fail.
        let _ = objects::present(&mut self.line, self.present.drain(..), self.screen.look);
        out.extend_from_slice(self.line.as_bytes());
    }
}
