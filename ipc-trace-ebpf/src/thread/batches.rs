//! Calls of one thread that are sent together, where calls are counted and not shown: those that come by
//! the million, since they can block, or look up an object that is not there.
//!
//! A thread that makes a second call gets a place in an array, if that is free, and keeps it until it
//! ends or executes something else. There its calls are collected; it alone writes there. All that is
//! the same for them (who it is, its namespace) is read once, when the batch is begun. Where places run
//! short, user space takes those whose threads have done nothing for a while.
//!
//! Invariant: a batch is sent before anything that would give its calls another meaning: before the
//! thread's next event of another kind, and before its context is sent anew. Once the gate is closed,
//! what was not sent is the reader's.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_output},
    },
    macros::map,
    maps::{Array, HashMap},
};
use ipc_trace_common::{
    layout::Field,
    op::{Op, SyscallCode},
    record::{BATCH, BatchHead, BatchedCall, NO_DURATION, NsRef, PackedCall, QueueRef, RecordKind},
    state::{BATCH_ROW, BATCHES as PLACES, BatchSlot, NOBODYS, NotedCall},
};

use crate::{
    base::{
        constants::constant,
        counts::{self, Count},
        gate::gate,
        memory::{comm, current_task, field},
        registers::{Call, error, failed},
        rings::{self, EVENTS},
        words::masked,
    },
    facts::{cgroups, queues},
    thread::slots,
};

/// By `tid % BATCHES`.
#[map]
static BATCHES: Array<BatchSlot> = Array::with_max_entries(PLACES, BPF_F_MMAPABLE);
/// Places of [`BATCHES`] that threads have, by number: to take one is atomic.
#[map]
static BATCHES_TAKEN: HashMap<u32, u8> = HashMap::with_max_entries(PLACES, 0);
/// By pid_tgid: the calls that threads are in whose batches user space has taken.
#[map]
static NOTED_CALLS: HashMap<u64, NotedCall> = HashMap::with_max_entries(PLACES, 0);

/// The operations whose calls can be in a batch: those that can block, and those that look for an object,
/// if they fail.
const OPS: [Op; 8] = [
    Op::Semop,
    Op::Msgsnd,
    Op::Msgrcv,
    Op::MqSend,
    Op::MqReceive,
    Op::Shmget,
    Op::Semget,
    Op::Msgget,
];

/// Their bits.
const OF_OPS: u32 = {
    let (mut at, mut bits) = (0, 0);
    while at < OPS.len() {
        bits |= OPS[at].bit();
        at += 1;
    }
    bits
};

/// Bits of those that look for an object.
const GETS: u32 = Op::Shmget.bit() | Op::Semget.bit() | Op::Msgget.bit();

/// Whether a call can be in a batch. Calls of `ipc(2)` are too rare.
#[inline(always)]
fn can_be(call: Call) -> bool {
    call.multiplexed == 0 && call.code.bit() & OF_OPS != 0
}

/// The place of a thread's batch.
#[inline(always)]
fn place(pid_tgid: u64) -> u32 {
    pid_tgid as u32 & (PLACES - 1)
}

/// The thread's batch, if it has one.
#[inline(always)]
fn owned(pid_tgid: u64) -> Option<&'static mut BatchSlot> {
    if constant!(BATCHED) == 0 { None } else { of_thread(pid_tgid) }
}

/// As [`owned`], where calls come in batches.
#[inline(always)]
fn of_thread(pid_tgid: u64) -> Option<&'static mut BatchSlot> {
    let batch = BATCHES.get_ptr_mut(place(pid_tgid))?;
    // SAFETY: the map gave the pointer. Only the thread whose batch it is looks beyond `pid_tgid`.
    let batch = unsafe { &mut *batch };
    (batch.pid_tgid == pid_tgid).then_some(batch)
}

/// In [`BatchSlot::enter_ns`], of a lookup: it can't block, so when it entered is of no interest.
const LOOKUP: u64 = 1;

