//! Probe attempts: failed lookups of something that exists in another namespace.
//!
//! A lookup by key, id or name never leaves the caller's namespace, so an attempt reaches nothing. Its weight
//! depends on how likely the same key, id or name is by chance: see [`scoring`]. The attempts of one process
//! against one namespace are one finding, described by the attempt with the highest confidence; attempts that
//! several namespaces match are another finding.
//!
//! A process that looks up a free key and then creates it was looking for its own object: the finding is
//! amended if that happens within [`CREATED_SOON_NS`].
//!
//! Invariant: state is bounded: at most [`MAX_PROBE_GROUPS`] groups of [`MAX_VALUES_PER_GROUP`] lookups each,
//! and [`MAX_PENDING_CREATIONS`] keys and names that may still be created.

use ipc_trace_common::record::NsRef;
use minicbor::{Decode, Encode};

use super::{
    finding_store::FindingStore,
    history::{LookupHandle, NamespaceHistory},
    observation::{CallObservation, FindingKey, FindingTarget, MoreLookups, NamespaceMove},
    scoring::{self, ProbeAttempt, Scored},
};
use crate::{
    engine::track::{
        OrderedMap,
        objects::{ObjectChange, tracked::ObjectId},
    },
    event::{objects::ObjectEventKind, value::OsBytes},
    input::process::ProcessId,
};

/// Number of findings whose attempts are distinguished.
const MAX_PROBE_GROUPS: usize = 2048;
/// Number of distinct lookups kept per finding.
const MAX_VALUES_PER_GROUP: usize = 16;
/// Number of keys and names that may still be created after a lookup.
const MAX_PENDING_CREATIONS: usize = 4096;
/// Number of callers kept per key or name.
const MAX_CALLERS: usize = 8;
/// How soon after a lookup a creation explains it, nanoseconds.
const CREATED_SOON_NS: u64 = 5_000_000_000;
/// Interval between attempts to free entries when the table is full, nanoseconds.
const RETRY_NS: u64 = 500_000_000;

/// The attempts of one finding.
#[derive(Debug, Encode, Decode)]
struct ProbeGroup {
    /// The distinct keys, ids or names looked up.
    #[n(0)]
    values: Vec<LookupHandle>,
    /// The attempt that the finding describes.
    #[n(1)]
    best: LookupHandle,
    #[n(2)]
    confidence: u8,
    /// Whether the caller was in the namespace or used the object before.
    #[n(3)]
    prior: bool,
}

/// A key or name that may still be created after a failed lookup.
#[derive(Debug, Encode, Decode)]
struct PendingCreation {
    /// When it was last looked up.
    #[n(0)]
    last_ns: u64,
    #[n(1)]
    by: Vec<ProbeCaller>,
}

/// A caller that looked it up.
#[derive(Debug, Encode, Decode)]
struct ProbeCaller {
    #[n(0)]
    key: FindingKey,
    #[n(1)]
    process: ProcessId,
    #[n(2)]
    exe: Option<OsBytes<'static>>,
}

/// The state shared by the probe detectors.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct ProbeTracker {
    #[n(0)]
    history: NamespaceHistory,
    #[n(1)]
    groups: OrderedMap<FindingKey, ProbeGroup>,
    #[n(2)]
    pending_creations: OrderedMap<(NsRef, LookupHandle), PendingCreation>,
    /// When the table was last full.
    #[n(3)]
    full_at_ns: u64,
}

impl ProbeTracker {
    /// A thread switched to another namespace.
    pub(super) fn moved(&mut self, moved: &NamespaceMove<'_>) {
        self.history.moved(moved);
    }

    /// A lookup failed.
    pub(super) fn failed(
        &mut self,
        seen: &CallObservation<'_>,
        attempt: &ProbeAttempt<'_>,
        to: &mut FindingStore,
    ) {
        let ns = seen.who.ns;
        let found = seen.tracker.objects.elsewhere(ns, attempt.sought);
        if found.is_empty() {
            return;
        }
        let handle = LookupHandle::from_lookup(attempt.sought);
        // The object existed in the caller's namespace, as with EIDRM.
        if self.history.had(ns, &handle) {
            return;
        }
        let target = self.target(seen, &found);
        let whose = target.map(|(ns, ..)| ns);
        let target_of_key = FindingTarget::Sought(attempt.kind(), whose);
        let key = FindingKey::for_process(attempt.class, seen.who.key(), target_of_key);
        let score = || scoring::score(seen, attempt, &found, target);
        let trace = attempt.failed.trace(seen);
        match self.groups.get_mut(&key).filter(|_| to.draft(&key).is_some()) {
            Some(group) => {
                if !group.values.contains(&handle) && group.values.len() < MAX_VALUES_PER_GROUP {
                    group.values.push(handle.clone());
                    group.another(&key, score(), &handle, to);
                }
                // The finding exists, so the draft isn't built.
                to.saw(key.clone(), trace, || score().draft);
            }
            None => {
                let Scored { draft, prior } = score();
                let confidence = draft.confidence();
                to.saw(key.clone(), trace, || draft);
                if to.draft(&key).is_none() {
                    return;
                }
                self.make_room(to);
                let (values, best) = (vec![handle.clone()], handle.clone());
                self.groups.insert(key.clone(), ProbeGroup { values, best, confidence, prior });
            }
        }
        self.await_creation(seen, attempt.failed.boot_ns, handle, key);
    }

