//! Inputs to events: pure. No clock, no file, no thread, no kernel: what the engine needs from the host it asks for
//! ([`EngineRequest`]), and the answer is another input. The same inputs give the same events, byte for byte.
//!
//! | module | its job |
//! | --- | --- |
//! | `records` | what the eBPF programs tell takes effect |
//! | `looks` | what looks at what exists add to that |
//! | `folded` | accesses that the eBPF programs counted, and did not tell of each |
//! | `deferred` | calls of containers of which it is not known yet whether they are wanted |
//! | `resync` | when what exists is listed anew after a loss |
//! | `tell` | from what is known to finished events |
//! | `accounts` | counters and pending calls, as they are shown |
//! | [`track`] | what is known: processes, namespaces, queues, objects, containers |
//! | [`detect`] | what was done, or tried, across namespaces |
//! | [`policy`] | what an operator says of that |
//!
//! Invariant: an event is finished when it leaves: numbered, named, complete. What is told to is told by reference,
//! and says nothing back.

mod accounts;
mod deferred;
pub(crate) mod detect;
mod folded;
mod looks;
pub(crate) mod policy;
mod records;
mod resync;
mod tell;
pub(crate) mod track;

use std::collections::VecDeque;

use ipc_trace_common::{op, record::NsRef};

use crate::{
    event::{Tell, finding::Severity},
    input::{
        Begin, EngineRequest, Input, Moment,
        counters::{AllCounts, Counted},
        namespace_list::NamespaceList,
        process::{InspectorAnswer, ProcessId},
    },
};
use deferred::DeferredCalls;
use detect::{Detect, store::FindingSelection};
use policy::judge::PolicyEngine;
use resync::Resync;
use track::{
    Tracker,
    clock::Clock,
    losses::{Losses, NewLosses},
    namespaces::Death,
    objects::looks::Holders,
    stats::Stats,
};

/// A line says every minute how it stands.
const STATUS_NS: u64 = 60_000_000_000;
/// Namespaces of whose end is told before the rings are looked at again: each may take its objects along.
const ENDS: usize = 32;

/// All that is known, and what is made of it.
#[derive(Debug)]
pub(crate) struct Engine {
    /// What the run is
    begin: Begin,
    tracker: Tracker,
    detect: Detect,
    /// The counts of a report
    stats: Option<Box<Stats>>,
    told: folded::ReportedAccesses,
    held: DeferredCalls,
    losses: Losses,
    resync: Resync,
    /// The number of the last event
    seq: u64,
    /// The boot time that was told last, and that up to which all has been told
    now: u64,
    reached: u64,
    /// The boot time of the end
    ended: Option<u64>,
    next_status: u64,
    counted: Counted,
    /// Of the calls that were delivered, those of containers that are not wanted, by the operation's number
    unwanted: [u64; op::COUNT + 1],
    /// What was listed last
    namespace_list: NamespaceList,
    /// Namespaces that have died, of whose end is to be told
    dying: VecDeque<(NsRef, Death)>,
    holders: Option<Holders>,
    wants: VecDeque<EngineRequest>,
}

impl Engine {
    /// Nothing is known yet. `judges`: who has a say in findings.
    #[must_use]
    pub(crate) fn new(begin: Begin, judges: PolicyEngine) -> Self {
        track::seed(begin.seed);
        let clock = Clock::with_offset(begin.at.offset_ns);
        let mut tracker = Tracker::new(clock);
        tracker.contexts.with_ancestry = begin.with_ancestry;
        if begin.extended_ids {
            tracker.objects.ids_are_extended();
        }
        tracker.containers.want(begin.wanted.clone());
        tracker.namespaces.listed(&begin.namespace_list);
        let mut detect = Detect::new(begin.own_pid);
        detect.findings.judged_by(Box::new(judges));
        detect.findings.with_least_confidence(begin.min_confidence);
        if begin.lines {
            detect.findings.are_told();
        }
        Self {
            tracker,
            detect,
            stats: (!begin.lines).then(Box::default),
            told: folded::ReportedAccesses::default(),
            held: DeferredCalls::default(),
            losses: Losses::default(),
            resync: Resync::default(),
            seq: 0,
            now: begin.at.boot_ns,
            reached: begin.at.boot_ns,
            ended: None,
            next_status: begin.at.boot_ns.saturating_add(STATUS_NS),
            counted: Counted::default(),
            unwanted: [0; op::COUNT + 1],
            namespace_list: NamespaceList::default(),
            dying: VecDeque::new(),
            holders: None,
            wants: VecDeque::new(),
            begin,
        }
    }

