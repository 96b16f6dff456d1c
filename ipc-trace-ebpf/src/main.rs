//! The kernel side of ipc-trace. Here are the entry points of the tracepoints' programs, each a few
//! lines long.
//!
//! | module | its job |
//! | --- | --- |
//! | [`constants`] | what the user side sets before loading |
//! | [`words`] | arithmetic on words, and words copied, as the verifier wants it |
//! | [`gate`] | what the programs are to do now |
//! | [`counts`] | what is counted |
//! | [`rings`] | the rings, and the way of a record into them |
//! | [`memory`] | reading kernel and user memory; the only place that follows kernel pointers |
//! | [`registers`] | a call's number, ABI and arguments |
//! | [`slots`] | what is remembered of a thread: its context, the call that it is in |
//! | [`namespaces`] | identity of IPC namespaces: number and generation |
//! | [`context`] | who a thread is, sent once |
//! | [`ancestry`] | whom a process descends from |
//! | [`executables`] | paths of executables |
//! | [`cgroups`] | which cgroup a thread is in; cgroups made and removed |
//! | [`queues`] | from a descriptor to a queue and its namespace |
//! | [`files`] | files that may belong to another namespace: queues, segments, `/proc/sysvipc` |
//! | [`accesses`] | ways to other namespaces' objects that are no operations |
//! | [`filters`] | which calls are wanted |
//! | [`functions`] | the entry points of backend `function` |
//! | [`reached`] | functions on those ways, for backend `function` |
//! | `steady` | the entry points of both backends where programs might be preempted |
//! | `copies` | programs of which there are several, as each might be preempted |
//! | [`calls`] | entry and return of a call |
//! | [`batches`] | calls of one thread that are sent together |
//! | [`emit`] | records of calls: as events, or as changes of objects |
//! | [`inputs`] | what calls take from memory, read when they enter the kernel |
//! | [`detail`] | what belongs to one operation: semaphore operations, names, time limits |
//! | [`moves`] | namespaces entered and made |
//! | [`census`] | what exists: namespaces, calls that have not returned |
//! | [`survey`] | who holds what: threads, descriptors, mapped segments |
//!
//! Invariant: every return of a wanted call ends in exactly one of the counters `filtered`,
//! `emitted`, `dropped`, after `seen`.

#![no_std]
#![no_main]
// For the one atomic addition in `counts`.
#![feature(asm_experimental_arch)]

mod accesses;
mod ancestry;
mod batches;
mod calls;
mod census;
mod cgroups;
mod constants;
mod context;
#[cfg(not(feature = "probe"))]
mod copies;
mod counts;
mod detail;
mod emit;
mod executables;
mod files;
mod filters;
mod functions;
mod gate;
mod inputs;
mod memory;
mod moves;
mod namespaces;
mod queues;
mod reached;
mod registers;
mod rings;
mod slots;
#[cfg(not(feature = "probe"))]
mod steady;
mod survey;
mod words;

use aya_ebpf::EbpfContext as _;

/// Argument `n` of a tracepoint. BTF tracepoints and raw tracepoints lay them out alike: an array
/// of 64-bit values (`struct bpf_raw_tracepoint_args`, include/uapi/linux/bpf.h).
macro_rules! argument {
    ($ctx:expr, $n:literal) => {
        // SAFETY: the verifier checks that the tracepoint has that many arguments.
        unsafe { $ctx.as_ptr().cast::<u64>().add($n).read_volatile() }
    };
}

/// A tracepoint's program: of a BTF tracepoint, whose pointers can be followed with plain loads, or of
/// a raw one.
macro_rules! tracepoint {
    ($name:ident, $tracepoint:literal, |$ctx:ident| $body:expr) => {
        #[cfg(not(feature = "probe"))]
        #[aya_ebpf::macros::btf_tracepoint(function = $tracepoint)]
        fn $name($ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
            $body;
            0
        }

        #[cfg(feature = "probe")]
        #[aya_ebpf::macros::raw_tracepoint(tracepoint = $tracepoint)]
        fn $name($ctx: aya_ebpf::programs::RawTracePointContext) -> i32 {
            $body;
            0
        }
    };
}

// TP_PROTO(struct pt_regs *regs, long id), include/trace/events/syscalls.h
tracepoint!(sys_enter, "sys_enter", |ctx| {
    calls::enter(|| argument!(ctx, 0), || argument!(ctx, 1))
});
// TP_PROTO(struct pt_regs *regs, long ret)
tracepoint!(sys_exit, "sys_exit", |ctx| {
    calls::exit(|| argument!(ctx, 0), || argument!(ctx, 1) as i64)
});
// TP_PROTO(struct task_struct *task, unsigned long clone_flags), include/trace/events/task.h
tracepoint!(task_newtask, "task_newtask", |ctx| {
    moves::newtask(argument!(ctx, 0), argument!(ctx, 1))
});
// TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm),
// include/trace/events/sched.h
tracepoint!(process_exec, "sched_process_exec", |ctx| {
    slots::forget_context(argument!(ctx, 1) as u32);
    executables::executed(memory::current_task())
});
// TP_PROTO(struct task_struct *p), since 6.15 with a second argument
tracepoint!(process_exit, "sched_process_exit", |_ctx| slots::thread_ends());
// TP_PROTO(struct cgroup *cgrp, const char *path), include/trace/events/cgroup.h. These three are run
// under a spinlock (`TRACE_CGROUP_PATH`, kernel/cgroup/cgroup-internal.h, 6.12): nothing preempts them.
tracepoint!(cgroup_mkdir, "cgroup_mkdir", |ctx| {
    cgroups::made(argument!(ctx, 0), argument!(ctx, 1))
});
tracepoint!(cgroup_rmdir, "cgroup_rmdir", |ctx| cgroups::removed(argument!(ctx, 0)));
// TP_PROTO(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)
tracepoint!(cgroup_attach_task, "cgroup_attach_task", |ctx| { cgroups::moved(argument!(ctx, 0)) });

/// Of the programs above, those that come in copies where they might be preempted.
macro_rules! copied_tracepoint {
    ($name:ident, $tracepoint:literal, |$ctx:ident| $body:expr) => {
        #[cfg(not(feature = "probe"))]
        #[aya_ebpf::macros::btf_tracepoint(function = $tracepoint)]
        fn $name($ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
            copies::have_own_stack($ctx.as_ptr());
            if copies::is_first($ctx.as_ptr()) {
                $body;
            }
            0
        }
    };
}

copied_tracepoint!(copied_task_newtask, "task_newtask", |ctx| {
    moves::newtask(argument!(ctx, 0), argument!(ctx, 1))
});
copied_tracepoint!(copied_process_exec, "sched_process_exec", |ctx| {
    slots::forget_context(argument!(ctx, 1) as u32);
    executables::executed(memory::current_task())
});
copied_tracepoint!(copied_process_exit, "sched_process_exit", |ctx| slots::thread_ends());

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
