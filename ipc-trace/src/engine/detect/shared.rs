//! Containers and users that meet at an object, and in the host's namespace: what is the same for the
//! classes that speak of that.
//!
//! Whether sharing is deliberate is the runtime's word, and that can come late. So what depends on it
//! waits until it is known, at most [`PATIENCE_NS`], and is amended when more is learnt afterwards.
//!
//! Invariant: what is remembered is bounded: findings that may be amended and objects whose use is counted,
//! at most [`KEPT`] each; what has no room is told at once.

use std::sync::Arc;

use ipc_trace_common::record::NsRef;

use super::{
    observation::{EvidenceEvent, FindingDraft, FindingKey, FindingTarget},
    store::FindingStore,
};
use crate::{
    engine::track::containers::{ContainerHandle, Containers, sharing},
    engine::track::{
        HashMap, Tracker,
        namespaces::is_host,
        objects::tracked::{ObjectId, TrackedObject},
    },
    event::{Container, Sharing},
};

/// Findings that may be amended, and objects whose use is counted.
const KEPT: usize = 2048;
/// So long a runtime's word is waited for.
const PATIENCE_NS: u64 = 3_000_000_000;

/// Containers that share a namespace, as a class tells of them.
#[derive(Clone, Debug)]
pub(super) struct SharedUse {
    /// The finding
    pub(super) key: FindingKey,
    /// The namespace
    pub(super) ns: NsRef,
    /// Who came to use what another one has
    pub(super) subject: ContainerHandle,
    /// The other one, of `cross-container`
    pub(super) other: Option<ContainerHandle>,
    /// What they share, as a title says it; of `cross-container`
    pub(super) object: String,
    /// What is the same whatever the runtimes say
    pub(super) draft: FindingDraft,
    /// What there is to say, as the runtimes' word stands
    pub(super) say: fn(&Self, &Containers, Sharing) -> FindingDraft,
}

impl SharedUse {
    fn containers(&self, all: &Containers) -> Vec<Arc<Container>> {
        self.other.iter().chain([&self.subject]).map(|handle| all.container(handle)).collect()
    }

    fn sharing(&self, containers: &[Arc<Container>]) -> Sharing {
        sharing::classify_sharing(containers, is_host(self.ns)).unwrap_or(Sharing::Unknown)
    }

    /// What there is to say. `own`: its containers, of all.
    fn draft(&self, own: &[Arc<Container>], all: &Containers) -> FindingDraft {
        (self.say)(self, all, self.sharing(own))
    }
}

/// One of those, from when it was seen.
#[derive(Debug)]
struct Open {
    shared: SharedUse,
    /// Calls that no finding has counted
    traces: EvidenceEvent,
    due: u64,
    /// What the finding says of the containers; `None`: it waits
    told: Option<Vec<Arc<Container>>>,
}

/// An object whose use is counted.
#[derive(Debug)]
struct Uses {
    ns: NsRef,
    local: ObjectId,
    counted: u64,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct SharingTracker {
    open: HashMap<FindingKey, Open>,
    forgot: u64,
    uses: HashMap<FindingKey, Uses>,
}

impl SharingTracker {
    /// Whether containers share something, and it is followed what becomes known of them.
    pub(super) fn is_open(&self, key: &FindingKey) -> bool {
        self.open.contains_key(key)
    }

    /// Calls of containers that share something. Whether these are known to share it.
    pub(super) fn again(&mut self, key: &FindingKey, trace: &EvidenceEvent) -> bool {
        let Some(open) = self.open.get_mut(key) else { return false };
        open.traces.count = open.traces.count.saturating_add(trace.count);
        open.traces.boot_ns = open.traces.boot_ns.max(trace.boot_ns);
        true
    }

    /// From now on, calls on an object count for a finding.
    pub(super) fn count(
        &mut self,
        key: &FindingKey,
        (ns, local): (NsRef, ObjectId),
        one: &TrackedObject,
        to: &FindingStore,
    ) {
        if self.uses.len() >= KEPT {
            let open = &self.open;
            self.uses.retain(|key, _| open.contains_key(key) || to.draft(key).is_some());
        }
        if self.uses.len() < KEPT {
            self.uses.insert(key.clone(), Uses { ns, local, counted: one.uses });
        }
    }

