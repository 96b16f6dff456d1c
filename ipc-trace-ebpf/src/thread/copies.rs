//! Programs that come in several copies, for kernels that preempt programs in their middle, which 7.0 and later
//! do.
//!
//! What another thread does on a CPU where one was preempted inside of a program does not run that program, as it
//! is running already (`bpf_prog_get_recursion_context`, include/linux/bpf.h, 7.3). The kernel keeps watch over
//! each program by itself, so each copy is run unless a thread was preempted inside of this very one, and an event
//! is lost only where that is so of all copies. All copies of a program are put on the same place: the first that
//! is run does the work, and the others see that.
//!
//! How often it left a copy out, the kernel counts. Of one of them, the meter, it is counted here how often the
//! work was done without it: what is left of the kernel's count are the events that are lost.

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
        hooked::leave_to_all,
    },
    thread::slots,
};

/// Bits of the copies at the return of a call, in [`slots::Slot::ran`]; those at its entry are below.
const RETURNS: u64 = 0xff00;

/// The copies of programs that are all run before the thread does anything else.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LastRun {
    /// The thread
    pid_tgid: u64,
    /// The row of the cookie of its last program
    row: u32,
    /// Bits of the copies that have been run
    ran: u32,
}

/// By `tid & 0xffff`; user space makes it smaller where programs do not come in copies.
#[map]
static LAST_RUNS: Array<LastRun> = Array::with_max_entries(SLOT_COUNT, 0);

/// What the attachment of a program says of it: see [`copies::cookie`].
#[inline(always)]
pub(crate) fn cookie(ctx: *mut core::ffi::c_void) -> u64 {
    // SAFETY: the context is the program's.
    unsafe { bpf_get_attach_cookie(ctx) }
}

/// Has the verifier give each run of the program a stack of its own: to be called by what the copies call. Else the
/// stack may be the CPU's, of which there is one for each program, and what is called that way is not kept
/// watch over: threads that were preempted in it would share that. A program that calls others is spared that,
/// also if it never does (`check_max_stack_depth`, kernel/bpf/verifier.c, 6.13).
#[inline(always)]
pub(crate) fn have_own_stack(ctx: *mut core::ffi::c_void) {
    if constant!(COPIED) > 1 {
        leave_to_all(ctx);
    }
}

/// Counts that an event was seen, and not by the meter; or, if it comes later, that it was.
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

/// Counts an event as lost although it was seen: not enough is known of it.
#[inline(always)]
pub(crate) fn lost() {
    if constant!(COPIED) != 0
        && let Some(counters) = counts::counters(COPIES_ROW)
    {
        counts::count(counters, Count::Dropped);
    }
}

/// Whether no other copy was run yet for what happens here to the current thread. Always where there are no copies.
#[inline(always)]
pub(crate) fn is_first(ctx: *mut core::ffi::c_void) -> bool {
    constant!(COPIED) == 0 || is_first_run(cookie(ctx)) != 0
}

/// A global function, so that the verifier looks at it once, and so are the next.
///
/// Should two threads have the same place at the same moment, one event is taken for two.
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

/// A copy is run at the entry of a system call's function: whether it is the first. No call is lost if none is run
/// there, so that is not measured.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn enters(copy: u64) -> u64 {
    let Some(slot) = slots::find_or_take(bpf_get_current_pid_tgid(), Diagnostic::NoSlotForCall)
    else {
        return u64::from(copy == 0);
    };
    let bit = 1 << (copy & 7);
    let ran = u64::from(slot.ran);
    // If it has been run already, or one at a return, that was for the call before.
    let first = ran == 0 || ran & (bit | RETURNS) != 0;
    slot.ran = if first { bit } else { ran | bit } as u16;
    u64::from(first)
}

/// A copy is run at the return of a system call's function: whether it is the first.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn returns(copy: u64) -> u64 {
    let Some(slot) = slots::find_or_take(bpf_get_current_pid_tgid(), Diagnostic::NoSlotForTask)
    else {
        return u64::from(copy == 0);
    };
    let bit = 0x100 << (copy & 7);
    let ran = u64::from(slot.ran);
    // If it has been run already, this is a call at whose entry none was run.
    let is_new = ran & bit != 0;
    let first = is_new || ran & RETURNS == 0;
    slot.ran = if is_new { bit } else { ran | bit } as u16;
    measure(copy, first);
    u64::from(first)
}

const _: () = assert!(copies::COUNT < 8);