/// A call enters the kernel; `queue`: what its descriptor leads to, if it takes one. Whether that is noted
/// here.
#[inline(always)]
pub(crate) fn enter(pid_tgid: u64, number: u64, call: Call, queue: &QueueRef) -> bool {
    if !can_be(call) {
        return false;
    }
    let Some(batch) = owned(pid_tgid) else {
        return false;
    };
    if call.code.bit() & (Op::MqSend.bit() | Op::MqReceive.bit()) != 0
        && !set_queue(batch, pid_tgid, *queue)
    {
        return false;
    }
    if call.code.bit() & GETS != 0 {
        describe_lookup(batch, call);
        batch.entered = number as u32;
        batch.enter_ns = LOOKUP;
    } else {
        note(batch, call, number as u32);
    }
    true
}

/// How many calls are in a batch, after a function that may have sent them.
#[inline(always)]
fn calls_in(batch: *const BatchSlot) -> u32 {
    // SAFETY: the map gave the pointer.
    unsafe { core::ptr::addr_of!((*batch).record.head.count).read_volatile() }
}

/// From now on, calls on queues are on this one. Whether that can be.
#[inline(always)]
fn set_queue(batch: &mut BatchSlot, pid_tgid: u64, mut queue: QueueRef) -> bool {
    queues::compare(&mut queue, batch.record.head.ns);
    // Such a call is told of by itself: a full ring must not keep it back.
    if queues::is_foreign(&queue) {
        return false;
    }
    if queues::same(&queue, &batch.record.head.queue) {
        return true;
    }
    if batch.counts[Op::MqSend as usize] | batch.counts[Op::MqReceive as usize] != 0 {
        send_batch(place(pid_tgid));
        if calls_in(batch) != 0 {
            return false;
        }
    }
    // SAFETY: the record is valid for writing.
    unsafe { queues::write(core::ptr::addr_of_mut!(batch.record.head.queue), &queue) };
    true
}

/// As [`enter`], of a call that is known to be one that can be in a batch, where those are in use. The
/// gate need not be asked: who has a batch is traced, and what enters after the end is left out by the
/// reader.
#[inline(always)]
pub(crate) fn enter_known(pid_tgid: u64, call: Call) -> bool {
    match of_thread(pid_tgid) {
        Some(batch) => {
            note(batch, call, u32::from(call.packed() as u16));
            true
        }
        None => false,
    }
}

#[inline(always)]
fn note(batch: &mut BatchSlot, call: Call, entered: u32) {
    describe(batch, call);
    batch.entered = entered;
    // SAFETY: no arguments.
    batch.enter_ns = unsafe { bpf_ktime_get_boot_ns() };
}

/// Notes what is called.
#[inline(always)]
fn describe(batch: &mut BatchSlot, call: Call) {
    let [id, size] = call.id_and_size();
    batch.what = PackedCall { id: id as i32, abi: call.abi as u8, code: call.code.0 }.packed();
    batch.size = size << 32;
}

/// As above, of a lookup: its key.
#[inline(always)]
fn describe_lookup(batch: &mut BatchSlot, call: Call) {
    let id = call.first() as i32;
    batch.what = PackedCall { id, abi: call.abi as u8, code: call.code.0 }.packed();
    batch.size = 0;
}

/// Whether the thread is still who and where it was when its batch was begun: of its user, group and name, in its
/// namespaces and its cgroup.
#[inline(always)]
fn is_same(batch: &BatchSlot, task: u64) -> bool {
    let head = &batch.record.head;
    let cred: u64 = field(task, Field::TaskCred);
    // SAFETY: `comm` has 16 bytes and is aligned to 8 there.
    let name = unsafe { core::ptr::addr_of!(head.comm).cast::<[u64; 2]>().read() };
    // Credentials are never changed, but replaced (Documentation/security/credentials.rst), after two changes perhaps
    // by others at the same address: so the user, which findings rest on, is compared as well.
    batch.nsproxy == field::<u64>(task, Field::TaskNsproxy)
        && batch.moves == cgroups::moves()
        && batch.cred == cred
        && head.euid == field::<u32>(cred, Field::CredEuid)
        && name == comm(task)
}

