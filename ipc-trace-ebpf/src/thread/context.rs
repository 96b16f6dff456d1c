//! A thread's description: sent on the control ring once, when it makes its first call, and again after exec, setns
//! and unshare. All of it is read at that moment, so it is right for a process that lives for a millisecond.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use ipc_trace_common::{
    layout::Field,
    record::{
        ARGS_LEN, ContextRecord, ExitRecord, NsRef, RecordKind, UID_EXTENTS, UidExtent, flag,
    },
};

use crate::{
    base::{
        constants::constant,
        gate,
        memory::{
            bytes, current_task, exists, field, kernel_bytes, kernel_field, unknown, user_bytes,
        },
        rings::{self, Share, header, submit},
    },
    metadata::{ancestry, cgroups, exe_path},
    thread::{
        batches,
        slots::{self, Slot},
    },
};

/// A context and the arguments of its process, as they lie in the ring.
#[repr(C)]
struct WithArgs {
    context: ContextRecord,
    args: [u8; ARGS_LEN],
}

/// The number of the thread's context, which is sent if it wasn't yet.
#[inline(always)]
pub(crate) fn ensure(slot: &mut Slot, task: u64, ns: NsRef) -> u64 {
    let moves = gate::cgroup_moves();
    if slot.context == 0 || slot.moves != moves {
        // The functions take only numbers.
        let task = unknown(task);
        let cgroup = cgroups::of_task(task);
        if slot.context == 0 || slot.cgroup != cgroup {
            // User space keeps one context per thread.
            batches::release(slot.pid_tgid);
            note_changeable(slot.pid_tgid, task);
            slot.context = send_context(task, slot.pid_tgid, ns.inum, ns.generation, cgroup);
        }
        (slot.moves, slot.cgroup) = (moves, cgroup);
    }
    slot.context
}

/// Stores those parts of a context that may change without a call that is seen: the parent, which is replaced when it
/// ends; whether the executable was deleted or replaced; whether the user namespace has a map. A global function,
/// like the next one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn note_changeable(pid_tgid: u64, task: u64) -> u64 {
    if let Some(slot) = slots::find(pid_tgid) {
        slot.parent = kernel_field(task, Field::TaskRealParent);
        slot.nsproxy = kernel_field(task, Field::TaskNsproxy);
        slot.cred = kernel_field(task, Field::TaskCred);
        slot.exe_deleted = exe_path::is_deleted(task) as u8;
        slot.unmapped = u8::from(!has_map(task));
    }
    0
}

/// The thread has made a call that may have changed its namespaces or its user: then its next call sends the context
/// anew. Both are replaced as one object (`switch_task_namespaces`, kernel/nsproxy.c; `commit_creds`, kernel/cred.c),
/// so a call that changes nothing sends nothing.
///
/// A global function, like the next one.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn has_moved(pid_tgid: u64, task: u64) -> u64 {
    if let Some(slot) = slots::find(pid_tgid) {
        let nsproxy: u64 = kernel_field(task, Field::TaskNsproxy);
        let cred: u64 = kernel_field(task, Field::TaskCred);
        if slot.nsproxy != nsproxy || slot.cred != cred {
            slot.context = 0;
        }
    }
    0
}

/// Whether the context that was sent for the current thread is outdated: `1`, or `0`.
///
/// A global function, so that the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn is_outdated(pid_tgid: u64) -> u64 {
    let Some(slot) = slots::find(pid_tgid) else {
        return 0;
    };
    let task = unknown(current_task());
    let parent: u64 = kernel_field(task, Field::TaskRealParent);
    let outdated = slot.parent != parent
        || u64::from(slot.exe_deleted) != exe_path::is_deleted(task)
        || slot.unmapped != 0 && has_map(task);
    u64::from(outdated)
}

/// Whether the task's user namespace has a map of users.
#[inline(always)]
fn has_map(task: u64) -> bool {
    if !exists(Field::UserNsMapLen) {
        return true;
    }
    let cred: u64 = kernel_field(task, Field::TaskCred);
    field::<u32>(field(cred, Field::CredUserNs), Field::UserNsMapLen) != 0
}

/// As [`ensure`], for a thread that has no slot.
#[inline(always)]
pub(crate) fn send_once(task: u64, pid_tgid: u64, ns: NsRef) -> u64 {
    let task = unknown(task);
    send_context(task, pid_tgid, ns.inum, ns.generation, cgroups::of_task(task))
}

/// Reports that a thread's context isn't referred to any more.
#[inline(always)]
pub(crate) fn emit_end(pid_tgid: u64, context: u64) {
    if let Some(record) = rings::reserve_control::<ExitRecord>(Share::Lifecycle) {
        // SAFETY: the ring has room for a complete record, and every field is written.
        unsafe {
            record.write(ExitRecord {
                header: header(RecordKind::Exit, 0),
                boot_ns: bpf_ktime_get_boot_ns(),
                context,
                tid: pid_tgid as u32,
                pid: (pid_tgid >> 32) as u32,
            });
        }
        submit(record);
    }
}

