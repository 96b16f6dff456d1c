//! Detection: from events to findings about operations and attempts across namespaces.
//!
//! | module | its job |
//! | --- | --- |
//! | [`detector`] | the interface of a detector |
//! | [`crate::event::classes`] | the classes: one row each, and one file each here |
//! | [`observation`] | the input of detectors, and the drafts that they make |
//! | [`finding_store`] | merges observations into findings; counts, bounds and shows them |
//! | [`finding_policy`] | the operator's policy |
//! | `finding_object` | the object of a finding |
//! | `phrases` | actors and namespaces in titles |
//! | `history` | earlier namespaces of processes, earlier keys and names of namespaces |
//! | `failed` | failed calls, single or of a batch |
//! | `access_paths` | accesses that are no IPC operations: one row each |
//! | `probes`, `scoring` | shared by `probe-key`, `probe-id` and `probe-name`: grouping and confidence |
//! | `sharing` | shared by `cross-container`, `host-ipc` and `weak-mode`: containers and users of one object |
//!
//! **To add a class**: add a row in [`crate::event::classes`] and the file that it names, with a type of the
//! variant's name that implements [`detector::Detector`]: it holds the state, if any
//! ([`detector::keeps_state`]), and implements the callbacks that it needs. It reports with
//! [`detector::DetectCx::saw`], which takes a [`observation::FindingKey`] that identifies the finding, an event
//! as evidence, and a [`observation::FindingDraft`] that is only built for a new finding. It can
//! [`finding_store::FindingStore::amend`] the draft when it learns more. Escape names that others chose in
//! titles. Bound the state. An ordinary call on an object of the caller's own namespace must cost no more
//! than a few branches: see [`Detect::call`].
//!
//! Invariant: a detector is a pure state machine: it uses no kernel, no output, and no clock but the times of
//! events. Lost and reordered events lead to fewer findings or lower confidence, never to a finding about
//! something that didn't happen.

mod access_paths;
pub(crate) mod detector;
mod failed;
mod finding_object;
pub(crate) mod finding_policy;
pub(crate) mod finding_store;
mod history;
pub(crate) mod observation;
mod phrases;
mod probes;
mod scoring;
mod sharing;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use ipc_trace_common::cbor::{Encoded, invalid};
use ipc_trace_common::record::{
    AccessPath, AccessRecord, BatchHead, ExitRecord, NsRef, queue_flag,
};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};

use crate::event::shared::SharedState;
use crate::{
    engine::track::{
        Tracker,
        contexts::TaskInfo,
        objects::{
            self,
            tracked::{ObjectId, TrackedObject},
        },
    },
    event::{NsInodes, classes::for_each_class},
    input::Call,
    input::batch::BatchGroup,
    input::process::{InspectorRequest, Mapped, ProcessId},
};
use access_paths::AccessTarget;
use detector::{DetectCx, Detector as _};
use failed::FailedCalls;
use finding_store::FindingStore;
use observation::{AccessObservation, CallObservation, FindingActor, NamespaceMove};
use probes::ProbeTracker;
use sharing::SharingTracker;

