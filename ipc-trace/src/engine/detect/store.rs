//! Findings: observations folded, counted, bounded, and shown when there is something new.
//!
//! Invariant: every observation is counted in one finding, or in `over_limit` of its class. What is kept of
//! a finding is bounded however often it is seen.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::SystemTime,
};

use super::{
    found,
    judge::{FindingDecision, FindingPolicy, Silent},
    observation::{EvidenceEvent, Extent, FindingDraft, FindingKey, FindingOwner, FindingTarget},
};
use crate::{
    engine::track::{HashMap, Tracker, containers::ContainerHandle},
    event::finding::{
        Class, Evidence, Finding, FindingsAccounting, FoundObject, Severity, Subject,
    },
    steps::step,
};

/// Findings of one class that are kept.
const PER_CLASS: usize = 512;
/// A finding that was shown, and not seen for so long, makes room for a new one where lines tell of
/// findings as they come.
const STALE_NS: u64 = 300_000_000_000;
/// Where nothing was old enough, a class is looked through again after this.
const AGAIN_NS: u64 = 1_000_000_000;
/// Of what a finding rests on, so many that came first are kept, and so many that came last.
const EVENTS: usize = 8;
/// The same, of lines' numbers.
const LINES: usize = 32;

/// The first and the last of many.
#[derive(Clone, Debug)]
struct Ends<T> {
    first: Vec<T>,
    last: VecDeque<T>,
    each: usize,
}

impl<T> Ends<T> {
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

/// A finding, as it is kept.
#[derive(Clone, Debug)]
struct FindingEntry {
    id: u64,
    draft: FindingDraft,
    first_ns: u64,
    last_ns: u64,
    count: u64,
    lines: Ends<u64>,
    events: Ends<EvidenceEvent>,
    /// The object, as it was known when this was shown last: it may be forgotten
    object: Option<FoundObject>,
    /// No line has told of it
    new: bool,
    /// There is more than the last line told
    grown: bool,
    /// What was said of it when it was shown last
    verdict: FindingDecision,
}

/// What is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FindingSelection {
    /// Those that no line has told of
    New,
    /// Those of which there is more to tell than a line has
    Grown,
    /// All
    All,
}

/// A finding to be shown.
#[derive(Clone, Debug)]
pub(crate) struct ShownFinding {
    /// No line has told of it before
    pub new: bool,
    /// The finding
    pub finding: Finding,
}

/// All findings.
#[derive(Debug)]
pub(crate) struct FindingStore {
    kept: HashMap<FindingKey, FindingEntry>,
    per_class: BTreeMap<Class, usize>,
    judge: Box<dyn FindingPolicy>,
    /// Whether a line tells of each finding as it comes, so that it can be forgotten
    told: bool,
    next: u64,
    pending: bool,
    folded: BTreeMap<Class, u64>,
    /// Muted ones that had to make room, by class and rule
    muted: BTreeMap<(Class, Rc<str>), u64>,
    over_limit: BTreeMap<Class, u64>,
    /// Classes in which nothing was old enough to make room, and when they are looked through again
    full_until: BTreeMap<Class, u64>,
    /// What is less sure does not count as the worst
    least: u8,
    /// The worst of those that made room
    worst: Option<Severity>,
}

impl Default for FindingStore {
    fn default() -> Self {
        Self {
            kept: HashMap::default(),
            per_class: BTreeMap::new(),
            judge: Box::new(Silent),
            told: false,
            next: 0,
            pending: false,
            folded: BTreeMap::new(),
            muted: BTreeMap::new(),
            over_limit: BTreeMap::new(),
            full_until: BTreeMap::new(),
            least: 0,
            worst: None,
        }
    }
}

impl FindingStore {
    /// Who has a say in what is shown.
    pub(crate) fn judged_by(&mut self, judge: Box<dyn FindingPolicy>) {
        self.judge = judge;
    }

    /// What is less sure than this does not count as the worst.
    pub(crate) const fn with_least_confidence(&mut self, least: u8) {
        self.least = least;
    }

    /// Lines tell of findings as they come: one that was told of may be forgotten when it is old.
    pub(crate) const fn are_told(&mut self) {
        self.told = true;
    }

