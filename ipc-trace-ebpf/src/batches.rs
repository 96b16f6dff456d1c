//! Calls of one thread that are sent together, where calls are counted and not shown: System V calls
//! that can block, which are those that come by the million.
//!
//! A thread that makes a second call gets a place in an array, if that is free, and keeps it until it
//! ends or executes something else. There its calls are collected; it alone writes there. All that is
//! the same for them (who it is, its namespace) is read once, when the batch is begun.
//!
//! Invariant: a batch is sent before anything that would give its calls another meaning: before the
//! thread's next event of another kind, and before its context is sent anew. Once the gate is closed,
//! what was not sent is the reader's.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_output},
    },
};
use ipc_trace_common::{
    layout::Field,
    op::{Code, Op},
    record::{BATCH, BatchHead, Kind, NsRef, Outcome, What},
    state::{BATCHES as PLACES, Batch},
};

use crate::{
    constants::constant,
    context,
    emit::comm,
    filters,
    maps::{self, BATCHES, BATCHES_TAKEN, Count, EVENTS},
    memory::{current_task, field, masked},
    registers::Call,
};

/// The operations whose calls can be in a batch.
const OPS: [Op; 3] = [Op::Semop, Op::Msgsnd, Op::Msgrcv];

/// Whether a call can be in a batch. Calls of `ipc(2)` are too rare.
#[inline(always)]
fn can_be(call: Call) -> bool {
    let kind = 1u32 << call.code.kind();
    call.multiplexed == 0 && kind & (Op::Semop.bit() | Op::Msgsnd.bit() | Op::Msgrcv.bit()) != 0
}

/// The thread's batch, if it has one.
#[inline(always)]
fn owned(pid_tgid: u64) -> Option<&'static mut Batch> {
    if constant!(BATCHED) == 0 { None } else { of_thread(pid_tgid) }
}

/// As [`owned`], where calls come in batches.
#[inline(always)]
fn of_thread(pid_tgid: u64) -> Option<&'static mut Batch> {
    let batch = BATCHES.get_ptr_mut(pid_tgid as u32 & (PLACES - 1))?;
    // SAFETY: the map gave the pointer. Only the thread whose batch it is looks beyond `pid_tgid`.
    let batch = unsafe { &mut *batch };
    (batch.pid_tgid == pid_tgid).then_some(batch)
}

/// A call enters the kernel. Whether that is noted here.
#[inline(always)]
pub(crate) fn enter(pid_tgid: u64, call: Call) -> bool {
    can_be(call) && note(owned(pid_tgid), call)
}

/// As [`enter`], of a call that is known to be one that can be in a batch, where those are in use. The
/// gate need not be asked: who has a batch is traced, and what enters after the end is left out by the
/// reader.
#[inline(always)]
pub(crate) fn enter_known(pid_tgid: u64, call: Call) -> bool {
    note(of_thread(pid_tgid), call)
}

#[inline(always)]
fn note(batch: Option<&mut Batch>, call: Call) -> bool {
    let Some(batch) = batch else {
        return false;
    };
    let [id, size] = call.id_and_size();
    batch.what = What { id: id as i32, abi: call.abi as u8, code: call.code.0 }.packed();
    batch.size = size << 32;
    // SAFETY: no arguments.
    batch.enter_ns = unsafe { bpf_ktime_get_boot_ns() };
    true
}

/// The call that the thread is in returns. Whether it is in its batch now.
#[inline(always)]
pub(crate) fn exit(pid_tgid: u64, task: u64, ret: i64) -> bool {
    constant!(BATCHED) != 0 && exit_known(pid_tgid, task, ret)
}

