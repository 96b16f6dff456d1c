//! Programs that come in several copies, for kernels that can preempt running programs: 7.0 and later.
//!
//! If a thread was preempted inside a program, events of other threads on that CPU don't run the program, as it is
//! running already (`bpf_prog_get_recursion_context`, include/linux/bpf.h, 7.3). The kernel checks each program
//! separately, so each copy runs unless a thread was preempted inside this very copy, and an event is lost only if
//! that holds for all copies. All copies of a program are attached to the same hook: the first one that runs does the
//! work, and the others detect that.
//!
//! The kernel counts how often it skipped a copy. For one of them, the meter, the programs count how often the work
//! was done without it: the difference is the number of lost events.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_attach_cookie},
    macros::map,
    maps::Array,
};
use ipc_trace_common::state::{COPIES_ROW, Diagnostic, SLOT_COUNT, copies};

use crate::{
    base::{
        constants::constant,
        counts::{self, Count},
    },
    thread::slots,
};

/// Bits of the copies at the return of a call, in [`slots::Slot::ran`]; those at its entry are below.
const RETURNS: u64 = 0xff00;

/// The copies of programs that all run before the thread does anything else.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LastRun {
    /// The thread
    pid_tgid: u64,
    /// The row in the cookie of its last program
    row: u32,
    /// Bits of the copies that ran
    ran: u32,
}

/// By `tid & 0xffff`; user space makes it smaller if programs do not come in copies.
#[map]
static LAST_RUNS: Array<LastRun> = Array::with_max_entries(SLOT_COUNT, 0);

/// The cookie of the program's attachment: see [`copies::cookie`].
#[inline(always)]
pub(crate) fn cookie(ctx: *mut core::ffi::c_void) -> u64 {
    // SAFETY: the context is the program's.
    unsafe { bpf_get_attach_cookie(ctx) }
}

/// Counts that an event was seen by another copy than the meter; or, if the meter runs later, that it ran.
#[inline(always)]
fn measure(copy: u64, first: bool) {
    let which = match (copy == copies::METER, first) {
        (false, true) => Count::Seen,
        (true, false) => Count::Filtered,
        _ => return,
    };
    if let Some(counters) = counts::counters(COPIES_ROW) {
        counts::count(counters, which);
    }
}

/// Counts an event as lost although it was seen: too little is known about it.
#[inline(always)]
pub(crate) fn lost() {
    if constant!(COPIED) != 0
        && let Some(counters) = counts::counters(COPIES_ROW)
    {
        counts::count(counters, Count::Dropped);
    }
}

/// Whether no other copy has run yet for the current thread's current event. Always true if there are no copies.
#[inline(always)]
pub(crate) fn is_first(ctx: *mut core::ffi::c_void) -> bool {
    constant!(COPIED) == 0 || is_first_run(cookie(ctx)) != 0
}

/// A global function, so that the verifier checks it once; so are the next ones.
///
/// If two threads share the entry at the same moment, one event is counted as two.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_first_run(cookie: u64) -> u64 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let (row, copy) = (copies::row(cookie), copies::copy(cookie));
    let Some(last) = LAST_RUNS.get_ptr_mut(pid_tgid as u32 & (SLOT_COUNT - 1)) else {
        return 0;
    };
    // SAFETY: the map gave the pointer.
    let last = unsafe { &mut *last };
    let bit = 1 << copy;
    let others = if last.pid_tgid == pid_tgid && last.row == row as u32 { last.ran } else { 0 };
    let first = others == 0 || others & bit != 0;
    last.pid_tgid = pid_tgid;
    last.row = row as u32;
    last.ran = if first { bit } else { others | bit };
    measure(copy, first);
    u64::from(first)
}

/// A copy runs at the entry of a system call's function: returns whether it is the first. No call is lost if none
/// runs there, so that isn't measured.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn enters(copy: u64) -> u64 {
    let Some(slot) = slots::find_or_take(bpf_get_current_pid_tgid(), Diagnostic::NoSlotForCall)
    else {
        return u64::from(copy == 0);
    };
    let bit = 1 << (copy & 7);
    let ran = u64::from(slot.ran);
    // If it has run already, or a copy at a return has, that was for the previous call.
    let first = ran == 0 || ran & (bit | RETURNS) != 0;
    slot.ran = if first { bit } else { ran | bit } as u16;
    u64::from(first)
}

/// A copy runs at the return of a system call's function: returns whether it is the first.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn returns(copy: u64) -> u64 {
    let Some(slot) = slots::find_or_take(bpf_get_current_pid_tgid(), Diagnostic::NoSlotForTask)
    else {
        return u64::from(copy == 0);
    };
    let bit = 0x100 << (copy & 7);
    let ran = u64::from(slot.ran);
    // If it has run already, no copy ran at this call's entry.
    let is_new = ran & bit != 0;
    let first = is_new || ran & RETURNS == 0;
    slot.ran = if is_new { bit } else { ran | bit } as u16;
    measure(copy, first);
    u64::from(first)
}

const _: () = assert!(copies::COUNT < 8);
