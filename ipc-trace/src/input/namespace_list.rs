//! The namespace list: existing namespaces and pending calls at one moment, as the eBPF programs list them.

use super::raw;
use borsh::{BorshDeserialize, BorshSerialize, io};
use ipc_trace_common::{
    op::{Abi, Op},
    record::{NamespaceRecord, NsRef, PendingRecord},
};

/// A namespace that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Alive {
    /// The namespace.
    #[borsh(serialize_with = "super::raw::put", deserialize_with = "super::raw::get")]
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

/// A namespace list.
#[derive(Clone, Debug, Default, BorshSerialize, BorshDeserialize)]
pub(crate) struct NamespaceList {
    /// When the listing began, on `CLOCK_BOOTTIME`, nanoseconds.
    pub boot_ns: u64,
    /// The namespaces
    pub alive: Vec<Alive>,
    /// Whether all namespaces are listed.
    pub complete: bool,
    /// Calls that have not returned
    #[borsh(serialize_with = "put_pending", deserialize_with = "get_pending")]
    pub pending: Vec<(PendingRecord, Op, Abi)>,
    /// This process, in the initial pid namespace
    pub self_pid: u32,
    /// Inode number of this process's IPC namespace, read as the programs read it.
    pub self_ns_inum: u32,
}

fn put_pending<W: io::Write>(all: &[(PendingRecord, Op, Abi)], to: &mut W) -> io::Result<()> {
    raw::put_len(all.len(), to)?;
    for (record, op, abi) in all {
        raw::put(record, to)?;
        [*op as u8, *abi as u8].serialize(to)?;
    }
    Ok(())
}

fn get_pending<R: io::Read>(from: &mut R) -> io::Result<Vec<(PendingRecord, Op, Abi)>> {
    let len = u32::deserialize_reader(from)?;
    (0..len).map(|_| Ok((raw::get(from)?, raw::op(from)?, raw::abi(from)?))).collect()
}