/// The call with that number returns. Whether it is in the thread's batch now.
#[inline(always)]
pub(crate) fn exit(pid_tgid: u64, task: u64, number: u64, ret: i64) -> bool {
    if constant!(BATCHED) == 0 {
        return false;
    }
    let call = number as u32;
    let Some(batch) = of_thread(pid_tgid) else {
        return false;
    };
    if !is_noted(batch, task, call) {
        return false;
    }
    let looks = batch.enter_ns == LOOKUP;
    // Only of lookups that fail is the identifier known to be no object's; of the others it is the result.
    if looks && !failed(ret) {
        return false;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let duration_ns = if looks { NO_DURATION } else { now - batch.enter_ns };
    add(batch, pid_tgid, (now, duration_ns), ret);
    true
}

/// As [`exit`], where batches are in use, by what was noted of the call, which is no lookup.
#[inline(always)]
pub(crate) fn exit_known(pid_tgid: u64, task: u64, call: u32, ret: i64) -> bool {
    let Some(batch) = of_thread(pid_tgid) else {
        return false;
    };
    if !is_noted(batch, task, call) {
        return false;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let duration_ns = now - batch.enter_ns;
    add(batch, pid_tgid, (now, duration_ns), ret);
    true
}

/// Whether a call is the one whose entry was noted in the batch, and its thread who it was. What was noted may be a
/// call before, of whose return the program was not run. That one by another ABI with the same number is not told
/// from it then, is a second mischance that is not provided for.
#[inline(always)]
fn is_noted(batch: &BatchSlot, task: u64, call: u32) -> bool {
    batch.enter_ns != 0 && batch.entered == call && is_same(batch, task)
}

/// A call returns that looked for an object, and failed, where its entry was not seen, as there is nothing to be seen
/// there. Whether it is in the thread's batch now.
#[inline(always)]
pub(crate) fn looked_up(pid_tgid: u64, task: u64, call: Call, ret: i64) -> bool {
    if constant!(BATCHED) == 0
        || call.code.bit() & GETS == 0
        || call.multiplexed != 0
        || !failed(ret)
    {
        return false;
    }
    let Some(batch) = of_thread(pid_tgid) else {
        return false;
    };
    if !is_same(batch, task) {
        return false;
    }
    describe_lookup(batch, call);
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    add(batch, pid_tgid, (now, NO_DURATION), ret);
    true
}

/// Adds the thread's call to its batch, or counts it as lost. By a pointer: the functions called here
/// write to the batch, too, which no reference to it would let the compiler see.
#[inline(always)]
fn add(batch: *mut BatchSlot, pid_tgid: u64, (now, duration_ns): (u64, u64), ret: i64) {
    // SAFETY: the map gave the pointer, and the thread alone writes there.
    let batch = unsafe { &mut *batch };
    if batch.record.head.count >= BATCH as u32 {
        send_batch(place(pid_tgid));
        if calls_in(batch) >= BATCH as u32 {
            drop_one(pid_tgid, ret as u64);
            batch.enter_ns = 0;
            return;
        }
    }
    let at = masked::<{ BATCH as u64 - 1 }>(u64::from(batch.record.head.count));
    // SAFETY: `at` lies within the array, whose entries are four words each.
    unsafe {
        let outcome = core::ptr::addr_of_mut!(batch.record.outcomes).cast::<BatchedCall>();
        let outcome = outcome.add(at as usize).cast::<u64>();
        outcome.write_volatile(now);
        outcome.add(1).write_volatile(duration_ns);
        outcome.add(2).write_volatile(ret as u32 as u64 | batch.size);
        outcome.add(3).write_volatile(batch.what);
    }
    let kind = masked::<31>(batch.what >> 40);
    // SAFETY: `kind` lies within the array.
    unsafe { *core::ptr::addr_of_mut!(batch.counts).cast::<u32>().add(kind as usize) += 1 };
    batch.enter_ns = 0;
    batch.record.head.count = at as u32 + 1;
}

/// A call that the thread entered returns, and is not to be in the batch: when it began, `0` where
/// that was not noted here.
#[inline(always)]
pub(crate) fn leave(pid_tgid: u64, call: Call) -> u64 {
    let Some(batch) = owned(pid_tgid) else {
        return 0;
    };
    let same = call.multiplexed == 0 && (batch.what >> 32) as u16 == call.packed() as u16;
    let enter_ns = if same { batch.enter_ns } else { 0 };
    batch.enter_ns = 0;
    if batch.record.head.count != 0 {
        send_batch(place(pid_tgid));
    }
    enter_ns
}

/// The queue of the call that the thread has left, if that was noted here and has one.
#[inline(always)]
pub(crate) fn queue(pid_tgid: u64, queue: &mut QueueRef) {
    if let Some(batch) = owned(pid_tgid) {
        // SAFETY: a reference is valid for writing.
        unsafe { queues::write(queue, &batch.record.head.queue) };
    }
}

/// The call that the thread was in has returned, unreported.
#[inline(always)]
pub(crate) fn forget_call(pid_tgid: u64) {
    if let Some(batch) = owned(pid_tgid) {
        batch.enter_ns = 0;
    }
}

/// When the call that a thread is in began, and what it is, if that was noted here.
#[inline(always)]
pub(crate) fn pending(pid_tgid: u64) -> Option<&'static BatchSlot> {
    owned(pid_tgid).filter(|batch| batch.enter_ns > LOOKUP).map(|batch| &*batch)
}

/// The thread is not to be taken for what it was any more: it gets another context, becomes another
/// program, or ends. What it has is sent; its place is free.
#[inline(always)]
pub(crate) fn release(pid_tgid: u64) {
    if constant!(BATCHED) != 0 {
        release_batch(pid_tgid);
    }
}

/// A global function, as `context::send_context`, and so are the next.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn release_batch(pid_tgid: u64) -> u64 {
    let place = place(pid_tgid);
    let _ = NOTED_CALLS.remove(&pid_tgid);
    // Else it is another thread's, who may be writing there.
    if let Some(batch) = owned(pid_tgid) {
        send_batch(place);
        batch.enter_ns = 0;
        if batch.record.head.count == 0 {
            batch.pid_tgid = 0;
            let _ = BATCHES_TAKEN.remove(&place);
        } else {
            // No room, or the end has come: user space takes it.
            batch.pid_tgid = NOBODYS;
        }
    }
    0
}

