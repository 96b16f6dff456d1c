//! Which calls are wanted. Inactive filters cost nothing: their bits are constants.

use aya_ebpf::{helpers::generated::bpf_get_current_comm, macros::map, maps::HashMap};
use ipc_trace_common::{
    record::{NO_DURATION, NsRef},
    state::{FILTER_VALUES, filter},
};

use crate::{
    base::{
        constants::constant,
        memory::{current_task, unknown},
        registers::failed,
    },
    metadata::cgroups,
};

#[map]
static FILTER_PIDS: HashMap<u32, u8> = HashMap::with_max_entries(FILTER_VALUES, 0);
#[map]
static FILTER_UIDS: HashMap<u32, u8> = HashMap::with_max_entries(FILTER_VALUES, 0);
#[map]
static FILTER_COMMS: HashMap<[u64; 2], u8> = HashMap::with_max_entries(FILTER_VALUES, 0);
#[map]
static FILTER_NAMESPACES: HashMap<NsRef, u8> = HashMap::with_max_entries(FILTER_VALUES, 0);
/// By cgroup: whether calls of its threads are wanted. User space sizes it for that filter.
#[map]
static FILTER_CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(1, 0);
/// The command's process and its descendants.
#[map]
pub(crate) static DESCENDANTS: HashMap<u32, u8> = HashMap::with_max_entries(1 << 16, 0);

/// What the filters evaluate.
pub(crate) struct Subject {
    pub(crate) op: u8,
    pub(crate) ret: i64,
    pub(crate) duration_ns: u64,
    pub(crate) pid: u32,
    pub(crate) euid: u32,
    pub(crate) ns: NsRef,
    /// The namespace of the queue behind a descriptor, if there is one
    pub(crate) object_ns: NsRef,
}

/// Whether any filter is active: a constant, so that an inactive one costs nothing.
#[inline(always)]
pub(crate) fn in_force() -> bool {
    constant!(FILTERS) != 0
}

/// Whether a call passes all filters.
#[inline(always)]
pub(crate) fn wanted(call: &Subject) -> bool {
    let in_force = constant!(FILTERS);
    if in_force & filter::OP != 0 && constant!(OPS) & 1 << call.op == 0 {
        return false;
    }
    if in_force & filter::FAILED != 0 && !failed(call.ret) {
        return false;
    }
    if in_force & filter::MIN_DURATION != 0
        && (call.duration_ns == NO_DURATION || call.duration_ns < constant!(MIN_DURATION_NS))
    {
        return false;
    }
    if in_force & filter::PID != 0 && FILTER_PIDS.get_ptr(&call.pid).is_none() {
        return false;
    }
    if in_force & filter::UID != 0 && FILTER_UIDS.get_ptr(&call.euid).is_none() {
        return false;
    }
    if in_force & filter::COMM != 0 && FILTER_COMMS.get_ptr(&padded_comm()).is_none() {
        return false;
    }
    if in_force & filter::COMMAND != 0 && DESCENDANTS.get_ptr(&call.pid).is_none() {
        return false;
    }
    if in_force & filter::CGROUP != 0 && !in_wanted_cgroup() {
        return false;
    }
    in_force & filter::NAMESPACE == 0
        || FILTER_NAMESPACES.get_ptr(&call.ns).is_some()
        || FILTER_NAMESPACES.get_ptr(&call.object_ns).is_some()
}

/// Whether the current thread's cgroup is wanted, or not decided yet: then user space decides.
#[inline(always)]
fn in_wanted_cgroup() -> bool {
    let cgroup = cgroups::of_task(unknown(current_task()));
    match FILTER_CGROUPS.get_ptr(&cgroup) {
        // SAFETY: the map gave the pointer.
        Some(wanted) => unsafe { wanted.read_volatile() != 0 },
        None => true,
    }
}

/// The current thread's name, padded with zeros. Before 5.17 the kernel's own field contains the rest of an earlier,
/// longer name (`__set_task_comm`, fs/exec.c); the helper's result does not.
#[inline(always)]
fn padded_comm() -> [u64; 2] {
    let mut comm = [0u64; 2];
    // SAFETY: the helper writes that many bytes at most.
    unsafe { bpf_get_current_comm(core::ptr::addr_of_mut!(comm).cast(), 16) };
    comm
}
