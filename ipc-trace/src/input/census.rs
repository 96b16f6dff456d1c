//! What existed at one moment, as the kernel side lists it.

use ipc_trace_common::{
    op::{Abi, Op},
    record::{NamespaceRecord, NsRef, PendingRecord},
};

/// A namespace that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alive {
    /// Which
    pub ns: NsRef,
    /// The kernel's own number
    pub ns_id: Option<u64>,
}

impl From<&NamespaceRecord> for Alive {
    fn from(record: &NamespaceRecord) -> Self {
        let NamespaceRecord { ns, ns_id, .. } = *record;
        Self { ns, ns_id: (ns_id != 0).then_some(ns_id) }
    }
}

/// What existed at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    /// When it began, on `CLOCK_BOOTTIME`, nanoseconds
    pub boot_ns: u64,
    /// The namespaces
    pub alive: Vec<Alive>,
    /// Whether these are all
    pub complete: bool,
    /// Calls that have not returned
    pub pending: Vec<(PendingRecord, Op, Abi)>,
    /// This process, in the initial pid namespace
    pub self_pid: u32,
    /// Inode number of this process's IPC namespace, by the way that the programs take
    pub self_ns_inum: u32,
}
