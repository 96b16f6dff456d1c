use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
};

use ipc_trace_common::{
    op::{Abi, Op, SyscallCode, Timeout},
    record::{
        CallRecord, ContextRecord, ExitRecord, Header, NsSwitchRecord, RecordKind, VERSION, flag,
    },
};
use zerocopy::{FromZeros as _, Immutable, IntoBytes};

use super::{
    control::{CONTROL_WAIT_NS, MAX_POLLS, MAX_WAITING_RECORDS},
    *,
};
use crate::{
    input::process::{MoveContext, ProcInfo},
    sources::kernel::ring::Uncommitted,
};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// A clock that advances by a microsecond each time.
fn clock() -> u64 {
    NOW.set(NOW.get() + 1_000);
    NOW.get()
}

/// A ring whose records are each committed after it was polled a given number of times.
#[derive(Default)]
struct FakeRing {
    records: Vec<(Box<[u64]>, u32)>,
    read: usize,
    polls: Cell<u32>,
}

impl FakeRing {
    fn write<T: IntoBytes + Immutable>(&mut self, record: &T, finished: u32) {
        self.records.push((words(&[record.as_bytes()]), finished));
    }
}

impl RecordSource for FakeRing {
    fn next<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (words, _) =
            self.records.get(self.read).filter(|(_, finished)| *finished <= self.polls.get())?;
        self.read += 1;
        Some(with(words.as_bytes()))
    }

    fn uncommitted(&self) -> Option<Uncommitted> {
        self.polls.set(self.polls.get() + 1);
        let end = self.records.len();
        (self.read < end).then_some(Uncommitted { at: self.read, end })
    }
}

/// A feed that records which threads are known, and the inputs for each thread.
#[derive(Default)]
struct RecordingFeed {
    known: HashSet<(u32, u64)>,
    /// The calls, each with whether its caller was known
    calls: Vec<(u32, bool)>,
    /// Threads that moved, and what was read about them
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

    fn about_move(&self, _: &NsSwitchRecord, mover: Option<Mover>) -> AboutMove {
        AboutMove { mapped: mover.is_some(), ..AboutMove::default() }
    }
}

/// A host that answers, or not.
#[derive(Default)]
struct FakeInspector {
    asked: u64,
    answers: BTreeMap<u64, Reply>,
}

impl Ask for FakeInspector {
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
    host: FakeInspector,
    fed: RecordingFeed,
}

impl<C: RecordSource> Test<C> {
    fn drain(&mut self) -> Drained {
        self.reader.drain(&mut ReaderCx {
            events: &mut self.events,
            control: &mut self.control,
            ask: &mut self.host,
            feed: &mut self.fed,
            clock,
        })
    }

