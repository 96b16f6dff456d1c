//! What is done between two looks at the rings: what the engine wants, what was seen, what runtimes said.

use std::time::{Duration, Instant};

use ipc_trace_common::op::Op;

use super::{Due, NAP, Run, RunError, system};
use crate::{
    event::PROCESSES_NOT_LOOKED_AT,
    input::{
        EngineRequest, Input,
        counters::{AllCounts, Counted, Drops},
    },
    sources::{
        clock::{self, boot_ns},
        host::{
            inside::{NamespaceTarget, NsHandle},
            looker::{Looker, LookerResult, SnapshotTask},
        },
        kernel::ring::Nothing,
        reader::With,
    },
};

/// How long names are waited for in the end, where a runtime answers.
const LAST_NAMES: Duration = Duration::from_millis(250);
/// What is told between two looks at the rings, at most.
const TOLD: usize = 64;

impl Run {
    /// Starts to look at what exists now and then.
    pub(super) fn start_looker(&mut self) -> Result<(), RunError> {
        let task_iter = self.take_task_iterators();
        let looker = Looker::start(self.setup.session.lister(), task_iter);
        self.looker = Some(looker.map_err(system("can't start a thread"))?);
        Ok(())
    }

    /// What is to be done before the next look.
    pub(super) fn work(&mut self) {
        for _ in 0..TOLD {
            let Some(named) = self.names.heard() else { break };
            self.fed.emit(&Input::Named(&named));
        }
        for _ in 0..TOLD {
            let Some(answer) = self.inspector.take_answer() else { break };
            self.fed.emit(&Input::Answer(&answer));
        }
        self.take_seen();
        self.do_wanted();
        self.filter_containers();
    }

    /// Tells what was seen, once what happened before has been told.
    fn take_seen(&mut self) {
        if let Some(looker) = &mut self.looker {
            while let Some((at, seen)) = looker.seen() {
                self.seen.push_back((at, Due::Seen(seen)));
            }
        }
        while self.seen.front().is_some_and(|(at, _)| self.reader.reached() > *at) {
            match self.seen.pop_front() {
                Some((_, Due::Folded(folded))) => self.fed.emit(&Input::Folded(&folded)),
                Some((_, Due::Seen(LookerResult::List(namespace_list)))) => {
                    self.fed.emit(&Input::Listed(&namespace_list))
                }
                Some((_, Due::Seen(LookerResult::Snapshot(ls, before, after)))) => {
                    if let Err(error) = self.count() {
                        log::warn!("{error}");
                    }
                    self.fed.emit(&Input::Snapshot(ls.as_deref(), &before, &after));
                    drop(ls);
                    super::begin::give_back();
                }
                Some((_, Due::Seen(LookerResult::Lingered(all)))) => {
                    for (ns, at, found) in &all {
                        self.fed.emit(&Input::Lingered(*ns, *at, found));
                    }
                }
                None => return,
            }
        }
    }

    /// Has things looked at that the engine wants.
    pub(super) fn do_wanted(&mut self) {
        let mut linger = Vec::new();
        while let Some(want) = self.fed.engine.take_want() {
            match want {
                EngineRequest::Ask(request) => {
                    if let Err(request) = self.inspector.request(request) {
                        self.fed.emit(&Input::Answer(&request.unanswered()));
                    }
                }
                EngineRequest::Snapshot => self.have_looked(SnapshotTask::Snapshot),
                EngineRequest::Linger { ns, ns_id, pids } => {
                    let id = ns_id.map(NsHandle::Id);
                    let threads = pids.iter().map(|pid| NsHandle::Thread(*pid, *pid));
                    let ways = match ns.inum == self.setup.namespace_list.self_ns_inum {
                        true => vec![NsHandle::Own],
                        false => id.into_iter().chain(threads).collect(),
                    };
                    linger.push((ns, NamespaceTarget { inum: ns.inum, ways }));
                }
            }
        }
        if !linger.is_empty() {
            self.have_looked(SnapshotTask::Linger(linger));
        }
    }

    /// Has the namespaces listed that exist.
    pub(super) fn list(&mut self) {
        self.have_looked(SnapshotTask::List);
    }

    fn have_looked(&mut self, task: SnapshotTask) {
        if let Some(looker) = &mut self.looker {
            looker.request(task);
        }
    }

    /// Tells the counters.
    pub(super) fn count(&mut self) -> Result<(), RunError> {
        let session = &self.setup.session;
        let counts = session.counts();
        let grew = self.fed.engine.has_lost_more(&counts);
        let drops = grew.then(|| session.drops()).transpose()?;
        self.tell_counted(counts, drops);
        Ok(())
    }

    pub(super) fn tell_counted(&mut self, counts: AllCounts, drops: Option<Drops>) {
        let mut diagnostics = self.setup.session.diagnosed();
        if let given_up @ 1.. = self.inspector.given_up() {
            diagnostics.insert(PROCESSES_NOT_LOOKED_AT.to_owned(), given_up);
        }
        self.fed.emit(&Input::Counted(&Counted {
            counts,
            drops,
            delivered: self.reader.delivered.clone(),
            diagnostics,
            reader_max_ns: self.reader_max_ns,
        }));
    }

    /// Accesses that the eBPF programs counted, and did not tell of each. Those that they are like may be in the ring
    /// still.
    pub(super) fn take_folded(&mut self) -> Result<(), RunError> {
        let folded = self.setup.session.folded(boot_ns())?;
        if !folded.is_empty() {
            self.seen.push_back((boot_ns(), Due::Folded(folded)));
        }
        Ok(())
    }

    /// Tells the accesses that wait, where nothing comes any more: other things that were seen are seen anew.
    pub(super) fn tell_folded(&mut self) {
        for (_, due) in std::mem::take(&mut self.seen) {
            if let Due::Folded(folded) = due {
                self.fed.emit(&Input::Folded(&folded));
            }
        }
    }

    /// Calls that come from elsewhere than the ring. No program writes them any more.
    pub(super) fn take_records(&mut self, records: &[Vec<u64>]) {
        if records.is_empty() {
            return;
        }
        let session = &mut self.setup.session;
        let before = self.reader.delivered.clone();
        self.reader.left(
            records,
            &mut With {
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

    /// Has the eBPF programs know which cgroups' calls are wanted.
    fn filter_containers(&mut self) {
        let verdicts = self.fed.engine.take_verdicts();
        if verdicts.is_empty() {
            return;
        }
        if let Err(reason) = self.setup.session.filter_cgroups(&verdicts)
            && !std::mem::replace(&mut self.filter_incomplete, true)
        {
            log::warn!(
                "the kernel's container filter is incomplete ({reason}): calls of containers that are not in it \
                 are filtered in user space, with the same result at a higher cost; trace fewer containers, or \
                 give --ipc-ns too"
            );
        }
    }

    /// Names of containers that began just before the end are on their way.
    pub(super) async fn take_last_names(&mut self) {
        let deadline = Instant::now() + LAST_NAMES;
        loop {
            while let Some(named) = self.names.heard() {
                self.fed.emit(&Input::Named(&named));
            }
            let waits = self.names.any_answers() && self.fed.engine.waits_for_names();
            if !waits || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(NAP).await;
        }
    }

    /// What was asked and is on its way, for a short time.
    pub(super) async fn take_last_answers(&mut self) {
        let deadline = Instant::now() + LAST_NAMES;
        loop {
            self.do_wanted();
            while let Some(answer) = self.inspector.take_answer() {
                self.fed.emit(&Input::Answer(&answer));
            }
            if !self.inspector.is_busy() || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(NAP / 4).await;
        }
    }
}
