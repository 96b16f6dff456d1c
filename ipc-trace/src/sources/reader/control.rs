//! The control ring: read as soon as possible, and applied in the order of times, between the calls.

use std::{thread, time::Duration};

use ipc_trace_common::record::{
    AccessRecord, CallRecord, CgroupRecord, ContextRecord, ExitRecord, NamespaceRecord,
    NsSwitchRecord, QueueRecord,
};
use zerocopy::IntoBytes as _;

use super::{Ask, Feed, Interrupted, Mover, Question, ReaderCx, Reply, RingReader};
use crate::{
    input::{
        Call, DecodeError, Input,
        process::{Called, Context, MoveContext, ProcInfo},
    },
    sources::kernel::{
        decode::{self, Record},
        ring::{RecordSource, Uncommitted},
    },
};

/// How often a ring is polled at once for a record that is being written, which takes about a microsecond.
pub(super) const MAX_POLLS: u32 = 20;
/// How long the reader waits for such a record, nanoseconds: its writer may be preempted.
pub(super) const CONTROL_WAIT_NS: u64 = 50_000_000;
/// The pause between two polls while waiting.
const CONTROL_PAUSE: Duration = Duration::from_micros(100);
/// How long the reader waits for an answer, nanoseconds.
const ANSWER_WAIT_NS: u64 = 20_000_000;

/// The largest number of waiting control records: at most two kilobytes each, and most are smaller.
pub(super) const MAX_WAITING_RECORDS: usize = 1 << 14;

/// Whether one position in the ring precedes another. Positions grow, and wrap around.
const fn is_before(at: usize, end: usize) -> bool {
    (at.wrapping_sub(end) as isize) < 0
}

/// A thread's description, as read; `called`: `None` if the eBPF programs could not read it.
#[derive(Clone, Debug)]
pub(crate) struct ThreadRecord {
    /// The record
    pub record: Box<ContextRecord>,
    /// The process's arguments
    pub called: Option<Called>,
}

/// A control record.
#[derive(Clone, Debug)]
pub(super) enum ControlRecord {
    Context(ThreadRecord),
    Namespace(NamespaceRecord),
    Move(NsSwitchRecord),
    Exit(ExitRecord),
    Queue(Box<QueueRecord>),
    Cgroup(Box<CgroupRecord>),
    Access(Box<AccessRecord>),
    /// A call: its time, its thread and context, and its bytes as words, aligned as in the ring
    Change(u64, (u32, u64), Box<[u64]>),
}

/// A waiting record, with the number and the time of the question asked for it.
#[derive(Debug)]
pub(super) struct WaitingRecord {
    pub control: ControlRecord,
    pub asked: Option<(u64, u64)>,
}

impl ControlRecord {
    pub(super) const fn boot_ns(&self) -> u64 {
        match self {
            Self::Context(read) => read.record.boot_ns,
            Self::Namespace(r) => r.boot_ns,
            Self::Move(r) => r.boot_ns,
            Self::Exit(r) => r.boot_ns,
            Self::Queue(r) => r.boot_ns,
            Self::Cgroup(r) => r.boot_ns,
            Self::Access(r) => r.boot_ns,
            Self::Change(boot_ns, ..) => *boot_ns,
        }
    }

    /// The thread whose context must be known first, and the context's number.
    const fn needs(&self) -> Option<(u32, u64)> {
        match self {
            Self::Access(record) => Some((record.tid, record.context)),
            Self::Change(_, thread, _) => Some(*thread),
            Self::Context(_)
            | Self::Namespace(_)
            | Self::Move(_)
            | Self::Exit(_)
            | Self::Queue(_)
            | Self::Cgroup(_) => None,
        }
    }

    /// For a context: the thread, the context's number, and the process and its parent.
    const fn mover(&self) -> Option<(u32, u64, Mover)> {
        let Self::Context(read) = self else { return None };
        let record = &read.record;
        let process = (record.pid, record.start_boot_ns);
        let mover = Mover { process, ppid: record.ppid, mnt: record.mnt_ns };
        Some((record.tid, record.context, mover))
    }
}

impl RingReader {
    /// The time up to which the control ring has been read and applied.
    #[must_use]
    pub(crate) fn watermark(&self) -> u64 {
        let waits = self.waiting.front().map_or(u64::MAX, |one| one.control.boot_ns());
        waits.min(self.control_watermark)
    }

