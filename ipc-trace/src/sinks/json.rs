//! JSON: one object for each line; a report as one object.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Format, Screen};
use crate::event::{Container, Event, Ipc, JsonLine, Process, VERSION};

/// Writes JSON.
#[derive(Debug)]
pub(crate) struct Json {
    callers: Callers,
}

impl Json {
    /// It needs no screen.
    #[must_use]
    pub(crate) fn new(_: Screen) -> Self {
        Self { callers: Callers::default() }
    }
}

impl Format for Json {
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if let Event::Report(report) = event {
            return append(out, |out| serde_json::to_writer_pretty(out, report));
        }
        if let Event::Ipc(ipc) = event {
            return append(out, |out| {
                let caller = self.callers.get(ipc)?;
                let call = ipc.with_caller(&caller.process_json, &caller.container_json);
                serde_json::to_writer(out, &JsonCallLine { v: VERSION, r#type: "ipc", call })
            });
        }
        // Only the status line of a terminal needs every second's status.
        if !matches!(event, Event::Status(status) if !status.minute) {
            append(out, |out| serde_json::to_writer(out, &JsonLine { v: VERSION, event }));
        }
    }
}

/// A [`JsonLine`] of a call whose process and container are JSON already.
#[derive(Serialize)]
struct JsonCallLine<T> {
    v: u8,
    r#type: &'static str,
    #[serde(flatten)]
    call: T,
}

/// How many callers are remembered.
const CALLERS: usize = 256;

/// Threads that made calls, by the low bits of their tids: half of a call's line describes the caller, as the line
/// before did.
#[derive(Debug)]
struct Callers {
    by_tid: Vec<Option<Caller>>,
}

impl Default for Callers {
    fn default() -> Self {
        Self { by_tid: (0..CALLERS).map(|_| None).collect() }
    }
}

/// A thread that made calls, and its JSON.
#[derive(Debug)]
struct Caller {
    process: Process<'static>,
    container: Option<Arc<Container>>,
    process_json: Box<RawValue>,
    container_json: Box<RawValue>,
}

impl Caller {
    fn is_of(&self, ipc: &Ipc<'_>) -> bool {
        self.process == ipc.process && self.container == ipc.container
    }
}

impl Callers {
    /// The caller of a call.
    ///
    /// # Errors
    /// It can't be serialised: never.
    fn get(&mut self, ipc: &Ipc<'_>) -> serde_json::Result<&Caller> {
        #[expect(clippy::indexing_slicing, reason = "the index is less than the length")]
        let place = &mut self.by_tid[ipc.process.tid as usize % CALLERS];
        if place.as_ref().is_some_and(|caller| !caller.is_of(ipc)) {
            *place = None;
        }
        match place {
            Some(caller) => Ok(caller),
            free => Ok(free.insert(Caller {
                process: ipc.process.clone().into_owned(),
                container: ipc.container.clone(),
                process_json: to_raw_value(&ipc.process)?,
                container_json: to_raw_value(&ipc.container)?,
            })),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{IpcNs, identity::Capabilities},
        sinks::text::fixtures::every_operation,
    };

    /// What the sink wrote, and the whole event as JSON.
    fn written(sink: &mut Json, ipc: Ipc<'_>) -> [String; 2] {
        let event = Event::Ipc(ipc);
        let mut out = Vec::new();
        sink.write(&event, &mut out);
        let whole = serde_json::to_string(&JsonLine { v: VERSION, event: &event }).unwrap();
        [String::from_utf8(out).unwrap(), whole + "\n"]
    }

    #[test]
    fn callers_that_are_remembered_are_written_as_they_are_now() {
        let mut sink = Json { callers: Callers::default() };
        let container = |name: Option<&str>| {
            Some(Arc::new(Container {
                runtime: "docker",
                id: "0123".into(),
                name: name.map(Into::into),
                image: None,
                pod: None,
                pod_uid: None,
                pod_namespace: None,
                labels: std::collections::BTreeMap::default(),
                labels_lost: 0,
                ipc_mode: None,
            }))
        };
        // What changes between two calls of a thread, or between threads that share a place.
        let changes: [fn(&mut Ipc<'_>); 7] = [
            |_| {},
            |ipc| ipc.process.comm = "other".into(),
            |ipc| ipc.process.uid += 1,
            |ipc| ipc.process.tid += CALLERS as u32,
            |ipc| ipc.process.exe = None,
            |ipc| ipc.process.identity.capabilities = Some(Capabilities(1 << 15)),
            |ipc| ipc.ipc_ns = IpcNs { host: !ipc.ipc_ns.host, ..ipc.ipc_ns },
        ];
        for change in changes {
            for name in [None, Some("db"), None] {
                for mut ipc in every_operation() {
                    change(&mut ipc);
                    ipc.container = container(name);
                    let [line, whole] = written(&mut sink, ipc);
                    assert_eq!(line, whole);
                }
            }
        }
        assert_eq!(sink.callers.by_tid.iter().flatten().count(), 1);
    }
}