    /// Something is told, and those are told of it who want to know.
    #[inline]
    pub(crate) fn feed(&mut self, input: &Input<'_>, out: &mut impl Tell) {
        match *input {
            Input::Call(ref call) => self.call(call, out),
            Input::Batch(ref batch) => self.batch(batch),
            Input::Change(ref call) => self.changed(call, out),
            Input::Context(context) => self.tracker.context(context),
            Input::Exit(record) => {
                self.detect.ended(record, &self.tracker);
                self.tracker.contexts.remove(record);
            }
            Input::Namespace(record) => {
                let id = (record.ns_id != 0).then_some(record.ns_id);
                let ended = self.tracker.namespaces.found(record.ns, id, record.boot_ns);
                self.end_all(ended, record.boot_ns, out);
            }
            Input::Move(record, beside) => self.moved(record, beside, out),
            Input::Queue(record) => self.tracker.queues.insert(record),
            Input::Cgroup(record) => self.tracker.containers.record(record),
            Input::Access(record) => {
                self.told.note(record, &self.tracker);
                self.detect.access(record, &self.tracker);
            }
            Input::Folded(folded) => self.folded(folded),
            Input::Cgroups(all) => self.tracker.containers.exist(all),
            Input::Looked { at, ls, before, after } => self.looked(at, ls, (before, after)),
            Input::Opened(at, namespace_list) => self.opened(at, namespace_list, out),
            Input::Read { now, reached } => self.read(now, reached, out),
            Input::Tick(moment) => self.tick(moment, out),
            Input::Listed(namespace_list) => self.listed(namespace_list),
            Input::Counted(counted) => self.counted(counted, out),
            Input::Snapshot(ls, before, after) => self.snapshot(ls, (before, after), out),
            Input::Lingered(ns, at, found) => self.lingered(ns, at, found, out),
            Input::Named(named) => {
                if let Some(known) = self.tracker.containers.named(named.clone()) {
                    self.tell_container(&known, out);
                }
            }
            Input::Answer(answer) => self.answered(answer),
            Input::Ending(at) => self.ending(at),
            Input::Settled(ls, namespace_list) => self.settled(ls, namespace_list, out),
            Input::Finish(command) => self.finish(command, out),
        }
    }

    /// What is wanted, the oldest first.
    pub(crate) fn take_want(&mut self) -> Option<EngineRequest> {
        self.wants.pop_front()
    }

    /// What became known of cgroups since this was asked last: whether the calls of threads in them are wanted;
    /// `None`: nobody is in them any more.
    pub(crate) fn take_verdicts(&mut self) -> Vec<(u64, Option<bool>)> {
        self.tracker.containers.take_verdicts()
    }

    /// Whether a thread's context is known.
    #[inline]
    #[must_use]
    pub(crate) fn knows(&self, tid: u32, context: u64) -> bool {
        context == 0 || self.tracker.contexts.get(tid, context).is_some()
    }

    /// What is known: for questions, which change nothing.
    #[must_use]
    pub(crate) const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Whether what a process has mapped is wanted to be known when it moves.
    #[must_use]
    pub(crate) fn wants_mapped(&self, process: ProcessId, now: u64) -> bool {
        self.detect.wants_mapped(process, now)
    }

    /// Whether there may be a name on its way for a container that was seen.
    #[must_use]
    pub(crate) fn waits_for_names(&self) -> bool {
        self.tracker.containers.waits()
    }

