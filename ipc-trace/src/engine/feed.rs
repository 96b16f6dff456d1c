//! The way of a record from the rings to a sink: decode, track, hand on, judge.
//!
//! The rings are merged by `boot_ns`. A control record takes effect before the first call that came
//! after it; a call that refers to a context waits for that context, which was written into the
//! control ring before the call was written into its own.
//!
//! Invariant: every record that comes out of a ring is counted as delivered, whatever it is.

mod control;
mod folds;
mod held;
pub(crate) mod looks;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::{
    op,
    record::{BatchHead, CallRecord, MoveRecord, NsRef, Way},
};

use zerocopy::IntoBytes as _;

use control::Control;
use held::Held;

use crate::{
    engine::detect::{
        Detect,
        sighting::Moved,
        store::{Shown, Which},
    },
    engine::track::{
        Tracker,
        clock::boot_ns,
        contexts::Facts,
        namespaces::{Birth, Death},
        objects,
    },
    event::Life,
    input::Call,
    input::batch::{Batch, Group},
    sources::kernel::census::Census,
    sources::kernel::decode,
    sources::kernel::decode::Record,
};

/// Where events go.
pub(crate) trait Sink {
    /// A call returned. The number of the line that tells of it, if one does.
    fn call(&mut self, call: &Call<'_>, tracker: &Tracker) -> Option<u64>;
    /// Calls returned that came together.
    fn group(&mut self, head: &BatchHead, group: &Group<'_>, tracker: &Tracker);
    /// Something happened to a namespace. The number of the line that tells of it, if one does.
    fn namespace(&mut self, change: &Change, tracker: &Tracker) -> Option<u64>;
    /// Something happened to objects.
    fn objects(&mut self, changes: &[objects::Change], tracker: &Tracker);
    /// There is a finding, or more to tell of one.
    fn finding(&mut self, shown: &Shown, now: u64, tracker: &Tracker);
    /// Whether enough has come together to be handed on.
    fn is_full(&self) -> bool {
        false
    }
}

/// Something happened to a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// When
    pub boot_ns: u64,
    /// What
    pub life: Life,
    /// Which namespace
    pub ns: NsRef,
    /// Where the thread came from
    pub from: Option<NsRef>,
    /// Which thread, and who that is
    pub by: Option<(u32, Rc<Facts>)>,
    /// Of `destroyed`
    pub death: Option<Death>,
}

/// A source of records: a ring.
pub(crate) trait Source {
    /// Hands the next record to `with`. `None`: there is none, or it is unfinished.
    fn next<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Option<R>;

    /// What is there and can't be read yet, after there was no next record. `None`: nothing.
    fn unfinished(&self) -> Option<Unfinished>;
}

/// Records that can't be read, as the first of them is still being written, by another CPU, or by a thread
/// that was preempted meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// The position of the first
    pub at: usize,
    /// The position behind the last
    pub end: usize,
}

/// Records that came out of the rings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// By the operation's number
    pub ops: [u64; op::COUNT + 1],
    /// Of these, calls of containers that are not wanted, by the operation's number
    pub unwanted: [u64; op::COUNT + 1],
    /// Control records
    pub control: u64,
    /// Records that could not be decoded; they are among the others
    pub garbled: u64,
}

impl Delivered {
    /// All calls.
    #[must_use]
    pub(crate) fn calls(&self) -> u64 {
        self.ops.iter().sum()
    }
}

/// How many calls are handled before others get a turn.
const BATCH: usize = 1 << 14;

/// What was taken out of the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Records of calls
    pub calls: usize,
    /// It ended for a bound: there may be more at once
    pub more: bool,
}

/// The pipeline's state.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// What is known
    pub tracker: Tracker,
    /// What is made of it
    pub detect: Detect,
    /// What came out of the rings
    pub delivered: Delivered,
    waiting: VecDeque<Control>,
    told: folds::Told,
    /// The control ring was emptied at that time, or later
    control_read: u64,
    /// The position in it of the record that was waited for in vain
    given_up: Option<usize>,
    held: Held,
}

impl Pipeline {
    /// An empty one.
    #[must_use]
    pub(crate) fn new(tracker: Tracker) -> Self {
        Self {
            tracker,
            detect: Detect::default(),
            delivered: Delivered::default(),
            waiting: VecDeque::new(),
            told: folds::Told::default(),
            control_read: 0,
            given_up: None,
            held: Held::default(),
        }
    }

