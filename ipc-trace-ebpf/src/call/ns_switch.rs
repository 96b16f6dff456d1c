//! Namespaces created and entered: unshare, setns, and clone with `CLONE_NEWIPC`.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns};
use ipc_trace_common::{
    layout::Field,
    op::SyscallCode,
    record::{NsRef, NsSwitchKind, NsSwitchRecord, RecordKind},
    state::{Diagnostic, filter},
};

use crate::{
    access::files,
    base::{
        constants::constant,
        counts,
        gate::gate,
        memory::{current_task, field, kernel_field, unknown},
        registers::Call,
        rings::{self, Share},
    },
    call::filters::DESCENDANTS,
    metadata::{exe_path, namespaces},
    thread::{context, slots},
};

/// include/uapi/linux/sched.h
const CLONE_NEWIPC: u64 = 0x0800_0000;
const CLONE_THREAD: u64 = 0x0001_0000;

/// unshare or setns begins: notes the namespace that the thread may be about to leave.
#[inline(always)]
pub(crate) fn entered(task: u64, pid_tgid: u64, call: Call) {
    if let Some(slot) = slots::find_or_take(pid_tgid, Diagnostic::NoSlotForMove) {
        slot.from = namespaces::identify(namespaces::of_task(task));
        slot.entered = call.packed();
        slot.enter_ns = 0;
    }
}

/// unshare or setns returned.
#[inline(always)]
pub(crate) fn returned(task: u64, ipc_ns: u64, pid_tgid: u64, call: Call, ret: i64) {
    let code = call.code;
    let Some(slot) = slots::find(pid_tgid) else {
        counts::diagnose(Diagnostic::MoveWithoutEntry);
        return;
    };
    // Else it was entered before the start, or the kernel did not make the call.
    let entered = slot.entered == call.packed();
    slot.entered = 0;
    if !entered || slot.from.inum == 0 {
        if ret == 0 {
            #[cfg(not(feature = "probe"))]
            crate::thread::copies::lost();
        }
        return;
    }
    let from = slot.from;
    slot.from.inum = 0;
    if ret != 0 {
        return;
    }
    context::has_moved(pid_tgid, unknown(task));
    let Some(slot) = slots::find(pid_tgid) else {
        return;
    };
    if field::<u32>(ipc_ns, Field::IpcNsInum) == from.inum {
        return;
    }
    let (way, to) = if code.0 == SyscallCode::UNSHARE.0 {
        (NsSwitchKind::Unshare, namespaces::born(ipc_ns))
    } else {
        (NsSwitchKind::Setns, namespaces::identify(ipc_ns))
    };
    let context = context::ensure(slot, task, to);
    let ns_id = namespaces::ns_id(ipc_ns);
    report(way, from, to, ns_id, (pid_tgid, context), (0, 0));
    files::moved(task, (pid_tgid >> 32) as u32, ipc_ns, true);
}

/// `task_newtask`: a thread was created, and does not run yet. The verifier need not know the task.
#[inline(always)]
pub(crate) fn newtask(task: u64, clone_flags: u64) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let pid = (pid_tgid >> 32) as u32;
    let gate = gate();
    if constant!(FILTERS) & filter::COMMAND != 0 && clone_flags & CLONE_THREAD == 0 {
        // The tracer itself creates only one process: the command.
        if gate.is_self(pid) || DESCENDANTS.get_ptr(&pid).is_some() {
            let child: u32 = kernel_field(task, Field::TaskTgid);
            let _ = DESCENDANTS.insert(&child, &0, 0);
        }
    }
    if clone_flags & CLONE_THREAD == 0 && files::are_held() {
        files::forked(pid, kernel_field(task, Field::TaskTgid));
    }
    if clone_flags & CLONE_NEWIPC == 0 || gate.keeps_out(pid) {
        return;
    }
    let parent = current_task();
    let from = namespaces::identify(namespaces::of_task(parent));
    let ipc_ns: u64 = kernel_field(kernel_field(task, Field::TaskNsproxy), Field::NsproxyIpc);
    let ns_id = namespaces::ns_id(ipc_ns);
    let to = namespaces::born(ipc_ns);
    let child_tid: u32 = kernel_field(task, Field::TaskPid);
    let child_pid: u32 = kernel_field(task, Field::TaskTgid);
    let child = u64::from(child_pid) << 32 | u64::from(child_tid);
    let context = match slots::find_or_take(pid_tgid, Diagnostic::NoSlotForTask) {
        Some(slot) => context::ensure(slot, parent, from),
        None => 0,
    };
    let child_context = match slots::find_or_take(child, Diagnostic::NoSlotForTask) {
        Some(slot) => context::ensure(slot, task, to),
        None => 0,
    };
    report(NsSwitchKind::Clone, from, to, ns_id, (pid_tgid, context), (child, child_context));
    // Which files it still holds after its exec is unknown: their reads are reported.
    files::moved(task, child_pid, ipc_ns, false);
}

#[inline(always)]
fn report(
    way: NsSwitchKind,
    from: NsRef,
    to: NsRef,
    ns_id: u64,
    by: (u64, u64),
    child: (u64, u64),
) {
    let Some(record) = rings::reserve_control::<NsSwitchRecord>(Share::Lifecycle) else {
        return;
    };
    // SAFETY: the ring has room for a complete record, and every field is written.
    unsafe {
        record.write(NsSwitchRecord {
            header: rings::header(
                RecordKind::Move,
                exe_path::of_tracer(unknown(current_task())) as u32,
            ),
            boot_ns: bpf_ktime_get_boot_ns(),
            context: by.1,
            tid: by.0 as u32,
            pid: (by.0 >> 32) as u32,
            from,
            to,
            child_context: child.1,
            child_tid: child.0 as u32,
            child_pid: (child.0 >> 32) as u32,
            ns_id,
            way: way as u32,
            reserved: 0,
        });
    }
    rings::submit(record);
}
