//! Calls of one thread that are sent together, where calls are counted and not shown: calls that come by the million,
//! since they can block, or fail to look up an object. If they are not timed either, a batch has any number of calls,
//! and is sent once a second.
//!
//! A thread that makes a second call gets an entry in an array, if it is free, and keeps it until it ends or executes
//! another program. The entry collects its calls; only the thread writes to it. What its calls have in common (the
//! thread's description, its namespace) is read once, when the batch begins. If entries run short, user space takes
//! those of idle threads.
//!
//! Invariant: a batch is sent before anything that would change the meaning of its calls: before the thread's next
//! event of another kind, and before its context is sent anew. After tracing stops, the reader takes the unsent
//! batches.

use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap,
};
use ipc_trace_common::{
    layout::Field,
    op::Op,
    record::{BATCH, BatchHead, NsRef, QueueRef, RecordKind, flag},
    state::{BATCHES as PLACES, BatchSlot, NotedCall, UNOWNED},
};

use crate::{
    base::{
        constants::constant,
        counts::count_unreturned,
        gate::{self, gate},
        memory::{comm, current_task, field},
        registers::Call,
        rings,
    },
    metadata::queues,
    thread::{
        batch_slots::{calls_in, current_place, owned, place},
        groups::{end_groups, send_batch},
        slots,
    },
};

/// Slots that are taken, by number: taking one is atomic.
#[map]
static BATCHES_TAKEN: HashMap<u32, u8> = HashMap::with_max_entries(PLACES, 0);
/// By pid_tgid: the current calls of threads whose batches user space has taken.
#[map]
static NOTED_CALLS: HashMap<u64, NotedCall> = HashMap::with_max_entries(PLACES, 0);

/// The bits of the operations whose calls can be in a batch.
const OF_OPS: u32 = {
    let (mut at, mut bits) = (0, 0);
    while at < Op::ALL.len() {
        if Op::ALL[at].can_be_batched() {
            bits |= Op::ALL[at].bit();
        }
        at += 1;
    }
    bits
};

/// The bits of operations that look up an object.
pub(super) const GETS: u32 = Op::Shmget.bit() | Op::Semget.bit() | Op::Msgget.bit();

/// Whether a call can be in a batch. Calls of `ipc(2)` are too rare.
#[inline(always)]
pub(super) fn can_be(call: Call) -> bool {
    call.multiplexed == 0 && call.code.bit() & OF_OPS != 0
}

/// In [`BatchSlot::enter_ns`], in place of a time.
pub(super) mod mark {
    /// A lookup: it can't block, so it isn't timed
    pub(crate) const LOOKUP: u64 = 1;
    /// Where calls are not timed, one that sends or receives a message
    pub(crate) const MESSAGE: u64 = 2;
    /// Where calls are not timed, another one
    pub(crate) const OTHER: u64 = 3;
}

/// Where calls are not timed: something ended the thread's batch, and the thread is as it was when it began. If that
/// was the end of the period, the batch is sent. If there is no room for it, it stays for another period, and has
/// room for further calls. Returns whether the thread's calls go on in the batch.
#[inline(never)]
#[unsafe(no_mangle)]
pub(super) extern "C" fn renew_batch(pid_tgid: u64) -> u64 {
    let batch = current_place(pid_tgid);
    let changes = gate::changes();
    if !gate().is_open() || batch.changes as u32 != changes as u32 {
        return 0;
    }
    send_batch(pid_tgid);
    batch.changes = changes;
    if calls_in(batch) == 0 {
        note_name(batch, current_task());
    }
    1
}

/// Stores the thread's name.
#[inline(always)]
fn note_name(batch: &mut BatchSlot, task: u64) {
    let name = core::ptr::addr_of_mut!(batch.record.head.comm);
    // SAFETY: it has 16 bytes and is aligned to 8 there.
    unsafe { name.cast::<[u64; 2]>().write(comm(task)) };
}

/// A call that the thread entered returns, and will not be in the batch: returns when it began, `0` if that was not
/// noted here.
#[inline(always)]
pub(crate) fn leave(pid_tgid: u64, call: Call) -> u64 {
    let Some(batch) = owned(pid_tgid) else {
        return 0;
    };
    let same = call.multiplexed == 0 && (batch.what >> 32) as u16 == call.packed() as u16;
    let mut enter_ns = batch.enter_ns;
    batch.enter_ns = 0;
    if enter_ns != 0 && !same {
        count_unreturned();
        enter_ns = 0;
    }
    if batch.record.head.count != 0 {
        send_batch(pid_tgid);
    }
    enter_ns
}

/// The queue of the call that the thread has left, if it was noted here.
#[inline(always)]
pub(crate) fn queue(pid_tgid: u64, queue: &mut QueueRef) {
    if let Some(batch) = owned(pid_tgid) {
        // SAFETY: a reference is valid for writing.
        unsafe { queues::write(queue, &batch.record.head.queue) };
    }
}

