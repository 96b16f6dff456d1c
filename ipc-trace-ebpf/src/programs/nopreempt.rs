//! The same programs for kernels that can preempt a running program, as 7.0 and later do unless configured otherwise.
//! Events of other threads on that CPU in the meantime don't run the program, as it is running already
//! (`bpf_prog_get_recursion_context`, include/linux/bpf.h, 7.3), so calls would be missed. The kernel keeps
//! preemption off while programs run on two kinds of hook; both cost more on kernels that don't preempt anyway. It
//! does not run those either while any thread is preempted inside bpf(2) on that CPU (`bpf_disable_instrumentation`,
//! include/linux/bpf.h), so `copies` back them up if the kernel can attach one program to many functions in that way,
//! too:
//!
//! - many functions at once by fprobe (`function_graph_enter_regs`, kernel/trace/fgraph.c): one program at their
//!   entries, and one at their returns. That is also quicker to attach, and far quicker to detach, so rarely called
//!   functions are hooked this way on other kernels, too;
//! - tracepoints as perf events (`perf_trace_##call`, include/trace/perf.h).
//!
//! Their contexts do not lead to the caller's registers, so these are read from the task.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_func_arg, bpf_get_func_ret},
    macros::{fentry, fexit, kprobe, kretprobe, tracepoint},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext, TracePointContext},
};
use ipc_trace_common::state::copies;

use crate::{
    base::{constants::constant, hooked::have_own_stack, memory::user_registers},
    call::calls,
    programs::aux_probes,
    thread::copies::{cookie, is_first},
};

#[kprobe]
fn fprobe_entry(_ctx: ProbeContext) -> u32 {
    if constant!(COPIED) == 0 {
        calls::enter_function(user_registers());
    } else {
        calls::enter_copy(0);
    }
    0
}

#[kretprobe]
fn fprobe_return(ctx: RetProbeContext) -> u32 {
    let ret: u64 = ctx.ret();
    if constant!(COPIED) == 0 {
        calls::exit_function(user_registers(), ret as i64);
    } else {
        calls::exit_copy(0, ret as i64);
    }
    0
}

// Each of these serves all functions and all copies.
#[fentry(function = "")]
fn copied_entry(ctx: FEntryContext) -> i32 {
    have_own_stack(ctx.as_ptr());
    calls::enter_copy(copies::copy(cookie(ctx.as_ptr())));
    0
}

#[fexit(function = "")]
fn copied_return(ctx: FExitContext) -> i32 {
    have_own_stack(ctx.as_ptr());
    let copy = copies::copy(cookie(ctx.as_ptr()));
    calls::exit_copy(copy, result(&ctx) as i64);
    0
}

/// What the function returned.
#[inline(always)]
fn result(ctx: &FExitContext) -> u64 {
    let mut result = 0;
    // SAFETY: the context is the program's; the helper writes a value.
    unsafe { bpf_get_func_ret(ctx.as_ptr(), &raw mut result) };
    result
}

/// An argument of the function; `0`: it has fewer.
#[inline(always)]
fn argument(ctx: &FEntryContext, n: u32) -> u64 {
    let mut value = 0;
    // SAFETY: as above.
    unsafe { bpf_get_func_arg(ctx.as_ptr(), n, &raw mut value) };
    value
}

#[fentry(function = "")]
fn copied_way_entered(ctx: FEntryContext) -> i32 {
    have_own_stack(ctx.as_ptr());
    let row = copies::row(cookie(ctx.as_ptr())) as usize;
    let first = is_first(ctx.as_ptr());
    if aux_probes::wanted(row) && first {
        aux_probes::entered(row, argument(&ctx, 0), argument(&ctx, 1));
    }
    0
}

#[fexit(function = "")]
fn copied_way_returned(ctx: FExitContext) -> i32 {
    have_own_stack(ctx.as_ptr());
    let row = copies::row(cookie(ctx.as_ptr())) as usize;
    let first = is_first(ctx.as_ptr());
    if aux_probes::wanted(row) && first {
        aux_probes::returned(row, result(&ctx));
    }
    0
}

/// One program for the entries of all functions in `aux_probes`.
#[kprobe]
fn way_entered(ctx: ProbeContext) -> u32 {
    let row = copies::row(cookie(ctx.as_ptr())) as usize;
    let is_first = is_first(ctx.as_ptr());
    if aux_probes::wanted(row) && is_first {
        let [first, second] = [0, 1].map(|n| ctx.arg::<u64>(n).unwrap_or(0));
        aux_probes::entered(row, first, second);
    }
    0
}

/// Likewise for returns.
#[kretprobe]
fn way_returned(ctx: RetProbeContext) -> u32 {
    let row = copies::row(cookie(ctx.as_ptr())) as usize;
    let is_first = is_first(ctx.as_ptr());
    if aux_probes::wanted(row) && is_first {
        aux_probes::returned(row, ctx.ret());
    }
    0
}

/// The field of a tracepoint's record at offset `AT` (tracefs: `events/…/format`).
macro_rules! tp_field {
    ($ctx:expr, $at:literal as $type:ty) => {
        // SAFETY: the verifier checks that records may be read there.
        unsafe { $ctx.as_ptr().byte_add($at).cast::<$type>().read_volatile() }
    };
}

// long id; unsigned long args[6]
#[tracepoint(category = "raw_syscalls", name = "sys_enter")]
fn nopreempt_sys_enter(ctx: TracePointContext) -> u32 {
    calls::enter_nopreempt(tp_field!(ctx, 8 as u64));
    0
}

// long id; long ret
#[tracepoint(category = "raw_syscalls", name = "sys_exit")]
fn nopreempt_sys_exit(ctx: TracePointContext) -> u32 {
    calls::exit_nopreempt(tp_field!(ctx, 8 as u64), tp_field!(ctx, 16 as i64));
    0
}
