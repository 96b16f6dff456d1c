//! The same programs for kernels that may preempt a program in its middle, which 7.0 and later do
//! unless they are told not to preempt anything: what another thread does on that CPU in the meantime
//! does not run the program, as it is running already (`bpf_prog_get_recursion_context`,
//! include/linux/bpf.h, 7.3), so calls would be missed. There are two ways in on which the kernel
//! keeps preemption off while programs run, and both are dearer where it would not preempt anyway:
//!
//! - many functions at once by fprobe (`function_graph_enter_regs`, kernel/trace/fgraph.c): one program
//!   at their entries, and one at their returns. That is also quicker to attach, and far quicker to let go
//!   of, so that functions that are rarely called are hooked so on other kernels, too;
//! - tracepoints as perf events (`perf_trace_##call`, include/trace/perf.h).
//!
//! Their contexts do not lead to the caller's registers, so the task is asked for them.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_get_attach_cookie,
    macros::{kprobe, kretprobe, tracepoint},
    programs::{ProbeContext, RetProbeContext, TracePointContext},
};

use crate::{
    calls, executables,
    memory::{current_task, user_registers},
    moves, reached, slots,
};

#[kprobe]
fn fprobe_entry(_ctx: ProbeContext) -> u32 {
    calls::enter_function(user_registers());
    0
}

#[kretprobe]
fn fprobe_return(ctx: RetProbeContext) -> u32 {
    let ret: u64 = ctx.ret();
    calls::exit_function(user_registers(), ret as i64);
    0
}

// struct task_struct *t, u64 flags: those of the tracepoint, which it follows at once (`copy_process`,
// kernel/fork.c, 7.3). A perf event does not lead to the new thread.
#[kprobe]
fn steady_task_newtask(ctx: ProbeContext) -> u32 {
    let [task, flags] = [0, 1].map(|n| ctx.arg::<u64>(n).unwrap_or(0));
    moves::newtask(task, flags);
    0
}

/// The row of `hooks::REACHED` that a function is in: what its attachment says.
#[inline(always)]
fn row(ctx: &impl EbpfContext) -> usize {
    // SAFETY: the context is the program's.
    unsafe { bpf_get_attach_cookie(ctx.as_ptr()) as usize }
}

/// A program for the entries of all that are in `reached`.
#[kprobe]
fn way_entered(ctx: ProbeContext) -> u32 {
    let row = row(&ctx);
    if reached::wanted(row) {
        let [first, second] = [0, 1].map(|n| ctx.arg::<u64>(n).unwrap_or(0));
        reached::entered(row, first, second);
    }
    0
}

/// Likewise for returns.
#[kretprobe]
fn way_returned(ctx: RetProbeContext) -> u32 {
    let row = row(&ctx);
    if reached::wanted(row) {
        reached::returned(row, ctx.ret());
    }
    0
}

/// What a tracepoint tells, `AT` bytes into its record (tracefs: `events/…/format`).
macro_rules! told {
    ($ctx:expr, $at:literal as $type:ty) => {
        // SAFETY: the verifier checks that records may be read there.
        unsafe { $ctx.as_ptr().byte_add($at).cast::<$type>().read_volatile() }
    };
}

// long id; unsigned long args[6]
#[tracepoint(category = "raw_syscalls", name = "sys_enter")]
fn steady_sys_enter(ctx: TracePointContext) -> u32 {
    calls::enter_steady(told!(ctx, 8 as u64));
    0
}

// long id; long ret
#[tracepoint(category = "raw_syscalls", name = "sys_exit")]
fn steady_sys_exit(ctx: TracePointContext) -> u32 {
    calls::exit_steady(told!(ctx, 8 as u64), told!(ctx, 16 as i64));
    0
}

// __data_loc char[] filename; pid_t pid; pid_t old_pid
#[tracepoint(category = "sched", name = "sched_process_exec")]
fn steady_process_exec(ctx: TracePointContext) -> u32 {
    slots::forget_context(told!(ctx, 16 as u32));
    executables::executed(current_task());
    0
}

#[tracepoint(category = "sched", name = "sched_process_exit")]
fn steady_process_exit(_ctx: TracePointContext) -> u32 {
    slots::thread_ends();
    0
}
