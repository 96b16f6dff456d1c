//! Backend `function`: programs on the functions that implement the system calls, one at the return
//! of each, and one at the entry where the call can block, takes a descriptor, or changes the
//! namespace. Their argument is the caller's `struct pt_regs`, as it is for the tracepoints, so one
//! decoder serves both backends.
//!
//! What is attached are programs of a few instructions that the user side writes, one for each row of
//! the hook table: they call these here, which are verified once and not for each of sixty; those of
//! moves between namespaces, which have another prototype, a part that is quickly verified. How
//! functions are hooked without being preempted is in `steady`.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_tail_call,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use ipc_trace_common::hooks::patch;

use crate::{
    calls,
    memory::{PLAIN, kernel},
};

/// The value `AT` bytes into the context: the function's argument, then its result.
#[inline(always)]
pub(crate) fn value<const AT: i16>(context: *mut core::ffi::c_void) -> u64 {
    if PLAIN {
        let value: u64;
        // By hand, since the verifier wants the offset in the load itself, and the compiler may add it
        // to the pointer first.
        // SAFETY: a system call's function has one argument, so the context has two values; the
        // verifier checks it, and knows what the argument points to.
        unsafe {
            core::arch::asm!(
                "{value} = *(u64 *)({context} + {at})",
                value = lateout(reg) value, context = in(reg) context, at = const AT
            );
        }
        value
    } else {
        // 5.10 knows `struct pt_regs` as a forward declaration alone there, and refuses the load
        // (`btf_ctx_access`, kernel/bpf/btf.c).
        kernel(context as u64 + AT as u64)
    }
}

#[fentry(function = "")]
fn function_entry(ctx: FEntryContext) -> i32 {
    calls::enter_function(value::<0>(ctx.as_ptr()));
    0
}

#[fexit(function = "")]
fn function_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    calls::exit_function(value::<0>(ctx), value::<8>(ctx) as i64);
    0
}

/// What the user side puts in the place of a number.
macro_rules! patched {
    ($number:ident) => {{
        let value: u64;
        // SAFETY: it loads a number.
        unsafe {
            core::arch::asm!(
                "{value} = {number} ll",
                value = lateout(reg) value, number = const patch::$number
            );
        }
        value
    }};
}

/// Calls the program that serves all functions.
#[inline(always)]
pub(crate) fn leave_to_all(ctx: *mut core::ffi::c_void) {
    let all = patched!(ALL) as *mut _;
    // SAFETY: the user side puts an array of programs there; when the call succeeds, it does not return.
    unsafe { bpf_tail_call(ctx, all, 0) };
}

// On functions whose calls can be in a batch, of one ABI each; patched for each of them.
#[fentry(function = "")]
fn batch_entry(ctx: FEntryContext) -> i32 {
    if !calls::enter_known(value::<0>(ctx.as_ptr()), patched!(KIND)) {
        leave_to_all(ctx.as_ptr());
    }
    0
}

#[fexit(function = "")]
fn batch_return(ctx: FExitContext) -> i32 {
    if !calls::exit_known(patched!(KIND), value::<8>(ctx.as_ptr()) as i64) {
        leave_to_all(ctx.as_ptr());
    }
    0
}

#[fentry(function = "")]
fn move_entry(ctx: FEntryContext) -> i32 {
    calls::enter_move(value::<0>(ctx.as_ptr()));
    0
}

#[fexit(function = "")]
fn move_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    calls::exit_move(value::<0>(ctx), value::<8>(ctx) as i64);
    0
}
