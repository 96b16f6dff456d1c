//! The work between two passes over the rings: the engine's requests, results of snapshots, updates from runtimes.

use std::time::{Duration, Instant};

use ipc_trace_common::op::Op;

use super::{Due, POLL_MIN, Run, RunError, system};
use crate::{
    event::PROCESSES_NOT_INSPECTED,
    input::{
        EngineRequest, Input,
        counters::{AllCounts, Counted, Drops},
    },
    sources::{
        clock::{self, boot_ns},
        host::{
            namespace_contents::{NamespaceTarget, NsHandle},
            snapshot_thread::{SnapshotTask, SnapshotThread, SnapshotThreadResult},
        },
        kernel::ring::Nothing,
        reader::ReaderCx,
    },
};

/// How long to wait for answers at the end. Podman looks for events in its file four times a second, and a connection
/// that has ended is made anew.
const LAST_NAMES_WAIT: Duration = Duration::from_millis(600);
/// The largest number of inputs of a kind that are fed between two passes.
const MAX_INPUTS_BETWEEN_POLLS: usize = 64;

impl Run {
    /// Starts the snapshot thread.
    pub(super) fn start_snapshot_thread(&mut self) -> Result<(), RunError> {
        let task_iter = self.take_task_iterators();
        let snapshot_thread = SnapshotThread::start(self.setup.session.lister(), task_iter);
        self.snapshot_thread = Some(snapshot_thread.map_err(system("can't start a thread"))?);
        Ok(())
    }

    /// Does the work before the next pass.
    pub(super) fn work_between_polls(&mut self) {
        for _ in 0..MAX_INPUTS_BETWEEN_POLLS {
            let Some(named) = self.names.try_recv() else { break };
            self.fed.emit(&Input::Named(&named));
        }
        for _ in 0..MAX_INPUTS_BETWEEN_POLLS {
            let Some(answer) = self.inspector.take_answer() else { break };
            self.fed.emit(&Input::Answer(&answer));
        }
        self.emit_due();
        self.serve_requests();
        self.filter_containers();
    }

    /// Feeds snapshots' results, once everything that happened before them has been fed.
    fn emit_due(&mut self) {
        if let Some(snapshot_thread) = &mut self.snapshot_thread {
            while let Some((at, seen)) = snapshot_thread.seen() {
                self.seen.push_back((at, Due::Seen(seen)));
            }
        }
        while self.seen.front().is_some_and(|(at, _)| self.reader.watermark() > *at) {
            match self.seen.pop_front() {
                Some((_, Due::CoalescedAccesses(coalesced))) => {
                    self.fed.emit(&Input::CoalescedAccesses(&coalesced))
                }
                Some((_, Due::Seen(SnapshotThreadResult::List(namespace_list)))) => {
                    self.fed.emit(&Input::NamespaceList(&namespace_list))
                }
                Some((_, Due::Seen(SnapshotThreadResult::Snapshot(ls, before, after)))) => {
                    if let Err(error) = self.count() {
                        log::warn!("{error}");
                    }
                    self.fed.emit(&Input::Snapshot(ls.as_deref(), &before, &after));
                    drop(ls);
                    super::startup::trim_heap();
                }
                Some((_, Due::Seen(SnapshotThreadResult::RemovedScan(all)))) => {
                    for (ns, at, found) in &all {
                        self.fed.emit(&Input::RemovedScan(*ns, *at, found));
                    }
                }
                None => return,
            }
        }
    }

    /// Passes the engine's requests on.
    pub(super) fn serve_requests(&mut self) {
        let mut targets = Vec::new();
        while let Some(want) = self.fed.engine.take_request() {
            match want {
                EngineRequest::Ask(request) => {
                    if let Err(request) = self.inspector.request(request) {
                        self.fed.emit(&Input::Answer(&request.unanswered()));
                    }
                }
                EngineRequest::Snapshot => self.request_snapshot(SnapshotTask::Snapshot),
                EngineRequest::ScanRemoved { ns, ns_id, pids } => {
                    let id = ns_id.map(NsHandle::Id);
                    let threads = pids.iter().map(|pid| NsHandle::Thread(*pid, *pid));
                    let ways = match ns.inum == self.setup.namespace_list.self_ns_inum {
                        true => vec![NsHandle::Own],
                        false => id.into_iter().chain(threads).collect(),
                    };
                    targets.push((ns, NamespaceTarget { inum: ns.inum, ways }));
                }
            }
        }
        if !targets.is_empty() {
            self.request_snapshot(SnapshotTask::ScanRemoved(targets));
        }
    }