/// As [`exit`], where batches are in use.
#[inline(always)]
pub(crate) fn exit_known(pid_tgid: u64, task: u64, ret: i64) -> bool {
    let Some(batch) = of_thread(pid_tgid) else {
        return false;
    };
    if batch.enter_ns == 0 || batch.nsproxy != field::<u64>(task, Field::TaskNsproxy) {
        return false;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let at = masked::<{ BATCH as u64 - 1 }>(u64::from(batch.record.head.count));
    // SAFETY: `at` lies within the array, whose entries are four words each.
    unsafe {
        let outcome = core::ptr::addr_of_mut!(batch.record.outcomes).cast::<Outcome>();
        let outcome = outcome.add(at as usize).cast::<u64>();
        outcome.write_volatile(now);
        outcome.add(1).write_volatile(now - batch.enter_ns);
        outcome.add(2).write_volatile(ret as u32 as u64 | batch.size);
        outcome.add(3).write_volatile(batch.what);
    }
    let kind = masked::<31>(batch.what >> 40);
    // SAFETY: `kind` lies within the array.
    unsafe { *core::ptr::addr_of_mut!(batch.counts).cast::<u32>().add(kind as usize) += 1 };
    batch.enter_ns = 0;
    batch.record.head.count = at as u32 + 1;
    batch.record.head.boot_ns = now;
    if at == BATCH as u64 - 1 {
        send_batch(pid_tgid);
    }
    true
}

/// A call that the thread entered returns, and is not to be in the batch: when it began, `0` where
/// that was not noted here.
#[inline(always)]
pub(crate) fn leave(pid_tgid: u64) -> u64 {
    let Some(batch) = owned(pid_tgid) else {
        return 0;
    };
    let enter_ns = batch.enter_ns;
    batch.enter_ns = 0;
    if batch.record.head.count != 0 {
        send_batch(pid_tgid);
    }
    enter_ns
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
pub(crate) fn pending(pid_tgid: u64) -> Option<&'static Batch> {
    owned(pid_tgid).filter(|batch| batch.enter_ns != 0).map(|batch| &*batch)
}

/// Sends what the thread's batch has.
#[inline(always)]
pub(crate) fn flush(pid_tgid: u64) {
    if constant!(BATCHED) != 0 {
        send_batch(pid_tgid);
    }
}

/// The thread ends, or becomes another program: its place is free.
#[inline(always)]
pub(crate) fn release(pid_tgid: u64) {
    if constant!(BATCHED) == 0 {
        return;
    }
    send_batch(pid_tgid);
    if let Some(batch) = owned(pid_tgid) {
        batch.enter_ns = 0;
        // Else it is the reader's.
        if batch.record.head.count == 0 {
            batch.pid_tgid = 0;
            let _ = BATCHES_TAKEN.remove(&(pid_tgid as u32 & (PLACES - 1)));
        }
    }
}

/// The thread has made a call that could have been in a batch, and others before: from now on its
/// calls are.
#[inline(always)]
pub(crate) fn begin(call: Call, context: u64, ns: NsRef) {
    if constant!(BATCHED) != 0 && can_be(call) {
        begin_batch(context, ns.inum, ns.generation);
    }
}

/// A global function, as `context::send_context`, and so are the next.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn begin_batch(context: u64, inum: u32, generation: u32) -> u64 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let place = pid_tgid as u32 & (PLACES - 1);
    let Some(batch) = BATCHES.get_ptr_mut(place) else {
        return 0;
    };
    // SAFETY: as in `owned`.
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
    let head = &mut batch.record.head;
    head.header = context::header(Kind::Batch, 0);
    head.context = context;
    head.tid = pid_tgid as u32;
    head.pid = (pid_tgid >> 32) as u32;
    head.ns = NsRef { inum, generation };
    let cred = field(task, Field::TaskCred);
    head.euid = field(cred, Field::CredEuid);
    head.egid = field(cred, Field::CredEgid);
    // SAFETY: `comm` has 16 bytes and is aligned to 8 there.
    unsafe { core::ptr::addr_of_mut!(head.comm).cast::<[u64; 2]>().write(comm(task)) };
    0
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn send_batch(pid_tgid: u64) -> u64 {
    let Some(batch) = owned(pid_tgid) else {
        return 0;
    };
    let count = batch.record.head.count;
    if !maps::gate().is_open() || count == 0 || count > BATCH as u32 {
        return 0;
    }
    let wake_mask = u64::from(constant!(WAKE_MASK));
    let mut wake = false;
    for op in OPS {
        let count = u64::from(batch.counts[op as usize]);
        if let (true, Some(counters)) = (count != 0, maps::counters(op as u32)) {
            wake |= maps::count_many(counters, Count::Seen, count) & wake_mask < count;
        }
    }
    let len = size_of::<BatchHead>() as u64 + u64::from(count) * size_of::<Outcome>() as u64;
    let flags = if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    // SAFETY: a `RingBuf` is the map's definition, which is what the helper takes; `len` is no more
    // than a whole record has.
    let sent = unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            core::ptr::addr_of_mut!(batch.record).cast(),
            len,
            u64::from(flags),
        ) == 0
    };
    let which = if sent { Count::Emitted } else { Count::Dropped };
    for op in OPS {
        let count = u64::from(batch.counts[op as usize]);
        if let (true, Some(counters)) = (count != 0, maps::counters(op as u32)) {
            maps::count_many(counters, which, count);
        }
        batch.counts[op as usize] = 0;
    }
    if !sent {
        drop_batch(pid_tgid);
    }
    batch.record.head.count = 0;
    0
}

/// Counts what a batch has as lost.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn drop_batch(pid_tgid: u64) -> u64 {
    let Some(batch) = owned(pid_tgid) else {
        return 0;
    };
    let ns = batch.record.head.ns;
    for at in 0..BATCH {
        if at as u32 >= batch.record.head.count {
            break;
        }
        let Outcome { ret, what, .. } = batch.record.outcomes[at];
        let What { code, .. } = What::unpacked(what);
        let error = if filters::failed(i64::from(ret)) { -ret as u16 } else { 0 };
        maps::count_drop(ns.inum, ns.generation, u16::from(Code(code).kind()), error);
    }
    0
}

const _: () = {
    assert!(BATCH.is_power_of_two() && PLACES.is_power_of_two());
    assert!(core::mem::offset_of!(BatchHead, comm) % 8 == 0);
};