/// A call returns. If user space has taken the batch where its entry was noted, that is noted in the thread's slot
/// now.
#[inline(always)]
pub(crate) fn give_back(pid_tgid: u64, call: Call) {
    if constant!(BATCHED) != 0 {
        give_back_call(pid_tgid, call.packed());
    }
}

/// A global function with all that decides: the verifier follows ways that part until the end.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn give_back_call(pid_tgid: u64, packed: u64) -> u64 {
    let call = Call::unpacked(0, packed);
    let is_noted = call.code.op().is_some_and(Op::blocks)
        || constant!(SYSCALL_KINDS) & call.code.bit() & GETS != 0;
    let Some(slot) = slots::find(pid_tgid) else {
        return 0;
    };
    if !is_noted || call.multiplexed != 0 || slot.entered == packed {
        return 0;
    }
    let Some(noted) = taken_from(pid_tgid) else {
        return 0;
    };
    if (noted.what >> 32) as u16 == packed as u16 {
        slot.entered = packed;
        slot.enter_ns = noted.enter_ns;
        // SAFETY: a reference is valid for writing.
        unsafe { queues::write(&raw mut slot.queue, &noted.queue) };
    }
    let _ = NOTED_CALLS.remove(&pid_tgid);
    0
}

/// The call that a thread is in, where user space has taken its batch.
#[inline(always)]
pub(crate) fn taken_from(pid_tgid: u64) -> Option<&'static NotedCall> {
    let noted = NOTED_CALLS.get_ptr(&pid_tgid)?;
    // SAFETY: the map gave the pointer.
    Some(unsafe { &*noted })
}

