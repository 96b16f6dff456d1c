//! Containers and users that share an object or the host's namespace: the state of the sharing detectors.
//!
//! Whether sharing is configured is known from runtime metadata, which may arrive late. So the draft waits
//! for it, at most [`RUNTIME_WAIT_NS`], and is amended when more arrives afterwards.
//!
//! Invariant: state is bounded: at most [`MAX_TRACKED`] findings that may be amended, and as many objects
//! whose use is counted; a finding beyond that is reported at once.

use std::sync::Arc;

use ipc_trace_common::record::NsRef;
use minicbor::{Decode, Encode};

use super::{
    finding_store::FindingStore,
    observation::{EvidenceEvent, FindingDraft, FindingKey, FindingTarget},
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::containers::{ContainerHandle, Containers, sharing},
    engine::track::{
        OrderedMap, Tracker,
        namespaces::is_host,
        objects::tracked::{ObjectId, TrackedObject},
    },
    event::{
        Container, Sharing,
        finding::Severity,
        tag::{ContainerTag, NsTag},
    },
};

/// Number of findings that may be amended, and of objects whose use is counted.
const MAX_TRACKED: usize = 2048;
/// How long a finding waits for runtime metadata, nanoseconds.
const RUNTIME_WAIT_NS: u64 = 3_000_000_000;

/// What containers share.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) enum SharedThing {
    /// The host's namespace
    #[n(0)]
    HostNamespace,
    /// An object, as in the title, with the other container
    #[n(1)]
    Object(#[n(0)] String, #[n(1)] ContainerHandle),
}

/// Containers that share a namespace, as a detector reports them.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct SharedUse {
    /// The key of the finding.
    #[n(0)]
    pub(super) key: FindingKey,
    /// The namespace.
    #[n(1)]
    pub(super) ns: NsRef,
    /// The container that came second.
    #[n(2)]
    pub(super) subject: ContainerHandle,
    /// What is shared
    #[n(3)]
    pub(super) shared: SharedThing,
    /// The draft without the runtimes' metadata.
    #[n(4)]
    pub(super) draft: FindingDraft,
}

impl SharedUse {
    /// The other container, if one is known.
    const fn other(&self) -> Option<&ContainerHandle> {
        match &self.shared {
            SharedThing::HostNamespace => None,
            SharedThing::Object(_, other) => Some(other),
        }
    }

    fn containers(&self, all: &Containers) -> Vec<Arc<Container>> {
        self.other()
            .into_iter()
            .chain([&self.subject])
            .map(|handle| all.container(handle))
            .collect()
    }

    fn sharing(&self, containers: &[Arc<Container>]) -> Sharing {
        sharing::classify_sharing(containers, is_host(self.ns)).unwrap_or(Sharing::Unknown)
    }

    /// The draft for the current metadata. `own`: the containers involved.
    fn draft(&self, own: &[Arc<Container>], all: &Containers) -> FindingDraft {
        let mut draft = self.draft.clone();
        let container = all.container(&self.subject);
        let subject = ContainerTag(&container);
        draft.title = match &self.shared {
            SharedThing::HostNamespace => {
                format!("container {subject} uses the host's IPC namespace")
            }
            SharedThing::Object(object, other) => format!(
                "container {subject} shares {object} with container {} in namespace {}",
                ContainerTag(&all.container(other)),
                NsTag::new(self.ns.inum, self.ns.generation),
            ),
        };
        apply_sharing(&mut draft, self.sharing(own), &container);
        draft
    }
}

/// A shared use that may still be amended.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct OpenSharing {
    #[n(0)]
    shared: SharedUse,
    /// Calls not yet counted in the finding.
    #[n(1)]
    traces: EvidenceEvent,
    #[n(2)]
    due: u64,
    /// The containers as reported; `None`: the finding waits for metadata.
    #[cbor(n(3), with = "ipc_trace_common::cbor")]
    reported: Option<Vec<Arc<Container>>>,
}

/// An object whose uses are counted for a finding.
#[derive(Debug, Encode, Decode)]
struct CountedUses {
    #[n(0)]
    ns: NsRef,
    #[n(1)]
    local: ObjectId,
    #[n(2)]
    counted: u64,
}

/// The state of the sharing detectors.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct SharingTracker {
    #[n(0)]
    open: OrderedMap<FindingKey, OpenSharing>,
    #[n(1)]
    forgot: u64,
    #[n(2)]
    uses: OrderedMap<FindingKey, CountedUses>,
}

impl SharingTracker {
    /// Whether this shared use is tracked and may be amended.
    pub(super) fn is_open(&self, key: &FindingKey) -> bool {
        self.open.contains_key(key)
    }

    /// Counts calls for a tracked shared use. Returns whether it is tracked.
    pub(super) fn again(&mut self, key: &FindingKey, trace: &EvidenceEvent) -> bool {
        let Some(open) = self.open.get_mut(key) else { return false };
        open.traces.count = open.traces.count.saturating_add(trace.count);
        open.traces.boot_ns = open.traces.boot_ns.max(trace.boot_ns);
        true
    }

