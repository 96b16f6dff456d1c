//! Turns inputs into events: pure. The engine uses no clock, file, thread or kernel: what it needs from the
//! host it requests ([`EngineRequest`]), and the answer is another input. The same inputs give the same
//! events, byte for byte.
//!
//! | module | its job |
//! | --- | --- |
//! | `records` | applies the records of the eBPF programs |
//! | `snapshots` | applies snapshots and namespace lists |
//! | `coalesced` | accesses that the eBPF programs count instead of sending |
//! | `deferred` | calls of containers for which the filter can't decide yet |
//! | `resync` | when a new snapshot is taken after a loss |
//! | [`checkpoint`] | the whole state as bytes, and back |
//! | `emit` | builds finished events |
//! | `accounting` | counters and pending calls for output |
//! | [`track`] | the tracked state: processes, namespaces, queues, objects, containers |
//! | [`detect`] | detects operations across namespaces |
//! | [`policy`] | the operator's policy for findings |
//!
//! Invariant: an event is finished when it leaves the engine: numbered, named, complete. Receivers borrow it
//! and return nothing.

mod accounting;
pub(crate) mod checkpoint;
mod coalesced;
mod deferred;
pub(crate) mod detect;
mod emit;
pub(crate) mod policy;
mod records;
mod resync;
mod snapshots;
pub(crate) mod track;

use std::collections::VecDeque;

use ipc_trace_common::{op, record::NsRef};
use minicbor::{Decode, Encode};

use crate::{
    event::{EmitEvent, counts::SecondCounts, finding::Severity, shared::SharedState},
    input::{
        Begin, EngineRequest, Input, Moment,
        call_filter::CallFilter,
        counters::{AllCounts, Counted},
        namespace_list::NamespaceList,
        process::{InspectorAnswer, ProcessId},
    },
};
use deferred::DeferredCalls;
use detect::{Detect, finding_store::FindingSelection};
use policy::engine::PolicyEngine;
use resync::Resync;
use track::{
    Tracker,
    clock::Clock,
    counts_by_second::CountsBySecond,
    losses::{Losses, NewLosses},
    namespaces::Death,
    objects::snapshots::Holders,
    stats::Stats,
};

/// Interval of status lines, nanoseconds.
const STATUS_NS: u64 = 60_000_000_000;
/// Number of dead namespaces ended per read of the rings: each may end many objects.
const MAX_ENDED_PER_READ: usize = 32;

/// The engine: the tracked state and the detectors.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Engine {
    /// The metadata of the run.
    #[cbor(skip)]
    begin: Begin,
    #[n(0)]
    tracker: Tracker,
    #[n(1)]
    detect: Detect,
    /// The counts of a report; `None`: there will be none.
    #[n(16)]
    stats: Option<Box<Stats>>,
    /// Counts by second; `None`: nobody asked for them. No state depends on them.
    #[cbor(skip)]
    counts_by_second: Option<Box<CountsBySecond>>,
    #[n(2)]
    reported_accesses: coalesced::ReportedAccesses,
    #[n(3)]
    deferred: DeferredCalls,
    /// Which calls of a recording are shown; `None`: all, as the eBPF programs have filtered them
    #[cbor(skip)]
    call_filter: Option<Box<CallFilter>>,
    #[n(4)]
    losses: Losses,
    #[n(5)]
    resync: Resync,
    /// The number of the last event
    #[n(6)]
    seq: u64,
    /// The latest boot time received, and the boot time up to which all records have been applied.
    #[n(7)]
    now: u64,
    #[n(8)]
    watermark: u64,
    /// The boot time of the end, once it is known.
    #[n(9)]
    ended: Option<u64>,
    #[n(10)]
    next_status: u64,
    #[n(11)]
    counted: Counted,
    /// Delivered calls that the container filter removed, by the operation's number.
    #[n(12)]
    unwanted: [u64; op::COUNT + 1],
    /// The latest namespace list.
    #[n(13)]
    namespace_list: NamespaceList,
    /// Dead namespaces whose end is still to be reported.
    #[n(14)]
    dying: VecDeque<(NsRef, Death)>,
    #[n(15)]
    holders: Option<Holders>,
    #[cbor(skip)]
    requests: VecDeque<EngineRequest>,
    /// How many calls were made, by the operation's number.
    #[n(17)]
    calls: [u64; op::COUNT + 1],
    /// The boot time since when calls are shown or counted.
    #[n(18)]
    started: u64,
    /// The highest severity of new findings that nobody has asked about.
    #[cbor(skip)]
    new_severity: Option<Severity>,
}

