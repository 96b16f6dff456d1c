//! The findings: observations are merged, counted and bounded; new and updated findings are shown.
//!
//! Invariant: every observation is counted in one finding, or in `over_limit` of its class. The memory of a
//! finding is bounded however often it is observed.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

use minicbor::{Decode, Encode};

use super::{
    finding_object,
    finding_policy::{FindingDecision, FindingPolicy, NoPolicy},
    observation::{EvidenceEvent, Extent, FindingDraft, FindingKey, FindingOwner, FindingTarget},
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::{OrderedMap, Tracker, containers::ContainerHandle},
    event::finding::{
        Class, Evidence, Finding, FindingsAccounting, FoundObject, Severity, Subject,
    },
    steps::step,
};

/// Number of findings kept per class.
const MAX_FINDINGS_PER_CLASS: usize = 512;
/// How long a reported finding must not have been observed to be evicted, nanoseconds. Only line mode evicts.
const STALE_NS: u64 = 300_000_000_000;
/// Interval between evictions of a full class in which no finding was stale, nanoseconds.
const RETRY_NS: u64 = 1_000_000_000;
/// Number of events kept from each end of a finding.
const MAX_EVENTS_EACH_END: usize = 8;
/// Number of line numbers kept from each end of a finding.
const MAX_LINES_EACH_END: usize = 32;

/// The first and the last items of many.
#[derive(Clone, Debug, Encode, Decode)]
struct FirstAndLast<T> {
    #[n(0)]
    first: Vec<T>,
    #[n(1)]
    last: VecDeque<T>,
    #[n(2)]
    each: usize,
}

impl<T> FirstAndLast<T> {
    const fn new(each: usize) -> Self {
        Self { first: Vec::new(), last: VecDeque::new(), each }
    }

    fn push(&mut self, one: T) {
        if self.first.len() < self.each {
            self.first.push(one);
            return;
        }
        if self.last.len() >= self.each {
            self.last.pop_front();
        }
        self.last.push_back(one);
    }

    fn last_mut(&mut self) -> Option<&mut T> {
        match self.last.is_empty() {
            true => self.first.last_mut(),
            false => self.last.back_mut(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.last)
    }
}

/// A stored finding.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct FindingEntry {
    #[n(0)]
    id: u64,
    #[n(1)]
    draft: FindingDraft,
    #[n(2)]
    first_ns: u64,
    #[n(3)]
    last_ns: u64,
    #[n(4)]
    count: u64,
    #[n(5)]
    lines: FirstAndLast<u64>,
    #[n(6)]
    events: FirstAndLast<EvidenceEvent>,
    /// The object as last shown: the tracker may evict it.
    #[n(7)]
    object: Option<FoundObject>,
    /// Whether it hasn't been shown yet.
    #[n(8)]
    new: bool,
    /// It changed since it was last shown.
    #[n(9)]
    updated: bool,
    /// The policy's decision when it was last shown.
    #[n(10)]
    decision: FindingDecision,
}

/// Which findings to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FindingSelection {
    /// Findings that haven't been shown.
    New,
    /// Findings that changed since they were last shown.
    Updated,
    /// All findings.
    All,
}

/// A finding to be shown.
#[derive(Clone, Debug)]
pub(crate) struct ShownFinding {
    /// Whether it is shown for the first time.
    pub new: bool,
    /// The finding
    pub finding: Finding,
}

/// All findings.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct FindingStore {
    #[n(0)]
    entries: OrderedMap<FindingKey, FindingEntry>,
    #[n(1)]
    per_class: BTreeMap<Class, usize>,
    /// `None`: there is none
    #[cbor(skip)]
    policy: Option<Box<dyn FindingPolicy>>,
    /// Whether findings are reported on lines as they occur, so that stale ones may be evicted.
    #[cbor(skip)]
    may_evict: bool,
    /// Whether the numbers of lines are left out.
    #[cbor(skip)]
    hides_lines: bool,
    #[n(2)]
    next: u64,
    #[n(3)]
    pending: bool,
    #[n(4)]
    evicted: BTreeMap<Class, u64>,
    /// Evicted muted findings by class and rule.
    #[n(5)]
    muted: BTreeMap<(Class, Box<str>), u64>,
    #[n(6)]
    over_limit: BTreeMap<Class, u64>,
    /// When eviction is tried again in full classes without stale findings.
    #[n(7)]
    full_until: BTreeMap<Class, u64>,
    /// Findings below this confidence don't count for `max_severity`.
    #[cbor(skip)]
    min_confidence: u8,
    /// The highest severity among evicted findings.
    #[n(8)]
    max_severity: Option<Severity>,
}