/// The thread has made a call that could have been in a batch, and others before: from now on its
/// calls are. Not where nobody was told who it is, and not after a call on another namespace's queue: that
/// may be wanted for the queue's namespace, where the thread's other calls are not.
#[inline(always)]
pub(crate) fn begin(call: Call, context: u64, ns: NsRef, queue: &QueueRef) {
    if constant!(BATCHED) != 0 && can_be(call) && context != 0 && !queues::is_foreign(queue) {
        begin_batch(context, ns.inum, ns.generation);
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn begin_batch(context: u64, inum: u32, generation: u32) -> u64 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let place = place(pid_tgid);
    let Some(batch) = BATCHES.get_ptr_mut(place) else {
        return 0;
    };
    // SAFETY: as in `of_thread`.
    let batch = unsafe { &mut *batch };
    if batch.pid_tgid != pid_tgid {
        // Who puts it there has the place, whatever other threads do at the same time.
        if BATCHES_TAKEN.insert(&place, &0, u64::from(BPF_NOEXIST)).is_err() {
            return 0;
        }
        batch.enter_ns = 0;
        batch.record.head.count = 0;
        for op in OPS {
            batch.counts[op as usize] = 0;
        }
        batch.pid_tgid = pid_tgid;
    }
    if batch.record.head.count != 0 {
        return 0;
    }
    let task = current_task();
    batch.nsproxy = field(task, Field::TaskNsproxy);
    batch.moves = cgroups::moves();
    let head = &mut batch.record.head;
    head.header = rings::header(RecordKind::Batch, 0);
    head.context = context;
    head.tid = pid_tgid as u32;
    head.pid = (pid_tgid >> 32) as u32;
    head.ns = NsRef { inum, generation };
    head.queue = queues::none();
    let cred = field(task, Field::TaskCred);
    batch.cred = cred;
    head.euid = field(cred, Field::CredEuid);
    head.egid = field(cred, Field::CredEgid);
    // SAFETY: `comm` has 16 bytes and is aligned to 8 there.
    unsafe { core::ptr::addr_of_mut!(head.comm).cast::<[u64; 2]>().write(comm(task)) };
    0
}

/// Sends what is in the place of this thread, if the gate is open and the ring has room; else it stays
/// there.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn send_batch(place: u32) -> u64 {
    let Some(batch) = BATCHES.get_ptr_mut(place) else {
        return 0;
    };
    // SAFETY: as in `of_thread`.
    let batch = unsafe { &mut *batch };
    let count = u64::from(batch.record.head.count);
    if !gate().is_open() || count == 0 || count > BATCH as u64 {
        return 0;
    }
    let len = size_of::<BatchHead>() as u64 + count * size_of::<BatchedCall>() as u64;
    // SAFETY: a `RingBuf` is the map's definition, which is what the helper takes; `len` is no more
    // than a whole record has.
    let sent = unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            core::ptr::addr_of_mut!(batch.record).cast(),
            len,
            wake_up(count),
        )
    };
    if sent != 0 {
        return 0;
    }
    batch.record.head.count = 0;
    for op in OPS {
        if let Some(counters) = counts::counters(op as u32) {
            let count = u64::from(batch.counts[op as usize]);
            counts::count_many(counters, Count::Seen, count);
            counts::count_many(counters, Count::Emitted, count);
        }
        batch.counts[op as usize] = 0;
    }
    0
}

/// Whether the reader is woken up: as for calls that come one by one, by how many were sent before.
#[inline(always)]
fn wake_up(count: u64) -> u64 {
    match counts::counters(BATCH_ROW) {
        Some(counters) => {
            rings::wake_up(counts::count_many(counters, Count::Emitted, count), count)
        }
        None => u64::from(BPF_RB_NO_WAKEUP),
    }
}

/// Counts a call as lost, for which there was no room.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn drop_one(pid_tgid: u64, ret: u64) -> u64 {
    let Some(batch) = owned(pid_tgid) else {
        return 0;
    };
    let kind = SyscallCode(PackedCall::unpacked(batch.what).code).kind();
    if let Some(counters) = counts::counters(u32::from(kind)) {
        counts::count(counters, Count::Seen);
        counts::count(counters, Count::Dropped);
    }
    let error = error(i64::from(ret as i32));
    let ns = batch.record.head.ns;
    counts::count_drop(ns.inum, ns.generation, u16::from(kind), error);
    0
}

const _: () = {
    assert!(BATCH.is_power_of_two() && PLACES.is_power_of_two());
    assert!(core::mem::offset_of!(BatchHead, comm) % 8 == 0);
};
