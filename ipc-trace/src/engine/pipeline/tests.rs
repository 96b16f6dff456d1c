use ipc_trace_common::{
    op::{Abi, Code, Op, Timeout},
    record::{ContextRecord, ExitRecord, Header, Kind, VERSION},
};
use zerocopy::{FromZeros as _, Immutable};

use super::{
    control::{LOOKS, PAUSES, WAITING},
    *,
};
use crate::engine::track::clock::Clock;

/// A ring, of which each record is finished once the ring was looked at so many times.
#[derive(Default)]
struct Ring {
    records: Vec<(Box<[u64]>, u32)>,
    read: usize,
    looks: std::cell::Cell<u32>,
}

impl Ring {
    fn write<T: Immutable>(&mut self, record: &T, finished: u32) {
        let words = size_of::<T>() / size_of::<u64>();
        // SAFETY: records are made of words, without gaps.
        let words = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), words) };
        self.records.push((words.into(), finished));
    }
}

impl Source for Ring {
    fn next<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (words, _) =
            self.records.get(self.read).filter(|(_, finished)| *finished <= self.looks.get())?;
        self.read += 1;
        Some(with(words.as_bytes()))
    }

    fn unfinished(&self) -> Option<Unfinished> {
        self.looks.set(self.looks.get() + 1);
        let end = self.records.len();
        (self.read < end).then_some(Unfinished { at: self.read, end })
    }
}

/// The calls, each with whether it was known who made it.
#[derive(Default)]
struct Calls(Vec<(u32, bool)>);

/// Calls and moves, by their threads, as far as there is room.
#[derive(Default)]
struct Small {
    taken: Vec<u32>,
    room: usize,
}

impl Sink for Calls {
    fn call(&mut self, call: &Call<'_>, tracker: &Tracker) -> Option<u64> {
        let CallRecord { tid, context, .. } = *call.record;
        self.0.push((tid, tracker.contexts.get(tid, context).is_some()));
        None
    }
    fn group(&mut self, _: &BatchHead, _: &Group<'_>, _: &Tracker) {}
    fn namespace(&mut self, _: &Change, _: &Tracker) -> Option<u64> {
        None
    }
    fn objects(&mut self, _: &[objects::Change], _: &Tracker) {}
    fn finding(&mut self, _: &Shown, _: u64, _: &Tracker) {}
}

impl Sink for Small {
    fn call(&mut self, call: &Call<'_>, _: &Tracker) -> Option<u64> {
        self.taken.push(call.record.tid);
        None
    }
    fn group(&mut self, _: &BatchHead, _: &Group<'_>, _: &Tracker) {}
    fn namespace(&mut self, change: &Change, _: &Tracker) -> Option<u64> {
        self.taken.extend(change.by.as_ref().map(|(tid, _)| *tid));
        None
    }
    fn objects(&mut self, _: &[objects::Change], _: &Tracker) {}
    fn finding(&mut self, _: &Shown, _: u64, _: &Tracker) {}
    fn is_full(&self) -> bool {
        self.taken.len() >= self.room
    }
}

const fn header(kind: Kind) -> Header {
    let code = Code::new(Op::Shmget, Timeout::None).0;
    Header { version: VERSION, kind: kind as u8, abi: Abi::X86_64 as u8, code, flags: 0 }
}

fn call(tid: u32, boot_ns: u64) -> CallRecord {
    let mut record = CallRecord::new_zeroed();
    record.header = header(Kind::Call);
    (record.tid, record.pid, record.boot_ns, record.context) = (tid, tid, boot_ns, boot_ns + 1);
    record
}

/// The context of that call, and the end of its thread.
fn life(call: &CallRecord) -> (ContextRecord, ExitRecord) {
    let (mut context, mut exit) = (ContextRecord::new_zeroed(), ExitRecord::new_zeroed());
    (context.header, exit.header) = (header(Kind::Context), header(Kind::Exit));
    (context.tid, context.pid, exit.tid, exit.pid) = (call.tid, call.pid, call.tid, call.pid);
    (context.boot_ns, context.context) = (call.context, call.context);
    (exit.boot_ns, exit.context) = (call.boot_ns + 2, call.context);
    (context, exit)
}

/// That many calls, and no more are left.
const fn all(calls: usize) -> Drained {
    Drained { calls, more: false }
}

fn pipeline() -> Pipeline {
    Pipeline::new(Tracker::new(Clock::with_offset(0)))
}

#[test]
fn a_thread_is_known_that_has_ended_while_a_record_kept_its_call_back() {
    let (mut events, mut control, mut calls) = (Ring::default(), Ring::default(), Calls::default());
    let [first, second] = [call(1, 10), call(2, 20)];
    for call in [&first, &second] {
        let (context, exit) = life(call);
        control.write(&context, 0);
        control.write(&exit, 0);
    }
    // It is written slowly, by a CPU that others have overtaken.
    events.write(&first, 1);
    events.write(&second, 0);
    let mut pipeline = pipeline();
    assert_eq!(pipeline.drain(&mut events, &mut control, &mut calls), all(0));
    assert_eq!(pipeline.drain(&mut events, &mut control, &mut calls), all(2));
    assert_eq!(calls.0, [(1, true), (2, true)]);
    // And then their threads are forgotten.
    assert!(pipeline.tracker.contexts.get(2, second.context).is_none());
}

#[test]
fn a_context_is_waited_for_that_is_behind_a_record_in_the_making() {
    let (mut events, mut control, mut calls) = (Ring::default(), Ring::default(), Calls::default());
    let (mine, others) = (call(1, 10), call(2, 5));
    control.write(&life(&others).0, LOOKS + 2);
    control.write(&life(&mine).0, 0);
    events.write(&mine, 0);
    assert_eq!(pipeline().drain(&mut events, &mut control, &mut calls), all(1));
    assert_eq!(calls.0, [(1, true)]);
}

#[test]
fn what_is_never_finished_is_given_up_once() {
    let (mut events, mut control, mut calls) = (Ring::default(), Ring::default(), Calls::default());
    control.write(&life(&call(9, 1)).0, u32::MAX);
    let mine: Vec<_> = (0..100).map(|n| call(1, 10 + n)).collect();
    for one in &mine {
        events.write(one, 0);
    }
    let mut pipeline = pipeline();
    assert_eq!(pipeline.drain(&mut events, &mut control, &mut calls), all(100));
    assert_eq!(calls.0, vec![(1, false); 100]);
    let looks = control.looks.get();
    assert!(looks < 3 * (LOOKS + PAUSES), "{looks}");
    assert_eq!(pipeline.delivered.control, 0);
}

#[test]
fn no_more_is_taken_than_there_is_room_for_and_nothing_is_left() {
    let (mut events, mut control) = (Ring::default(), Ring::default());
    let calls: Vec<_> = (1..=10).map(|n| call(n, u64::from(10 * n))).collect();
    for one in &calls {
        control.write(&life(one).0, 0);
        events.write(one, 0);
    }
    // They come after all calls.
    for one in &calls {
        let mut moved = MoveRecord::new_zeroed();
        (moved.header, moved.boot_ns) = (header(Kind::Move), 1000 + one.boot_ns);
        (moved.tid, moved.pid, moved.context) = (one.tid, one.tid, one.context);
        (moved.from.inum, moved.to.inum) = (1, 2);
        control.write(&moved, 0);
    }
    let mut pipeline = pipeline();
    let mut taken = Vec::new();
    loop {
        let mut small = Small { room: 3, ..Small::default() };
        let drained = pipeline.drain(&mut events, &mut control, &mut small);
        // A move may be two lines.
        assert!(small.taken.len() <= 4);
        assert_eq!(drained.more, small.is_full());
        taken.extend(small.taken);
        if !drained.more {
            break;
        }
        assert!(pipeline.reached() <= 2000 || taken.len() >= 20);
    }
    let all: Vec<_> = (1..=10).collect();
    let mut moved = taken.split_off(10);
    assert_eq!(taken, all);
    moved.dedup();
    assert_eq!(moved, all);
}

/// A ring that is written to as quickly as it is read.
#[derive(Default)]
struct Endless {
    ring: Ring,
    left: u32,
}

impl Source for Endless {
    fn next<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let tid = self.left;
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.ring.write(&life(&call(tid, u64::from(tid))).0, 0);
        }
        self.ring.next(with)
    }