    /// Applies a waiting context early: on the control ring, records of different CPUs can be in another order than
    /// their times, so that a context waits behind a later record.
    pub(super) fn apply_context<E, C, A: Ask, F: Feed>(
        &mut self,
        tid: u32,
        context: u64,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<(), Interrupted> {
        let wanted = |one: &WaitingRecord| {
            one.control.mover().is_some_and(|(of, number, _)| of == tid && number == context)
        };
        if let Some(at) = self.waiting.iter().position(wanted) {
            let reply = self.reply(at, with)?;
            if let Some(one) = self.waiting.remove(at) {
                self.apply_control(one.control, reply, with.feed);
            }
        }
        Ok(())
    }

    /// Reads all that is now in the control ring, so that the contexts of calls are known. An uncommitted record
    /// blocks those behind it, and is waited for. Records that arrive meanwhile are left for the next pass, and so
    /// are records for which there is no room among the waiting ones.
    pub(super) fn read_control<E, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<(), Interrupted> {
        let now = (with.clock)();
        let Some(Uncommitted { end, .. }) = with.control.uncommitted() else {
            self.control_watermark = now;
            return Ok(());
        };
        let mut turn = self.take_control(end, now, with);
        for _ in 0..MAX_POLLS {
            if self.uncommitted_before(end, with).is_none() || self.is_full() || turn.is_err() {
                break;
            }
            thread::yield_now();
            turn = self.take_control(end, now, with);
        }
        if self.is_full() || turn.is_err() {
            // The remaining records came after these, except for reordering between CPUs.
            let read = self.waiting.back().map_or(0, |one| one.control.boot_ns());
            self.control_watermark = self.control_watermark.max(read);
            return turn;
        }
        match self.uncommitted_before(end, with) {
            Some(at) => {
                let since = match self.stalled {
                    Some((stalled, since)) if stalled == at => since,
                    _ => now,
                };
                self.stalled = Some((at, since));
                if now.saturating_sub(since) < CONTROL_WAIT_NS {
                    return Err(Interrupted::InFlight);
                }
                log::warn!(
                    "a record of the eBPF programs was not committed in time: the metadata of some threads will be late"
                );
                self.given_up = Some(at);
            }
            None => self.stalled = None,
        }
        self.control_watermark = now;
        Ok(())
    }

    /// The position of a record before `end` that is uncommitted, unless it was given up.
    fn uncommitted_before<E, C: RecordSource, A, F>(
        &self,
        end: usize,
        with: &ReaderCx<'_, E, C, A, F>,
    ) -> Option<usize> {
        let Uncommitted { at, .. } = with.control.uncommitted()?;
        (is_before(at, end) && self.given_up != Some(at)).then_some(at)
    }

    /// Whether the limit of waiting control records is reached.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING_RECORDS
    }

    fn take_control<E, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        end: usize,
        now: u64,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<(), Interrupted> {
        let more = |control: &C| {
            control.uncommitted().is_some_and(|Uncommitted { at, .. }| is_before(at, end))
        };
        while !self.is_full()
            && more(with.control)
            && let Some(record) = with.control.next(read_one)
        {
            self.delivered.control += 1;
            match record {
                Ok(Some(control)) => {
                    let question = self.question(&control, with.feed);
                    let number = question.and_then(|question| with.ask.ask(question));
                    let asked = number.map(|number| (number, now));
                    self.waiting.push_back(WaitingRecord { control, asked });
                }
                Ok(None) => self.malformed("a control record of another kind"),
                Err(error) => self.malformed(&error.to_string()),
            }
            self.turn(with.clock)?;
        }
        Ok(())
    }

    /// The question to ask for a record, as soon as it is read: its process may be gone soon.
    fn question(&self, control: &ControlRecord, feed: &impl Feed) -> Option<Question> {
        match control {
            ControlRecord::Context(read) => {
                let about = feed.about_context(read);
                (!about.is_empty()).then(|| Question::Context(Box::new(about)))
            }
            ControlRecord::Move(record) => {
                let about = feed.about_move(record, self.mover(record, feed));
                (about.mapped || about.lives.is_some()).then_some(Question::Move(about))
            }
            ControlRecord::Namespace(_)
            | ControlRecord::Exit(_)
            | ControlRecord::Queue(_)
            | ControlRecord::Cgroup(_)
            | ControlRecord::Access(_)
            | ControlRecord::Change(..) => None,
        }
    }

    /// The thread that moved, from a known or waiting context.
    fn mover(&self, record: &NsSwitchRecord, feed: &impl Feed) -> Option<Mover> {
        feed.mover(record.tid, record.context).or_else(|| self.waiting_mover(record))
    }

