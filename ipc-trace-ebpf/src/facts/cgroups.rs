//! Which cgroup a thread is in, which tells its container; cgroups made and removed.
//!
//! One hierarchy counts, which user space has chosen: the default one (v2), or that of a controller
//! (v1). A thread's cgroup is in its context, so it is looked at when that is sent. Threads can be moved
//! at any time, many at once, and the tracepoint names one of them: so moves are counted, and whose
//! context is older than the last move is looked at again.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str};
use ipc_trace_common::{
    layout::{ABSENT, Field},
    record::{CGROUP_PATH_LEN, CgroupRecord, RecordKind, flag},
};

use crate::base::{
    constants::constant,
    gate::gate,
    memory::{bytes, exists, field, kernel},
    rings::{self, Share},
};

/// Whether the fields are known that lead to a cgroup's number.
#[inline(always)]
fn able() -> bool {
    exists(Field::TaskCgroups)
        && exists(Field::CssSetDefault)
        && exists(Field::CssSetSubsystems)
        && exists(Field::CssCgroup)
        && exists(Field::CgroupNode)
        && exists(Field::KernfsId)
}

/// The number of the task's cgroup; `0`: unknown. A global function, so that the verifier looks at it
/// once.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn of_task(task: u64) -> u64 {
    if !able() {
        return 0;
    }
    let set: u64 = field(task, Field::TaskCgroups);
    let subsystem = constant!(CGROUP_SUBSYSTEM);
    let cgroup: u64 = if subsystem == ABSENT {
        field(set, Field::CssSetDefault)
    } else {
        // struct cgroup_subsys_state *subsys[CGROUP_SUBSYS_COUNT] (include/linux/cgroup-defs.h)
        let state: u64 = kernel(set + bytes(Field::CssSetSubsystems) + u64::from(subsystem));
        field(state, Field::CssCgroup)
    };
    number(cgroup)
}

#[inline(always)]
fn number(cgroup: u64) -> u64 {
    field(field(cgroup, Field::CgroupNode), Field::KernfsId)
}

/// How many moves between cgroups there have been. A variable, whose address the verifier knows: every
/// call asks for it, and a map would have to be looked into.
#[unsafe(no_mangle)]
static mut CGROUP_MOVES: u32 = 0;

/// How many moves there have been. Only whether that changed matters.
#[inline(always)]
pub(crate) fn moves() -> u32 {
    // SAFETY: the variable is there; programs write whole numbers.
    unsafe { (&raw const CGROUP_MOVES).read_volatile() }
}

/// Whether something happened in the hierarchy that counts.
#[inline(always)]
fn counts(cgroup: u64) -> bool {
    able()
        && exists(Field::CgroupRoot)
        && exists(Field::CgroupRootHierarchy)
        && field::<u32>(field(cgroup, Field::CgroupRoot), Field::CgroupRootHierarchy)
            == constant!(CGROUP_HIERARCHY)
}

/// Threads were moved to a cgroup. Moves of one hierarchy are made one at a time, under
/// `cgroup_mutex` (`cgroup_attach_task`, kernel/cgroup/cgroup.c), so none is lost.
#[inline(always)]
pub(crate) fn moved(cgroup: u64) {
    if counts(cgroup) {
        // SAFETY: as in `moves`.
        unsafe { (&raw mut CGROUP_MOVES).write_volatile(moves().wrapping_add(1)) };
    }
}

/// A cgroup was made. `path`: from the root of its hierarchy, with a NUL behind.
#[inline(always)]
pub(crate) fn made(cgroup: u64, path: u64) {
    send_record(cgroup, path, 0);
}

/// A cgroup was removed: nobody is in it.
#[inline(always)]
pub(crate) fn removed(cgroup: u64) {
    send_record(cgroup, 0, flag::DELETED);
}

#[inline(always)]
fn send_record(cgroup: u64, path: u64, flags: u32) {
    if !gate().is_tracing() || !counts(cgroup) {
        return;
    }
    let Some(record) = rings::reserve_control::<CgroupRecord>(Share::Whole) else {
        return;
    };
    // SAFETY: the ring gave room for a whole record; every field but the unused end of `path` is
    // written. The helper writes no more than it is told that there is room for.
    unsafe {
        (*record).header = rings::header(RecordKind::Cgroup, flags);
        (*record).boot_ns = bpf_ktime_get_boot_ns();
        (*record).id = number(cgroup);
        (*record).reserved = 0;
        let mut len = 0;
        if path != 0 {
            let to = core::ptr::addr_of_mut!((*record).path).cast();
            // With the NUL; negative: not read.
            len = bpf_probe_read_kernel_str(to, CGROUP_PATH_LEN as u32, path as *const _) as i32;
        }
        (*record).path_len = if len > 0 { len as u32 - 1 } else { 0 };
    }
    rings::submit(record);
}
