//! Where threads' batches (`batches`) lie.

use core::mem::MaybeUninit;

use ipc_trace_common::state::BatchSlot;

use crate::base::{constants::constant, words::element};

/// By `tid & LAST_BATCH`. A variable in a section, and so in a map, of its own, which user space maps and makes as large
/// as needed: it takes fewer instructions than the lookup in an array.
#[unsafe(link_section = ".bss.batches")]
#[unsafe(no_mangle)]
static mut BATCHES: MaybeUninit<BatchSlot> = MaybeUninit::zeroed();

/// The index of a thread's batch.
#[inline(always)]
pub(super) fn place(pid_tgid: u64) -> u64 {
    pid_tgid & u64::from(constant!(LAST_BATCH))
}

/// The slot for a thread's batch. Only the thread that owns the batch accesses fields beyond `pid_tgid`.
#[inline(always)]
fn slot(place: u64) -> *mut BatchSlot {
    element((&raw mut BATCHES).cast(), place)
}

/// The thread's batch, if it has one.
#[inline(always)]
pub(super) fn owned(pid_tgid: u64) -> Option<&'static mut BatchSlot> {
    if constant!(BATCHED) == 0 {
        return None;
    }
    // SAFETY: the slot is there.
    let batch = unsafe { &mut *slot(place(pid_tgid)) };
    (batch.pid_tgid == pid_tgid).then_some(batch)
}

/// The place of the current thread, which the caller has found to be the thread's own. User space may have taken it
/// since then, and waits for this program to end before it reads the place.
#[inline(always)]
pub(super) fn current_place(pid_tgid: u64) -> &'static mut BatchSlot {
    // SAFETY: the slot is there; only the thread writes to it.
    unsafe { &mut *slot(place(pid_tgid)) }
}

/// The number of calls in a batch, after a function that may have sent them.
#[inline(always)]
pub(super) fn calls_in(batch: *const BatchSlot) -> u32 {
    // SAFETY: the map gave the pointer.
    unsafe { core::ptr::addr_of!((*batch).record.head.count).read_volatile() }
}

/// As [`owned`], by the thread alone: no two threads have one number, and a thread that ends or gets another one gives
/// its batch back. Where calls don't come in batches, there is one slot, which nobody owns.
#[inline(always)]
pub(super) fn of_tid(tid: u64) -> Option<&'static mut BatchSlot> {
    let batch = slot(place(tid));
    // SAFETY: as in `owned`; the first half of the owner is the thread.
    unsafe {
        let owner = core::ptr::addr_of!((*batch).pid_tgid).cast::<u32>().read_volatile();
        (u64::from(owner) == tid).then_some(&mut *batch)
    }
}
