//! Events as lines, while they happen.

use ipc_trace_common::record::BatchHead;

use crate::{
    engine::detect::store::Shown,
    engine::pipeline::{Change, Sink, looks::Reconciled},
    engine::track::containers::Known,
    engine::track::{
        Tracker,
        losses::NewLosses,
        objects::{self, Caller},
    },
    event::{
        Accounting, Command, ContainerNamed, End, Event, IpcNsRef, Line, Loss, Namespace, Pending,
        Resync, Start, Status, VERSION,
        finding::{Finding, FindingLine},
        objects::{ObjectEvent, ObjectLife, ObjectOfNs},
    },
    input::Call,
    input::batch::Group,
    sinks::text,
    sinks::text::call::Look,
};

/// How lines look.
#[derive(Debug)]
pub(crate) enum Format {
    /// A JSON object each
    Json,
    /// For people
    Text {
        /// Colours, and what goes without saying
        look: Look,
        /// Cells of the terminal
        width: usize,
        /// Findings less sure than this are left out
        least: u8,
        /// Reused for each line
        line: String,
    },
}

impl Format {
    fn write(&mut self, buffer: &mut Vec<u8>, event: &Event<'_>) {
        match self {
            Self::Json => {
                let len = buffer.len();
                // Writing to memory does not fail, and no value here refuses to be JSON.
                if let Err(error) = serde_json::to_writer(&mut *buffer, &Line { v: VERSION, event })
                {
                    log::error!("an event could not be written as JSON: {error}");
                    buffer.truncate(len);
                    return;
                }
                buffer.push(b'\n');
            }
            Self::Text { look, width, line, least: _ } => {
                line.clear();
                // Writing to a string does not fail.
                if text::line::write(line, event, *look, *width).is_ok() {
                    buffer.extend_from_slice(line.as_bytes());
                }
            }
        }
    }
}

/// Lines are written out when so many bytes of them have come together, and after every look.
pub(crate) const FULL: usize = 1 << 19;

/// Collects lines; who owns it writes them out.
#[derive(Debug)]
pub(crate) struct Live {
    format: Format,
    seq: u64,
    /// Lines that are not written out yet
    pub buffer: Vec<u8>,
}

impl Live {
    /// With the first line.
    #[must_use]
    pub(crate) fn new(format: Format, start: Start<'_>) -> Self {
        let mut live = Self { format, seq: 0, buffer: Vec::new() };
        live.format.write(&mut live.buffer, &Event::Start(start));
        live
    }

    fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// The name of a container became known, after it was shown without.
    pub(crate) fn container(&mut self, known: &Known, now: u64, tracker: &Tracker) {
        let event = Event::Container(ContainerNamed {
            seq: self.next(),
            time: tracker.clock.time(now),
            container: known.container(),
            ipc_ns: known.ns().map(|ns| tracker.namespaces.show(ns)),
        });
        self.format.write(&mut self.buffer, &event);
    }

    /// Calls were lost.
    pub(crate) fn loss(&mut self, losses: &NewLosses, now: u64, tracker: &Tracker) {
        let event = Event::Loss(Loss {
            seq: self.next(),
            time: tracker.clock.time(now),
            dropped: losses.dropped,
            missed: losses.others.missed,
            facts: losses.others.facts.saturating_add(losses.others.withheld),
            by: &losses.by,
        });
        self.format.write(&mut self.buffer, &event);
    }

    /// After a loss, what exists was listed anew.
    pub(crate) fn resync(&mut self, reconciled: &Reconciled, now: u64, tracker: &Tracker) {
        let Reconciled { since, complete, namespaces, objects } = *reconciled;
        let event = Event::Resync(Resync {
            seq: self.next(),
            time: tracker.clock.time(now),
            since: tracker.clock.time(since),
            complete,
            namespaces,
            objects,
        });
        self.format.write(&mut self.buffer, &event);
    }

