//! The users of an object: processes, and their containers and uids.

use ipc_trace_common::record::NsRef;
use minicbor::{Decode, Encode};

use super::AppliedCall;
use crate::event::shared::SharedState;
use crate::{engine::track::containers::ContainerHandle, input::process::ProcessId};

/// Number of processes kept per object, and of accessors.
const MAX_USERS: usize = 8;

/// A container, uid and namespace from which an object was used.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Accessor {
    /// The container; `None`: the host.
    #[n(0)]
    pub container: Option<ContainerHandle>,
    /// The effective user
    #[n(1)]
    pub uid: u32,
    /// The caller's namespace: a queue can be used from another one than its own.
    #[n(2)]
    pub ns: NsRef,
}

impl Accessor {
    fn from_call(applied: &AppliedCall<'_>) -> Option<Self> {
        // Without its task the container is unknown.
        let task_info = applied.task_info?;
        Some(Self { container: task_info.container.clone(), uid: applied.uid, ns: applied.ns })
    }

    fn is(&self, other: &Self) -> bool {
        (self.uid, self.ns) == (other.uid, other.ns) && self.is_in(other.container.as_ref())
    }

    /// Whether it is in that container.
    #[must_use]
    pub(crate) fn is_in(&self, container: Option<&ContainerHandle>) -> bool {
        self.container.as_ref() == container
    }
}

/// The processes that used an object. Most objects aren't used while they are traced.
#[derive(Clone, Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct ObjectUsers(#[n(0)] Option<Box<Used>>);

#[derive(Clone, Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct Used {
    #[n(0)]
    by: Vec<ProcessId>,
    /// Whether there are further processes.
    #[n(1)]
    more: bool,
    /// Their containers and uids; the first ones, if there are many.
    #[n(2)]
    accessors: Vec<Accessor>,
}

impl ObjectUsers {
    /// Adds a process that isn't the last user. Returns whether its container or uid is new.
    pub(super) fn add(&mut self, applied: &AppliedCall<'_>) -> bool {
        let used = self.0.get_or_insert_default();
        let known = applied.task_info.map(|task_info| (applied.pid, task_info.start_boot_ns));
        match known {
            None => used.more = true,
            // Usually it is the last user.
            Some(key) if used.by.iter().rev().any(|one| *one == key) => {}
            Some(_) if used.by.len() == MAX_USERS => used.more = true,
            Some(key) => used.by.push(key),
        }
        let Some(accessor) = Accessor::from_call(applied) else { return false };
        if used.accessors.iter().any(|one| one.is(&accessor)) || used.accessors.len() == MAX_USERS {
            return false;
        }
        used.accessors.push(accessor);
        true
    }

    /// The processes kept.
    pub(super) fn processes(&self) -> &[ProcessId] {
        self.0.as_ref().map_or(&[], |used| used.by.as_slice())
    }

    /// Their containers and uids in order of first use.
    pub(super) fn accessors(&self) -> &[Accessor] {
        self.0.as_ref().map_or(&[], |used| used.accessors.as_slice())
    }

    /// Whether all have exited; `None`: unknown.
    pub(super) fn gone(&self, lives: &dyn Fn(ProcessId) -> bool) -> Option<bool> {
        let used = self.0.as_ref()?;
        if used.by.iter().any(|one| lives(*one)) {
            return Some(false);
        }
        (!used.more && !used.by.is_empty()).then_some(true)
    }
}
