//! The programs on tracepoints, each a few lines long.

use aya_ebpf::EbpfContext as _;

#[cfg(not(feature = "probe"))]
use crate::thread::copies;
use crate::{
    base::memory::current_task,
    call::{calls, ns_switch},
    metadata::{cgroups, exe_path},
    programs::task_lifecycle,
};

/// Argument `n` of a tracepoint. BTF tracepoints and raw tracepoints have the same layout: an array of 64-bit values
/// (`struct bpf_raw_tracepoint_args`, include/uapi/linux/bpf.h).
macro_rules! argument {
    ($ctx:expr, $n:literal) => {
        // SAFETY: the verifier checks that the tracepoint has that many arguments.
        unsafe { $ctx.as_ptr().cast::<u64>().add($n).read_volatile() }
    };
}

/// A program on a BTF tracepoint, whose pointers can be read with plain loads, or on a raw tracepoint.
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
    ns_switch::newtask(argument!(ctx, 0), argument!(ctx, 1))
});
// TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm),
// include/trace/events/sched.h
tracepoint!(process_exec, "sched_process_exec", |ctx| {
    task_lifecycle::forget_context(argument!(ctx, 1) as u32);
    exe_path::executed(current_task())
});
// TP_PROTO(struct task_struct *p), since 6.15 with a second argument
tracepoint!(process_exit, "sched_process_exit", |_ctx| task_lifecycle::thread_ends());
// TP_PROTO(struct cgroup *cgrp, const char *path), include/trace/events/cgroup.h. These three run under a spinlock
// (`TRACE_CGROUP_PATH`, kernel/cgroup/cgroup-internal.h, 6.12): nothing preempts them.
tracepoint!(cgroup_mkdir, "cgroup_mkdir", |ctx| {
    cgroups::made(argument!(ctx, 0), argument!(ctx, 1))
});
tracepoint!(cgroup_rmdir, "cgroup_rmdir", |ctx| cgroups::removed(argument!(ctx, 0)));
// TP_PROTO(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)
tracepoint!(cgroup_attach_task, "cgroup_attach_task", |ctx| { cgroups::moved(argument!(ctx, 0)) });

/// Those of the programs above that come in copies, as they might be preempted.
macro_rules! copied_tracepoint {
    ($name:ident, $tracepoint:literal, |$ctx:ident| $body:expr) => {
        #[cfg(not(feature = "probe"))]
        #[aya_ebpf::macros::btf_tracepoint(function = $tracepoint)]
        fn $name($ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
            crate::base::hooked::have_own_stack($ctx.as_ptr());
            if copies::is_first($ctx.as_ptr()) {
                $body;
            }
            0
        }
    };
}

copied_tracepoint!(copied_task_newtask, "task_newtask", |ctx| {
    ns_switch::newtask(argument!(ctx, 0), argument!(ctx, 1))
});
copied_tracepoint!(copied_process_exec, "sched_process_exec", |ctx| {
    task_lifecycle::forget_context(argument!(ctx, 1) as u32);
    exe_path::executed(current_task())
});
copied_tracepoint!(copied_process_exit, "sched_process_exit", |ctx| task_lifecycle::thread_ends());
