//! Information about processes from procfs: requests and answers.

use std::{borrow::Cow, sync::Arc};

use ipc_trace_common::record::{ContextRecord, UidExtent};
use minicbor::{Decode, Encode};

use super::Arguments;
use crate::event::{NsInodes, value::OsBytes};

/// The arguments of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Called {
    /// Its arguments; `None`: they weren't requested, or can't be read.
    #[cbor(n(0), with = "ipc_trace_common::cbor")]
    pub args: Option<Arc<[OsBytes<'static>]>>,
    /// Whether there are more arguments.
    #[n(1)]
    pub truncated: bool,
}

impl Called {
    /// The arguments as the eBPF programs read them. `len`: their total length in bytes. `None`: they must be
    /// read elsewhere.
    #[must_use]
    pub(crate) fn new(arguments: Arguments<'_>, len: u64) -> Option<Self> {
        match arguments {
            Arguments::None => Some(Self::default()),
            Arguments::Unread => None,
            Arguments::Read(bytes) => Some(Self::from_bytes(bytes, len > bytes.len() as u64)),
        }
    }

    /// Splits arguments that are each NUL-terminated.
    #[must_use]
    pub(crate) fn from_bytes(bytes: &[u8], truncated: bool) -> Self {
        Self { args: Some(split(bytes)), truncated }
    }
}

fn split(bytes: &[u8]) -> Arc<[OsBytes<'static>]> {
    if bytes.is_empty() {
        return Arc::default();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|one| OsBytes(Cow::Owned(one.to_vec()))).collect()
}

/// A process: its number, and its start time on `CLOCK_BOOTTIME` in nanoseconds; 0: unknown.
pub(crate) type ProcessId = (u32, u64);

/// A complete context: the record of the eBPF programs, completed from procfs.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The eBPF programs' record
    pub record: Box<ContextRecord>,
    /// The arguments of its process.
    pub called: Called,
    /// What procfs had.
    pub found: ProcInfo,
}

/// Information from procfs about a process, as far as it was requested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ProcInfo {
    /// Path of its executable
    #[cbor(n(0), with = "ipc_trace_common::cbor")]
    pub exe: Option<Vec<u8>>,
    /// Its arguments.
    #[n(1)]
    pub called: Option<Called>,
    /// The uid map of its user namespace.
    #[cbor(n(2), with = "ipc_trace_common::cbor")]
    pub users: Vec<UidExtent>,
    /// Paths of its ancestors' executables, in the record's order; empty: not requested.
    #[cbor(n(3), with = "ipc_trace_common::cbor")]
    pub ancestors: Vec<Option<Vec<u8>>>,
    /// The paths of its cgroup and of its ancestors', by number
    #[cbor(n(4), with = "ipc_trace_common::cbor")]
    pub cgroups: Vec<(u64, Vec<u8>)>,
}

/// A mapped segment, as `/proc/PID/maps` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Mapped {
    /// Where it starts
    #[n(0)]
    pub start: u64,
    /// The segment's id: the file's inode number
    #[n(1)]
    pub id: i32,
    /// Its key, as the file is called; 0 also of one that was removed
    #[n(2)]
    pub key: u32,
}

/// What procfs showed of a thread that switched, when the record was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct MoveContext {
    /// The segments that its process had mapped; `None`: it has exited, or wasn't inspected.
    #[n(0)]
    pub mapped: Option<Vec<Mapped>>,
    /// Its parent's mount namespace
    #[n(1)]
    pub parent_mnt: Option<u32>,
    /// Whether another process in the IPC namespace shares its mount namespace; `None`: no other process is
    /// known there.
    #[n(2)]
    pub lives_with: Option<bool>,
}

/// A request about a process. Each is answered once, in order, by an [`InspectorAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InspectorRequest {
    /// The namespaces of a thread.
    Namespaces(u32),
    /// The segments that a process has mapped.
    Mapped(ProcessId),
    /// The uid map of a process's user namespace, which wasn't written yet; `tid` and the context's number
    /// are returned with the answer.
    Users {
        /// The process
        process: ProcessId,
        /// The thread
        tid: u32,
        /// Its context
        context: u64,
    },
    /// Which of these threads have exited.
    Ended(Vec<u32>),
}

impl InspectorRequest {
    /// The answer of an inspector that doesn't inspect.
    #[must_use]
    pub(crate) fn unanswered(&self) -> InspectorAnswer {
        match self {
            Self::Namespaces(tid) => InspectorAnswer::Namespaces(*tid, 0, None),
            Self::Mapped(process) => InspectorAnswer::Mapped(*process, None),
            Self::Users { tid, context, .. } => InspectorAnswer::Users(*tid, *context, Vec::new()),
            Self::Ended(_) => InspectorAnswer::Ended(Vec::new()),
        }
    }
}

/// The answer to a [`InspectorRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum InspectorAnswer {
    /// The thread; when it was inspected, boot time (0: it wasn't); the number of its IPC namespace, and its
    /// other namespaces; `None`: it has exited, or can't be inspected.
    #[n(0)]
    Namespaces(#[n(0)] u32, #[n(1)] u64, #[n(2)] Option<(u32, NsInodes)>),
    /// The process and its mappings; `None`: it has exited, or can't be inspected.
    #[n(1)]
    Mapped(#[n(0)] ProcessId, #[n(1)] Option<Vec<Mapped>>),
    /// The thread, its context and its uid map; empty: not written yet.
    #[n(2)]
    Users(#[n(0)] u32, #[n(1)] u64, #[cbor(n(2), with = "ipc_trace_common::cbor")] Vec<UidExtent>),
    /// Threads that have exited.
    #[n(3)]
    Ended(#[n(0)] Vec<u32>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(bytes: &[u8], len: u64) -> (Vec<String>, bool) {
        let called = Called::new(Arguments::Read(bytes), len).unwrap();
        (called.args.unwrap().iter().map(ToString::to_string).collect(), called.truncated)
    }

    #[test]
    fn arguments_are_split_at_nuls() {
        assert_eq!(
            called(b"a\0-b\0\0c\0", 8),
            (["a", "-b", "", "c"].map(str::to_owned).into(), false)
        );
        assert_eq!(called(b"a\0bc", 9), (["a", "bc"].map(str::to_owned).into(), true));
        assert_eq!(called(b"", 0), (vec![], false));
        assert_eq!(Called::new(Arguments::None, 0), Some(Called::default()));
        assert_eq!(Called::new(Arguments::Unread, 7), None);
    }
}