    /// A class saw something. `draft` is asked for when that is new.
    pub(crate) fn saw(
        &mut self,
        key: FindingKey,
        trace: EvidenceEvent,
        draft: impl FnOnce() -> FindingDraft,
    ) {
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.add(trace);
            return;
        }
        if !self.has_room(&key, trace.boot_ns) {
            *self.over_limit.entry(key.class).or_default() += trace.count;
            return;
        }
        self.next += 1;
        let draft = draft();
        let mut kept = FindingEntry {
            id: self.next,
            draft,
            first_ns: trace.boot_ns,
            last_ns: trace.boot_ns,
            count: 0,
            lines: Ends::new(LINES),
            events: Ends::new(EVENTS),
            object: None,
            new: true,
            grown: true,
            verdict: FindingDecision::default(),
        };
        kept.add(trace);
        *self.per_class.entry(key.class).or_default() += 1;
        self.kept.insert(key, kept);
        self.pending = true;
    }

    /// As [`Self::saw`]; what only said that something is held is said anew when it is used.
    pub(crate) fn saw_as(
        &mut self,
        extent: Extent,
        key: FindingKey,
        trace: EvidenceEvent,
        draft: impl Fn() -> FindingDraft,
    ) {
        if let Some(kept) = self.kept.get_mut(&key)
            && kept.draft.extent < extent
        {
            kept.draft = FindingDraft { extent, ..draft() };
        }
        self.saw(key, trace, || FindingDraft { extent, ..draft() });
    }

    /// The same was seen again, if it is kept.
    pub(crate) fn saw_again(&mut self, key: &FindingKey, trace: EvidenceEvent) {
        if let Some(kept) = self.kept.get_mut(key) {
            kept.add(trace);
        }
    }

    /// More became known of what was seen before, if it was: of its severity, title or reasons.
    pub(crate) fn amend(&mut self, key: &FindingKey, amend: impl FnOnce(&mut FindingDraft)) {
        if let Some(kept) = self.kept.get_mut(key) {
            amend(&mut kept.draft);
            kept.grown = true;
        }
    }

    /// What a class said of something that it saw.
    #[must_use]
    pub(crate) fn draft(&self, key: &FindingKey) -> Option<&FindingDraft> {
        self.kept.get(key).map(|kept| &kept.draft)
    }

    fn has_room(&mut self, key: &FindingKey, now: u64) -> bool {
        let class = key.class;
        if self.per_class.get(&class).copied().unwrap_or(0) < PER_CLASS {
            return true;
        }
        if !self.told {
            return false;
        }
        if self.full_until.get(&class).is_some_and(|until| now < *until) {
            return false;
        }
        let before = self.kept.len();
        let stale = |key: &FindingKey, kept: &FindingEntry| {
            key.class == class && !kept.grown && kept.last_ns.saturating_add(STALE_NS) < now
        };
        let (folded, worst, least) = (&mut self.folded, &mut self.worst, self.least);
        let muted = &mut self.muted;
        self.kept.retain(|key, kept| {
            step();
            let goes = stale(key, kept);
            match &kept.verdict.muted {
                Some(rule) if goes => *muted.entry((class, Rc::clone(rule))).or_default() += 1,
                None if goes => {
                    *folded.entry(class).or_default() += 1;
                    *worst = (*worst).max(counts_as(kept, least));
                }
                Some(_) | None => {}
            }
            !goes
        });
        let gone = before - self.kept.len();
        if let Some(count) = self.per_class.get_mut(&class) {
            *count = count.saturating_sub(gone);
        }
        if gone == 0 {
            self.full_until.insert(class, now.saturating_add(AGAIN_NS));
        }
        gone > 0
    }

    /// Whether there are findings that no line has told of.
    #[inline]
    #[must_use]
    pub(crate) const fn has_new(&self) -> bool {
        self.pending
    }

    /// Findings to be shown.
    pub(crate) fn show(
        &mut self,
        which: FindingSelection,
        tracker: &mut Tracker,
        now: SystemTime,
    ) -> Vec<ShownFinding> {
        self.pending = false;
        // A name is seldom long in coming, and a rule may ask for it.
        let patient = self.judge.asks_names();
        let wanted = |kept: &FindingEntry| match which {
            FindingSelection::New => {
                kept.new && !(patient && kept.draft.is_nameless(&tracker.containers))
            }
            FindingSelection::Grown => kept.grown,
            FindingSelection::All => true,
        };
        let (mut shown, mut containers) = (Vec::new(), Vec::new());
        for (key, kept) in self.kept.iter_mut().filter(|(_, kept)| wanted(kept)) {
            let judge = self.judge.as_ref();
            let finding = kept.finding(key, tracker, &mut containers, judge, now);
            kept.grown = false;
            if kept.verdict.muted.is_none() {
                let new = std::mem::take(&mut kept.new);
                shown.push(ShownFinding { new, finding });
            }
        }
        for handle in &containers {
            tracker.containers.note_shown(handle);
        }
        shown.sort_by_key(|one| one.finding.id);
        shown
    }

    /// All findings, the severest first, then the surest.
    pub(crate) fn report(&mut self, tracker: &mut Tracker, now: SystemTime) -> Vec<Finding> {
        let all = self.show(FindingSelection::All, tracker, now).into_iter();
        let mut all: Vec<_> = all.map(|shown| shown.finding).collect();
        all.sort_by_key(|one| (std::cmp::Reverse((one.severity, one.confidence)), one.id));
        all
    }

    /// The severest of what was not declared, and not muted: as it was shown last.
    #[must_use]
    pub(crate) fn worst(&self) -> Option<Severity> {
        let all = self.kept.values().filter_map(|kept| counts_as(kept, self.least));
        all.max().max(self.worst)
    }

    /// What became of them.
    #[must_use]
    pub(crate) fn accounting(&self, undetermined: u64) -> FindingsAccounting {
        let mut by_class: BTreeMap<Class, u64> = self.folded.clone();
        let mut muted: BTreeMap<Class, u64> = BTreeMap::new();
        let mut muted_by: BTreeMap<String, u64> = BTreeMap::new();
        let mut mute = |class: Class, rule: &str, count: u64| {
            *muted.entry(class).or_default() += count;
            *muted_by.entry(rule.to_owned()).or_default() += count;
        };
        for ((class, rule), count) in &self.muted {
            mute(*class, rule, *count);
        }
        for (key, kept) in &self.kept {
            match &kept.verdict.muted {
                Some(rule) => mute(key.class, rule, 1),
                None => *by_class.entry(key.class).or_default() += 1,
            }
        }
        FindingsAccounting {
            by_class,
            muted,
            muted_by,
            folded: self.folded.values().sum(),
            over_limit: self.over_limit.clone(),
            undetermined,
        }
    }
}