    fn unfinished(&self) -> Option<Unfinished> {
        self.ring.unfinished()
    }
}

#[test]
fn who_writes_as_quickly_as_it_is_read_keeps_nothing_else_from_being_read() {
    let (mut events, mut calls) = (Ring::default(), Calls::default());
    let mut control = Endless { left: 1_000_000, ..Endless::default() };
    control.ring.write(&life(&call(7, 1)).0, 0);
    events.write(&call(7, 1), 0);
    let mut pipeline = pipeline();
    assert_eq!(pipeline.drain(&mut events, &mut control, &mut calls).calls, 1);
    assert_eq!(calls.0, [(7, true)]);
    assert!(pipeline.delivered.control < 100, "{}", pipeline.delivered.control);
}

#[test]
fn what_waits_is_bounded_and_all_of_it_takes_effect() {
    let (mut events, mut control) = (Ring::default(), Ring::default());
    let count = 5 * WAITING / 2;
    // They come after the call, which the sink has no room for yet.
    for n in 0..count as u32 {
        control.write(&life(&call(10 + n, 1000 + u64::from(n))).1, 0);
    }
    events.write(&call(1, 10), 0);
    let mut pipeline = pipeline();
    for _ in 0..10 {
        let mut full = Small::default();
        assert!(pipeline.drain(&mut events, &mut control, &mut full).more);
        assert_eq!(pipeline.waiting.len(), WAITING);
        // The first of those that wait: nothing behind it is said to have taken effect.
        assert_eq!(pipeline.reached(), 1002);
    }
    let mut calls = Calls::default();
    while pipeline.drain(&mut events, &mut control, &mut calls).more {
        assert!(pipeline.waiting.len() <= WAITING);
    }
    assert_eq!((calls.0.len(), pipeline.delivered.control), (1, count as u64));
    assert!(pipeline.waiting.is_empty());
}