    /// Drains until nothing is in flight, at most until that time.
    fn drain_until(&mut self, end: u64) -> usize {
        let mut calls = 0;
        loop {
            let drained = self.drain();
            calls += drained.calls;
            if !drained.in_flight && !drained.more {
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

/// That many calls, and no more.
const fn all(calls: usize) -> Drained {
    Drained { calls, more: false, in_flight: false }
}

#[test]
fn ended_thread_is_known_after_blocked_call() {
    let mut test = Test::<FakeRing>::default();
    let [first, second] = [call(1, 10), call(2, 20)];
    for call in [&first, &second] {
        let (context, exit) = life(call);
        test.control.write(&context, 0);
        test.control.write(&exit, 0);
    }
    // A slow CPU writes it, and other CPUs have overtaken it.
    test.events.write(&first, 1);
    test.events.write(&second, 0);
    assert_eq!(test.drain(), all(0));
    assert_eq!(test.drain(), all(2));
    assert_eq!(test.fed.calls, [(1, true), (2, true)]);
    // Afterwards their threads are forgotten.
    assert!(!test.fed.knows(2, second.context));
}

#[test]
fn call_waits_for_context_behind_uncommitted_record() {
    let mut test = Test::<FakeRing>::default();
    let (mine, others) = (call(1, 10), call(2, 5));
    test.control.write(&life(&others).0, 3 * MAX_POLLS);
    test.control.write(&life(&mine).0, 0);
    test.events.write(&mine, 0);
    assert_eq!(test.drain(), Drained { in_flight: true, ..all(0) }, "and nobody sleeps meanwhile");
    assert_eq!(test.drain_until(CONTROL_WAIT_NS), 1);
    assert_eq!(test.fed.calls, [(1, true)]);
}

#[test]
fn uncommitted_record_is_given_up_once() {
    let mut test = Test::<FakeRing>::default();
    test.control.write(&life(&call(9, 1)).0, u32::MAX);
    let mine: Vec<_> = (0..100).map(|n| call(1, 10 + n)).collect();
    for one in &mine {
        test.events.write(one, 0);
    }
    assert_eq!(test.drain_until(2 * CONTROL_WAIT_NS), 100);
    assert_eq!(test.fed.calls, vec![(1, false); 100]);
    assert_eq!(test.reader.delivered.control, 0);
    // It isn't waited for again.
    test.events.write(&call(1, 1000), 0);
    assert_eq!(test.drain(), all(1));
}

#[test]
fn calls_keep_order_while_answer_is_awaited() {
    let mut test = Test::<FakeRing>::default();
    let [first, second] = [call(1, 10), call(2, 20)];
    let (mut context, _) = life(&first);
    context.header.flags = flag::TRUNCATED;
    test.control.write(&context, 0);
    test.control.write(&life(&second).0, 0);
    test.events.write(&first, 0);
    test.events.write(&second, 0);
    for _ in 0..3 {
        assert_eq!(test.drain(), Drained { in_flight: true, ..all(0) });
    }
    let found = ProcInfo { exe: Some(b"/bin/x".to_vec()), ..ProcInfo::default() };
    test.host.answers.insert(0, Reply::Context(found));
    assert_eq!(test.drain(), all(2));
    assert_eq!(test.fed.calls, [(1, true), (2, true)]);
    assert_eq!(test.fed.exes, [Some(b"/bin/x".to_vec()), None]);
}

#[test]
fn missing_answer_times_out() {
    let mut test = Test::<FakeRing>::default();
    let mine = call(1, 10);
    let (mut context, _) = life(&mine);
    context.header.flags = flag::TRUNCATED;
    test.control.write(&context, 0);
    test.events.write(&mine, 0);
    assert_eq!(test.drain_until(NOW.get() + CONTROL_WAIT_NS), 1);
    assert_eq!((test.fed.calls, test.fed.exes), (vec![(1, true)], vec![None]));
}

#[test]
fn moved_thread_question_has_its_process() {
    let mut test = Test::<FakeRing>::default();
    let mine = call(1, 10);
    test.control.write(&life(&mine).0, 0);
    let mut moved = NsSwitchRecord::new_zeroed();
    (moved.header, moved.boot_ns) = (header(RecordKind::Move), 100);
    (moved.tid, moved.pid, moved.context) = (1, 1, mine.context);
    test.control.write(&moved, 0);
    let beside = MoveContext { mapped: Some(Vec::new()), ..MoveContext::default() };
    test.host.answers.insert(0, Reply::Move(beside.clone()));
    assert_eq!(test.drain(), all(0));
    assert_eq!(test.fed.moves, [(1, beside)]);
}

/// A ring that is filled as quickly as it is read.
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

    fn uncommitted(&self) -> Option<Uncommitted> {
        self.ring.uncommitted()
    }
}

#[test]
fn fast_writer_does_not_starve_reader() {
    let mut test =
        Test { control: Endless { left: 1_000_000, ..Endless::default() }, ..Test::default() };
    test.control.ring.write(&life(&call(7, 1)).0, 0);
    test.events.write(&call(7, 1), 0);
    assert_eq!(test.drain().calls, 1);
    assert_eq!(test.fed.calls, [(7, true)]);
    assert!(test.reader.delivered.control < 100, "{}", test.reader.delivered.control);
}

#[test]
fn waiting_records_are_bounded_and_all_applied() {
    let mut test = Test::<FakeRing>::default();
    let count = 5 * MAX_WAITING_RECORDS / 2;
    // The first has to wait for an answer, and so do all the records after it.
    let (mut context, _) = life(&call(1, 10));
    context.header.flags = flag::TRUNCATED;
    test.control.write(&context, 0);
    for n in 0..count as u32 {
        test.control.write(&life(&call(10 + n, 1000 + u64::from(n))).1, 0);
    }
    while test.reader.waiting.len() < MAX_WAITING_RECORDS {
        let Drained { more, in_flight, .. } = test.drain();
        assert!(more || in_flight);
    }
    for _ in 0..10 {
        assert!(test.drain().in_flight);
        assert_eq!(test.reader.waiting.len(), MAX_WAITING_RECORDS);
        // The first waiting record: nothing after it counts as applied.
        assert_eq!(test.reader.watermark(), context.boot_ns);
    }
    test.drain_until(NOW.get() + 10 * CONTROL_WAIT_NS);
    assert_eq!((test.fed.exits, test.reader.delivered.control), (count, count as u64 + 1));
    assert!(test.reader.waiting.is_empty());
}

#[test]
fn pass_stops_at_time_limit_and_next_continues() {
    let mut test = Test::<FakeRing>::default();
    // Each read of the clock takes a microsecond.
    let count = 3 * RECORDS_PER_CLOCK_READ as usize * (TURN_NS as usize / 1_000);
    for n in 0..count as u64 {
        let mut one = call(1, 10 + n);
        one.context = 0;
        test.events.write(&one, 0);
    }
    let first = test.drain();
    assert!(first.more && first.calls < count / 2, "{first:?} of {count}");
    assert_eq!(first.calls + test.drain_until(u64::MAX), count);
}