/// The detectors' modules, and a struct of all detectors. Callbacks run in the order of the rows, with static
/// dispatch: a callback that a class doesn't implement costs nothing.
///
/// `cargo fmt` doesn't see these files; `cargo xtask test` formats them.
macro_rules! detectors {
    ($($(#[$doc:meta])* $class:ident = $name:literal, $module:ident, $about:ident;)*) => {
        $(mod $module;)*

        /// All detectors with their state.
        #[derive(Debug, Default)]
        struct Detectors {
            $($module: $module::$class,)*
        }

        /// By the names of the classes: new classes may come.
        impl<C: SharedState> Encode<C> for Detectors {
            fn encode<W: Write>(&self, to: &mut Encoder<W>, context: &mut C) -> Encoded<W> {
                to.map([$($name),*].len() as u64)?;
                $(self.$module.put_state(to.str($name)?, context)?;)*
                Ok(())
            }
        }

        impl<'b, C: SharedState> Decode<'b, C> for Detectors {
            fn decode(from: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
                let mut all = Self::default();
                let len = from.map()?.ok_or_else(|| invalid("a map without a length"))?;
                for _ in 0..len {
                    match from.str()? {
                        $($name => all.$module.take_state(from, context)?,)*
                        _ => from.skip()?,
                    }
                }
                Ok(all)
            }
        }

        impl Detectors {
            #[inline]
            fn calls(&mut self, seen: &CallObservation<'_>, to: &mut DetectCx<'_>) {
                $(self.$module.calls(seen, to);)*
            }

            fn failed(&mut self, seen: &CallObservation<'_>, failed: FailedCalls, to: &mut DetectCx<'_>) {
                $(self.$module.failed(seen, failed, to);)*
            }

            fn new_user(
                &mut self,
                seen: &CallObservation<'_>,
                at: (NsRef, ObjectId),
                one: &TrackedObject,
                to: &mut DetectCx<'_>,
            ) {
                $(self.$module.new_user(seen, at, one, to);)*
            }

            fn access(&mut self, access: &AccessObservation<'_>, to: &mut DetectCx<'_>) -> bool {
                let mut determined = true;
                $(determined &= self.$module.access(access, to);)*
                determined
            }

            fn moved(&mut self, moved: &NamespaceMove<'_>, to: &mut DetectCx<'_>) {
                $(self.$module.moved(moved, to);)*
            }

            fn ended(&mut self, record: &ExitRecord, tracker: &Tracker, to: &mut DetectCx<'_>) {
                $(self.$module.ended(record, tracker, to);)*
            }

            fn object(&mut self, change: &objects::ObjectChange, to: &mut DetectCx<'_>) {
                $(self.$module.object(change, to);)*
            }

            #[inline]
            fn waits(&self) -> bool {
                false $(|| self.$module.waits())*
            }

            fn poll(&mut self, boot_ns: u64, to: &mut DetectCx<'_>) {
                $(self.$module.poll(boot_ns, to);)*
            }

            fn tick(&mut self, boot_ns: u64, to: &mut DetectCx<'_>) {
                $(self.$module.tick(boot_ns, to);)*
            }

            fn ending(&mut self, to: &mut DetectCx<'_>) {
                $(self.$module.ending(to);)*
            }

            fn finish(&mut self, to: &mut DetectCx<'_>) {
                $(self.$module.finish(to);)*
            }

            fn wants_mapped(&self, process: ProcessId, now: u64) -> bool {
                false $(|| self.$module.wants_mapped(process, now))*
            }

            fn namespaces_seen(
                &mut self,
                tid: u32,
                found: Option<(u32, NsInodes)>,
                when: (u64, bool),
                to: &mut DetectCx<'_>,
            ) {
                $(self.$module.namespaces_seen(tid, found, when, to);)*
            }

            fn mapped_seen(
                &mut self,
                process: ProcessId,
                found: Option<&[Mapped]>,
                tracker: &Tracker,
                to: &mut DetectCx<'_>,
            ) {
                $(self.$module.mapped_seen(process, found, tracker, to);)*
            }
        }
    };
}

for_each_class!(detectors);

/// All detectors, and their findings.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Detect {
    /// The findings.
    #[n(0)]
    pub findings: FindingStore,
    #[cbor(skip)]
    requests: Vec<InspectorRequest>,
    /// The tracer's own process, which is never reported.
    #[cbor(skip)]
    own_pid: u32,
    /// Number of accesses whose namespace couldn't be determined.
    #[n(1)]
    undetermined: u64,
    #[n(2)]
    detectors: Detectors,
    #[n(3)]
    attempts: ProbeTracker,
    #[n(4)]
    sharing: SharingTracker,
}

impl Detect {
    /// Detectors without state. `own_pid`: the tracer's own process, which is never reported.
    #[must_use]
    pub(crate) fn new(own_pid: u32) -> Self {
        Self { own_pid, ..Self::default() }
    }

    /// Takes over what no checkpoint has from the detectors before.
    pub(crate) fn restored(&mut self, before: Self) {
        self.own_pid = before.own_pid;
        self.findings.restored(before.findings);
    }

    /// Removes and returns the detectors' requests.
    pub(crate) fn take_requests(&mut self) -> Vec<InspectorRequest> {
        std::mem::take(&mut self.requests)
    }

    /// The detectors, and their context.
    #[inline]
    const fn parts(&mut self) -> (&mut Detectors, DetectCx<'_>) {
        let Self { findings, requests, attempts, sharing, .. } = self;
        (&mut self.detectors, DetectCx { findings, requests, attempts, sharing })
    }

    /// A call returned. `seq`: the number of its line. `new_users`: objects that got a new user by it. Call
    /// this after the tracker has applied the call.
    #[inline]
    pub(crate) fn call(
        &mut self,
        call: &Call<'_>,
        seq: Option<u64>,
        new_users: &[(NsRef, ObjectId)],
        tracker: &Tracker,
    ) {
        if call.record.pid != self.own_pid {
            self.seen(&CallObservation::one(call, seq, tracker), new_users);
        }
    }

    /// A group of batched calls returned.
    #[inline]
    pub(crate) fn group(
        &mut self,
        head: &BatchHead,
        group: &BatchGroup<'_>,
        new_users: &[(NsRef, ObjectId)],
        tracker: &Tracker,
    ) {
        if head.pid != self.own_pid {
            self.seen(&CallObservation::group(head, group, tracker), new_users);
        }
    }

    #[inline]
    fn seen(&mut self, seen: &CallObservation<'_>, new_users: &[(NsRef, ObjectId)]) {
        let (detectors, mut to) = self.parts();
        detectors.calls(seen, &mut to);
        if !new_users.is_empty() {
            self.notify_new_users(seen, new_users);
        }
        if failed::any(seen) {
            self.failed(seen);
        }
    }

    /// Some of the calls were the first ones of a new user on an object.
    #[cold]
    fn notify_new_users(&mut self, seen: &CallObservation<'_>, new_users: &[(NsRef, ObjectId)]) {
        let (detectors, mut to) = self.parts();
        for &(ns, local) in new_users {
            if let Some(one) = seen.tracker.objects.get(ns, local) {
                detectors.new_user(seen, (ns, local), one, &mut to);
            }
        }
    }

    /// Some of the calls failed.
    fn failed(&mut self, seen: &CallObservation<'_>) {
        let (detectors, mut to) = self.parts();
        if let Some(failed) = failed::all(seen) {
            detectors.failed(seen, failed, &mut to);
        }
    }

    /// A thread used an access path that is no IPC operation.
    pub(crate) fn access(&mut self, record: &AccessRecord, tracker: &Tracker) {
        let task_info = tracker.contexts.get(record.tid, record.context);
        self.access_by(record, task_info, tracker);
    }

    /// As [`Self::access`], by a thread that the tracker may no longer have.
    pub(crate) fn access_by(
        &mut self,
        record: &AccessRecord,
        task_info: Option<&Rc<TaskInfo>>,
        tracker: &Tracker,
    ) {
        let Some(channel) = channel(record) else {
            self.undetermined += 1;
            return;
        };
        if record.pid == self.own_pid {
            return;
        }
        let access = whose(record, channel, task_info, tracker);
        let (detectors, mut to) = self.parts();
        let determined = detectors.access(&access, &mut to);
        // A segment's namespace can be determined by other means.
        let is_segment = access_paths::row(channel).reached == AccessTarget::Segment;
        if !determined || access.foreign.is_none() && !is_segment {
            self.undetermined += 1;
        }
    }

    /// A thread switched to another namespace.
    pub(crate) fn moved(&mut self, moved: &NamespaceMove<'_>) {
        if moved.record.pid == self.own_pid {
            return;
        }
        self.attempts.moved(moved);
        let (detectors, mut to) = self.parts();
        detectors.moved(moved, &mut to);
    }

    /// A thread exited. Call this before the tracker removes it.
    pub(crate) fn ended(&mut self, record: &ExitRecord, tracker: &Tracker) {
        let (detectors, mut to) = self.parts();
        detectors.ended(record, tracker, &mut to);
    }

    /// Whether [`Self::poll`] has anything to decide.
    #[inline]
    #[must_use]
    pub(crate) fn waits(&self) -> bool {
        self.detectors.waits()
    }

    /// A short time has passed. Called after each read of the rings.
    #[cold]
    pub(crate) fn poll(&mut self, boot_ns: u64) {
        let (detectors, mut to) = self.parts();
        detectors.poll(boot_ns, &mut to);
    }

    /// Objects changed.
    pub(crate) fn objects(&mut self, changes: &[objects::ObjectChange]) {
        for change in changes {
            self.attempts.object(change, &mut self.findings);
            let (detectors, mut to) = self.parts();
            detectors.object(change, &mut to);
        }
    }

    /// A second has passed: all records from before `boot_ns` have been applied, except lost ones.
    pub(crate) fn tick(&mut self, boot_ns: u64, tracker: &Tracker) {
        self.poll(boot_ns);
        let (detectors, mut to) = self.parts();
        detectors.tick(boot_ns, &mut to);
        self.sharing.tick(boot_ns, tracker, &mut self.findings);
    }

    /// From now on only answers arrive.
    pub(crate) fn ending(&mut self, boot_ns: u64, tracker: &Tracker) {
        self.tick(boot_ns, tracker);
        let (detectors, mut to) = self.parts();
        detectors.ending(&mut to);
    }

    /// No more input arrives.
    pub(crate) fn finish(&mut self, boot_ns: u64, tracker: &Tracker) {
        let (detectors, mut to) = self.parts();
        detectors.finish(&mut to);
        self.sharing.finish(boot_ns, tracker, &mut self.findings);
    }

    /// Whether a detector needs a process's mappings when it switches namespaces.
    #[must_use]
    pub(crate) fn wants_mapped(&self, process: ProcessId, now: u64) -> bool {
        self.detectors.wants_mapped(process, now)
    }

    /// The requested namespaces of a thread; `ended`: only answers arrive from now on.
    pub(crate) fn namespaces_seen(
        &mut self,
        tid: u32,
        found: Option<(u32, NsInodes)>,
        (at, ended): (u64, bool),
    ) {
        let (detectors, mut to) = self.parts();
        detectors.namespaces_seen(tid, found, (at, ended), &mut to);
    }

    /// The requested mappings of a process.
    pub(crate) fn mapped_seen(
        &mut self,
        process: ProcessId,
        found: Option<&[Mapped]>,
        tracker: &Tracker,
    ) {
        let (detectors, mut to) = self.parts();
        detectors.mapped_seen(process, found, tracker, &mut to);
    }

    /// Counts accesses whose namespace couldn't be determined.
    pub(crate) const fn count_undetermined(&mut self, count: u64) {
        self.undetermined += count;
    }

    /// Number of accesses whose namespace couldn't be determined.
    #[must_use]
    pub(crate) const fn undetermined(&self) -> u64 {
        self.undetermined
    }
}

fn channel(record: &AccessRecord) -> Option<AccessPath> {
    let at = usize::from(record.header.code).checked_sub(1)?;
    AccessPath::ALL.get(at).copied()
}

/// The observation of an access: its actor, and the namespace of the object as far as the record states it.
fn whose<'a>(
    record: &'a AccessRecord,
    channel: AccessPath,
    task_info: Option<&'a Rc<TaskInfo>>,
    tracker: &'a Tracker,
) -> AccessObservation<'a> {
    let object = &record.object;
    let known = object.flags & queue_flag::KNOWN != 0;
    let dead = object.flags & queue_flag::DEAD != 0;
    // If the queue's namespace is unknown, its file system's may be known.
    let ns = match known && !dead && object.ns.inum != 0 {
        true => Some(object.ns),
        false => Some(object.dev)
            .filter(|dev| *dev != 0)
            .and_then(|dev| tracker.queues.namespace_of(dev)),
    };
    let foreign = match (ns, dead) {
        // No thread is in a dead namespace.
        (_, true) => Some(true),
        (Some(ns), false) => Some(ns != record.ns),
        (None, false) => None,
    };
    let who = FindingActor {
        pid: record.pid,
        tid: record.tid,
        uid: record.euid,
        gid: record.egid,
        comm: &record.comm,
        ns: record.ns,
        task_info,
    };
    AccessObservation { record, channel, who, ns, foreign, dead, tracker }
}
