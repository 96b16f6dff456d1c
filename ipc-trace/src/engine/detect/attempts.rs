//! Attempts: lookups that failed though what they looked for lives in another namespace.
//!
//! A lookup by key, id or name never leaves the caller's namespace, so an attempt reaches nothing. What it
//! says depends on how likely the same key, id or name is by chance: [`scoring`] weighs that.
//! Attempts of one process against one namespace are one finding, which says what its surest one does; what
//! several namespaces have is another.
//!
//! Who looks for a key that is free, and then makes it, looked for its own: a finding is amended when that
//! happens within [`SOON_NS`].
//!
//! Invariant: what is remembered is bounded: findings at most [`BURSTS`] with [`VALUES`] different things
//! looked for each, and [`AWAITED`] keys and names that may yet be made.

use ipc_trace_common::record::NsRef;

use super::{
    history::{LookupHandle, Past},
    observation::{CallObservation, FindingKey, FindingTarget, MoreLookups, NamespaceMove},
    scoring::{self, Argued, Attempt},
    store::FindingStore,
};
use crate::{
    engine::track::{
        HashMap,
        objects::{ObjectChange, tracked::ObjectId},
    },
    event::{objects::ObjectLife, value::OsBytes},
    input::process::ProcessId,
};

/// Findings whose attempts are told apart.
const BURSTS: usize = 2048;
/// Different things that one of them looked for.
const VALUES: usize = 16;
/// Keys and names that may yet be made where they were looked for.
const AWAITED: usize = 4096;
/// Callers that looked for the same.
const CALLERS: usize = 8;
/// What is made so soon after it was looked for was to be made.
const SOON_NS: u64 = 5_000_000_000;
/// Where there is no room, it is looked for again after this.
const AGAIN_NS: u64 = 500_000_000;

/// Attempts of one finding.
#[derive(Debug)]
struct Burst {
    /// What was looked for
    values: Vec<LookupHandle>,
    /// The one that the finding is about
    best: LookupHandle,
    confidence: u8,
    /// The caller was there before
    prior: bool,
}

/// Something that may yet be made where it was looked for.
#[derive(Debug)]
struct Awaited {
    /// When it was looked for last
    last_ns: u64,
    by: Vec<ProbeCaller>,
}

/// Who looked for it.
#[derive(Debug)]
struct ProbeCaller {
    key: FindingKey,
    process: ProcessId,
    exe: Option<OsBytes<'static>>,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct ProbeTracker {
    past: Past,
    bursts: HashMap<FindingKey, Burst>,
    awaited: HashMap<(NsRef, LookupHandle), Awaited>,
    /// When there was no room among them last
    awaited_full: u64,
}

impl ProbeTracker {
    /// A thread moved.
    pub(super) fn moved(&mut self, moved: &NamespaceMove<'_>) {
        self.past.moved(moved);
    }

    /// A lookup failed.
    pub(super) fn failed(
        &mut self,
        seen: &CallObservation<'_>,
        attempt: &Attempt<'_>,
        to: &mut FindingStore,
    ) {
        let ns = seen.who.ns;
        let found = seen.tracker.objects.elsewhere(ns, attempt.sought);
        if found.is_empty() {
            return;
        }
        let handle = LookupHandle::from_lookup(attempt.sought);
        // As with EIDRM: it was there.
        if self.past.had(ns, &handle) {
            return;
        }
        let target = self.target(seen, &found);
        let whose = target.map(|(ns, ..)| ns);
        let target_of_key = FindingTarget::Sought(attempt.kind(), whose);
        let key = FindingKey::for_process(attempt.class, seen.who.key(), target_of_key);
        let argue = || scoring::argue(seen, attempt, &found, target);
        let trace = attempt.failed.trace(seen);
        match self.bursts.get_mut(&key).filter(|_| to.draft(&key).is_some()) {
            Some(burst) => {
                if !burst.values.contains(&handle) && burst.values.len() < VALUES {
                    burst.values.push(handle.clone());
                    burst.another(&key, argue(), &handle, to);
                }
                // It is there: nothing is drafted.
                to.saw(key.clone(), trace, || argue().draft);
            }
            None => {
                let Argued { draft, prior } = argue();
                let confidence = draft.confidence();
                to.saw(key.clone(), trace, || draft);
                if to.draft(&key).is_none() {
                    return;
                }
                self.make_room(to);
                let (values, best) = (vec![handle.clone()], handle.clone());
                self.bursts.insert(key.clone(), Burst { values, best, confidence, prior });
            }
        }
        self.await_it(seen, attempt.failed.boot_ns, handle, key);
    }