impl Engine {
    /// An engine without state. `policy` decides about findings.
    #[must_use]
    pub(crate) fn new(begin: Begin, policy: PolicyEngine) -> Self {
        let clock = Clock::with_offset(begin.at.offset_ns);
        let mut tracker = Tracker::new(clock);
        tracker.contexts.with_ancestry = begin.with_ancestry;
        if begin.extended_ids {
            tracker.objects.ids_are_extended();
        }
        tracker.containers.want(begin.wanted.clone());
        tracker.namespaces.on_namespace_list(&begin.namespace_list);
        let mut detect = Detect::new(begin.own_pid);
        detect.findings.set_policy(Box::new(policy));
        detect.findings.set_min_confidence(begin.min_confidence);
        if begin.lines {
            detect.findings.allow_eviction();
        }
        Self {
            tracker,
            detect,
            stats: (!begin.lines).then(Box::default),
            counts_by_second: None,
            reported_accesses: coalesced::ReportedAccesses::default(),
            deferred: DeferredCalls::default(),
            call_filter: None,
            losses: Losses::default(),
            resync: Resync::default(),
            seq: 0,
            now: begin.at.boot_ns,
            watermark: begin.at.boot_ns,
            ended: None,
            next_status: begin.at.boot_ns.saturating_add(STATUS_NS),
            counted: Counted::default(),
            unwanted: [0; op::COUNT + 1],
            namespace_list: NamespaceList::default(),
            dying: VecDeque::new(),
            holders: None,
            requests: VecDeque::new(),
            calls: [0; op::COUNT + 1],
            started: begin.at.boot_ns,
            new_severity: None,
            begin,
        }
    }

    /// Counts for a report, too: a checkpoint then has it.
    pub(crate) fn keep_counts(&mut self) {
        self.stats.get_or_insert_default();
    }

    /// Counts calls by second from now on. Events are the same.
    pub(crate) fn count_by_second(&mut self) {
        self.counts_by_second.get_or_insert_default();
    }

    /// Removes and returns the counts by second since the last call, if there are any.
    pub(crate) fn take_counts(&mut self) -> Vec<SecondCounts> {
        self.counts_by_second.as_mut().map_or_else(Vec::new, |counts| counts.take())
    }

    /// How many [`Self::take_counts`] would return.
    #[must_use]
    pub(crate) fn waiting_counts(&self) -> usize {
        self.counts_by_second.as_ref().map_or(0, |counts| counts.rows())
    }

    /// How many calls were made, by the operation's number.
    #[must_use]
    pub(crate) const fn calls(&self) -> &[u64; op::COUNT + 1] {
        &self.calls
    }

    /// Counts calls that were made.
    fn count_calls(&mut self, op: op::Op, calls: u64) {
        if let Some(count) = self.calls.get_mut(op as usize) {
            *count += calls;
        }
    }

    /// Sets which calls are shown or counted. All change the state.
    pub(crate) fn filter_calls(&mut self, filter: CallFilter) {
        self.call_filter = Some(Box::new(filter)).filter(|filter| !filter.is_empty());
    }

