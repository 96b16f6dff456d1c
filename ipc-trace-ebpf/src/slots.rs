//! What is remembered of a thread between programs: its context, and the call that it is in.
//!
//! A slot is found by the low 16 bits of the tid, in a plain array: the cheapest map there is.
//! The full pid_tgid is kept beside, so a slot never speaks of another thread. While one thread
//! sleeps in a call, others with the same low bits get a slot in the spill.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns};
use ipc_trace_common::{
    layout::Field,
    op::Op,
    record::{ExitRecord, Kind, NsRef, QueueRef, flag},
    state::Diagnostic,
};

use crate::{
    batches,
    constants::constant,
    context, files,
    maps::{self, DESCENDANTS, SLOT_COUNT, SLOTS, SLOTS_SPILL},
    memory::{current_task, field, is_zero, masked},
};

/// A thread's slot.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Slot {
    /// Whose it is; `0`: nobody's
    pub(crate) pid_tgid: u64,
    /// The context that was sent; `0`: none
    pub(crate) context: u64,
    /// When the call that the thread is in began; `0`: it is in none
    pub(crate) enter_ns: u64,
    /// The first argument of that call; with `made`, what that made
    pub(crate) arg0: u64,
    /// The queue that its descriptor led to, or that it opened
    pub(crate) queue: QueueRef,
    /// When the thread's last call returned that is to be sent
    pub(crate) exit_ns: u64,
    /// How long that took, or `NO_DURATION`
    pub(crate) duration_ns: u64,
    /// The namespace before a call that changes it
    pub(crate) from: NsRef,
    /// The cgroup that the context tells
    pub(crate) cgroup: u64,
    /// How many moves between cgroups there had been when that was looked at
    pub(crate) moves: u32,
    /// ABI and code of that call
    pub(crate) abi: u8,
    pub(crate) code: u8,
    /// The operation's number, when the call that the thread is in has made an object; `0`: none did
    pub(crate) made: u8,
    pub(crate) reserved: u8,
}

impl Slot {
    const EMPTY: Self = Self {
        pid_tgid: 0,
        context: 0,
        enter_ns: 0,
        arg0: 0,
        queue: QueueRef { ns: NsRef { inum: 0, generation: 0 }, ino: 0, dev: 0, flags: 0 },
        exit_ns: 0,
        duration_ns: 0,
        from: NsRef { inum: 0, generation: 0 },
        cgroup: 0,
        moves: 0,
        abi: 0,
        code: 0,
        made: 0,
        reserved: 0,
    };
}

/// The thread's slot, if it has one.
#[inline(always)]
pub(crate) fn find(pid_tgid: u64) -> Option<&'static mut Slot> {
    let slot = SLOTS.get_ptr_mut(pid_tgid as u32 & (SLOT_COUNT - 1))?;
    // SAFETY: the map gave the pointer. Another thread may write to a slot that it takes over at
    // the same time; the programs read what they need of a slot right after this check, and a
    // thread that sleeps in a call is never dispossessed.
    let slot = unsafe { &mut *slot };
    if slot.pid_tgid == pid_tgid {
        return Some(slot);
    }
    SLOTS_SPILL.get_ptr_mut(&pid_tgid).map(|slot| {
        // SAFETY: the map gave the pointer.
        unsafe { &mut *slot }
    })
}

/// The thread's slot; it gets one if it has none. Nothing only when the spill is full, too.
#[inline(always)]
pub(crate) fn find_or_take(pid_tgid: u64) -> Option<&'static mut Slot> {
    let slot = SLOTS.get_ptr_mut(pid_tgid as u32 & (SLOT_COUNT - 1))?;
    // SAFETY: as in `find`.
    let slot = unsafe { &mut *slot };
    if slot.pid_tgid == pid_tgid {
        return Some(slot);
    }
    // One that it got in the spill it keeps: what is noted there is of the call that it is in.
    if let Some(slot) = SLOTS_SPILL.get_ptr_mut(&pid_tgid) {
        // SAFETY: the map gave the pointer.
        return Some(unsafe { &mut *slot });
    }
    if slot.enter_ns == 0 && slot.made == 0 {
        slot.context = 0;
        slot.pid_tgid = pid_tgid;
        return Some(slot);
    }
    make_spilled(pid_tgid);
    SLOTS_SPILL.get_ptr_mut(&pid_tgid).map(|slot| {
        // SAFETY: the map gave the pointer.
        unsafe { &mut *slot }
    })
}