    /// Whose object it is that was meant: that of a namespace in which the caller was, or else of the
    /// only one that has it. Why it is known to have to do with the caller, if it is.
    fn target(
        &self,
        seen: &CallObservation<'_>,
        found: &[(NsRef, ObjectId)],
    ) -> Option<(NsRef, ObjectId, Option<&'static str>)> {
        let who = &seen.who;
        let start = who.facts.map_or(0, |facts| facts.start_boot_ns);
        let prior = |(ns, local): &(NsRef, ObjectId)| {
            let used = || {
                let one = seen.tracker.objects.get(*ns, *local)?;
                let made = one.creator.as_ref().and_then(|creator| creator.facts.as_ref());
                let made = made.is_some_and(|made| (made.pid, made.start_boot_ns) == who.key());
                (start != 0 && (made || one.was_used_by(who.pid, start))).then_some(())
            };
            let why = if used().is_some() {
                "the process used that very object before"
            } else if self.past.was_in(who, *ns) {
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
        if self.bursts.len() >= BURSTS {
            self.bursts.retain(|key, _| to.draft(key).is_some());
        }
        // As many findings are never kept: it is empty where they are not told apart any more.
        if self.bursts.len() >= BURSTS {
            self.bursts.clear();
        }
    }

    fn await_it(
        &mut self,
        seen: &CallObservation<'_>,
        now: u64,
        handle: LookupHandle,
        key: FindingKey,
    ) {
        if matches!(handle, LookupHandle::Id(..)) {
            return;
        }
        if self.awaited.len() >= AWAITED && now >= self.awaited_full.saturating_add(AGAIN_NS) {
            self.awaited_full = now;
            self.awaited.retain(|_, one| one.last_ns.saturating_add(SOON_NS) >= now);
        }
        let place = (seen.who.ns, handle);
        if self.awaited.len() >= AWAITED && !self.awaited.contains_key(&place) {
            return;
        }
        let new = || Awaited { last_ns: now, by: Vec::new() };
        let awaited = self.awaited.entry(place).or_insert_with(new);
        awaited.last_ns = awaited.last_ns.max(now);
        if awaited.by.len() < CALLERS && !awaited.by.iter().any(|one| one.key == key) {
            let exe = seen.who.facts.and_then(|facts| facts.exe.clone());
            awaited.by.push(ProbeCaller { key, process: seen.who.key(), exe });
        }
    }

    /// Something happened to an object.
    pub(super) fn object(&mut self, change: &ObjectChange, to: &mut FindingStore) {
        self.past.object(change);
        if change.life != ObjectLife::Created || self.awaited.is_empty() {
            return;
        }
        let Some(handle) = LookupHandle::of_change(change) else { return };
        let Some(awaited) = self.awaited.remove(&(change.ns, handle.clone())) else { return };
        if change.boot_ns > awaited.last_ns.saturating_add(SOON_NS) {
            return;
        }
        let maker = change.by.as_ref().and_then(|by| by.facts.as_ref());
        for caller in awaited.by {
            let Some(burst) = self.bursts.get_mut(&caller.key) else { continue };
            if burst.best != handle {
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
                burst.confidence = draft.confidence();
                draft.severity = scoring::severity(burst.confidence, burst.prior);
            });
        }
    }
}

impl Burst {
    /// Something else was looked for that the same namespaces have.
    fn another(
        &mut self,
        key: &FindingKey,
        argued: Argued,
        handle: &LookupHandle,
        to: &mut FindingStore,
    ) {
        let Argued { draft, prior } = argued;
        let others = self.values.len() - 1;
        let surer = draft.confidence() > self.confidence;
        if surer {
            self.best = handle.clone();
            (self.confidence, self.prior) = (draft.confidence(), prior);
        }
        let or_more = self.values.len() == VALUES;
        to.amend(key, |known| {
            if surer {
                *known = draft;
            }
            known.more = MoreLookups { count: others, or_more };
        });
    }
}
