//! The namespace list: existing namespaces and pending calls at one moment, as the eBPF programs list them.

use ipc_trace_common::{
    op::{Abi, Op},
    record::{NamespaceRecord, NsRef, PendingRecord},
};
use minicbor::{Decode, Encode};

/// A namespace that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Alive {
    /// The namespace.
    #[cbor(n(0), with = "ipc_trace_common::cbor")]
    pub ns: NsRef,
    /// The kernel's own number
    #[n(1)]
    pub ns_id: Option<u64>,
}

impl From<&NamespaceRecord> for Alive {
    fn from(record: &NamespaceRecord) -> Self {
        let NamespaceRecord { ns, ns_id, .. } = *record;
        Self { ns, ns_id: (ns_id != 0).then_some(ns_id) }
    }
}

/// A namespace list.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct NamespaceList {
    /// When the listing began, on `CLOCK_BOOTTIME`, nanoseconds.
    #[n(0)]
    pub boot_ns: u64,
    /// The namespaces
    #[n(1)]
    pub alive: Vec<Alive>,
    /// Whether all namespaces are listed.
    #[n(2)]
    pub complete: bool,
    /// Calls that have not returned
    #[cbor(n(3), with = "ipc_trace_common::cbor")]
    pub pending: Vec<(PendingRecord, Op, Abi)>,
    /// This process, in the initial pid namespace
    #[n(4)]
    pub self_pid: u32,
    /// Inode number of this process's IPC namespace, read as the programs read it.
    #[n(5)]
    pub self_ns_inum: u32,
}
