//! Sinks: each formats events, and has a thread that writes them.
//!
//! | module | its job |
//! | --- | --- |
//! | [`json`] | one JSON object for each line |
//! | [`text`] | lines, tables and reports for people |
//! | [`bar`] | the status line of a terminal |
//! | [`queue`] | output that waits to be written: bounded, calls are dropped first |
//! | [`writer`] | the thread that writes |
//! | [`output`] | standard output, which may be slow, stalled, full or closed; or a file |
//!
//! **To add a sink**: a file with a type that is a [`Format`], and a row of [`SinkKind`].
//!
//! Invariant: a sink sends nothing back. Output that it can't write yet waits in its queue; output for which the
//! queue has no room is counted by the sink only.

pub(crate) mod bar;
mod json;
pub(crate) mod output;
mod queue;
pub(crate) mod text;
pub(crate) mod writer;

use std::{fmt, sync::Arc};

use crate::event::{EmitEvent, Event};
use queue::LineClass;
use text::call::LineStyle;
use writer::{HostStanding, SinkWriter};

/// How text is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// Colours, and what is omitted by default
    pub style: LineStyle,
    /// Cells of the terminal
    pub width: usize,
    /// Findings below this confidence are omitted
    pub min_confidence: u8,
}

/// Formats events.
pub(crate) trait Format: fmt::Debug + Send {
    /// Appends an event.
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>);

    /// Sets the host that each line is to show; `None`: they all come from one.
    fn set_host(&mut self, _host: Option<Arc<str>>) {}

    /// Appends what was held back to be combined. Called after every pass over the rings.
    fn settle(&mut self, _out: &mut Vec<u8>) {}
}

macro_rules! sinks {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $new:path;)*) => {
        /// The sinks.
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

/// How many bytes are collected before they are passed to the writer, unless a pass ends earlier.
const BATCH_BYTES: usize = 1 << 16;

/// A sink.
#[derive(Debug)]
pub(crate) struct Sink {
    format: Box<dyn Format>,
    host: Option<Arc<str>>,
    writer: SinkWriter,
    /// The collected bytes, of one class, and how many calls they contain
    together: Vec<u8>,
    class: LineClass,
    lines: u64,
    calls: u64,
}

impl Sink {
    /// A sink with that format and writer.
    #[must_use]
    pub(crate) fn new(kind: SinkKind, screen: Screen, writer: SinkWriter) -> Self {
        Self {
            format: kind.format(screen),
            host: None,
            writer,
            together: Vec::new(),
            class: LineClass::Call,
            lines: 0,
            calls: 0,
        }
    }

    /// Sets the host that each line is to show.
    pub(crate) fn set_host(&mut self, host: Option<Arc<str>>) {
        self.flush();
        self.format.set_host(host.clone());
        self.host = host;
    }

    /// Its writer.
    pub(crate) const fn writer(&mut self) -> &mut SinkWriter {
        &mut self.writer
    }

    /// Passes the collected bytes to the writer.
    pub(crate) fn flush(&mut self) {
        let before = self.together.len();
        self.format.settle(&mut self.together);
        if self.together.len() > before {
            self.lines += 1;
        }
        self.push_batch();
    }

    fn push_batch(&mut self) {
        if !self.together.is_empty() {
            let mut bytes = std::mem::take(&mut self.together);
            // It may wait for long.
            bytes.shrink_to_fit();
            self.writer.push(self.class, bytes, (self.lines, self.calls));
        }
        (self.lines, self.calls) = (0, 0);
    }
}

/// Events that are not shown.
impl EmitEvent for Option<Sink> {
    fn emit(&mut self, event: &Event<'_>) {
        if let Some(sink) = self {
            sink.emit(event);
        }
    }

    fn wants_calls(&self) -> bool {
        self.is_some()
    }
}

impl EmitEvent for Sink {
    fn emit(&mut self, event: &Event<'_>) {
        let class = LineClass::of_event(event);
        if let Some(standing) = event.standing() {
            // The writer adds its own counts.
            self.flush();
            self.writer.push_standing(HostStanding { standing, host: self.host.clone() });
            return;
        }
        if class != self.class || self.together.len() >= BATCH_BYTES {
            self.push_batch();
            self.class = class;
        }
        if self.together.capacity() == 0 {
            self.together.reserve(BATCH_BYTES + BATCH_BYTES / 8);
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
