//! JSON: one object for each line; a report as one object.

use std::sync::Arc;

use super::{Format, Screen};
use crate::event::{Event, JsonLine, VERSION};

/// Writes JSON.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    host: Option<Arc<str>>,
}

impl Json {
    /// It needs no screen.
    #[must_use]
    pub(crate) const fn new(_: Screen) -> Self {
        Self { host: None }
    }
}

impl Format for Json {
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if let Event::Report(report) = event {
            return append(out, |out| serde_json::to_writer_pretty(out, report));
        }
        // Only the status line of a terminal needs every second's status.
        if !matches!(event, Event::Status(status) if !status.minute) {
            // The first line has it.
            let host = self.host.as_deref().filter(|_| !matches!(event, Event::Start(_)));
            append(out, |out| serde_json::to_writer(out, &JsonLine { v: VERSION, host, event }));
        }
    }

    fn set_host(&mut self, host: Option<Arc<str>>) {
        self.host = host;
    }
}

/// Appends a line. Writing to memory does not fail, and all values can be serialised.
fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>) {
    let len = out.len();
    match write(out) {
        Ok(()) => out.push(b'\n'),
        Err(error) => {
            log::error!("an event could not be written as JSON: {error}");
            out.truncate(len);
        }
    }
}
