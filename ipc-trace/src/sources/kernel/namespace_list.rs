//! Lists namespaces, and calls that have not returned.

use std::{
    io,
    io::Read as _,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use super::bpf;
use crate::{
    input::{DecodeError, namespace_list::NamespaceList},
    sources::kernel::decode::{self, IteratorRecord},
};

/// Why a namespace list can't be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceListError {
    /// The iterator can't be read.
    #[error("the list of tasks and namespaces can't be read: {0}")]
    Read(#[from] io::Error),
    /// Its output is malformed.
    #[error("the list of tasks and namespaces is not understood: {0}")]
    Decode(#[from] DecodeError),
    /// The kernel rejects its program.
    #[error("the list of tasks and namespaces can't be had: {0}")]
    Load(String),
    /// It can't be opened.
    #[error("the list of tasks and namespaces can't be opened: {0}")]
    Open(io::Error),
}

/// The output of an iterator's program. After a million objects without output, the kernel requires another read
/// (`bpf_seq_read`, kernel/bpf/bpf_iter.c: EAGAIN).
pub(super) fn listed(program: BorrowedFd<'_>) -> Result<Vec<u8>, NamespaceListError> {
    let mut iterator = bpf::iterate(program).map_err(NamespaceListError::Open)?;
    let mut bytes = Vec::new();
    loop {
        match iterator.read_to_end(&mut bytes) {
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes namespace lists, from any thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lister(Option<Arc<OwnedFd>>);

impl Lister {
    pub(super) fn new(program: OwnedFd) -> Self {
        Self(Some(Arc::new(program)))
    }

    /// The current namespaces and calls. Empty and incomplete if the kernel rejects the program.
    ///
    /// # Errors
    /// The iterator can't be opened or read.
    pub(crate) fn list(&self) -> Result<NamespaceList, NamespaceListError> {
        match &self.0 {
            Some(program) => Ok(from_bytes(&listed(program.as_fd())?)?),
            None => Ok(NamespaceList::default()),
        }
    }
}

fn from_bytes(bytes: &[u8]) -> Result<NamespaceList, DecodeError> {
    let mut namespace_list = NamespaceList::default();
    decode::iterated(bytes, |record| match record {
        IteratorRecord::Alive(r) if r.ns.generation != 0 => {
            namespace_list.alive.push(r.into());
        }
        IteratorRecord::Pending(r, op, abi) => namespace_list.pending.push((*r, op, abi)),
        IteratorRecord::End(r) => {
            namespace_list.boot_ns = r.boot_ns;
            namespace_list.complete = r.is_complete();
            namespace_list.self_pid = r.self_pid;
            namespace_list.self_ns_inum = r.self_ns_inum;
        }
        IteratorRecord::Alive(_)
        | IteratorRecord::Task(_)
        | IteratorRecord::Descriptor(_)
        | IteratorRecord::Mapping(_) => {}
    })?;
    Ok(namespace_list)
}
