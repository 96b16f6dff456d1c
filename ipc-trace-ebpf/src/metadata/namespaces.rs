//! Identity of IPC namespaces: the inode number and its generation.
//!
//! Numbers are reused at once after a namespace dies. So creations are counted per number, here, in the kernel,
//! before any other thread can enter the namespace: no record can carry a stale generation.
//!
//! An entry of the table: bits 0–31 the generation, bit 32 whether the namespace was announced to user space.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, HashMap},
};
use ipc_trace_common::{
    layout::Field,
    record::{NamespaceRecord, NsRef, RecordKind, UNKNOWN_COUNT, flag},
    state::{Diagnostic, FIRST_INUM, INUMS},
};

use crate::base::{
    counts,
    gate::gate,
    memory::{exists, field, kernel_field},
    rings::{self, Share},
};

/// By number, from [`ipc_trace_common::state::FIRST_INUM`]: generation, and whether it was sent.
#[map]
static NAMESPACES: Array<u64> = Array::with_max_entries(INUMS, 0);
/// By number, for numbers beyond [`NAMESPACES`].
#[map]
static NAMESPACES_SPILL: HashMap<u32, u64> = HashMap::with_max_entries(1 << 13, 0);

const ANNOUNCED: u64 = 1 << 32;

/// The task's IPC namespace (`struct ipc_namespace *`).
#[inline(always)]
pub(crate) fn of_task(task: u64) -> u64 {
    field(field(task, Field::TaskNsproxy), Field::NsproxyIpc)
}

/// The identity of the namespace at `ipc_ns`, which is announced if it wasn't yet.
#[inline(always)]
pub(crate) fn identify(ipc_ns: u64) -> NsRef {
    let inum: u32 = field(ipc_ns, Field::IpcNsInum);
    let Some(entry) = entry(inum) else {
        return NsRef { inum, generation: 1 };
    };
    // SAFETY: the map gave the pointer.
    let state = unsafe { entry.read_volatile() };
    if state & ANNOUNCED != 0 {
        return NsRef { inum, generation: state as u32 };
    }
    announce(ipc_ns, inum)
}

/// As [`identify`], for a pointer that the verifier does not know.
#[inline(always)]
pub(crate) fn identify_read(ipc_ns: u64) -> NsRef {
    lookup(kernel_field(ipc_ns, Field::IpcNsInum))
}

/// A namespace was created: the next generation of its number begins. The verifier need not know the pointer.
#[inline(always)]
pub(crate) fn born(ipc_ns: u64) -> NsRef {
    let inum: u32 = kernel_field(ipc_ns, Field::IpcNsInum);
    let Some(entry) = entry(inum) else {
        return NsRef { inum, generation: 1 };
    };
    // SAFETY: the map gave the pointer; no other thread can be in a namespace that is being created.
    unsafe {
        let generation = (entry.read_volatile() as u32).wrapping_add(1);
        // The record of the creation announces it.
        entry.write_volatile(u64::from(generation) | ANNOUNCED);
        NsRef { inum, generation }
    }
}

/// The kernel's unique id of a namespace (`ns_id`); `0`: it has none. The verifier need not know the pointer.
#[inline(always)]
pub(crate) fn ns_id(ipc_ns: u64) -> u64 {
    if exists(Field::IpcNsId) { kernel_field(ipc_ns, Field::IpcNsId) } else { 0 }
}

/// As [`identify`], without an announcement: for the namespace list, which lists namespaces itself. A namespace that
/// appears for the first time existed before the start: its generation is 1.
#[inline(always)]
pub(crate) fn lookup(inum: u32) -> NsRef {
    let Some(entry) = entry(inum) else {
        return NsRef { inum, generation: 1 };
    };
    // SAFETY: the map gave the pointer.
    let state = unsafe { entry.read_volatile() };
    if state as u32 == 0 {
        // A creation in between writes the same 1.
        // SAFETY: as above.
        unsafe { entry.write_volatile(1) };
        return NsRef { inum, generation: 1 };
    }
    NsRef { inum, generation: state as u32 }
}

/// As [`lookup`], for a namespace in the list of all. While calls are traced, all namespaces that existed at the
/// start are known, so an unknown one is just being created, and has no generation yet: `0`.
#[inline(always)]
pub(crate) fn listed(inum: u32) -> NsRef {
    if !gate().is_open() {
        return lookup(inum);
    }
    let generation = match entry(inum) {
        // SAFETY: the map gave the pointer.
        Some(entry) => unsafe { entry.read_volatile() as u32 },
        None => 1,
    };
    NsRef { inum, generation }
}

#[inline(always)]
fn entry(inum: u32) -> Option<*mut u64> {
    let at = inum.wrapping_sub(FIRST_INUM);
    if at < INUMS {
        return NAMESPACES.get_ptr_mut(at);
    }
    if NAMESPACES_SPILL.get_ptr_mut(&inum).is_none()
        && NAMESPACES_SPILL.insert(&inum, &0, u64::from(BPF_ANY)).is_err()
    {
        counts::diagnose(Diagnostic::NamespaceTableFull);
    }
    NAMESPACES_SPILL.get_ptr_mut(&inum)
}

#[inline(never)]
fn announce(ipc_ns: u64, inum: u32) -> NsRef {
    let ns = lookup(inum);
    if let Some(record) = rings::reserve_control::<NamespaceRecord>(Share::Lifecycle) {
        // SAFETY: the ring has room for a complete record, and every field is written.
        unsafe {
            record.write(NamespaceRecord {
                header: rings::header(RecordKind::Namespace, flag::FOUND),
                boot_ns: bpf_ktime_get_boot_ns(),
                ns,
                ns_id: ns_id(ipc_ns),
                mqueue_dev: 0,
                mq_queues: UNKNOWN_COUNT,
            });
        }
        rings::submit(record);
        mark_announced(inum);
    }
    ns
}

#[inline(always)]
fn mark_announced(inum: u32) {
    if let Some(entry) = entry(inum) {
        // SAFETY: the map gave the pointer.
        unsafe { entry.write_volatile(entry.read_volatile() | ANNOUNCED) };
    }
}