    /// Applies an input, and emits the resulting events.
    #[inline]
    pub(crate) fn feed(&mut self, input: &Input<'_>, out: &mut impl EmitEvent) {
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
                self.reported_accesses.note(record, &self.tracker);
                self.detect.access(record, &self.tracker);
            }
            Input::CoalescedAccesses(accesses) => self.coalesced_accesses(accesses),
            Input::Cgroups(all) => self.tracker.containers.exist(all),
            Input::InitialSnapshot { at, ls, before, after } => {
                self.on_initial_snapshot(at, ls, (before, after))
            }
            Input::Opened(at, namespace_list) => self.opened(at, namespace_list, out),
            Input::Read { now, watermark } => self.read(now, watermark, out),
            Input::Tick(moment) => self.tick(moment, out),
            Input::NamespaceList(namespace_list) => self.on_namespace_list(namespace_list),
            Input::Counted(counted) => self.counted(counted, out),
            Input::Snapshot(ls, before, after) => self.snapshot(ls, (before, after), out),
            Input::RemovedScan(ns, at, found) => self.on_removed_scan(ns, at, found, out),
            Input::Named(named) => {
                if let Some(known) = self.tracker.containers.named(named.clone()) {
                    self.emit_container(&known, out);
                }
            }
            Input::Answer(answer) => self.answered(answer),
            Input::Ending(at) => self.ending(at),
            Input::FinalSnapshot(ls, namespace_list) => {
                self.on_final_snapshot(ls, namespace_list, out)
            }
            Input::Finish(command) => self.finish(command, out),
        }
    }

    /// Removes and returns the oldest request.
    pub(crate) fn take_request(&mut self) -> Option<EngineRequest> {
        self.requests.pop_front()
    }

    /// The container filter's decisions since the last call, by cgroup: whether calls of its threads are
    /// wanted; `None` if the cgroup was removed.
    pub(crate) fn take_filter_decisions(&mut self) -> Vec<(u64, Option<bool>)> {
        self.tracker.containers.take_filter_decisions()
    }

    /// Whether a thread's context is known.
    #[inline]
    #[must_use]
    pub(crate) fn knows(&self, tid: u32, context: u64) -> bool {
        context == 0 || self.tracker.contexts.get(tid, context).is_some()
    }

    /// The tracked state, read-only.
    #[must_use]
    pub(crate) const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Whether the detectors need a process's mappings when it switches namespaces.
    #[must_use]
    pub(crate) fn wants_mapped(&self, process: ProcessId, now: u64) -> bool {
        self.detect.wants_mapped(process, now)
    }

    /// Whether a container that was seen is still waiting for its metadata.
    #[must_use]
    pub(crate) fn waits_for_names(&self) -> bool {
        self.tracker.containers.waits()
    }

    /// Whether the counters show losses that aren't known yet.
    #[must_use]
    pub(crate) fn has_lost_more(&self, counts: &AllCounts) -> bool {
        self.losses.grew(counts.total().dropped, counts.others())
    }

    /// The highest severity of a finding that counts for the exit status.
    #[must_use]
    pub(crate) fn max_severity(&self) -> Option<Severity> {
        self.detect.findings.max_severity()
    }

    /// The highest severity of the findings since the last call, but for those that are allowed or hidden.
    pub(crate) fn take_new_severity(&mut self) -> Option<Severity> {
        self.new_severity.take()
    }

    /// The boot time of the last input, nanoseconds.
    #[must_use]
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    fn request(&mut self, want: EngineRequest) {
        self.requests.push_back(want);
    }

    /// The rings have been read.
    fn read(&mut self, now: u64, watermark: u64, out: &mut impl EmitEvent) {
        (self.now, self.watermark) = (now, watermark);
        for _ in 0..MAX_ENDED_PER_READ {
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
            self.detect.poll(watermark);
            self.ask();
        }
        self.ask_contexts();
        self.emit_findings(FindingSelection::New, out);
    }

    /// A second has passed: decides the findings that depend on time, up to the watermark, and emits the
    /// updated ones.
    fn tick(&mut self, moment: Moment, out: &mut impl EmitEvent) {
        let Moment { boot_ns: now, offset_ns } = moment;
        self.now = now;
        self.tracker.clock.follow(offset_ns);
        self.detect.tick(self.watermark, &self.tracker);
        self.ask();
        self.emit_findings(FindingSelection::Updated, out);
        for (ns, pids) in self.tracker.objects.pending_removals(now) {
            let ns_id = self.tracker.namespaces.show(ns).ns_id;
            self.request(EngineRequest::ScanRemoved {
                ns,
                ns_id,
                pids: pids.into_iter().collect(),
            });
        }
        if self.resync.begin(now) {
            self.tracker.objects.start_resync();
            self.request(EngineRequest::Snapshot);
        }
        self.emit_status(out);
    }

    /// Forwards the detectors' requests.
    fn ask(&mut self) {
        for request in self.detect.take_requests() {
            self.requests.push_back(EngineRequest::Ask(request));
        }
    }

    fn ask_contexts(&mut self) {
        if let Some(request) = self.tracker.contexts.take_request() {
            self.request(EngineRequest::Ask(request));
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

    /// Applies new counters.
    fn counted(&mut self, counted: &Counted, out: &mut impl EmitEvent) {
        if let Some(drops) = &counted.drops {
            let losses = self.losses.update(drops, counted.counts.others());
            if !losses.is_empty() {
                self.lost(&losses, out);
            }
        }
        self.counted = Counted { drops: None, ..counted.clone() };
    }

    fn lost(&mut self, losses: &NewLosses, out: &mut impl EmitEvent) {
        if losses.are_of_state() {
            self.tracker.objects.lost();
            self.resync.note_loss(self.now);
        }
        if let Some(stats) = &mut self.stats {
            losses.by.iter().for_each(|loss| stats.lost(loss));
        }
        if let Some(counts) = &mut self.counts_by_second {
            losses.by.iter().for_each(|loss| counts.lost(loss, self.now, &self.tracker));
        }
        self.emit_loss(losses, out);
    }

    /// From now on only answers arrive.
    fn ending(&mut self, at: u64) {
        self.ended = Some(at);
        self.resync.end(at);
        self.detect.ending(at, &self.tracker);
        self.ask();
    }
}