impl FindingStore {
    /// Takes over what no checkpoint has from the store before.
    pub(crate) fn restored(&mut self, before: Self) {
        self.policy = before.policy;
        (self.may_evict, self.min_confidence) = (before.may_evict, before.min_confidence);
    }

    /// Hides the numbers of lines, as a report has none.
    pub(crate) const fn hide_lines(&mut self) {
        self.hides_lines = true;
    }

    /// Sets the policy.
    pub(crate) fn set_policy(&mut self, policy: Box<dyn FindingPolicy>) {
        self.policy = Some(policy);
    }

    /// Sets the confidence below which findings don't count for [`Self::max_severity`].
    pub(crate) const fn set_min_confidence(&mut self, min_confidence: u8) {
        self.min_confidence = min_confidence;
    }

    /// Findings are reported on lines as they occur: stale ones may be evicted.
    pub(crate) const fn allow_eviction(&mut self) {
        self.may_evict = true;
    }

    /// Counts an observation. `draft` is called if the finding is new.
    pub(crate) fn saw(
        &mut self,
        key: FindingKey,
        trace: EvidenceEvent,
        draft: impl FnOnce() -> FindingDraft,
    ) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.add(trace);
            return;
        }
        if !self.has_room(&key, trace.boot_ns) {
            *self.over_limit.entry(key.class).or_default() += trace.count;
            return;
        }
        self.next += 1;
        let draft = draft();
        let mut entry = FindingEntry {
            id: self.next,
            draft,
            first_ns: trace.boot_ns,
            last_ns: trace.boot_ns,
            count: 0,
            lines: FirstAndLast::new(MAX_LINES_EACH_END),
            events: FirstAndLast::new(MAX_EVENTS_EACH_END),
            object: None,
            new: true,
            updated: true,
            decision: FindingDecision::default(),
        };
        entry.add(trace);
        *self.per_class.entry(key.class).or_default() += 1;
        self.entries.insert(key, entry);
        self.pending = true;
    }

    /// As [`Self::saw`]; a finding about a held object gets a new draft when the object is used.
    pub(crate) fn saw_as(
        &mut self,
        extent: Extent,
        key: FindingKey,
        trace: EvidenceEvent,
        draft: impl Fn() -> FindingDraft,
    ) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.draft.extent < extent
        {
            entry.draft = FindingDraft { extent, ..draft() };
        }
        self.saw(key, trace, || FindingDraft { extent, ..draft() });
    }

    /// Counts an observation of an existing finding.
    pub(crate) fn saw_again(&mut self, key: &FindingKey, trace: EvidenceEvent) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.add(trace);
        }
    }

    /// Amends an existing finding: its severity, title or reasons.
    pub(crate) fn amend(&mut self, key: &FindingKey, amend: impl FnOnce(&mut FindingDraft)) {
        if let Some(entry) = self.entries.get_mut(key) {
            amend(&mut entry.draft);
            entry.updated = true;
        }
    }

    /// The draft of an existing finding.
    #[must_use]
    pub(crate) fn draft(&self, key: &FindingKey) -> Option<&FindingDraft> {
        self.entries.get(key).map(|entry| &entry.draft)
    }

    fn has_room(&mut self, key: &FindingKey, now: u64) -> bool {
        let class = key.class;
        if self.per_class.get(&class).copied().unwrap_or(0) < MAX_FINDINGS_PER_CLASS {
            return true;
        }
        if !self.may_evict {
            return false;
        }
        if self.full_until.get(&class).is_some_and(|until| now < *until) {
            return false;
        }
        let before = self.entries.len();
        let stale = |key: &FindingKey, entry: &FindingEntry| {
            key.class == class && !entry.updated && entry.last_ns.saturating_add(STALE_NS) < now
        };
        let (evicted, max_severity, min_confidence) =
            (&mut self.evicted, &mut self.max_severity, self.min_confidence);
        let muted = &mut self.muted;
        self.entries.retain(|key, entry| {
            step();
            let goes = stale(key, entry);
            match &entry.decision.muted {
                Some(rule) if goes => *muted.entry((class, rule.clone())).or_default() += 1,
                None if goes => {
                    *evicted.entry(class).or_default() += 1;
                    *max_severity = (*max_severity).max(counts_as(entry, min_confidence));
                }
                Some(_) | None => {}
            }
            !goes
        });
        let gone = before - self.entries.len();
        if let Some(count) = self.per_class.get_mut(&class) {
            *count = count.saturating_sub(gone);
        }
        if gone == 0 {
            self.full_until.insert(class, now.saturating_add(RETRY_NS));
        }
        gone > 0
    }

    /// Whether there are findings that haven't been shown.
    #[inline]
    #[must_use]
    pub(crate) const fn has_new(&self) -> bool {
        self.pending
    }

    /// Returns the selected findings as they are shown.
    pub(crate) fn show(
        &mut self,
        which: FindingSelection,
        tracker: &mut Tracker,
        now: SystemTime,
    ) -> Vec<ShownFinding> {
        self.pending = false;
        // A container's name usually arrives soon, and a rule may need it.
        let patient = self.policy.as_ref().is_some_and(|policy| policy.asks_names());
        let wanted = |entry: &FindingEntry| match which {
            FindingSelection::New => {
                entry.new && !(patient && entry.draft.is_nameless(&tracker.containers))
            }
            FindingSelection::Updated => entry.updated,
            FindingSelection::All => true,
        };
        let (mut shown, mut containers) = (Vec::new(), Vec::new());
        for (key, entry) in self.entries.iter_mut().filter(|(_, entry)| wanted(entry)) {
            let policy = self.policy.as_deref().unwrap_or(&NoPolicy);
            let mut finding = entry.finding(key, tracker, &mut containers, policy, now);
            if self.hides_lines {
                finding.evidence.clear();
                finding.events.iter_mut().for_each(|event| event.seq = None);
            }
            entry.updated = false;
            if entry.decision.muted.is_none() {
                let new = std::mem::take(&mut entry.new);
                shown.push(ShownFinding { new, finding });
            }
        }
        for handle in &containers {
            tracker.containers.note_shown(handle);
        }
        shown.sort_by_key(|one| one.finding.id);
        shown
    }

    /// All findings by descending severity and confidence.
    pub(crate) fn report(&mut self, tracker: &mut Tracker, now: SystemTime) -> Vec<Finding> {
        let all = self.show(FindingSelection::All, tracker, now).into_iter();
        let mut all: Vec<_> = all.map(|shown| shown.finding).collect();
        all.sort_by_key(|one| (std::cmp::Reverse((one.severity, one.confidence)), one.id));
        all
    }

    /// The highest severity of a finding that is neither allowed nor muted, as last shown.
    #[must_use]
    pub(crate) fn max_severity(&self) -> Option<Severity> {
        let all = self.entries.values().filter_map(|entry| counts_as(entry, self.min_confidence));
        all.max().max(self.max_severity)
    }

    /// The accounting of findings.
    #[must_use]
    pub(crate) fn accounting(&self, undetermined: u64) -> FindingsAccounting {
        let mut by_class: BTreeMap<Class, u64> = self.evicted.clone();
        let mut muted: BTreeMap<Class, u64> = BTreeMap::new();
        let mut muted_by: BTreeMap<String, u64> = BTreeMap::new();
        let mut mute = |class: Class, rule: &str, count: u64| {
            *muted.entry(class).or_default() += count;
            *muted_by.entry(rule.to_owned()).or_default() += count;
        };
        for ((class, rule), count) in &self.muted {
            mute(*class, rule, *count);
        }
        for (key, entry) in &self.entries {
            match &entry.decision.muted {
                Some(rule) => mute(key.class, rule, 1),
                None => *by_class.entry(key.class).or_default() += 1,
            }
        }
        FindingsAccounting {
            by_class,
            muted,
            muted_by,
            folded: self.evicted.values().sum(),
            over_limit: self.over_limit.clone(),
            undetermined,
        }
    }
}

