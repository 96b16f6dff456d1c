//! The control ring: read in whole, and taking effect in the order of times, between the calls.

use std::{thread, time::Duration};

use ipc_trace_common::record::{
    AccessRecord, CallRecord, CgroupRecord, ContextRecord, ExitRecord, MoveRecord, NamespaceRecord,
    QueueRecord,
};
use zerocopy::IntoBytes as _;

use super::{Ask, Feed, Later, Mover, Question, Reply, RingReader, With};
use crate::{
    input::{
        Call, DecodeError, Input,
        process::{Called, Context, MoveContext, ProcInfo},
    },
    sources::kernel::{
        decode::{self, Record},
        ring::{RecordSource, Unfinished},
    },
};

/// How often a ring is looked at again at once for a record that is being written, which takes about a microsecond.
pub(super) const LOOKS: u32 = 20;
/// So long such a record is given, nanoseconds: its writer may be kept from running.
pub(super) const PATIENCE_NS: u64 = 50_000_000;
/// The pause between two looks, where they are waited for.
const PAUSE: Duration = Duration::from_micros(100);
/// So long an answer is given, nanoseconds.
const ANSWER_NS: u64 = 20_000_000;

/// Control records that wait for their turn, at most: two kilobytes each, and most are less.
pub(super) const WAITING: usize = 1 << 14;

/// Whether one position in the ring lies before another. Positions grow, and wrap around.
const fn is_before(at: usize, end: usize) -> bool {
    (at.wrapping_sub(end) as isize) < 0
}

/// Who a thread is, as it was read; `called`: `None` where the eBPF programs could not read it.
#[derive(Clone, Debug)]
pub(crate) struct ThreadRecord {
    /// The record
    pub record: Box<ContextRecord>,
    /// What its process was called with
    pub called: Option<Called>,
}

/// A control record.
#[derive(Clone, Debug)]
pub(super) enum ControlRecord {
    Context(ThreadRecord),
    Namespace(NamespaceRecord),
    Move(MoveRecord),
    Exit(ExitRecord),
    Queue(Box<QueueRecord>),
    Cgroup(Box<CgroupRecord>),
    Access(Box<AccessRecord>),
    /// A call: its time, its thread and that one's context, and it itself in words, as the ring aligns it
    Change(u64, (u32, u64), Box<[u64]>),
}

/// One that waits for its turn, and the number of what was asked for it, with when.
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

    /// The thread whose context must be known first, and the number of that.
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

    /// The thread, the number of its context, and its process and parent, where it is that.
    const fn mover(&self) -> Option<(u32, u64, Mover)> {
        let Self::Context(read) = self else { return None };
        let record = &read.record;
        let process = (record.pid, record.start_boot_ns);
        let mover = Mover { process, ppid: record.ppid, mnt: record.mnt_ns };
        Some((record.tid, record.context, mover))
    }
}

impl RingReader {
    /// The time up to which the control ring was read, and what it held has taken effect.
    #[must_use]
    pub(crate) fn reached(&self) -> u64 {
        let waits = self.waiting.front().map_or(u64::MAX, |one| one.control.boot_ns());
        waits.min(self.control_read)
    }

