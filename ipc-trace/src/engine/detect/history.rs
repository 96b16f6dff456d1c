//! What there was before: in which namespaces processes were, and which keys and names a namespace had.
//!
//! Invariant: what is remembered is bounded: processes that moved, at most [`PROCESSES`] with [`EACH`]
//! namespaces each, and as many keys and names as [`TwoGenCache`] holds.

use std::collections::VecDeque;

use ipc_trace_common::{
    op::Family,
    record::{NsRef, NsSwitchKind},
};

use super::observation::{FindingActor, NamespaceMove};
use crate::input::process::ProcessId;
use crate::{
    engine::track::{
        HashMap,
        contexts::TaskInfo,
        objects::{ObjectChange, index::LookupKey, tracked::ObjectId},
        two_gen::TwoGenCache,
    },
    event::{objects::ObjectLife, value::OsBytes},
};

/// Processes that are remembered.
const PROCESSES: usize = 1 << 13;
/// Namespaces of one process.
const EACH: usize = 8;

/// A key, an id or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LookupHandle {
    /// A key of a kind
    Key(Family, u32),
    /// An id of a kind
    Id(Family, i32),
    /// A queue's name
    Name(Box<[u8]>),
}

impl LookupHandle {
    pub(super) fn from_lookup(sought: LookupKey<'_>) -> Self {
        match sought {
            LookupKey::Key(kind, key) => Self::Key(kind, key),
            LookupKey::Id(kind, id) => Self::Id(kind, id),
            LookupKey::Name(name) => Self::Name(name.into()),
        }
    }

    /// The key or name that an object has, or had.
    pub(super) fn of_change(change: &ObjectChange) -> Option<Self> {
        match change.local {
            ObjectId::Sysv(kind, _) => {
                // 0 is IPC_PRIVATE, by which nothing is found.
                change.one.key.filter(|key| *key != 0).map(|key| Self::Key(kind, key))
            }
            ObjectId::Queue(..) => change.one.name.clone().map(Self::Name),
        }
    }
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Namespaces that processes left, and what they ran then
    was: HashMap<ProcessId, Vec<(NsRef, OsBytes<'static>)>>,
    order: VecDeque<ProcessId>,
    had: TwoGenCache<(NsRef, LookupHandle), ()>,
}

impl Past {
    /// A thread moved, or was made in a new namespace.
    pub(super) fn moved(&mut self, moved: &NamespaceMove<'_>) {
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        let record = moved.record;
        // A clone has all that its parent remembers.
        let who = if record.way == CLONE { moved.child } else { moved.mover };
        if let Some(facts) = who {
            self.left(facts, record.from);
        }
    }

    fn left(&mut self, facts: &TaskInfo, ns: NsRef) {
        let Some(exe) = &facts.exe else { return };
        let process = (facts.pid, facts.start_boot_ns);
        if !self.was.contains_key(&process) {
            while self.was.len() >= PROCESSES {
                let Some(oldest) = self.order.pop_front() else { break };
                self.was.remove(&oldest);
            }
            self.order.push_back(process);
        }
        let was = self.was.entry(process).or_default();
        if was.iter().any(|(known, ran)| *known == ns && ran == exe) {
            return;
        }
        if was.len() >= EACH {
            was.remove(0);
        }
        was.push((ns, exe.clone()));
    }

    /// Whether a process, or one that it descends from, was in a namespace, as the program that it is now:
    /// who executes another one remembers nothing.
    pub(super) fn was_in(&self, who: &FindingActor<'_>, ns: NsRef) -> bool {
        let Some(facts) = who.facts else { return false };
        let Some(exe) = &facts.exe else { return false };
        let own = (facts.pid, facts.start_boot_ns);
        let ancestry = facts.identity.ancestry.iter().flat_map(|all| all.iter());
        let mut all = std::iter::once(own).chain(ancestry.map(|one| (one.pid, one.start_boot_ns)));
        all.any(|process| {
            let was = self.was.get(&process);
            was.is_some_and(|was| was.iter().any(|(known, ran)| *known == ns && ran == exe))
        })
    }

    /// Something happened to an object.
    pub(super) fn object(&mut self, change: &ObjectChange) {
        match change.life {
            ObjectLife::Removed | ObjectLife::Destroyed => {
                if let Some(handle) = LookupHandle::of_change(change) {
                    self.had.insert((change.ns, handle), ());
                }
            }
            ObjectLife::Created | ObjectLife::Present | ObjectLife::Changed => {}
        }
    }

    /// Whether something in a namespace had that key or name, and has gone.
    pub(super) fn had(&self, ns: NsRef, handle: &LookupHandle) -> bool {
        self.had.get(&(ns, handle.clone())).is_some()
    }
}