/// A finding's severity for `--fail-on`.
fn counts_as(entry: &FindingEntry, min_confidence: u8) -> Option<Severity> {
    let FindingDecision { muted, declared_by, severity } = &entry.decision;
    let declared = muted.is_some() || declared_by.is_some() || entry.draft.declared_by.is_some();
    (!declared && entry.draft.confidence() >= min_confidence)
        .then(|| severity.unwrap_or(entry.draft.severity))
}

impl FindingEntry {
    fn add(&mut self, trace: EvidenceEvent) {
        self.count = self.count.saturating_add(trace.count);
        self.first_ns = self.first_ns.min(trace.boot_ns);
        self.last_ns = self.last_ns.max(trace.boot_ns);
        self.updated = true;
        self.rest_on(trace);
    }

    fn rest_on(&mut self, trace: EvidenceEvent) {
        if let Some(seq) = trace.seq {
            self.lines.push(seq);
        }
        // Many equal events are merged into one with a count, once there are enough single ones.
        if self.events.first.len() >= MAX_EVENTS_EACH_END
            && let Some(last) = self.events.last_mut()
            && (&last.what, last.ret, last.error) == (&trace.what, trace.ret, trace.error)
        {
            last.count = last.count.saturating_add(trace.count);
            last.boot_ns = last.boot_ns.max(trace.boot_ns);
            last.seq = trace.seq.or(last.seq);
            return;
        }
        self.events.push(trace);
    }

