//! A timeline as a Chrome trace: the Trace Event Format, a JSON object with `traceEvents`.
//!
//! | module | its job |
//! | --- | --- |
//! | `tracks` | from namespaces, containers and threads to the processes and threads of the format |
//! | `messages` | which receive took which message |
//! | `format` | the parts of an event in the format |
//!
//! A call that can block is a slice, any other an instant. A finding is a mark, and a message an arrow from the slice of
//! its send to that of its receive.
//!
//! Invariant: memory is bounded by the number of tracks, and by the bounds of `messages`.

mod format;
mod messages;
#[cfg(test)]
mod tests;
mod tracks;

use std::{
    io,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use self::{
    format::{Microseconds, TrackRef, begin, end_with, put_json, put_member},
    messages::{MOST_RECEIVES, MOST_SENDS, MessageCall, MessageMatch, MessageQueue, Messages},
    tracks::Tracks,
};
use crate::event::{
    Event, Ipc, IpcNsRef, NamespaceEvent, NamespaceEventKind,
    args::Args,
    finding::{FindingLine, Severity},
    objects::{ObjectEvent, ObjectEventKind},
    value::{CallError, Hex32, KindName, OsBytes, Timestamp},
};

/// How many bytes are collected before they are written.
const BUFFER_BYTES: usize = 1 << 16;
/// How long before the first event the file's times begin, in nanoseconds: calls entered before it, and Perfetto drops
/// events before 0. Viewers begin at the first event.
const LEAD_NS: i64 = 3_600_000_000_000;

/// What a file contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TraceSummary {
    /// Calls that can block
    pub slices: u64,
    /// Other calls, and those that the kernel never made
    pub instants: u64,
    /// Messages from a send to a receive
    pub flows: u64,
    /// Findings and their updates
    pub marks: u64,
    /// Events of objects and namespaces, losses
    pub others: u64,
    /// Sends that were forgotten before a receive took their message, as there were too many
    pub forgotten_sends: u64,
}

/// Writes a timeline. A failed write is reported at the end.
#[derive(Debug)]
pub(crate) struct TraceWriter<W> {
    to: W,
    out: Vec<u8>,
    error: Option<io::Error>,
    tracks: Tracks,
    messages: Messages,
    summary: TraceSummary,
    /// Time 0 of the file, nanoseconds since 1970
    zero: Option<i64>,
    first: Option<Timestamp>,
    version: Option<String>,
}

/// `args` of a call.
#[derive(Debug, Serialize)]
struct TracedCall<'a> {
    seq: u64,
    pid: u32,
    ret: Option<i64>,
    error: Option<CallError>,
    object: TracedObject<'a>,
    foreign: Option<bool>,
    arguments: &'a Args,
}

/// The object of a call.
#[derive(Debug, Serialize)]
struct TracedObject<'a> {
    kind: KindName,
    id: Option<i32>,
    key: Option<Hex32>,
    name: Option<&'a OsBytes<'a>>,
    ipc_ns: Option<IpcNsRef>,
}

/// `args` of a finding.
#[derive(Debug, Serialize)]
struct TracedFinding<'a> {
    id: u64,
    severity: Severity,
    confidence: u8,
    title: &'a str,
    count: u64,
    new: bool,
}

/// `otherData`.
#[derive(Debug, Serialize)]
struct TraceOrigin<'a> {
    tool: &'static str,
    version: Option<&'a str>,
    hosts: &'a [String],
    /// When `ts` is 0
    zero: Option<Timestamp>,
    first_event: Option<Timestamp>,
    #[serde(flatten)]
    summary: TraceSummary,
}

impl<W: io::Write> TraceWriter<W> {
    /// Writes to `to`, in few large pieces.
    pub(crate) fn new(to: W) -> Self {
        Self {
            to,
            out: br#"{"displayTimeUnit":"ns","traceEvents":["#.to_vec(),
            error: None,
            tracks: Tracks::new(),
            messages: Messages::new(MOST_SENDS, MOST_RECEIVES),
            summary: TraceSummary::default(),
            zero: None,
            first: None,
            version: None,
        }
    }

