//! Who a thread is: sent on the control ring once, when it makes its first call, and again after
//! exec, setns and unshare. Everything is read here and now, so it is right for a process that
//! lives for a millisecond.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_submit},
};
use ipc_trace_common::{
    layout::Field,
    record::{ContextRecord, Header, Kind, NsRef, VERSION},
};

use crate::{
    batches, cgroups, executables, maps,
    memory::{exists, field, kernel, kernel_bytes, unknown},
    slots::Slot,
};

/// The header of a record that is no call.
#[inline(always)]
pub(crate) fn header(kind: Kind, flags: u32) -> Header {
    Header { version: VERSION, kind: kind as u8, abi: 0, code: 0, flags }
}

/// Hands a record to the reader, which looks by itself every few milliseconds.
#[inline(always)]
pub(crate) fn submit<T>(record: *mut T) {
    // SAFETY: the record came from a ring and is written.
    unsafe { bpf_ringbuf_submit(record.cast(), u64::from(BPF_RB_NO_WAKEUP)) };
}

/// The number of the thread's context, which is sent if it was not.
#[inline(always)]
pub(crate) fn ensure(slot: &mut Slot, task: u64, ns: NsRef) -> u64 {
    let moves = cgroups::moves();
    if slot.context == 0 || slot.moves != moves {
        // The functions take numbers alone.
        let task = unknown(task);
        let cgroup = cgroups::of_task(task);
        if slot.context == 0 || slot.cgroup != cgroup {
            // The user side knows one context of a thread at a time.
            batches::release(slot.pid_tgid);
            slot.context = send_context(task, slot.pid_tgid, ns.inum, ns.generation, cgroup);
        }
        (slot.moves, slot.cgroup) = (moves, cgroup);
    }
    slot.context
}

/// Sends the context of `task`: its number, or `0` when the ring was full.
///
/// A global function, so that the verifier looks at it once and not once for each way that leads
/// here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn send_context(
    task: u64,
    pid_tgid: u64,
    inum: u32,
    generation: u32,
    cgroup: u64,
) -> u64 {
    let Some(record) = maps::reserve_control::<ContextRecord>() else {
        return 0;
    };
    // SAFETY: the ring gave room for a whole record; every field but the unused end of `exe` is
    // written.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        (*record).boot_ns = now;
        (*record).context = now;
        (*record).tid = pid_tgid as u32;
        (*record).pid = (pid_tgid >> 32) as u32;
        (*record).ns = NsRef { inum, generation };
        (*record).cgroup = cgroup;
        (*record).reserved = 0;

        let leader = field(task, Field::TaskGroupLeader);
        (*record).start_boot_ns = kernel_field(leader, Field::TaskStartBoottime);
        let parent = field(task, Field::TaskRealParent);
        (*record).ppid = kernel_field(parent, Field::TaskTgid);
        kernel_bytes(
            core::ptr::addr_of_mut!((*record).comm).cast(),
            16,
            task + bytes(Field::TaskComm),
        );

        let cred = kernel_field(task, Field::TaskCred);
        (*record).euid = kernel_field(cred, Field::CredEuid);
        (*record).egid = kernel_field(cred, Field::CredEgid);
        (*record).user_ns = field(field(cred, Field::CredUserNs), Field::UserNsInum);
        let nsproxy = kernel_field(task, Field::TaskNsproxy);
        (*record).mnt_ns = field(field(nsproxy, Field::NsproxyMnt), Field::MntNsInum);
        (*record).pid_ns = pid_namespace(task);

        let (len, flags) = executables::path(task, core::ptr::addr_of_mut!((*record).exe).cast());
        (*record).exe_len = len;
        (*record).header = header(Kind::Context, flags);
        submit(record);
        now
    }
}

/// A field that other programs read with plain loads, read with the helper: what leads here is
/// not known to the verifier.
#[inline(always)]
pub(crate) fn kernel_field<T: Copy + Default>(base: u64, field: Field) -> T {
    kernel(base + bytes(field))
}

/// A field's offset, however it is read. Not for absent fields.
#[inline(always)]
pub(crate) fn bytes(field: Field) -> u64 {
    u64::from(crate::constants::offset(field))
}

/// `task_active_pid_ns`: the namespace of the task's innermost number (kernel/pid.c).
#[inline(always)]
pub(crate) fn pid_namespace(task: u64) -> u32 {
    if !exists(Field::TaskThreadPid) || !exists(Field::PidNumbers) || !exists(Field::UpidNs) {
        return 0;
    }
    let pid = field(task, Field::TaskThreadPid);
    let level: u32 = field(pid, Field::PidLevel);
    // struct upid { int nr; struct pid_namespace *ns; }: 16 bytes on every 64-bit kernel.
    let upid = pid + bytes(Field::PidNumbers) + u64::from(level) * 16;
    field(field(upid, Field::UpidNs), Field::PidNsInum)
}