    /// Brings a context forward: on the control ring, records of different CPUs can be in another
    /// order than their times, so that it waits behind a later one.
    pub(super) fn apply_context<E, C, A: Ask, F: Feed>(
        &mut self,
        tid: u32,
        context: u64,
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<(), Later> {
        let wanted = |one: &WaitingRecord| {
            one.control.mover().is_some_and(|(of, number, _)| of == tid && number == context)
        };
        if let Some(at) = self.waiting.iter().position(wanted) {
            let reply = self.reply(at, with)?;
            if let Some(one) = self.waiting.remove(at) {
                self.take_effect(one.control, reply, with.feed);
            }
        }
        Ok(())
    }

    /// Reads all that is in the control ring by now, so that what calls refer to is known: a record that is
    /// still being written keeps those behind it back, and is waited for. What is put there meanwhile is left for
    /// the next time, and so is what there is no room for among what waits.
    pub(super) fn read_control<E, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<(), Later> {
        let now = (with.clock)();
        let Some(Unfinished { end, .. }) = with.control.unfinished() else {
            self.control_read = now;
            return Ok(());
        };
        let mut turn = self.take_control(end, now, with);
        for _ in 0..LOOKS {
            if self.unfinished_before(end, with).is_none() || self.is_full() || turn.is_err() {
                break;
            }
            thread::yield_now();
            turn = self.take_control(end, now, with);
        }
        if self.is_full() || turn.is_err() {
            // Those that are left came after these, but for what CPUs overtake each other by.
            let read = self.waiting.back().map_or(0, |one| one.control.boot_ns());
            self.control_read = self.control_read.max(read);
            return turn;
        }
        match self.unfinished_before(end, with) {
            Some(at) => {
                let since = match self.stalled {
                    Some((stalled, since)) if stalled == at => since,
                    _ => now,
                };
                self.stalled = Some((at, since));
                if now.saturating_sub(since) < PATIENCE_NS {
                    return Err(Later::Waits);
                }
                log::warn!(
                    "a record of the eBPF programs are not finished, and who some threads are will be known late"
                );
                self.given_up = Some(at);
            }
            None => self.stalled = None,
        }
        self.control_read = now;
        Ok(())
    }

    /// The position of a record before `end` that is not finished, and was not given up.
    fn unfinished_before<E, C: RecordSource, A, F>(
        &self,
        end: usize,
        with: &With<'_, E, C, A, F>,
    ) -> Option<usize> {
        let Unfinished { at, .. } = with.control.unfinished()?;
        (is_before(at, end) && self.given_up != Some(at)).then_some(at)
    }

    /// Whether no more control records are read, until some of those that wait have taken effect.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING
    }

    fn take_control<E, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        end: usize,
        now: u64,
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<(), Later> {
        let more = |control: &C| {
            control.unfinished().is_some_and(|Unfinished { at, .. }| is_before(at, end))
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

    /// What is to be asked for a record, as soon as it is read: who it is about may be gone soon.
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

    /// A thread that moved, of which a context tells that is known, or waits.
    fn mover(&self, record: &MoveRecord, feed: &impl Feed) -> Option<Mover> {
        feed.mover(record.tid, record.context).or_else(|| self.mover_that_waits(record))
    }

    #[cold]
    fn mover_that_waits(&self, record: &MoveRecord) -> Option<Mover> {
        self.waiting.iter().rev().find_map(|one| {
            let (tid, context, mover) = one.control.mover()?;
            (tid == record.tid && context == record.context).then_some(mover)
        })
    }

    /// The answer for one that waits; nothing, where none was asked for or none came in time.
    fn reply<E, C, A: Ask, F>(
        &mut self,
        at: usize,
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<Option<Reply>, Later> {
        let Some(WaitingRecord { asked: Some((number, since)), .. }) = self.waiting.get(at) else {
            return Ok(None);
        };
        let (number, since) = (*number, *since);
        let reply = with.ask.take(number);
        if reply.is_none() {
            if (with.clock)().saturating_sub(since) < ANSWER_NS {
                return Err(Later::Waits);
            }
            with.ask.give_up(number);
        }
        Ok(reply)
    }

    /// Lets what the control ring holds by now take effect up to a moment. What is on its way is waited for.
    pub(crate) fn reach<E, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        until: u64,
        with: &mut With<'_, E, C, A, F>,
    ) {
        loop {
            self.turn_ends = u64::MAX;
            match self.read_control(with).and_then(|()| self.apply(until, with)) {
                Ok(()) if self.reached() > until || !self.is_full() => return,
                Ok(()) | Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// Lets control records take effect up to a moment.
    #[inline]
    pub(super) fn apply<E, C, A: Ask, F: Feed>(
        &mut self,
        until: u64,
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<(), Later> {
        while self.waiting.front().is_some_and(|next| next.control.boot_ns() <= until) {
            self.apply_first(with)?;
            self.turn(with.clock)?;
        }
        Ok(())
    }

    fn apply_first<E, C, A: Ask, F: Feed>(
        &mut self,
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<(), Later> {
        if let Some((tid, context)) = self.waiting.front().and_then(|one| one.control.needs())
            && !with.feed.knows(tid, context)
        {
            self.apply_context(tid, context, with)?;
        }
        let reply = self.reply(0, with)?;
        if let Some(next) = self.waiting.pop_front() {
            self.take_effect(next.control, reply, with.feed);
        }
        Ok(())
    }

    #[cold]
    fn take_effect(&mut self, control: ControlRecord, reply: Option<Reply>, feed: &mut impl Feed) {
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