    /// A run begins; `many_hosts`: tracks say their host.
    pub(crate) fn begin(&mut self, host: &str, many_hosts: bool) {
        self.tracks.set_host(host, many_hosts);
        // A generation of a namespace is one of its run.
        self.messages.restart();
    }

    /// Writes an event. It never fails: the first error is kept.
    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Start(start) => {
                self.time(start.time);
                self.version.get_or_insert_with(|| start.version.clone().into_owned());
            }
            Event::Ipc(ipc) => self.call(ipc),
            Event::Namespace(event) => self.namespace(event),
            Event::Object(event) => self.object(event),
            Event::Container(update) => self.tracks.rename(&update.container, &mut self.out),
            Event::Loss(loss) => {
                if loss.dropped > 0 || loss.missed > 0 {
                    self.messages.lose();
                }
                self.global("loss", loss.time, loss);
            }
            Event::Resync(resync) => self.global("resync", resync.time, resync),
            Event::Finding(finding) => self.finding(finding),
            Event::Status(_) | Event::End(_) | Event::Report(_) => {}
        }
        if self.out.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Whether a write has failed, so that nothing more is written.
    pub(crate) const fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Ends the file.
    ///
    /// # Errors
    /// A write failed.
    pub(crate) fn finish(mut self) -> io::Result<TraceSummary> {
        self.summary.forgotten_sends = self.messages.forgotten;
        self.out.extend_from_slice(b"\n],\"otherData\":");
        let zero = self.zero.map(|ns| {
            let since = Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
            Timestamp(SystemTime::UNIX_EPOCH + since)
        });
        let origin = TraceOrigin {
            tool: "ipc-trace",
            version: self.version.as_deref(),
            hosts: &self.tracks.hosts,
            zero,
            first_event: self.first,
            summary: self.summary,
        };
        put_json(&mut self.out, &origin);
        self.out.extend_from_slice(b"}\n");
        self.flush();
        match self.error {
            Some(error) => Err(error),
            None => self.to.flush().map(|()| self.summary),
        }
    }

    fn flush(&mut self) {
        if self.error.is_none() {
            self.error = self.to.write_all(&self.out).err();
        }
        self.out.clear();
    }

    /// A time as the file has it, nanoseconds.
    fn time(&mut self, time: Timestamp) -> i64 {
        let since = time.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let zero = *self.zero.get_or_insert_with(|| {
            self.first = Some(time);
            (ns - LEAD_NS).max(0)
        });
        ns - zero
    }

    fn call(&mut self, ipc: &Ipc<'_>) {
        let time = self.time(ipc.time);
        let (container, object) = (ipc.container.as_ref(), &ipc.object);
        let track = self.tracks.thread(ipc.ipc_ns, container, &ipc.process, &mut self.out);
        let is_made = ipc.made != Some(false);
        let outcome = match (is_made, ipc.error) {
            (false, _) => ",not-made",
            (true, Some(_)) => ",failed",
            (true, None) => "",
        };
        let category = format_args!("{}{outcome}", object.kind);
        let duration = ipc.duration_ns.filter(|_| is_made);
        let duration = duration.map(|duration| i64::try_from(duration).unwrap_or(i64::MAX));
        let start = duration.map(|duration| time.saturating_sub(duration));
        let out = &mut self.out;
        match (start, duration) {
            (Some(start), Some(duration)) => {
                self.summary.slices += 1;
                begin(out, 'X', ipc.op, category, track);
                put_member(out, "ts", Microseconds(start));
                put_member(out, "dur", Microseconds(duration));
            }
            (_, _) => {
                self.summary.instants += 1;
                begin(out, 'i', ipc.op, category, track);
                put_member(out, "s", r#""t""#);
                put_member(out, "ts", Microseconds(time));
            }
        }
        let args = TracedCall {
            seq: ipc.seq,
            pid: ipc.process.pid,
            ret: ipc.ret,
            error: ipc.error,
            object: TracedObject {
                kind: object.kind,
                id: object.id,
                key: object.key,
                name: object.name.as_ref(),
                ipc_ns: object.ipc_ns,
            },
            foreign: object.foreign,
            arguments: &ipc.args,
        };
        end_with(out, &args);
        if let Some(matched) = self.messages.call(ipc, MessageCall::new(track, start, time)) {
            self.flow(&matched);
        }
    }

    /// Viewers find the slices by the tracks and the times, so both slices come before.
    fn flow(&mut self, matched: &MessageMatch) {
        let Some((from, to)) = matched.arrow() else { return };
        self.summary.flows += 1;
        let (out, id) = (&mut self.out, self.summary.flows);
        let ends = [('s', matched.send.track, from), ('f', matched.receive.track, to)];
        for (phase, track, time) in ends {
            begin(out, phase, "message", "message", track);
            if phase == 'f' {
                put_member(out, "bp", r#""e""#);
            }
            put_member(out, "id", id);
            put_member(out, "ts", Microseconds(time));
            out.push(b'}');
        }
    }

    fn namespace(&mut self, event: &NamespaceEvent<'_>) {
        let what = match event.event {
            NamespaceEventKind::Created => "created",
            NamespaceEventKind::Entered => "entered",
            NamespaceEventKind::Left => "left",
            NamespaceEventKind::Destroyed => "destroyed",
            NamespaceEventKind::Present => "present",
        };
        let track = self.tracks.namespace(event.ipc_ns, event.container.as_ref(), &mut self.out);
        self.other(format_args!("namespace {what}"), "namespace", 'p', track, event.time, event);
    }

    fn object(&mut self, event: &ObjectEvent<'_>) {
        let what = match event.event {
            ObjectEventKind::Present => "present",
            ObjectEventKind::Created => "created",
            ObjectEventKind::Changed => "changed",
            ObjectEventKind::Removed => "removed",
            ObjectEventKind::Destroyed => "destroyed",
        };
        let track = self.tracks.namespace(event.ipc_ns, event.container.as_ref(), &mut self.out);
        self.other(format_args!("object {what}"), "object", 'p', track, event.time, event);
        let Some(queue) = MessageQueue::of_object(event) else { return };
        let time = self.time(event.time);
        match event.event {
            ObjectEventKind::Present => {
                self.messages.present(queue, event.object.info.messages.unwrap_or(0));
            }
            ObjectEventKind::Created => self.messages.forget(&queue, time),
            // A name can be another queue's by then.
            ObjectEventKind::Destroyed if matches!(queue, MessageQueue::SysV(..)) => {
                self.messages.forget(&queue, time);
            }
            ObjectEventKind::Changed | ObjectEventKind::Removed | ObjectEventKind::Destroyed => {}
        }
    }

    fn global(&mut self, what: &str, time: Timestamp, args: &impl Serialize) {
        let track = self.tracks.findings(&mut self.out);
        self.other(format_args!("{what}"), "loss", 'g', track, time, args);
    }

    /// An instant that is no call.
    fn other(
        &mut self,
        name: std::fmt::Arguments<'_>,
        category: &str,
        scope: char,
        track: TrackRef,
        time: Timestamp,
        args: &impl Serialize,
    ) {
        self.summary.others += 1;
        let time = self.time(time);
        let out = &mut self.out;
        begin(out, 'i', name, category, track);
        put_member(out, "s", format_args!("\"{scope}\""));
        put_member(out, "ts", Microseconds(time));
        end_with(out, args);
    }

    fn finding(&mut self, line: &FindingLine<'_>) {
        let finding = line.finding;
        let subject = &finding.subject;
        let track = match (&subject.process, subject.ipc_ns) {
            (Some(process), Some(ns)) => {
                let container = subject.container.as_ref();
                self.tracks.thread(ns, container, process, &mut self.out)
            }
            (_, _) => self.tracks.findings(&mut self.out),
        };
        // When it happened, not when the line was written.
        let time = self.time(if line.new { finding.first } else { finding.last });
        self.summary.marks += 1;
        let out = &mut self.out;
        begin(out, 'i', finding.class, "finding", track);
        put_member(out, "s", r#""p""#);
        put_member(out, "ts", Microseconds(time));
        let args = TracedFinding {
            id: finding.id,
            severity: finding.severity,
            confidence: finding.confidence,
            title: &finding.title,
            count: finding.count,
            new: line.new,
        };
        end_with(out, &args);
    }
}
