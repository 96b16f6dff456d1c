//! Where events end: each sink makes bytes of them, and has a thread that writes these out.
//!
//! | module | its job |
//! | --- | --- |
//! | [`json`] | a JSON object a line |
//! | [`text`] | lines, tables and reports for people |
//! | [`bar`] | the line below the others, on a terminal |
//! | [`queue`] | what waits to be written: bounded, calls go first |
//! | [`writer`] | the thread that writes |
//! | [`output`] | standard output, which may be slow, stuck, full or closed |
//!
//! **To add a sink**: a file with a type that is a [`Format`], and a row of [`SinkKind`].
//!
//! Invariant: a sink says nothing back. What it is slow with waits in its queue, and what has no room there is counted
//! by it alone.

pub(crate) mod bar;
mod json;
pub(crate) mod output;
mod queue;
pub(crate) mod text;
pub(crate) mod writer;

use std::fmt;

use crate::event::{Event, Tell};
use queue::LineClass;
use text::call::LineStyle;
use writer::SinkWriter;

/// How people are shown things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// Colours, and what goes without saying
    pub look: LineStyle,
    /// Cells of the terminal
    pub width: usize,
    /// Findings less sure than this are left out
    pub min_confidence: u8,
}

/// Makes bytes of events.
pub(crate) trait Format: fmt::Debug + Send {
    /// Appends what there is to say of an event.
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>);

    /// Appends what was left until more came. It is called after every look at the rings.
    fn settle(&mut self, _out: &mut Vec<u8>) {}
}

macro_rules! sinks {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $new:path;)*) => {
        /// What there is to choose from.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub(crate) enum SinkKind {
            $($(#[$doc])* #[value(name = $name)] $kind,)*
        }

        impl SinkKind {
            /// Its name.
            #[must_use]
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            fn format(self, screen: Screen) -> Box<dyn Format> {
                match self { $(Self::$kind => Box::new($new(screen)),)* }
            }
        }
    };
}

sinks! {
    /// For people
    Text = "text", text::TextSink::new;
    /// For programs
    Json = "json", json::Json::new;
}

/// Bytes that come together before they are handed to the writer, if no look ends before.
const TOGETHER: usize = 1 << 16;

/// A sink at work.
#[derive(Debug)]
pub(crate) struct Sink {
    format: Box<dyn Format>,
    writer: SinkWriter,
    /// What has come together, of one class, and how many calls are among it
    together: Vec<u8>,
    class: LineClass,
    lines: u64,
    calls: u64,
}

impl Sink {
    /// One that formats so, and hands on to a writer.
    #[must_use]
    pub(crate) fn new(kind: SinkKind, screen: Screen, writer: SinkWriter) -> Self {
        Self {
            format: kind.format(screen),
            writer,
            together: Vec::new(),
            class: LineClass::Call,
            lines: 0,
            calls: 0,
        }
    }

    /// Its writer.
    pub(crate) const fn writer(&mut self) -> &mut SinkWriter {
        &mut self.writer
    }

    /// Hands on what has come together.
    pub(crate) fn flush(&mut self) {
        let before = self.together.len();
        self.format.settle(&mut self.together);
        if self.together.len() > before {
            self.lines += 1;
        }
        self.hand_on();
    }

    fn hand_on(&mut self) {
        if !self.together.is_empty() {
            let mut bytes = std::mem::take(&mut self.together);
            // It may wait for long.
            bytes.shrink_to_fit();
            self.writer.push(self.class, bytes, (self.lines, self.calls));
        }
        (self.lines, self.calls) = (0, 0);
    }
}

impl Tell for Sink {
    fn emit(&mut self, event: &Event<'_>) {
        let class = LineClass::of_event(event);
        if let Some(standing) = event.standing() {
            // The writer adds what it has counted.
            self.flush();
            self.writer.push_standing(standing);
            return;
        }
        if class != self.class || self.together.len() >= TOGETHER {
            self.hand_on();
            self.class = class;
        }
        self.format.write(event, &mut self.together);
        self.lines += 1;
        if let Event::Ipc(ipc) = event
            && ipc.made != Some(false)
        {
            self.calls += 1;
        }
    }
}
