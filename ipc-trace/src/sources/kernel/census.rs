//! What exists now: namespaces, and calls that have not returned.

use std::{io, io::Read as _, os::fd::BorrowedFd};

use ipc_trace_common::{
    op::{Abi, Op},
    record::{NamespaceRecord, NsRef, PendingRecord, flag},
};

use super::bpf;
use crate::{
    input::DecodeError,
    sources::kernel::decode::{self, Record},
};

/// Why a census can't be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CensusError {
    /// The iterator can't be read.
    #[error("the list of tasks and namespaces can't be read: {0}")]
    Read(#[from] io::Error),
    /// It gave something else.
    #[error("the list of tasks and namespaces is not understood: {0}")]
    Decode(#[from] DecodeError),
    /// The kernel does not take its program.
    #[error("the list of tasks and namespaces can't be had: {0}")]
    Load(String),
    /// It can't be opened.
    #[error("the list of tasks and namespaces can't be opened: {0}")]
    Open(io::Error),
}

/// All that an iterator's program writes. After a million objects of which it wrote nothing, it wants to be
/// asked again (`bpf_seq_read`, kernel/bpf/bpf_iter.c: EAGAIN).
pub(super) fn listed(program: BorrowedFd<'_>) -> Result<Vec<u8>, CensusError> {
    let mut iterator = bpf::iterate(program).map_err(CensusError::Open)?;
    let mut bytes = Vec::new();
    loop {
        match iterator.read_to_end(&mut bytes) {
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

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

impl Census {
    /// Reads what the census's program writes.
    ///
    /// # Errors
    /// It can't be read, or what it gave is no census.
    pub(super) fn read(program: BorrowedFd<'_>) -> Result<Self, CensusError> {
        Ok(Self::from_bytes(&listed(program)?)?)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut census = Self::default();
        decode::iterated(bytes, |record| match record {
            Record::Alive(r) if r.ns.generation != 0 => {
                census.alive.push(r.into());
            }
            Record::Pending(r, op, abi) => census.pending.push((*r, op, abi)),
            Record::End(r) => {
                census.boot_ns = r.boot_ns;
                census.complete = r.header.flags & flag::TRUNCATED == 0 && r.namespaces != u64::MAX;
                census.self_pid = r.self_pid;
                census.self_ns_inum = r.self_ns_inum;
            }
            Record::Alive(_)
            | Record::Call(_)
            | Record::Context(..)
            | Record::Namespace(_)
            | Record::Move(_)
            | Record::Exit(_)
            | Record::Queue(_)
            | Record::Task(_)
            | Record::Descriptor(_)
            | Record::Mapping(_)
            | Record::Change(_)
            | Record::Batch(_)
            | Record::Cgroup(_)
            | Record::Access(_)
            | Record::Unknown => {}
        })?;
        Ok(census)
    }
}