    /// The object that was probably meant: one in a namespace where the caller was before, or else the only
    /// match. Also returns the caller's known relation to it.
    fn target(
        &self,
        seen: &CallObservation<'_>,
        found: &[(NsRef, ObjectId)],
    ) -> Option<(NsRef, ObjectId, Option<&'static str>)> {
        let who = &seen.who;
        let start = who.task_info.map_or(0, |task_info| task_info.start_boot_ns);
        let prior = |(ns, local): &(NsRef, ObjectId)| {
            let used = || {
                let one = seen.tracker.objects.get(*ns, *local)?;
                let made = one.creator.as_ref().and_then(|creator| creator.task_info.as_ref());
                let made = made.is_some_and(|made| (made.pid, made.start_boot_ns) == who.key());
                (start != 0 && (made || one.was_used_by(who.pid, start))).then_some(())
            };
            let why = if used().is_some() {
                "the process used that very object before"
            } else if self.history.was_in(who, *ns) {
                "the process, or one that it descends from, was in that namespace before, as the same \
                 program"
            } else {
                return None;
            };
            Some((*ns, *local, Some(why)))
        };
        match (found.iter().find_map(prior), found) {
            (Some(known), _) => Some(known),
            (None, [(ns, local)]) => Some((*ns, *local, None)),
            (None, _) => None,
        }
    }

    fn make_room(&mut self, to: &FindingStore) {
        if self.groups.len() >= MAX_PROBE_GROUPS {
            self.groups.retain(|key, _| to.draft(key).is_some());
        }
        // The store never keeps that many findings; if it does, groups are no longer distinguished and the
        // table is cleared.
        if self.groups.len() >= MAX_PROBE_GROUPS {
            self.groups.clear();
        }
    }

    fn await_creation(
        &mut self,
        seen: &CallObservation<'_>,
        now: u64,
        handle: LookupHandle,
        key: FindingKey,
    ) {
        if matches!(handle, LookupHandle::Id(..)) {
            return;
        }
        if self.pending_creations.len() >= MAX_PENDING_CREATIONS
            && now >= self.full_at_ns.saturating_add(RETRY_NS)
        {
            self.full_at_ns = now;
            self.pending_creations
                .retain(|_, one| one.last_ns.saturating_add(CREATED_SOON_NS) >= now);
        }
        let place = (seen.who.ns, handle);
        if self.pending_creations.len() >= MAX_PENDING_CREATIONS
            && !self.pending_creations.contains_key(&place)
        {
            return;
        }
        let new = || PendingCreation { last_ns: now, by: Vec::new() };
        let pending = self.pending_creations.entry(place).or_insert_with(new);
        pending.last_ns = pending.last_ns.max(now);
        if pending.by.len() < MAX_CALLERS && !pending.by.iter().any(|one| one.key == key) {
            let exe = seen.who.task_info.and_then(|task_info| task_info.exe.clone());
            pending.by.push(ProbeCaller { key, process: seen.who.key(), exe });
        }
    }

    /// Something happened to an object.
    pub(super) fn object(&mut self, change: &ObjectChange, to: &mut FindingStore) {
        self.history.object(change);
        if change.life != ObjectEventKind::Created || self.pending_creations.is_empty() {
            return;
        }
        let Some(handle) = LookupHandle::of_change(change) else { return };
        let Some(pending) = self.pending_creations.remove(&(change.ns, handle.clone())) else {
            return;
        };
        if change.boot_ns > pending.last_ns.saturating_add(CREATED_SOON_NS) {
            return;
        }
        let maker = change.by.as_ref().and_then(|by| by.task_info.as_ref());
        for caller in pending.by {
            let Some(group) = self.groups.get_mut(&caller.key) else { continue };
            if group.best != handle {
                continue;
            }
            let own = maker.is_some_and(|maker| {
                (maker.pid, maker.start_boot_ns) == caller.process
                    || maker.exe.is_some() && maker.exe == caller.exe
            });
            to.amend(&caller.key, |draft| {
                draft.add(-20, "its own namespace made the same soon afterwards");
                if own {
                    let text = "it was the caller that made it, or the same program: it looked for its \
                                own";
                    draft.add(-30, text);
                }
                group.confidence = draft.confidence();
                draft.severity = scoring::severity(group.confidence, group.prior);
            });
        }
    }
}

impl ProbeGroup {
    /// Another lookup matched the same namespaces.
    fn another(
        &mut self,
        key: &FindingKey,
        scored: Scored,
        handle: &LookupHandle,
        to: &mut FindingStore,
    ) {
        let Scored { draft, prior } = scored;
        let others = self.values.len() - 1;
        let surer = draft.confidence() > self.confidence;
        if surer {
            self.best = handle.clone();
            (self.confidence, self.prior) = (draft.confidence(), prior);
        }
        let or_more = self.values.len() == MAX_VALUES_PER_GROUP;
        to.amend(key, |known| {
            if surer {
                *known = draft;
            }
            known.more = MoreLookups { count: others, or_more };
        });
    }
}
