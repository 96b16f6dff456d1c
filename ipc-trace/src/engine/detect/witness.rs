//! What is looked up on the host when something was seen: what is mapped, which
//! namespaces a thread is in now.
//!
//! Classes are fed by events; this adds what no event tells. On a recording there is nobody to ask, and
//! classes do with less.

use std::fmt;

use super::sighting::ProcessKey;
use crate::event::OtherNs;

/// A mapped segment, as `/proc/PID/maps` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Where it starts
    pub start: u64,
    /// The segment's id: the file's inode number
    pub id: i32,
    /// Its key, as the file is called; 0 also of one that was removed
    pub key: u32,
}

/// Who can be asked about processes.
pub(crate) trait Witness: fmt::Debug {
    /// The segments that a process has mapped; `None`: it is gone, or can't be looked at.
    fn mapped(&self, process: ProcessKey) -> Option<Vec<Mapped>>;

    /// The namespaces that a thread is in now, with the number of its IPC namespace.
    fn namespaces(&self, tid: u32) -> Option<(u32, OtherNs)>;

    /// Whether a process that is in an IPC namespace, other than `but`, is in this mount namespace.
    /// `None`: none is known to be in it.
    fn lives_with(&self, ipc_ns: u32, mnt_ns: u32, but: u32) -> Option<bool>;
}

/// There is nobody to ask.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nobody;

impl Witness for Nobody {
    fn mapped(&self, _: ProcessKey) -> Option<Vec<Mapped>> {
        None
    }

    fn namespaces(&self, _: u32) -> Option<(u32, OtherNs)> {
        None
    }

    fn lives_with(&self, _: u32, _: u32, _: u32) -> Option<bool> {
        None
    }
}
