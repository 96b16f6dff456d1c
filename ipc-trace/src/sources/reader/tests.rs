use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
};

use ipc_trace_common::{
    op::{Abi, Op, SyscallCode, Timeout},
    record::{
        CallRecord, ContextRecord, ExitRecord, Header, MoveRecord, RecordKind, VERSION, flag,
    },
};
use zerocopy::{FromZeros as _, Immutable, IntoBytes};

use super::{
    control::{LOOKS, PATIENCE_NS, WAITING},
    *,
};
use crate::{
    input::process::{MoveContext, ProcInfo},
    sources::kernel::ring::Unfinished,
};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// A clock that goes on by a microsecond each time.
fn clock() -> u64 {
    NOW.set(NOW.get() + 1_000);
    NOW.get()
}

/// A ring, of which each record is finished once the ring was looked at so many times.
#[derive(Default)]
struct FakeRing {
    records: Vec<(Box<[u64]>, u32)>,
    read: usize,
    looks: Cell<u32>,
}

impl FakeRing {
    fn write<T: IntoBytes + Immutable>(&mut self, record: &T, finished: u32) {
        self.records.push((words(&[record.as_bytes()]), finished));
    }
}

impl RecordSource for FakeRing {
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

/// Who is fed: which threads are known, and what was told of which thread.
#[derive(Default)]
struct RecordingFeed {
    known: HashSet<(u32, u64)>,
    /// The calls, each with whether it was known who made it
    calls: Vec<(u32, bool)>,
    /// Threads that moved, and what was to be seen of them
    moves: Vec<(u32, MoveContext)>,
    exes: Vec<Option<Vec<u8>>>,
    exits: usize,
}

impl Feed for RecordingFeed {
    fn feed(&mut self, input: &Input<'_>) {
        if let Input::Call(call) = input {
            let CallRecord { tid, context, .. } = *call.record;
            self.calls.push((tid, self.knows(tid, context)));
        } else if let Input::Context(context) = input {
            self.known.insert((context.record.tid, context.record.context));
            self.exes.push(context.found.exe.clone());
        } else if let Input::Exit(record) = input {
            self.exits += 1;
            self.known.remove(&(record.tid, record.context));
        } else if let Input::Move(record, beside) = input {
            self.moves.push((record.tid, MoveContext::clone(beside)));
        }
    }

    fn knows(&self, tid: u32, context: u64) -> bool {
        context == 0 || self.known.contains(&(tid, context))
    }

    fn mover(&self, _: u32, _: u64) -> Option<Mover> {
        None
    }

    fn about_context(&self, read: &ThreadRecord) -> AboutContext {
        AboutContext {
            exe: read.record.header.flags & flag::TRUNCATED != 0,
            ..AboutContext::default()
        }
    }

    fn about_move(&self, _: &MoveRecord, mover: Option<Mover>) -> AboutMove {
        AboutMove { mapped: mover.is_some(), ..AboutMove::default() }
    }
}

/// Who answers, or not.
#[derive(Default)]
struct FakeHost {
    asked: u64,
    answers: BTreeMap<u64, Reply>,
}

impl Ask for FakeHost {
    fn ask(&mut self, _: Question) -> Option<u64> {
        self.asked += 1;
        Some(self.asked - 1)
    }

    fn take(&mut self, number: u64) -> Option<Reply> {
        self.answers.remove(&number)
    }

    fn give_up(&mut self, _: u64) {}
}

/// A reader with two rings.
#[derive(Default)]
struct Test<C = FakeRing> {
    reader: RingReader,
    events: FakeRing,
    control: C,
    host: FakeHost,
    fed: RecordingFeed,
}

impl<C: RecordSource> Test<C> {
    fn drain(&mut self) -> Drained {
        self.reader.drain(&mut With {
            events: &mut self.events,
            control: &mut self.control,
            ask: &mut self.host,
            feed: &mut self.fed,
            clock,
        })
    }