    fn finding(
        &mut self,
        key: &FindingKey,
        tracker: &Tracker,
        containers: &mut Vec<ContainerHandle>,
        policy: &dyn FindingPolicy,
        now: SystemTime,
    ) -> Finding {
        let before = self.object.take().unwrap_or_default();
        self.object =
            Some(finding_object::object_info(key, &self.draft, before, tracker, containers));
        let draft = &self.draft;
        containers.extend(draft.container.clone());
        let container = draft.container.as_ref();
        let time = |boot_ns| tracker.clock.time(boot_ns);
        let evidence = |trace: &EvidenceEvent| Evidence {
            time: time(trace.boot_ns),
            seq: trace.seq,
            what: trace.what.clone(),
            ret: trace.ret,
            error: trace.error,
            count: trace.count,
        };
        let mut finding = Finding {
            id: self.id,
            class: key.class,
            severity: draft.severity,
            confidence: draft.confidence(),
            title: draft.full_title(),
            subject: Subject {
                process: draft.process.clone(),
                container: container.map(|handle| tracker.containers.container(handle)),
                cgroup: draft.cgroup.clone(),
                ipc_ns: draft.ns.map(|ns| tracker.namespaces.show(ns)),
            },
            object: self.object.clone(),
            first: time(self.first_ns),
            last: time(self.last_ns),
            count: self.count,
            evidence: self.lines.iter().copied().collect(),
            events: self.events.iter().map(evidence).collect(),
            reasons: draft.reasons.clone(),
            declared_by: draft.declared_by.clone(),
            benign_explanation: draft.benign_explanation.clone(),
            policy: None,
        };
        self.decision = policy.decide(&finding, now);
        finding.severity = self.decision.severity.unwrap_or(finding.severity);
        let rule = self.decision.declared_by.clone();
        finding.declared_by = rule.or(finding.declared_by);
        if finding.declared_by.is_some() {
            finding.severity = Severity::Info;
        } else {
            finding.policy = policy.suggest(&finding);
        }
        finding
    }
}

impl FindingKey {
    /// The key of a process's finding.
    #[must_use]
    pub(crate) const fn for_process(
        class: Class,
        process: crate::input::process::ProcessId,
        target: FindingTarget,
    ) -> Self {
        Self { class, whose: FindingOwner::Process(process), target }
    }
}
