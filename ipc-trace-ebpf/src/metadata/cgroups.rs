//! A thread's cgroup, which identifies its container; creation and removal of cgroups.
//!
//! User space chooses one hierarchy: the default one (v2), or that of a controller (v1). A thread's cgroup is part of
//! its context, so it is read when that is sent. Threads can be moved at any time, many at once, and the tracepoint
//! names one of them. So moves are counted, and a thread whose context is older than the last move has its cgroup
//! read again.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str};
use ipc_trace_common::{
    layout::{ABSENT, Field},
    record::{CGROUP_PATH_LEN, CgroupRecord, RecordKind, flag},
};

use crate::base::{
    constants::constant,
    gate::{self, gate},
    memory::{bytes, exists, field, kernel},
    rings::{self, Share},
};

/// Whether the kernel has the fields that lead to a cgroup's number.
#[inline(always)]
fn able() -> bool {
    exists(Field::TaskCgroups)
        && exists(Field::CssSetDefault)
        && exists(Field::CssSetSubsystems)
        && exists(Field::CssCgroup)
        && exists(Field::CgroupNode)
        && exists(Field::KernfsId)
}

/// The number of the task's cgroup; `0`: unknown. A global function, so that the verifier checks it once.
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

/// Whether a cgroup belongs to the chosen hierarchy.
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
        gate::count_cgroup_move();
    }
}

/// A cgroup was created. `path`: from the root of its hierarchy, followed by a NUL.
#[inline(always)]
pub(crate) fn made(cgroup: u64, path: u64) {
    send_record(cgroup, path, 0);
}

/// A cgroup was removed: no thread is in it.
#[inline(always)]
pub(crate) fn removed(cgroup: u64) {
    send_record(cgroup, 0, flag::DELETED);
}

#[inline(always)]
fn send_record(cgroup: u64, path: u64, flags: u32) {
    if !gate().is_tracing() || !counts(cgroup) {
        return;
    }
    let Some(record) = rings::reserve_control::<CgroupRecord>(Share::Lifecycle) else {
        return;
    };
    // SAFETY: the ring has room for a complete record; every field but the unused end of `path` is written. The
    // helper writes no more than the size that it is passed.
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