    /// Looks until nothing is waited for, at most until then.
    fn drain_until(&mut self, end: u64) -> usize {
        let mut calls = 0;
        loop {
            let drained = self.drain();
            calls += drained.calls;
            if !drained.waits && !drained.more {
                return calls;
            }
            assert!(NOW.get() < end, "it waits");
            NOW.set(NOW.get() + 100_000);
        }
    }
}

const fn header(kind: RecordKind) -> Header {
    let code = SyscallCode::new(Op::Shmget, Timeout::None).0;
    Header { version: VERSION, kind: kind as u8, abi: Abi::X86_64 as u8, code, flags: 0 }
}

fn call(tid: u32, boot_ns: u64) -> CallRecord {
    let mut record = CallRecord::new_zeroed();
    record.header = header(RecordKind::Call);
    (record.tid, record.pid, record.boot_ns, record.context) = (tid, tid, boot_ns, boot_ns + 1);
    record
}

/// The context of that call, and the end of its thread.
fn life(call: &CallRecord) -> (ContextRecord, ExitRecord) {
    let (mut context, mut exit) = (ContextRecord::new_zeroed(), ExitRecord::new_zeroed());
    (context.header, exit.header) = (header(RecordKind::Context), header(RecordKind::Exit));
    (context.tid, context.pid, exit.tid, exit.pid) = (call.tid, call.pid, call.tid, call.pid);
    (context.boot_ns, context.context) = (call.context, call.context);
    (exit.boot_ns, exit.context) = (call.boot_ns + 2, call.context);
    (context, exit)
}

/// That many calls, and no more are left.
const fn all(calls: usize) -> Drained {
    Drained { calls, more: false, waits: false }
}

#[test]
fn a_thread_is_known_that_has_ended_while_a_record_kept_its_call_back() {
    let mut test = Test::<FakeRing>::default();
    let [first, second] = [call(1, 10), call(2, 20)];
    for call in [&first, &second] {
        let (context, exit) = life(call);
        test.control.write(&context, 0);
        test.control.write(&exit, 0);
    }
    // It is written slowly, by a CPU that others have overtaken.
    test.events.write(&first, 1);
    test.events.write(&second, 0);
    assert_eq!(test.drain(), all(0));
    assert_eq!(test.drain(), all(2));
    assert_eq!(test.fed.calls, [(1, true), (2, true)]);
    // And then their threads are forgotten.
    assert!(!test.fed.knows(2, second.context));
}

#[test]
fn a_context_is_waited_for_that_is_behind_a_record_in_the_making() {
    let mut test = Test::<FakeRing>::default();
    let (mine, others) = (call(1, 10), call(2, 5));
    test.control.write(&life(&others).0, 3 * LOOKS);
    test.control.write(&life(&mine).0, 0);
    test.events.write(&mine, 0);
    assert_eq!(test.drain(), Drained { waits: true, ..all(0) }, "and nobody sleeps meanwhile");
    assert_eq!(test.drain_until(PATIENCE_NS), 1);
    assert_eq!(test.fed.calls, [(1, true)]);
}

#[test]
fn what_is_never_finished_is_given_up_once() {
    let mut test = Test::<FakeRing>::default();
    test.control.write(&life(&call(9, 1)).0, u32::MAX);
    let mine: Vec<_> = (0..100).map(|n| call(1, 10 + n)).collect();
    for one in &mine {
        test.events.write(one, 0);
    }
    assert_eq!(test.drain_until(2 * PATIENCE_NS), 100);
    assert_eq!(test.fed.calls, vec![(1, false); 100]);
    assert_eq!(test.reader.delivered.control, 0);
    // It is not waited for again.
    test.events.write(&call(1, 1000), 0);
    assert_eq!(test.drain(), all(1));
}

#[test]
fn what_was_asked_is_waited_for_and_calls_keep_their_order() {
    let mut test = Test::<FakeRing>::default();
    let [first, second] = [call(1, 10), call(2, 20)];
    let (mut context, _) = life(&first);
    context.header.flags = flag::TRUNCATED;
    test.control.write(&context, 0);
    test.control.write(&life(&second).0, 0);
    test.events.write(&first, 0);
    test.events.write(&second, 0);
    for _ in 0..3 {
        assert_eq!(test.drain(), Drained { waits: true, ..all(0) });
    }
    let found = ProcInfo { exe: Some(b"/bin/x".to_vec()), ..ProcInfo::default() };
    test.host.answers.insert(0, Reply::Context(found));
    assert_eq!(test.drain(), all(2));
    assert_eq!(test.fed.calls, [(1, true), (2, true)]);
    assert_eq!(test.fed.exes, [Some(b"/bin/x".to_vec()), None]);
}

#[test]
fn an_answer_that_does_not_come_is_done_without() {
    let mut test = Test::<FakeRing>::default();
    let mine = call(1, 10);
    let (mut context, _) = life(&mine);
    context.header.flags = flag::TRUNCATED;
    test.control.write(&context, 0);
    test.events.write(&mine, 0);
    assert_eq!(test.drain_until(NOW.get() + PATIENCE_NS), 1);
    assert_eq!((test.fed.calls, test.fed.exes), (vec![(1, true)], vec![None]));
}

#[test]
fn of_a_thread_that_moves_it_is_asked_who_its_process_is() {
    let mut test = Test::<FakeRing>::default();
    let mine = call(1, 10);
    test.control.write(&life(&mine).0, 0);
    let mut moved = MoveRecord::new_zeroed();
    (moved.header, moved.boot_ns) = (header(RecordKind::Move), 100);
    (moved.tid, moved.pid, moved.context) = (1, 1, mine.context);
    test.control.write(&moved, 0);
    let beside = MoveContext { mapped: Some(Vec::new()), ..MoveContext::default() };
    test.host.answers.insert(0, Reply::Move(beside.clone()));
    assert_eq!(test.drain(), all(0));
    assert_eq!(test.fed.moves, [(1, beside)]);
}

/// A ring that is written to as quickly as it is read.
#[derive(Default)]
struct Endless {
    ring: FakeRing,
    left: u32,
}

impl RecordSource for Endless {
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
    let mut test =
        Test { control: Endless { left: 1_000_000, ..Endless::default() }, ..Test::default() };
    test.control.ring.write(&life(&call(7, 1)).0, 0);
    test.events.write(&call(7, 1), 0);
    assert_eq!(test.drain().calls, 1);
    assert_eq!(test.fed.calls, [(7, true)]);
    assert!(test.reader.delivered.control < 100, "{}", test.reader.delivered.control);
}

#[test]
fn what_waits_is_bounded_and_all_of_it_takes_effect() {
    let mut test = Test::<FakeRing>::default();
    let count = 5 * WAITING / 2;
    // The first has to wait for an answer, and all that came after it.
    let (mut context, _) = life(&call(1, 10));
    context.header.flags = flag::TRUNCATED;
    test.control.write(&context, 0);
    for n in 0..count as u32 {
        test.control.write(&life(&call(10 + n, 1000 + u64::from(n))).1, 0);
    }
    while test.reader.waiting.len() < WAITING {
        let Drained { more, waits, .. } = test.drain();
        assert!(more || waits);
    }
    for _ in 0..10 {
        assert!(test.drain().waits);
        assert_eq!(test.reader.waiting.len(), WAITING);
        // The first of those that wait: nothing behind it is said to have taken effect.
        assert_eq!(test.reader.reached(), context.boot_ns);
    }
    test.drain_until(NOW.get() + 10 * PATIENCE_NS);
    assert_eq!((test.fed.exits, test.reader.delivered.control), (count, count as u64 + 1));
    assert!(test.reader.waiting.is_empty());
}

#[test]
fn a_look_ends_after_a_while_and_the_next_goes_on() {
    let mut test = Test::<FakeRing>::default();
    // Each look at the clock takes a microsecond.
    let count = 3 * CLOCKED as usize * (TURN_NS as usize / 1_000);
    for n in 0..count as u64 {
        let mut one = call(1, 10 + n);
        one.context = 0;
        test.events.write(&one, 0);
    }
    let first = test.drain();
    assert!(first.more && first.calls < count / 2, "{first:?} of {count}");
    assert_eq!(first.calls + test.drain_until(u64::MAX), count);
}