    /// Takes what is in the rings, at most a batch, or what fills the sink.
    pub(crate) fn drain(
        &mut self,
        events: &mut impl Source,
        control: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Drained {
        self.read_control(control);
        // Then there may be more in the ring.
        let was_full = self.is_full();
        let mut calls = 0;
        while calls < BATCH && !sink.is_full() {
            let next = events.next(|bytes| self.event(bytes, control, sink));
            if next.is_none() {
                // Else some of the calls that came before what is waiting are still to be handled.
                if events.unfinished().is_none() {
                    self.apply_some(sink);
                }
                break;
            }
            calls += 1;
        }
        self.tracker.namespaces.forget();
        if self.detect.waits() {
            self.detect.look(self.reached());
        }
        self.tell(Which::New, sink);
        Drained { calls, more: calls >= BATCH || sink.is_full() || was_full }
    }

    /// Tells of findings.
    #[inline]
    fn tell(&mut self, which: Which, sink: &mut impl Sink) {
        if which != Which::New || self.detect.findings.has_new() {
            self.tell_all(which, sink);
        }
    }

    #[cold]
    fn tell_all(&mut self, which: Which, sink: &mut impl Sink) {
        let now = boot_ns();
        let time = self.tracker.clock.time(now).0;
        for shown in self.detect.findings.show(which, &self.tracker, time) {
            sink.finding(&shown, now, &self.tracker);
        }
    }

    /// Time went on, and the rings have been drained since: findings that time decides, and those that
    /// have grown.
    pub(crate) fn tick(&mut self, boot_ns: u64, sink: &mut impl Sink) {
        self.detect.tick(boot_ns, &self.tracker);
        self.tell(Which::Grown, sink);
    }

    /// Nothing comes any more: all findings are what they will be.
    pub(crate) fn finish(&mut self, boot_ns: u64, sink: &mut impl Sink) {
        self.release(u64::MAX, sink);
        self.detect.finish(boot_ns, &self.tracker);
        self.tell(Which::Grown, sink);
    }

    #[inline]
    fn event(&mut self, bytes: &[u8], control: &mut impl Source, sink: &mut impl Sink) {
        match decode::record(bytes) {
            Ok(Record::Call(call)) if call.made() == Some(false) => {
                self.not_made(&call, bytes, control, sink);
            }
            Ok(Record::Call(call)) => {
                if let Some(count) = self.delivered.ops.get_mut(call.op as usize) {
                    *count += 1;
                }
                self.call(&call, bytes, control, sink);
            }
            Ok(Record::Batch(batch)) => self.batch(&batch, control, sink),
            Ok(other) => self.garbled(&format!("a record that is no call: {other:?}")),
            Err(error) => self.garbled(&error.to_string()),
        }
    }

    #[cold]
    fn garbled(&mut self, what: &str) {
        self.delivered.garbled += 1;
        if self.delivered.garbled == 1 {
            log::warn!("the kernel side wrote what is not understood: {what}");
        }
    }

    #[inline]
    fn call(
        &mut self,
        call: &Call<'_>,
        bytes: &[u8],
        control: &mut impl Source,
        sink: &mut impl Sink,
    ) {
        let CallRecord { boot_ns, context, tid, .. } = *call.record;
        self.come_to(boot_ns, (tid, context), control, sink);
        self.tracker.queues.opened(call);
        let changes = self.tracker.act(call);
        let seq = self.show_call(call, bytes, sink);
        self.detect.call(call, seq, &self.tracker);
        self.changes(&changes, sink);
    }

    /// Hands a call to the sink, unless it is of a container that is not wanted. The number of its line.
    #[inline]
    fn show_call(&mut self, call: &Call<'_>, bytes: &[u8], sink: &mut impl Sink) -> Option<u64> {
        match self.tracker.containers.are_filtered() {
            false => sink.call(call, &self.tracker),
            true => self.of_container(call, bytes, sink),
        }
    }

    /// A call that the kernel never made: it is shown, and changes nothing. It is counted by the kernel side alone.
    #[cold]
    fn not_made(
        &mut self,
        call: &Call<'_>,
        bytes: &[u8],
        control: &mut impl Source,
        sink: &mut impl Sink,
    ) {
        let CallRecord { boot_ns, context, tid, .. } = *call.record;
        self.come_to(boot_ns, (tid, context), control, sink);
        self.show_call(call, bytes, sink);
    }

    /// What happened before a moment takes effect, and a thread's context becomes known.
    #[inline]
    fn come_to(
        &mut self,
        boot_ns: u64,
        (tid, context): (u32, u64),
        control: &mut impl Source,
        sink: &mut impl Sink,
    ) {
        // A context is made after its call's time was taken: its number is its time.
        let until = boot_ns.max(context);
        if until > self.control_read {
            self.read_control(control);
        }
        self.apply(until, sink);
        let known = |p: &Self| context == 0 || p.tracker.contexts.get(tid, context).is_some();
        if !known(self) {
            self.read_control(control);
            self.apply(until, sink);
            if !known(self) {
                self.apply_context(tid, context);
            }
        }
    }

    fn batch(&mut self, batch: &Batch<'_>, control: &mut impl Source, sink: &mut impl Sink) {
        let BatchHead { tid, context, .. } = *batch.head;
        self.come_to(batch.boot_ns(), (tid, context), control, sink);
        for group in batch.groups() {
            match group {
                Ok(group) => {
                    if let Some(count) = self.delivered.ops.get_mut(group.op as usize) {
                        *count += group.count();
                    }
                    self.tracker.act_all(batch.head, &group);
                    sink.group(batch.head, &group, &self.tracker);
                    self.detect.group(batch.head, &group, &self.tracker);
                }
                Err(error) => self.garbled(&error.to_string()),
            }
        }
    }

    /// Records of the event ring's kinds that were left elsewhere when tracing ended.
    pub(crate) fn left<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]>,
        control: &mut impl Source,
        sink: &mut impl Sink,
    ) {
        records.for_each(|bytes| self.event(bytes, control, sink));
    }

    /// A call that is no event changed objects.
    fn changed(&mut self, words: &[u64], sink: &mut impl Sink) {
        // It was decoded before.
        let Ok(Record::Change(call)) = decode::record(words.as_bytes()) else { return };
        let CallRecord { context, tid, .. } = *call.record;
        self.need_context(tid, context);
        self.tracker.queues.opened(&call);
        let changes = self.tracker.act(&call);
        self.detect.call(&call, None, &self.tracker);
        self.changes(&changes, sink);
    }

    /// Something happened to objects, perhaps.
    #[inline]
    fn changes(&mut self, changes: &[objects::Change], sink: &mut impl Sink) {
        if !changes.is_empty() {
            sink.objects(changes, &self.tracker);
            self.detect.objects(changes);
        }
    }

    fn need_context(&mut self, tid: u32, context: u64) {
        if self.tracker.contexts.get(tid, context).is_none() {
            self.apply_context(tid, context);
        }
    }

    #[cold]
    fn take_effect(&mut self, control: &Control, sink: &mut impl Sink) {
        match control {
            Control::Context(record, called) => self.tracker.context(record, called.clone()),
            Control::Cgroup(record) => self.tracker.containers.record(record),
            Control::Exit(record) => {
                self.detect.ended(record, &self.tracker);
                self.tracker.contexts.remove(record);
            }
            Control::Queue(record) => self.tracker.queues.insert(record),
            Control::Change(_, words) => self.changed(words, sink),
            Control::Access(record) => {
                self.need_context(record.tid, record.context);
                self.told.note(record, &self.tracker);
                self.detect.access(record, &self.tracker);
            }
            Control::Namespace(record) => {
                let id = (record.ns_id != 0).then_some(record.ns_id);
                let ended = self.tracker.namespaces.found(record.ns, id, record.boot_ns);
                self.ended(ended, record.boot_ns, sink);
            }
            Control::Move(record) => self.moved(record, sink),
        }
    }

    fn moved(&mut self, record: &MoveRecord, sink: &mut impl Sink) {
        let facts = |tid, context| {
            self.tracker.contexts.get(tid, context).map(|facts| (tid, Rc::clone(facts)))
        };
        let mover = facts(record.tid, record.context);
        let child = facts(record.child_tid, record.child_context);
        let id = (record.ns_id != 0).then_some(record.ns_id);
        let change = |life, ns, from, by: &Option<(u32, Rc<Facts>)>| Change {
            boot_ns: record.boot_ns,
            life,
            ns,
            from,
            by: by.clone(),
            death: None,
        };
        const CLONE: u32 = Way::Clone as u32;
        const UNSHARE: u32 = Way::Unshare as u32;
        let (from, to) = (record.from, record.to);
        let made = matches!(record.way, CLONE | UNSHARE);
        let namespaces = &mut self.tracker.namespaces;
        let ended = if made {
            let by = mover.as_ref().map(|m| Rc::clone(&m.1));
            namespaces.born(to, id, Birth { boot_ns: record.boot_ns, tid: record.tid, by })
        } else {
            namespaces.found(to, id, record.boot_ns)
        };
        self.ended(ended, record.boot_ns, sink);
        if made {
            self.tracker.objects.born(to);
        }
        let mut tell = |change| sink.namespace(&change, &self.tracker);
        if made {
            tell(change(Life::Created, to, Some(from), &mover));
        }
        let seq = if record.way == CLONE {
            tell(change(Life::Entered, to, Some(from), &child))
        } else {
            tell(change(Life::Left, from, None, &mover));
            tell(change(Life::Entered, to, Some(from), &mover))
        };
        let facts = |of: &Option<(u32, Rc<Facts>)>| of.as_ref().map(|(_, facts)| Rc::clone(facts));
        let (mover, child) = (facts(&mover), facts(&child));
        self.detect.moved(&Moved {
            record,
            mover: mover.as_ref(),
            child: child.as_ref(),
            seq,
            tracker: &self.tracker,
        });
    }

    fn ended(
        &mut self,
        ended: impl IntoIterator<Item = (NsRef, Death)>,
        now: u64,
        sink: &mut impl Sink,
    ) {
        for (ns, death) in ended {
            let change = Change {
                boot_ns: now,
                life: Life::Destroyed,
                ns,
                from: None,
                by: None,
                death: Some(death),
            };
            sink.namespace(&change, &self.tracker);
            let changes = self.tracker.objects.ended(ns, death);
            self.changes(&changes, sink);
        }
    }

    /// A census was taken. The rings have been drained since.
    pub(crate) fn listed(&mut self, census: &Census, sink: &mut impl Sink) {
        let ended = self.tracker.namespaces.listed(census);
        self.ended(ended, boot_ns(), sink);
    }
}