    /// Requests a list of the existing namespaces.
    pub(super) fn request_namespace_list(&mut self) {
        self.request_snapshot(SnapshotTask::List);
    }

    fn request_snapshot(&mut self, task: SnapshotTask) {
        if let Some(snapshot_thread) = &mut self.snapshot_thread {
            snapshot_thread.request(task);
        }
    }

    /// Feeds the counters.
    pub(super) fn count(&mut self) -> Result<(), RunError> {
        let session = &self.setup.session;
        let counts = session.counts();
        let grew = self.fed.engine.has_lost_more(&counts);
        let drops = grew.then(|| session.drops()).transpose()?;
        self.emit_counts(counts, drops);
        Ok(())
    }

    pub(super) fn emit_counts(&mut self, counts: AllCounts, drops: Option<Drops>) {
        let mut diagnostics = self.setup.session.diagnosed();
        if let given_up @ 1.. = self.inspector.given_up() {
            diagnostics.insert(PROCESSES_NOT_INSPECTED.to_owned(), given_up);
        }
        self.fed.emit(&Input::Counted(&Counted {
            counts,
            drops,
            delivered: self.reader.delivered.clone(),
            diagnostics,
            reader_max_ns: self.reader_max_ns,
        }));
    }

    /// Takes accesses that the eBPF programs coalesced. Records of similar accesses may still be in the ring.
    pub(super) fn take_coalesced(&mut self) -> Result<(), RunError> {
        let coalesced = self.setup.session.coalesced_accesses(boot_ns())?;
        if !coalesced.is_empty() {
            self.seen.push_back((boot_ns(), Due::CoalescedAccesses(coalesced)));
        }
        Ok(())
    }

    /// Feeds the waiting coalesced accesses at the end, when no more records come. Other results are outdated by
    /// then.
    pub(super) fn emit_coalesced(&mut self) {
        for (_, due) in std::mem::take(&mut self.seen) {
            if let Due::CoalescedAccesses(coalesced) = due {
                self.fed.emit(&Input::CoalescedAccesses(&coalesced));
            }
        }
    }

    /// Feeds calls that come from elsewhere than the ring. No program writes to them any more.
    pub(super) fn take_records(&mut self, records: &[Vec<u64>]) {
        if records.is_empty() {
            return;
        }
        let session = &mut self.setup.session;
        let before = self.reader.delivered.clone();
        self.reader.take_unsent_batches(
            records,
            &mut ReaderCx {
                events: &mut Nothing,
                control: &mut session.control,
                ask: &mut self.inspector,
                feed: &mut self.fed,
                clock: clock::boot_ns,
            },
        );
        for op in Op::ALL {
            let of = |ops: &[u64]| ops.get(op as usize).copied().unwrap_or(0);
            let more = of(&self.reader.delivered.ops) - of(&before.ops);
            session.note_taken(op, more);
        }
    }

    /// Passes on to the eBPF programs which cgroups' calls are wanted.
    fn filter_containers(&mut self) {
        let cgroup_decisions = self.fed.engine.take_filter_decisions();
        if cgroup_decisions.is_empty() {
            return;
        }
        if let Err(reason) = self.setup.session.filter_cgroups(&cgroup_decisions)
            && !std::mem::replace(&mut self.filter_incomplete, true)
        {
            log::warn!(
                "the kernel's container filter is incomplete ({reason}): calls of containers that are not in it \
                 are filtered in user space, with the same result at a higher cost; trace fewer containers, or \
                 give --ipc-ns too"
            );
        }
    }

    /// Takes the names of containers that started just before the end.
    pub(super) async fn take_last_names(&mut self) {
        let deadline = Instant::now() + LAST_NAMES_WAIT;
        loop {
            while let Some(named) = self.names.try_recv() {
                self.fed.emit(&Input::Named(&named));
            }
            let waits = self.names.any_has_answered() && self.fed.engine.waits_for_names();
            if !waits || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(POLL_MIN).await;
        }
    }

    /// Takes outstanding answers, for a short time.
    pub(super) async fn take_last_answers(&mut self) {
        let deadline = Instant::now() + LAST_NAMES_WAIT;
        loop {
            self.serve_requests();
            while let Some(answer) = self.inspector.take_answer() {
                self.fed.emit(&Input::Answer(&answer));
            }
            if !self.inspector.is_busy() || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(POLL_MIN / 4).await;
        }
    }
}