/// How much a finding weighs for `--fail-on`.
fn counts_as(kept: &FindingEntry, least: u8) -> Option<Severity> {
    let FindingDecision { muted, declared_by, severity } = &kept.verdict;
    let declared = muted.is_some() || declared_by.is_some() || kept.draft.declared_by.is_some();
    (!declared && kept.draft.confidence() >= least).then(|| severity.unwrap_or(kept.draft.severity))
}

impl FindingEntry {
    fn add(&mut self, trace: EvidenceEvent) {
        self.count = self.count.saturating_add(trace.count);
        self.first_ns = self.first_ns.min(trace.boot_ns);
        self.last_ns = self.last_ns.max(trace.boot_ns);
        self.grown = true;
        self.rest_on(trace);
    }

    fn rest_on(&mut self, trace: EvidenceEvent) {
        if let Some(seq) = trace.seq {
            self.lines.push(seq);
        }
        // A flood of the same is one event that came often, once there are enough of them one by one.
        if self.events.first.len() >= EVENTS
            && trace.seq.is_none()
            && let Some(last) = self.events.last_mut()
            && last.seq.is_none()
            && (&last.what, last.ret, last.error) == (&trace.what, trace.ret, trace.error)
        {
            last.count = last.count.saturating_add(trace.count);
            last.boot_ns = last.boot_ns.max(trace.boot_ns);
            return;
        }
        self.events.push(trace);
    }

    fn finding(
        &mut self,
        key: &FindingKey,
        tracker: &Tracker,
        containers: &mut Vec<ContainerHandle>,
        judge: &dyn FindingPolicy,
        now: SystemTime,
    ) -> Finding {
        let before = self.object.take().unwrap_or_default();
        self.object = Some(found::object_info(key, &self.draft, before, tracker, containers));
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
            benign_explanation: Cow::Borrowed(draft.benign_explanation),
            policy: None,
        };
        self.verdict = judge.decide(&finding, now);
        finding.severity = self.verdict.severity.unwrap_or(finding.severity);
        let rule = self.verdict.declared_by.clone();
        finding.declared_by = rule.or(finding.declared_by);
        if finding.declared_by.is_some() {
            finding.severity = Severity::Info;
        } else {
            finding.policy = judge.suggest(&finding);
        }
        finding
    }
}

impl FindingKey {
    /// Of a process.
    #[must_use]
    pub(crate) const fn for_process(
        class: Class,
        process: crate::input::process::ProcessId,
        target: FindingTarget,
    ) -> Self {
        Self { class, whose: FindingOwner::Process(process), target }
    }
}
