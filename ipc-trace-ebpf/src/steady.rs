//! The same programs for kernels that may preempt a program in its middle, which 7.0 and later do
//! unless they are told not to preempt anything: what another thread does on that CPU in the meantime
//! does not run the program, as it is running already (`bpf_prog_get_recursion_context`,
//! include/linux/bpf.h, 7.3), so calls would be missed. There are two ways in on which the kernel
//! keeps preemption off while programs run, and both are dearer where it would not preempt anyway:
//!
//! - many functions at once by fprobe (`function_graph_enter_regs`, kernel/trace/fgraph.c): one program
//!   at their entries, and one at their returns;
//! - tracepoints as perf events (`perf_trace_##call`, include/trace/perf.h).
//!
//! Their contexts do not lead to the caller's registers, so the task is asked for them.

use aya_ebpf::{
    EbpfContext as _,
    macros::{kprobe, kretprobe, tracepoint},
    programs::{ProbeContext, RetProbeContext, TracePointContext},
};

use ipc_trace_common::{hooks, op::Op, record::Channel};

use crate::{
    calls, executables,
    files::How,
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

/// A program at a function's entry, of which it takes argument `N`.
macro_rules! reached_at_entry {
    ($name:ident, |$($argument:ident = $n:literal),+| $body:expr) => {
        #[kprobe]
        fn $name(ctx: ProbeContext) -> u32 {
            if reached::wanted(const { hooks::way_of(stringify!($name)) }) {
                $(let $argument = ctx.arg::<u64>($n).unwrap_or(0);)+
                $body;
            }
            0
        }
    };
}

// The twins of those in `reached`.
reached_at_entry!(steady_file_opened, |file = 0| reached::file(file, How::Opened));
reached_at_entry!(steady_file_received, |file = 0| reached::file(file, How::Received));
reached_at_entry!(steady_table_read, |seq = 0| reached::table(seq));
reached_at_entry!(steady_queue_read, |file = 0| reached::queue(file, Channel::QueueRead));
reached_at_entry!(steady_queue_polled, |file = 0| reached::queue(file, Channel::QueuePoll));
reached_at_entry!(steady_queue_unlinked, |dentry = 1| reached::unlinked(dentry));
reached_at_entry!(steady_segment_touched, |vmf = 0| reached::touched(vmf));
reached_at_entry!(steady_segment_destroyed, |ns = 0, shp = 1| reached::destroyed(ns, shp));
reached_at_entry!(steady_setting_written, |iocb = 0| reached::setting(iocb));

/// A program at a function's return, of which it takes the result.
macro_rules! reached_at_return {
    ($name:ident, |$result:ident| $body:expr) => {
        #[kretprobe]
        fn $name(ctx: RetProbeContext) -> u32 {
            if reached::wanted(const { hooks::way_of(stringify!($name)) }) {
                let $result: u64 = ctx.ret();
                $body;
            }
            0
        }
    };
}

reached_at_return!(steady_queues_mounted, |ret| reached::mounted(ret as i64));
reached_at_return!(steady_segment_made, |ret| reached::made(Op::Shmget, ret));
reached_at_return!(steady_set_made, |ret| reached::made(Op::Semget, ret));
reached_at_return!(steady_messages_made, |ret| reached::made(Op::Msgget, ret));
reached_at_return!(steady_queue_made, |ret| reached::made_queue(ret));

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