    #[cold]
    fn waiting_mover(&self, record: &NsSwitchRecord) -> Option<Mover> {
        self.waiting.iter().rev().find_map(|one| {
            let (tid, context, mover) = one.control.mover()?;
            (tid == record.tid && context == record.context).then_some(mover)
        })
    }

    /// The answer for a waiting record; `None`, if no question was asked or the answer was late.
    fn reply<E, C, A: Ask, F>(
        &mut self,
        at: usize,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<Option<Reply>, Interrupted> {
        let Some(WaitingRecord { asked: Some((number, since)), .. }) = self.waiting.get(at) else {
            return Ok(None);
        };
        let (number, since) = (*number, *since);
        let reply = with.ask.take(number);
        if reply.is_none() {
            if (with.clock)().saturating_sub(since) < ANSWER_WAIT_NS {
                return Err(Interrupted::InFlight);
            }
            with.ask.give_up(number);
        }
        Ok(reply)
    }

    /// Applies all control records up to a point in time. Waits for those in flight.
    pub(crate) fn reach<E, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        until: u64,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) {
        loop {
            self.turn_ends = u64::MAX;
            match self.read_control(with).and_then(|()| self.apply(until, with)) {
                Ok(()) if self.watermark() > until || !self.is_full() => return,
                Ok(()) | Err(_) => thread::sleep(CONTROL_PAUSE),
            }
        }
    }

    /// Applies control records up to a point in time.
    #[inline]
    pub(super) fn apply<E, C, A: Ask, F: Feed>(
        &mut self,
        until: u64,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<(), Interrupted> {
        while self.waiting.front().is_some_and(|next| next.control.boot_ns() <= until) {
            self.apply_first(with)?;
            self.turn(with.clock)?;
        }
        Ok(())
    }

    fn apply_first<E, C, A: Ask, F: Feed>(
        &mut self,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<(), Interrupted> {
        if let Some((tid, context)) = self.waiting.front().and_then(|one| one.control.needs())
            && !with.feed.knows(tid, context)
        {
            self.apply_context(tid, context, with)?;
        }
        let reply = self.reply(0, with)?;
        if let Some(next) = self.waiting.pop_front() {
            self.apply_control(next.control, reply, with.feed);
        }
        Ok(())
    }

    #[cold]
    fn apply_control(
        &mut self,
        control: ControlRecord,
        reply: Option<Reply>,
        feed: &mut impl Feed,
    ) {
        match control {
            ControlRecord::Context(ThreadRecord { record, called }) => {
                let found = match reply {
                    Some(Reply::Context(found)) => found,
                    Some(_) | None => ProcInfo::default(),
                };
                let called = called.unwrap_or_default();
                feed.feed(&Input::Context(&Context { record, called, found }));
            }
            ControlRecord::Namespace(record) => feed.feed(&Input::Namespace(&record)),
            ControlRecord::Move(record) => {
                let beside = match reply {
                    Some(Reply::Move(beside)) => beside,
                    Some(_) | None => MoveContext::default(),
                };
                feed.feed(&Input::Move(&record, &beside));
            }
            ControlRecord::Exit(record) => feed.feed(&Input::Exit(&record)),
            ControlRecord::Queue(record) => feed.feed(&Input::Queue(&record)),
            ControlRecord::Cgroup(record) => feed.feed(&Input::Cgroup(&record)),
            ControlRecord::Access(record) => feed.feed(&Input::Access(&record)),
            ControlRecord::Change(_, _, words) => {
                if let Ok(call) = Call::decode(words.as_bytes()) {
                    feed.feed(&Input::Change(call));
                }
            }
        }
    }
}

fn read_one(bytes: &[u8]) -> Result<Option<ControlRecord>, DecodeError> {
    Ok(match decode::record(bytes)? {
        Record::Context(r, arguments) => {
            let called = Called::new(arguments, r.args_len);
            Some(ControlRecord::Context(ThreadRecord { record: Box::new(*r), called }))
        }
        Record::Namespace(r) => Some(ControlRecord::Namespace(*r)),
        Record::Move(r) => Some(ControlRecord::Move(*r)),
        Record::Exit(r) => Some(ControlRecord::Exit(*r)),
        Record::Queue(r) => Some(ControlRecord::Queue(Box::new(*r))),
        Record::Cgroup(r) => Some(ControlRecord::Cgroup(Box::new(*r))),
        Record::Access(r) => Some(ControlRecord::Access(Box::new(*r))),
        Record::Change(call) => {
            let CallRecord { boot_ns, tid, context, .. } = *call.record;
            Some(ControlRecord::Change(boot_ns, (tid, context), call.to_words()))
        }
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