    /// Forgets what can't be amended any more, if there is no room.
    pub(super) fn make_room(&mut self, to: &FindingStore) {
        if self.open.len() >= KEPT {
            self.open.retain(|key, one| one.told.is_none() || to.draft(key).is_some());
            self.forgot += 1;
        }
    }

    /// How often something was forgotten: what others know of it is to be forgotten, too.
    pub(super) const fn forgot(&self) -> u64 {
        self.forgot
    }

    /// Containers share something. Whether what becomes known of them is followed.
    pub(super) fn open(
        &mut self,
        shared: SharedUse,
        trace: EvidenceEvent,
        all: &Containers,
        to: &mut FindingStore,
    ) -> bool {
        self.make_room(to);
        let containers = shared.containers(all);
        let full = self.open.len() >= KEPT;
        let key = shared.key.clone();
        if full {
            to.saw(key, trace, || shared.draft(&containers, all));
            return false;
        }
        let due = trace.boot_ns.saturating_add(PATIENCE_NS);
        let known = shared.sharing(&containers) != Sharing::Unknown;
        let mut open = Open { shared, traces: trace, due, told: None };
        if known {
            open.report(containers, all, to);
        }
        self.open.insert(key, open);
        true
    }

    /// Time went on.
    pub(super) fn tick(&mut self, now: u64, tracker: &Tracker, to: &mut FindingStore) {
        let all = &tracker.containers;
        for open in self.open.values_mut() {
            let containers = open.shared.containers(all);
            let known = || open.shared.sharing(&containers) != Sharing::Unknown;
            if open.told.is_some() || now >= open.due || known() {
                open.report(containers, all, to);
            }
        }
        self.count_uses(now, tracker, to);
    }

    fn count_uses(&mut self, now: u64, tracker: &Tracker, to: &mut FindingStore) {
        self.uses.retain(|key, uses| {
            let Some(one) = tracker.objects.get(uses.ns, uses.local) else { return false };
            let new = one.uses.saturating_sub(uses.counted);
            // What waits is not told of yet.
            if new > 0 && to.draft(key).is_some() {
                uses.counted = one.uses;
                let boot_ns = one.last_seen().unwrap_or(now);
                to.saw_again(key, calls(boot_ns, new));
            }
            true
        });
    }

    /// Nothing comes any more.
    pub(super) fn finish(&mut self, now: u64, tracker: &Tracker, to: &mut FindingStore) {
        let all = &tracker.containers;
        for open in self.open.values_mut() {
            open.report(open.shared.containers(all), all, to);
        }
        self.count_uses(now, tracker, to);
    }
}

/// Calls on an object, by whomever.
fn calls(boot_ns: u64, count: u64) -> EvidenceEvent {
    EvidenceEvent { boot_ns, seq: None, what: "call".into(), ret: None, error: None, count }
}

impl Open {
    /// Tells of it, as it is known now, and of what came since.
    fn report(&mut self, containers: Vec<Arc<Container>>, all: &Containers, to: &mut FindingStore) {
        let Self { shared, traces, told, due: _ } = self;
        let key = &shared.key;
        match told {
            None => to.saw(key.clone(), traces.clone(), || shared.draft(&containers, all)),
            Some(said) => {
                let same = said.iter().zip(&containers).all(|(a, b)| Arc::ptr_eq(a, b));
                if !same {
                    let draft = shared.draft(&containers, all);
                    to.amend(key, |known| *known = draft);
                }
                if traces.count > 0 {
                    to.saw_again(key, traces.clone());
                }
            }
        }
        *traces = calls(traces.boot_ns, 0);
        *told = Some(containers);
    }
}

/// What a finding is about, where that is an object.
pub(super) const fn target(ns: NsRef, local: ObjectId) -> FindingTarget {
    match local {
        ObjectId::Sysv(kind, id) => FindingTarget::Sysv(ns, kind, id),
        ObjectId::Queue(dev, ino) => FindingTarget::Queue(dev, ino),
    }
}
