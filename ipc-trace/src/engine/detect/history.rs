//! The history: in which namespaces processes were, and which keys and names namespaces had.
//!
//! Invariant: state is bounded: at most [`MAX_PROCESSES`] processes that switched, with
//! [`MAX_NAMESPACES_PER_PROCESS`] namespaces each, and as many keys and names as [`TwoGenCache`] holds.

use std::collections::VecDeque;

use ipc_trace_common::{
    op::ObjectKind,
    record::{NsRef, NsSwitchKind},
};
use minicbor::{Decode, Encode};

use super::observation::{FindingActor, NamespaceMove};
use crate::input::process::ProcessId;
use crate::{
    engine::track::{
        OrderedMap,
        contexts::TaskInfo,
        objects::{ObjectChange, index::LookupKey, tracked::ObjectId},
        two_gen::TwoGenCache,
    },
    event::{objects::ObjectEventKind, value::OsBytes},
};

/// Number of processes kept.
const MAX_PROCESSES: usize = 1 << 13;
/// Number of namespaces kept per process.
const MAX_NAMESPACES_PER_PROCESS: usize = 8;

/// A key, an id or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) enum LookupHandle {
    /// A key of a kind
    #[n(0)]
    Key(#[n(0)] ObjectKind, #[n(1)] u32),
    /// An id of a kind
    #[n(1)]
    Id(#[n(0)] ObjectKind, #[n(1)] i32),
    /// A queue's name
    #[n(2)]
    Name(#[n(0)] Box<[u8]>),
}

impl LookupHandle {
    pub(super) fn from_lookup(sought: LookupKey<'_>) -> Self {
        match sought {
            LookupKey::Key(kind, key) => Self::Key(kind, key),
            LookupKey::Id(kind, id) => Self::Id(kind, id),
            LookupKey::Name(name) => Self::Name(name.into()),
        }
    }

    /// The current or former key or name of an object.
    pub(super) fn of_change(change: &ObjectChange) -> Option<Self> {
        match change.local {
            ObjectId::Sysv(kind, _) => {
                // 0 is IPC_PRIVATE, which no lookup finds.
                change.one.key.filter(|key| *key != 0).map(|key| Self::Key(kind, key))
            }
            ObjectId::Queue(..) => change.one.name.clone().map(Self::Name),
        }
    }
}

/// The history of processes and namespaces.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct NamespaceHistory {
    /// The namespaces that each process left, with its executable at the time.
    #[n(0)]
    was: OrderedMap<ProcessId, Vec<(NsRef, OsBytes<'static>)>>,
    #[n(1)]
    order: VecDeque<ProcessId>,
    #[n(2)]
    had: TwoGenCache<(NsRef, LookupHandle), ()>,
}

impl NamespaceHistory {
    /// A thread switched namespaces, or was created in a new one.
    pub(super) fn moved(&mut self, moved: &NamespaceMove<'_>) {
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        let record = moved.record;
        // A clone inherits its parent's history.
        let who = if record.way == CLONE { moved.child } else { moved.mover };
        if let Some(task_info) = who {
            self.left(task_info, record.from);
        }
    }

    fn left(&mut self, task_info: &TaskInfo, ns: NsRef) {
        let Some(exe) = &task_info.exe else { return };
        let process = (task_info.pid, task_info.start_boot_ns);
        if !self.was.contains_key(&process) {
            while self.was.len() >= MAX_PROCESSES {
                let Some(oldest) = self.order.pop_front() else { break };
                self.was.remove(&oldest);
            }
            self.order.push_back(process);
        }
        let was = self.was.entry(process).or_default();
        if was.iter().any(|(known, ran)| *known == ns && ran == exe) {
            return;
        }
        if was.len() >= MAX_NAMESPACES_PER_PROCESS {
            was.remove(0);
        }
        was.push((ns, exe.clone()));
    }

    /// Whether a process or an ancestor was in a namespace while running the current program: exec clears
    /// memory.
    pub(super) fn was_in(&self, who: &FindingActor<'_>, ns: NsRef) -> bool {
        let Some(task_info) = who.task_info else { return false };
        let Some(exe) = &task_info.exe else { return false };
        let own = (task_info.pid, task_info.start_boot_ns);
        let ancestry = task_info.identity.ancestry.iter().flat_map(|all| all.iter());
        let mut all = std::iter::once(own).chain(ancestry.map(|one| (one.pid, one.start_boot_ns)));
        all.any(|process| {
            let was = self.was.get(&process);
            was.is_some_and(|was| was.iter().any(|(known, ran)| *known == ns && ran == exe))
        })
    }

    /// An object changed.
    pub(super) fn object(&mut self, change: &ObjectChange) {
        match change.life {
            ObjectEventKind::Removed | ObjectEventKind::Destroyed => {
                if let Some(handle) = LookupHandle::of_change(change) {
                    self.had.insert((change.ns, handle), ());
                }
            }
            ObjectEventKind::Created | ObjectEventKind::Present | ObjectEventKind::Changed => {}
        }
    }

    /// Whether a removed object of the namespace had this key or name.
    pub(super) fn had(&self, ns: NsRef, handle: &LookupHandle) -> bool {
        self.had.get(&(ns, handle.clone())).is_some()
    }
}
