//! What is known of processes beside the eBPF programs' records: what `/proc` has, asked for and answered.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{borrow::Cow, sync::Arc};

use ipc_trace_common::record::{ContextRecord, UidExtent};

use super::{
    Arguments,
    raw::{get_all, put_all},
};
use crate::event::{OtherNs, value::OsBytes};

/// What a process was called with.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Called {
    /// Its arguments; `None`: they were not asked for, or can't be read
    pub args: Option<Arc<[OsBytes<'static>]>>,
    /// Whether there are more
    pub truncated: bool,
}

impl Called {
    /// As the eBPF programs read it. `len`: of all arguments. `None`: they are to be found elsewhere.
    #[must_use]
    pub(crate) fn new(arguments: Arguments<'_>, len: u64) -> Option<Self> {
        match arguments {
            Arguments::None => Some(Self::default()),
            Arguments::Unread => None,
            Arguments::Read(bytes) => Some(Self::from_bytes(bytes, len > bytes.len() as u64)),
        }
    }

    /// Of these arguments, each with a NUL behind.
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

/// A process: its number, and when it started, on `CLOCK_BOOTTIME`; 0: not known.
pub(crate) type ProcessId = (u32, u64);

/// Who a thread is, whole: what the eBPF programs sent, and what `/proc` had where that was not all.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The eBPF programs' record
    pub record: Box<ContextRecord>,
    /// What its process was called with
    pub called: Called,
    /// What `/proc` had
    pub found: ProcInfo,
}

/// What `/proc` had of a process, of what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct ProcInfo {
    /// Path of its executable
    pub exe: Option<Vec<u8>>,
    /// What it was called with
    pub called: Option<Called>,
    /// The users of its namespace
    #[borsh(serialize_with = "put_all", deserialize_with = "get_all")]
    pub users: Vec<UidExtent>,
    /// Paths of its ancestors' executables, in the record's order; empty: none was asked for
    pub ancestors: Vec<Option<Vec<u8>>>,
    /// The paths of its cgroup and of its ancestors', by number
    pub cgroups: Vec<(u64, Vec<u8>)>,
}

/// A mapped segment, as `/proc/PID/maps` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Mapped {
    /// Where it starts
    pub start: u64,
    /// The segment's id: the file's inode number
    pub id: i32,
    /// Its key, as the file is called; 0 also of one that was removed
    pub key: u32,
}

/// What was to be seen of a thread that moved, when its move was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct MoveContext {
    /// The segments that its process had mapped; `None`: it is gone, or was not looked at
    pub mapped: Option<Vec<Mapped>>,
    /// Its parent's mount namespace
    pub parent_mnt: Option<u32>,
    /// Whether another process that is in the IPC namespace shares its mount namespace; `None`: none is known to be
    /// in it
    pub lives_with: Option<bool>,
}

/// What the engine wants to know of processes. Each is answered once, in the order of the questions, by an
/// [`InspectorAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InspectorRequest {
    /// The namespaces that a thread is in
    Namespaces(u32),
    /// The segments that a process has mapped
    Mapped(ProcessId),
    /// The map of users of a process's namespace, which was not written yet; `tid` and the number of the context are
    /// given back
    Users {
        /// The process
        process: ProcessId,
        /// The thread
        tid: u32,
        /// Its context
        context: u64,
    },
    /// Which of these threads have ended
    Ended(Vec<u32>),
}

impl InspectorRequest {
    /// The answer of who does not look.
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
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) enum InspectorAnswer {
    /// The thread; when it was looked at, boot time, 0: it was not; the number of its IPC namespace, and the others,
    /// `None`: it is gone, or there is nobody to ask
    Namespaces(u32, u64, Option<(u32, OtherNs)>),
    /// The process, and what it has mapped; `None`: it is gone, or can't be looked at
    Mapped(ProcessId, Option<Vec<Mapped>>),
    /// The thread and its context, and the map; empty: it is not written yet
    Users(
        u32,
        u64,
        #[borsh(serialize_with = "put_all", deserialize_with = "get_all")] Vec<UidExtent>,
    ),
    /// Threads that have ended
    Ended(Vec<u32>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(bytes: &[u8], len: u64) -> (Vec<String>, bool) {
        let called = Called::new(Arguments::Read(bytes), len).unwrap();
        (called.args.unwrap().iter().map(ToString::to_string).collect(), called.truncated)
    }

    #[test]
    fn arguments_are_told_apart_by_nuls() {
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
