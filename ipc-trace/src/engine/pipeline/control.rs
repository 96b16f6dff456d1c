//! The control ring: read in whole, and taking effect in the order of times, between the calls.

use std::{thread, time::Duration};

use ipc_trace_common::record::{
    AccessRecord, CgroupRecord, ContextRecord, ExitRecord, MoveRecord, NamespaceRecord, QueueRecord,
};
use zerocopy::IntoBytes as _;

use super::{Pipeline, Sink, Source, Unfinished};
use crate::{
    engine::track::{clock::boot_ns, identity::Called},
    sources::kernel::decode,
    sources::kernel::decode::Record,
};

/// How often a ring is looked at again without a pause for a record that is being written, which takes
/// about a microsecond.
pub(super) const LOOKS: u32 = 20;
/// The pauses after that,
const PAUSE: Duration = Duration::from_micros(100);
/// and how many of them a record is given: its writer may be kept from running.
pub(super) const PAUSES: u32 = 500;

/// Control records that wait for their turn, at most: two kilobytes each, and most are less.
pub(super) const WAITING: usize = 1 << 14;

/// Whether one position in the ring lies before another. Positions grow, and wrap around.
const fn is_before(at: usize, end: usize) -> bool {
    (at.wrapping_sub(end) as isize) < 0
}

/// A control record that waits for its turn.
#[derive(Clone, Debug)]
pub(super) enum Control {
    Context(Box<ContextRecord>, Called),
    Namespace(NamespaceRecord),
    Move(MoveRecord),
    Exit(ExitRecord),
    Queue(Box<QueueRecord>),
    Cgroup(Box<CgroupRecord>),
    Access(Box<AccessRecord>),
    /// A call, in words, as the ring aligns it
    Change(u64, Box<[u64]>),
}

impl Control {
    pub(super) const fn boot_ns(&self) -> u64 {
        match self {
            Self::Context(r, _) => r.boot_ns,
            Self::Namespace(r) => r.boot_ns,
            Self::Move(r) => r.boot_ns,
            Self::Exit(r) => r.boot_ns,
            Self::Queue(r) => r.boot_ns,
            Self::Cgroup(r) => r.boot_ns,
            Self::Access(r) => r.boot_ns,
            Self::Change(boot_ns, _) => *boot_ns,
        }
    }
}

impl Pipeline {
    /// The time up to which the control ring was read, and what it held has taken effect.
    #[must_use]
    pub(crate) fn reached(&self) -> u64 {
        let waits = self.waiting.front().map_or(u64::MAX, Control::boot_ns);
        waits.min(self.control_read)
    }

    /// Brings a context forward: on the control ring, records of different CPUs can be in another
    /// order than their times, so that it waits behind a later one.
    pub(super) fn apply_context(&mut self, tid: u32, context: u64) {
        let wanted = |c: &Control| matches!(c, Control::Context(r, _) if r.tid == tid && r.context == context);
        if let Some(at) = self.waiting.iter().position(wanted)
            && let Some(Control::Context(record, called)) = self.waiting.remove(at)
        {
            self.tracker.context(&record, called);
        }
    }

    /// Reads all that is in the control ring by now, so that what calls refer to is known: a record that is
    /// still being written keeps those behind it back, and is waited for. What is put there meanwhile is left for
    /// the next time, and so is what there is no room for among what waits.
    pub(super) fn read_control(&mut self, control: &mut impl Source) {
        let now = boot_ns();
        if let Some(Unfinished { end, .. }) = control.unfinished() {
            self.take_control(control, end);
            if self.is_full() {
                // Those that are left came after these, but for what CPUs overtake each other by.
                let read = self.waiting.back().map_or(0, Control::boot_ns);
                self.control_read = self.control_read.max(read);
                return;
            }
            self.await_control(control, end);
        }
        self.control_read = now;
    }

    /// Whether no more control records are read, until some of those that wait have taken effect.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING
    }

    /// Reads on until all before the position `end` was read.
    fn await_control(&mut self, control: &mut impl Source, end: usize) {
        for look in 0..LOOKS + PAUSES {
            match control.unfinished() {
                Some(Unfinished { at, .. })
                    if is_before(at, end) && self.given_up != Some(at) && !self.is_full() => {}
                _ => return,
            }
            if look < LOOKS {
                thread::yield_now();
            } else {
                thread::sleep(PAUSE);
            }
            self.take_control(control, end);
        }
        let at = control.unfinished().map(|unfinished| unfinished.at);
        if at.is_some_and(|at| is_before(at, end)) {
            log::warn!(
                "a record of the kernel side is not finished, and who some threads are will be known late"
            );
            self.given_up = at;
        }
    }

    fn take_control(&mut self, control: &mut impl Source, end: usize) {
        let more = |control: &_| {
            Source::unfinished(control)
                .is_some_and(|unfinished: Unfinished| is_before(unfinished.at, end))
        };
        while !self.is_full()
            && more(control)
            && let Some(record) = control.next(read_one)
        {
            self.delivered.control += 1;
            match record {
                Ok(Some(record)) => self.waiting.push_back(record),
                Ok(None) => self.garbled("a control record of another kind"),
                Err(error) => self.garbled(&error.to_string()),
            }
        }
    }

    /// Lets control records take effect up to a moment.
    #[inline]
    pub(super) fn apply(&mut self, until: u64, sink: &mut impl Sink) {
        while let Some(next) = self.waiting.front() {
            if next.boot_ns() > until {
                break;
            }
            if let Some(next) = self.waiting.pop_front() {
                self.take_effect(&next, sink);
            }
        }
    }

    /// Lets what is waiting take effect, as far as the sink has room: no call that came before is left.
    pub(super) fn apply_some(&mut self, sink: &mut impl Sink) {
        while !sink.is_full()
            && let Some(next) = self.waiting.pop_front()
        {
            self.take_effect(&next, sink);
        }
    }
}

fn read_one(bytes: &[u8]) -> Result<Option<Control>, crate::input::DecodeError> {
    Ok(match decode::record(bytes)? {
        Record::Context(r, arguments) => {
            let called = Called::new(arguments, r.args_len);
            Some(Control::Context(Box::new(*r), called))
        }
        Record::Namespace(r) => Some(Control::Namespace(*r)),
        Record::Move(r) => Some(Control::Move(*r)),
        Record::Exit(r) => Some(Control::Exit(*r)),
        Record::Queue(r) => Some(Control::Queue(Box::new(*r))),
        Record::Cgroup(r) => Some(Control::Cgroup(Box::new(*r))),
        Record::Access(r) => Some(Control::Access(Box::new(*r))),
        Record::Change(call) => Some(Control::Change(call.record.boot_ns, words(bytes))),
        Record::Call(_)
        | Record::Batch(_)
        | Record::Pending(..)
        | Record::Alive(_)
        | Record::End(_)
        | Record::Task(_)
        | Record::Descriptor(_)
        | Record::Mapping(_)
        | Record::Unknown => None,
    })
}

/// The bytes of a record, as the ring aligns them.
pub(super) fn words(bytes: &[u8]) -> Box<[u64]> {
    let mut words = vec![0; bytes.len().div_ceil(size_of::<u64>())].into_boxed_slice();
    if let Some(place) = words.as_mut_bytes().get_mut(..bytes.len()) {
        place.copy_from_slice(bytes);
    }
    words
}