/// A global function, so that the verifier looks at it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn make_spilled(pid_tgid: u64) -> u64 {
    let empty = Slot { pid_tgid, ..Slot::EMPTY };
    if SLOTS_SPILL.insert(&pid_tgid, &empty, 0).is_err() {
        maps::diagnose(Diagnostic::SpillFull);
    }
    0
}

/// The call that the thread was in has returned, unreported: the last census is not to list it.
#[inline(always)]
pub(crate) fn call_ends(pid_tgid: u64) {
    batches::forget_call(pid_tgid);
    if let Some(slot) = find(pid_tgid) {
        slot.enter_ns = 0;
        slot.made = 0;
    }
}

/// What a call that made an object gives: of System V the id, which the function that makes it gives, too;
/// a queue's descriptor is not known to that yet.
#[inline(always)]
fn made(op: Op, ret: i64) -> u64 {
    if matches!(op, Op::MqOpen) { 0 } else { u64::from(ret as u32) }
}

/// The call of `op` that the thread is in has made an object. It is in no other that needs to be
/// remembered, as none of these can block; until it returns, the slot is its own. It always returns: also if
/// the thread is to be killed, and none of these is restarted. Were the program at its return left out, which
/// counts as missed, the mark would stay until the thread's next call of these: that would be taken for the one
/// that made an object only if it gave the same id, which this thread did make, or opened a queue.
#[inline(always)]
pub(crate) fn note_birth(pid_tgid: u64, op: Op, ret: i64) {
    if let Some(slot) = find_or_take(pid_tgid) {
        slot.arg0 = made(op, ret);
        slot.made = op as u8;
    }
}

/// The call of `op` that the thread was in has returned: what its record says of the birth of the object, in
/// bits of `flag`.
#[inline(always)]
pub(crate) fn birth(slot: &mut Slot, op: Op, ret: i64) -> u32 {
    // Without a branch: the verifier would go through all that follows once for each outcome.
    let other = u64::from(slot.made ^ op as u8) | slot.arg0 ^ made(op, ret);
    slot.made = 0;
    let known = masked::<1>(u64::from(maps::births() >> (op as u32)));
    (known | (known & is_zero(other)) << 1) as u32 * flag::BIRTH_KNOWN
}

/// The call that the thread was in has failed, and is not told of.
#[inline(always)]
pub(crate) fn forget_birth(pid_tgid: u64) {
    if let Some(slot) = find(pid_tgid) {
        slot.made = 0;
    }
}

/// After exec: the context is to be sent anew. A thread that is not the leader takes the leader's
/// tid in exec (`de_thread`, fs/exec.c); `old_tid` is what it was before.
#[inline(always)]
pub(crate) fn forget_context(old_tid: u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let old = pid_tgid & !0xffff_ffff | u64::from(old_tid);
    batches::release(old);
    if let Some(slot) = find(pid_tgid) {
        slot.context = 0;
    }
    if old != pid_tgid {
        if let Some(slot) = find(old) {
            slot.pid_tgid = 0;
            slot.context = 0;
            slot.enter_ns = 0;
        }
    }
}

const _: () = assert!(flag::MADE == flag::BIRTH_KNOWN << 1);

/// At the end of a thread: its slot becomes free, and the user side may forget its context.
#[inline(always)]
pub(crate) fn thread_ends() {
    let pid_tgid = bpf_get_current_pid_tgid();
    batches::release(pid_tgid);
    if constant!(FILTERS) & ipc_trace_common::state::filter::COMMAND != 0 {
        let signal = field(current_task(), Field::TaskSignal);
        // do_exit has counted this thread down before the tracepoint (kernel/exit.c).
        if field::<i32>(signal, Field::SignalLive) == 0 {
            let _ = DESCENDANTS.remove(&((pid_tgid >> 32) as u32));
        }
    }
    files::process_ends(pid_tgid);
    let Some(slot) = find(pid_tgid) else {
        return;
    };
    let context = slot.context;
    slot.pid_tgid = 0;
    slot.context = 0;
    slot.enter_ns = 0;
    slot.made = 0;
    let _ = SLOTS_SPILL.remove(&pid_tgid);
    if context == 0 {
        return;
    }
    if let Some(record) = maps::reserve_control::<ExitRecord>() {
        // SAFETY: the ring gave room for a whole record, and every field is written.
        unsafe {
            record.write(ExitRecord {
                header: context::header(Kind::Exit, 0),
                boot_ns: bpf_ktime_get_boot_ns(),
                context,
                tid: pid_tgid as u32,
                pid: (pid_tgid >> 32) as u32,
            });
        }
        context::submit(record);
    }
}