/// Sends the context of `task`: returns its number, or `0` if the ring was full.
///
/// A global function, so that the verifier checks it once and not once for each path through its callers.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn send_context(
    task: u64,
    pid_tgid: u64,
    inum: u32,
    generation: u32,
    cgroup: u64,
) -> u64 {
    let with_args = constant!(WITH_ARGS) != 0;
    let room = if with_args {
        rings::reserve_control::<WithArgs>(Share::Repeatable)
    } else {
        rings::reserve_control::<ContextRecord>(Share::Repeatable).map(<*mut ContextRecord>::cast)
    };
    let Some(room_at) = room else {
        return 0;
    };
    // SAFETY: the ring has room for a complete record, and for the arguments if they are wanted; every field but the
    // unused ends of `exe`, the arguments and `ancestors` is written.
    unsafe {
        let record = core::ptr::addr_of_mut!((*room_at).context);
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
        (*record).ns_pid = own_number(leader);
        (*record).capabilities = field(cred, Field::CredCapabilities);
        let to = core::ptr::addr_of_mut!((*record).uid_map).cast();
        (*record).uid_extents = users(field(cred, Field::CredUserNs), to);
        let (count, mut flags) =
            ancestry::read(leader, core::ptr::addr_of_mut!((*record).ancestors));
        (*record).ancestor_count = count;
        (*record).args_len = 0;
        if with_args {
            let (len, found) = arguments(task, core::ptr::addr_of_mut!((*room_at).args).cast());
            (*record).args_len = len;
            flags |= found;
        }
        let (len, found) = exe_path::path(task, core::ptr::addr_of_mut!((*record).exe).cast());
        (*record).exe_len = len;
        (*record).header = header(RecordKind::Context, flags | found);
        submit(record);
        now
    }
}

/// Writes the map of a user namespace: returns how many extents it has.
///
/// # Safety
/// `to` has room for [`UID_EXTENTS`].
#[inline(always)]
unsafe fn users(user_ns: u64, to: *mut u8) -> u32 {
    if !exists(Field::UserNsMap) || !exists(Field::UserNsMapLen) {
        return 0;
    }
    let len = (size_of::<UidExtent>() * UID_EXTENTS) as u32;
    // SAFETY: as the caller says.
    if !unsafe { kernel_bytes(to, len, user_ns + bytes(Field::UserNsMap)) } {
        return 0;
    }
    field(user_ns, Field::UserNsMapLen)
}

/// Writes the arguments of the current task's process to `to`: returns their length, and flags. A task that is being
/// created has its parent's arguments, at the same address.
///
/// # Safety
/// `to` has room for [`ARGS_LEN`] bytes.
#[inline(always)]
unsafe fn arguments(task: u64, to: *mut u8) -> (u64, u32) {
    if !exists(Field::TaskMm) || !exists(Field::MmArgStart) || !exists(Field::MmArgEnd) {
        return (0, flag::FAULT);
    }
    let mm: u64 = field(task, Field::TaskMm);
    let start: u64 = field(mm, Field::MmArgStart);
    let end: u64 = field(mm, Field::MmArgEnd);
    let len = end - start;
    let read = if len > ARGS_LEN as u64 { ARGS_LEN as u64 } else { len };
    // SAFETY: as the caller says.
    let found = unsafe { user_bytes(to, read as u32, start) };
    (len, if found { flag::DETAIL } else { flag::DETAIL | flag::FAULT })
}

/// `task_active_pid_ns`: the namespace of the task's innermost number (kernel/pid.c).
#[inline(always)]
pub(crate) fn pid_namespace(task: u64) -> u32 {
    if !exists(Field::UpidNs) {
        return 0;
    }
    field(field(innermost(task), Field::UpidNs), Field::PidNsInum)
}

/// The number of a process in its own pid namespace, by its leader.
#[inline(always)]
fn own_number(leader: u64) -> u32 {
    field(innermost(leader), Field::UpidNr)
}

/// The `struct upid` of the task's innermost number.
#[inline(always)]
fn innermost(task: u64) -> u64 {
    if !exists(Field::TaskThreadPid) || !exists(Field::PidNumbers) {
        return 0;
    }
    let pid = field(task, Field::TaskThreadPid);
    let level: u32 = field(pid, Field::PidLevel);
    // struct upid { int nr; struct pid_namespace *ns; }: 16 bytes on every 64-bit kernel.
    pid + bytes(Field::PidNumbers) + u64::from(level) * 16
}