    /// Whether counters say that more was lost than is known.
    #[must_use]
    pub(crate) fn has_lost_more(&self, counts: &AllCounts) -> bool {
        self.losses.grew(counts.total().dropped, counts.others())
    }

    /// The severest finding.
    #[must_use]
    pub(crate) fn worst(&self) -> Option<Severity> {
        self.detect.findings.worst()
    }

    fn want(&mut self, want: EngineRequest) {
        self.wants.push_back(want);
    }

    /// The rings were read.
    fn read(&mut self, now: u64, reached: u64, out: &mut impl Tell) {
        (self.now, self.reached) = (now, reached);
        for _ in 0..ENDS {
            let Some((ns, death)) = self.dying.pop_front() else { break };
            self.end_one(ns, death, now, out);
        }
        if self.dying.is_empty() {
            self.tracker.namespaces.forget();
        }
        if self.tracker.containers.are_filtered() {
            self.release(now, out);
        }
        if self.detect.waits() {
            self.detect.poll(reached);
            self.ask();
        }
        self.ask_contexts();
        self.tell_findings(FindingSelection::New, out);
    }

    /// A second went by: findings that time decides, as far as all has been told, and those that have grown.
    fn tick(&mut self, moment: Moment, out: &mut impl Tell) {
        let Moment { boot_ns: now, offset_ns } = moment;
        self.now = now;
        self.tracker.clock.follow(offset_ns);
        self.detect.tick(self.reached, &self.tracker);
        self.ask();
        self.tell_findings(FindingSelection::Grown, out);
        for (ns, pids) in self.tracker.objects.pending_removals(now) {
            let ns_id = self.tracker.namespaces.show(ns).ns_id;
            self.want(EngineRequest::Linger { ns, ns_id, pids: pids.into_iter().collect() });
        }
        if self.resync.begin(now) {
            self.tracker.objects.sees_again();
            self.want(EngineRequest::Snapshot);
        }
        self.tell_status(out);
    }

    /// What classes ask.
    fn ask(&mut self) {
        for request in self.detect.take_requests() {
            self.wants.push_back(EngineRequest::Ask(request));
        }
    }

    fn ask_contexts(&mut self) {
        if let Some(request) = self.tracker.contexts.take_request() {
            self.want(EngineRequest::Ask(request));
        }
    }

    fn answered(&mut self, answer: &InspectorAnswer) {
        match answer {
            InspectorAnswer::Namespaces(tid, at, found) => {
                self.detect.namespaces_seen(*tid, *found, (*at, self.ended.is_some()));
            }
            InspectorAnswer::Mapped(process, found) => {
                self.detect.mapped_seen(*process, found.as_deref(), &self.tracker);
            }
            InspectorAnswer::Users(tid, context, extents) => {
                self.tracker.contexts.users_seen(*tid, *context, extents);
            }
            InspectorAnswer::Ended(tids) => self.tracker.contexts.have_ended(tids),
        }
    }

    /// Something was counted.
    fn counted(&mut self, counted: &Counted, out: &mut impl Tell) {
        if let Some(drops) = &counted.drops {
            let losses = self.losses.update(drops, counted.counts.others());
            if !losses.is_empty() {
                self.lost(&losses, out);
            }
        }
        self.counted = Counted { drops: None, ..counted.clone() };
    }

    fn lost(&mut self, losses: &NewLosses, out: &mut impl Tell) {
        if losses.are_of_state() {
            self.tracker.objects.lost();
            self.resync.note_loss(self.now);
        }
        if let Some(stats) = &mut self.stats {
            losses.by.iter().for_each(|loss| stats.lost(loss));
        }
        self.tell_loss(losses, out);
    }

    /// Nothing comes any more but answers.
    fn ending(&mut self, at: u64) {
        self.ended = Some(at);
        self.resync.end(at);
        self.detect.ending(at, &self.tracker);
        self.ask();
    }
}