    /// Whether [`Self::status`] writes anything.
    #[must_use]
    pub(crate) const fn tells_status(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    /// How it stands.
    pub(crate) fn status(&mut self, now: u64, tracker: &Tracker, accounting: &Accounting) {
        let event = Event::Status(Status { time: tracker.clock.time(now), accounting });
        self.format.write(&mut self.buffer, &event);
    }

    /// All findings, in the end: a person reads how they went on.
    pub(crate) fn findings(&mut self, all: &[Finding]) {
        let Format::Text { look, width, line, least } = &mut self.format else { return };
        line.clear();
        // Writing to a string does not fail.
        if text::findings::summary(line, all, *least, look.palette, *width).is_ok() {
            self.buffer.extend_from_slice(line.as_bytes());
        }
    }

    /// The last line.
    pub(crate) fn end(
        &mut self,
        now: u64,
        tracker: &Tracker,
        accounting: &Accounting,
        command: Option<&Command>,
        pending: &[Pending],
    ) {
        let seq = self.next();
        let time = tracker.clock.time(now);
        let event = Event::End(End { seq, time, accounting, command, pending });
        self.format.write(&mut self.buffer, &event);
    }
}

impl Sink for Live {
    fn is_full(&self) -> bool {
        self.buffer.len() >= FULL
    }

    fn call(&mut self, call: &Call<'_>, tracker: &Tracker) -> Option<u64> {
        let seq = self.next();
        self.format.write(&mut self.buffer, &Event::Ipc(tracker.ipc(call, seq)));
        Some(seq)
    }

    fn group(&mut self, _: &BatchHead, _: &Group<'_>, _: &Tracker) {
        // The kernel side is asked for one by one.
        log::error!("calls are not shown, as they came without their arguments");
    }

    fn finding(&mut self, shown: &Shown, now: u64, tracker: &Tracker) {
        // A person reads it once; how it went on is said in the end.
        if let Format::Text { least, .. } = self.format
            && (!shown.new || shown.finding.confidence < least)
        {
            return;
        }
        let event = Event::Finding(FindingLine {
            seq: self.next(),
            time: tracker.clock.time(now),
            new: shown.new,
            finding: &shown.finding,
        });
        self.format.write(&mut self.buffer, &event);
    }

    fn namespace(&mut self, change: &Change, tracker: &Tracker) -> Option<u64> {
        let seq = self.next();
        let time = |boot_ns| tracker.clock.time(boot_ns);
        let event = Event::Namespace(Namespace {
            seq,
            time: time(change.boot_ns),
            event: change.life,
            ipc_ns: tracker.namespaces.show(change.ns),
            from: change.from.map(|ns| tracker.namespaces.show(ns)),
            process: change.by.as_ref().map(|(tid, facts)| facts.process(*tid)),
            container: change.by.as_ref().and_then(|(_, facts)| facts.show_container()),
            after: change.death.and_then(|d| d.after).map(time),
            before: change.death.map(|d| time(d.before)),
        });
        self.format.write(&mut self.buffer, &event);
        Some(seq)
    }

    fn objects(&mut self, changes: &[objects::Change], tracker: &Tracker) {
        // A person wants to know that they are there, not each of thousands.
        if let Format::Text { look, line, .. } = &mut self.format {
            let present = changes.iter().filter(|change| change.life == ObjectLife::Present);
            line.clear();
            // Writing to a string does not fail.
            if text::objects::present(line, present.map(|one| (one.ns, one.local.kind())), *look)
                .is_ok()
            {
                self.buffer.extend_from_slice(line.as_bytes());
            }
        }
        let json = matches!(self.format, Format::Json);
        for change in changes.iter().filter(|one| json || one.life != ObjectLife::Present) {
            let event = self.object(change, tracker);
            self.format.write(&mut self.buffer, &Event::Object(event));
        }
    }
}

impl Live {
    fn object<'a>(&mut self, change: &'a objects::Change, tracker: &Tracker) -> ObjectEvent<'a> {
        let time = |boot_ns| tracker.clock.time(boot_ns);
        let objects::Change { boot_ns, life, ns, local, one, by, death } = change;
        ObjectEvent {
            seq: self.next(),
            time: time(*boot_ns),
            event: *life,
            ipc_ns: tracker.namespaces.show(*ns),
            object: ObjectOfNs {
                look: one.look(*local, &tracker.clock),
                ipc_ns: IpcNsRef { inum: ns.inum, r#gen: ns.generation },
            },
            process: by.as_ref().map(Caller::process),
            container: by.as_ref().and_then(|by| by.facts.as_ref()?.show_container()),
            after: death.and_then(|death| death.after).map(time),
            before: death.map(|death| time(death.before)),
        }
    }
}