    /// Counts further calls on the object for the finding.
    pub(super) fn count(
        &mut self,
        key: &FindingKey,
        (ns, local): (NsRef, ObjectId),
        one: &TrackedObject,
        to: &FindingStore,
    ) {
        if self.uses.len() >= MAX_TRACKED {
            let open = &self.open;
            self.uses.retain(|key, _| open.contains_key(key) || to.draft(key).is_some());
        }
        if self.uses.len() < MAX_TRACKED {
            self.uses.insert(key.clone(), CountedUses { ns, local, counted: one.uses });
        }
    }

    /// Removes findings that can no longer be amended, if the table is full.
    pub(super) fn make_room(&mut self, to: &FindingStore) {
        if self.open.len() >= MAX_TRACKED {
            self.open.retain(|key, one| one.reported.is_none() || to.draft(key).is_some());
            self.forgot += 1;
        }
    }

    /// How often entries were removed: detectors then clean up their own tables.
    pub(super) const fn forgot(&self) -> u64 {
        self.forgot
    }

    /// Adds a shared use. Returns whether it is tracked for amendments.
    pub(super) fn open(
        &mut self,
        shared: SharedUse,
        trace: EvidenceEvent,
        all: &Containers,
        to: &mut FindingStore,
    ) -> bool {
        self.make_room(to);
        let containers = shared.containers(all);
        let full = self.open.len() >= MAX_TRACKED;
        let key = shared.key.clone();
        if full {
            to.saw(key, trace, || shared.draft(&containers, all));
            return false;
        }
        let due = trace.boot_ns.saturating_add(RUNTIME_WAIT_NS);
        let known = shared.sharing(&containers) != Sharing::Unknown;
        let mut open = OpenSharing { shared, traces: trace, due, reported: None };
        if known {
            open.report(containers, all, to);
        }
        self.open.insert(key, open);
        true
    }

    /// A second has passed.
    pub(super) fn tick(&mut self, now: u64, tracker: &Tracker, to: &mut FindingStore) {
        let all = &tracker.containers;
        for open in self.open.values_mut() {
            let containers = open.shared.containers(all);
            let known = || open.shared.sharing(&containers) != Sharing::Unknown;
            if open.reported.is_some() || now >= open.due || known() {
                open.report(containers, all, to);
            }
        }
        self.count_uses(now, tracker, to);
    }

    fn count_uses(&mut self, now: u64, tracker: &Tracker, to: &mut FindingStore) {
        self.uses.retain(|key, uses| {
            let Some(one) = tracker.objects.get(uses.ns, uses.local) else { return false };
            let new = one.uses.saturating_sub(uses.counted);
            // Findings that wait aren't reported yet.
            if new > 0 && to.draft(key).is_some() {
                uses.counted = one.uses;
                let boot_ns = one.last_seen().unwrap_or(now);
                to.saw_again(key, calls(boot_ns, new));
            }
            true
        });
    }

    /// No more input arrives.
    pub(super) fn finish(&mut self, now: u64, tracker: &Tracker, to: &mut FindingStore) {
        let all = &tracker.containers;
        for open in self.open.values_mut() {
            open.report(open.shared.containers(all), all, to);
        }
        self.count_uses(now, tracker, to);
    }
}

/// Evidence for calls on an object by any user.
fn calls(boot_ns: u64, count: u64) -> EvidenceEvent {
    EvidenceEvent { boot_ns, seq: None, what: "call".into(), ret: None, error: None, count }
}

impl OpenSharing {
    /// Reports or amends the finding with the current metadata and the calls since.
    fn report(&mut self, containers: Vec<Arc<Container>>, all: &Containers, to: &mut FindingStore) {
        let Self { shared, traces, reported, due: _ } = self;
        let key = &shared.key;
        match reported {
            None => to.saw(key.clone(), traces.clone(), || shared.draft(&containers, all)),
            Some(said) => {
                let same = said.iter().zip(&containers).all(|(a, b)| a == b);
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
        *reported = Some(containers);
    }
}

/// Applies the runtimes' configuration to a draft.
fn apply_sharing(draft: &mut FindingDraft, sharing: Sharing, own: &Container) {
    match sharing {
        Sharing::Declared => {
            draft.severity = Severity::Info;
            let word = match &own.ipc_mode {
                Some(mode) if mode.0.as_ref() == b"host" => "--ipc host",
                Some(_) | None if own.pod_uid.is_some() => "containers of one pod",
                Some(_) | None => "--ipc container:…",
            };
            draft.declared_by = Some(format!("the container runtime: {word}"));
        }
        Sharing::Unknown => draft.add(0, "no runtime says whether that is intended"),
        Sharing::Undeclared => {
            draft.add(0, "the runtime was configured to give it another namespace")
        }
    }
}

/// The target for an object.
pub(super) const fn target(ns: NsRef, local: ObjectId) -> FindingTarget {
    match local {
        ObjectId::Sysv(kind, id) => FindingTarget::Sysv(ns, kind, id),
        ObjectId::Queue(dev, ino) => FindingTarget::Queue(dev, ino),
    }
}