/// The thread's current call has returned, unreported.
#[inline(always)]
pub(crate) fn forget_call(pid_tgid: u64) {
    if let Some(batch) = owned(pid_tgid) {
        batch.enter_ns = 0;
    }
}

/// The thread's current call, if it was noted here.
#[inline(always)]
pub(crate) fn pending(pid_tgid: u64) -> Option<&'static BatchSlot> {
    owned(pid_tgid).filter(|batch| batch.enter_ns > mark::OTHER).map(|batch| &*batch)
}

/// Notes that the thread has entered a call that will be part of its batch: when, or a [`mark`].
#[inline(always)]
pub(super) fn note_entry(batch: &mut BatchSlot, enter_ns: u64) {
    if batch.enter_ns != 0 {
        count_unreturned();
    }
    batch.enter_ns = enter_ns;
}

/// The thread ends, in no call: one whose entry is still noted was missed.
#[inline(always)]
pub(crate) fn end(pid_tgid: u64) {
    let is_noted = match owned(pid_tgid) {
        Some(batch) => batch.enter_ns != 0,
        None => constant!(BATCHED) != 0 && taken_from(pid_tgid).is_some(),
    };
    if is_noted {
        count_unreturned();
    }
    release(pid_tgid);
}

/// The thread's batch ends because the thread gets another context, executes another program, or ends. Its calls are
/// sent; its entry is free.
#[inline(always)]
pub(crate) fn release(pid_tgid: u64) {
    if constant!(BATCHED) != 0 {
        release_batch(pid_tgid);
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn release_batch(pid_tgid: u64) -> u64 {
    let place = place(pid_tgid);
    let _ = NOTED_CALLS.remove(&pid_tgid);
    // Else it is another thread's, which may be writing to it.
    if let Some(batch) = owned(pid_tgid) {
        send_batch(pid_tgid);
        batch.enter_ns = 0;
        if batch.record.head.count == 0 {
            batch.pid_tgid = 0;
            let _ = BATCHES_TAKEN.remove(&(place as u32));
        } else {
            // No room, or tracing has stopped: user space takes it.
            batch.pid_tgid = UNOWNED;
        }
    }
    0
}

/// A call returns. If user space took the batch in which its entry was noted, the entry is now noted in the thread's
/// slot.
#[inline(always)]
pub(crate) fn give_back(pid_tgid: u64, call: Call) {
    if constant!(BATCHED) != 0 {
        give_back_call(pid_tgid, call.packed());
    }
}

/// A global function with all the decisions: the verifier follows separate paths until the end.
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

/// The thread's current call, if user space has taken its batch.
#[inline(always)]
pub(crate) fn taken_from(pid_tgid: u64) -> Option<&'static NotedCall> {
    let noted = NOTED_CALLS.get_ptr(&pid_tgid)?;
    // SAFETY: the map gave the pointer.
    Some(unsafe { &*noted })
}

/// The thread has made a call that could have been in a batch, and others before: from now on its calls are. Not if
/// the thread's description could not be sent, and not after a call on another namespace's queue: it may have passed
/// a filter for the queue's namespace, which the thread's other calls would not pass.
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
    let batch = current_place(pid_tgid);
    if batch.pid_tgid != pid_tgid {
        // The thread that inserts the key owns the entry, whatever other threads do at the same time.
        if BATCHES_TAKEN.insert(&(place as u32), &0, u64::from(BPF_NOEXIST)).is_err() {
            return 0;
        }
        // The thread is in no call now.
        if NOTED_CALLS.remove(&pid_tgid).is_ok() {
            count_unreturned();
        }
        batch.enter_ns = 0;
        end_groups(batch);
        batch.pid_tgid = pid_tgid;
    }
    if batch.record.head.count != 0 {
        return 0;
    }
    let task = current_task();
    batch.nsproxy = field(task, Field::TaskNsproxy);
    batch.changes = gate::changes();
    let head = &mut batch.record.head;
    let flags = if constant!(UNTIMED) != 0 { flag::UNTIMED } else { 0 };
    head.header = rings::header(RecordKind::Batch, flags);
    head.context = context;
    head.tid = pid_tgid as u32;
    head.pid = (pid_tgid >> 32) as u32;
    head.ns = NsRef { inum, generation };
    head.queue = queues::none();
    batch.queue[0] = 0;
    let cred = field(task, Field::TaskCred);
    batch.cred = cred;
    head.euid = field(cred, Field::CredEuid);
    head.egid = field(cred, Field::CredEgid);
    note_name(batch, task);
    0
}

const _: () = {
    assert!(BATCH.is_power_of_two() && PLACES.is_power_of_two());
    assert!(core::mem::offset_of!(BatchHead, comm) % 8 == 0);
};
