//! Who has used an object: processes, and the containers and users that they belong to.

use ipc_trace_common::record::NsRef;

use super::AppliedCall;
use crate::engine::track::containers::ContainerHandle;

/// A process for good: its number, and when it started.
pub(super) type ProcessKey = (u32, u64);

/// Users of an object that are told apart, and parties.
const USERS: usize = 8;

/// In which container, as which user and from which namespace an object was used.
#[derive(Clone, Debug)]
pub(crate) struct Accessor {
    /// The container; `None`: none, on the host
    pub container: Option<ContainerHandle>,
    /// The effective user
    pub uid: u32,
    /// The caller's namespace: a queue can be used from another one than its own
    pub ns: NsRef,
}

impl Accessor {
    fn from_call(act: &AppliedCall<'_>) -> Option<Self> {
        // Without facts it is not known whether it is in a container.
        let facts = act.facts?;
        Some(Self { container: facts.container.clone(), uid: act.uid, ns: act.ns })
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

/// Processes that used an object. Most objects of a host are not used while it is traced.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectUsers(Option<Box<Used>>);

#[derive(Clone, Debug, Default)]
struct Used {
    by: Vec<ProcessKey>,
    /// By others, too
    more: bool,
    /// What they belong to; some of them, if they are many
    parties: Vec<Accessor>,
}

impl ObjectUsers {
    /// A process used it that did not use it last. Whether it belongs to a party that is new.
    pub(super) fn add(&mut self, act: &AppliedCall<'_>) -> bool {
        let used = self.0.get_or_insert_default();
        let known = act.facts.map(|facts| (act.pid, facts.start_boot_ns));
        match known {
            None => used.more = true,
            // Mostly it is the one that used it last.
            Some(key) if used.by.iter().rev().any(|one| *one == key) => {}
            Some(_) if used.by.len() == USERS => used.more = true,
            Some(key) => used.by.push(key),
        }
        let Some(party) = Accessor::from_call(act) else { return false };
        if used.parties.iter().any(|one| one.is(&party)) || used.parties.len() == USERS {
            return false;
        }
        used.parties.push(party);
        true
    }

    /// Those that are known.
    pub(super) fn processes(&self) -> &[ProcessKey] {
        self.0.as_ref().map_or(&[], |used| used.by.as_slice())
    }

    /// What they belong to, the first first.
    pub(super) fn parties(&self) -> &[Accessor] {
        self.0.as_ref().map_or(&[], |used| used.parties.as_slice())
    }

    /// Whether all have ended; `None` where that is not known.
    pub(super) fn gone(&self, lives: &dyn Fn(ProcessKey) -> bool) -> Option<bool> {
        let used = self.0.as_ref()?;
        if used.by.iter().any(|one| lives(*one)) {
            return Some(false);
        }
        (!used.more && !used.by.is_empty()).then_some(true)
    }
}
