//! What was done, or tried, across namespaces: from events to findings.
//!
//! | module | its job |
//! | --- | --- |
//! | [`detector`] | what a class is: what it may listen to |
//! | [`crate::event::classes`] | which classes there are: a row each, and a file of its own here |
//! | [`observation`] | what classes work with |
//! | [`store`] | observations folded into findings, counted, bounded, shown |
//! | [`judge`] | where an operator's word comes in |
//! | `found` | what a finding says of the object |
//! | `say` | who and whose, as titles say it |
//! | `history` | where processes were, and what namespaces had |
//! | `failed` | calls that failed, one by one or of a batch |
//! | `channels` | ways that are no operations: what there is to say of each, a row each |
//! | `attempts`, `scoring` | what is the same for `probe-key`, `probe-id` and `probe-name`: folding, and how sure one is |
//! | `shared` | what is the same for `cross-container`, `host-ipc` and `weak-mode`: containers and users that meet |
//!
//! **To add a class**: a row in [`crate::event::classes`], and the file that it names, with a type of the
//! variant's name that is a [`detector::Detector`]: it holds the state, if there is one, and listens to what it
//! needs. It tells what it sees by [`detector::DetectCx::saw`], with a [`observation::FindingKey`] that says what is the same
//! finding, an event as evidence, and a [`observation::FindingDraft`] that is only made when the finding is new; it can
//! [`store::FindingStore::amend`] what it said when it learns more. Names that others chose are escaped in
//! a title. State is bounded. An ordinary call, on an object of the caller's own namespace, must cost no
//! more than a few branches: see [`Detect::call`].
//!
//! Invariant: a class is a pure state machine: it knows no kernel, no output, and no clock but the
//! times of events. Lost and reordered events make it say less, or less surely; never something that did
//! not happen.

mod attempts;
mod channels;
pub(crate) mod detector;
mod failed;
mod found;
mod history;
pub(crate) mod judge;
pub(crate) mod observation;
mod say;
mod scoring;
mod shared;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use ipc_trace_common::record::{AccessRecord, BatchHead, Channel, ExitRecord, NsRef, queue_flag};

use crate::{
    engine::track::{
        Tracker,
        contexts::TaskInfo,
        objects::{
            self,
            tracked::{ObjectId, TrackedObject},
        },
    },
    event::{OtherNs, classes::for_each_class},
    input::Call,
    input::batch::BatchGroup,
    input::process::{InspectorRequest, Mapped, ProcessId},
};
use attempts::ProbeTracker;
use channels::AccessTarget;
use detector::{DetectCx, Detector as _};
use failed::FailedCalls;
use observation::{AccessObservation, CallObservation, FindingActor, NamespaceMove};
use shared::SharingTracker;
use store::FindingStore;

/// The files of classes, and all of these together. Each is asked in the order of the rows, without a table of
/// functions: what a class does not listen to leaves nothing to be called.
///
/// `cargo fmt` does not see these files; `cargo xtask test` hands them to it.
macro_rules! detectors {
    ($($(#[$doc:meta])* $class:ident = $name:literal, $module:ident, $about:ident;)*) => {
        $(mod $module;)*

        /// All classes, with what they remember.
        #[derive(Debug, Default)]
        struct Detectors {
            $($module: $module::$class,)*
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
                let mut told = true;
                $(told &= self.$module.access(access, to);)*
                told
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
                found: Option<(u32, OtherNs)>,
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

/// All classes, and what they found.
#[derive(Debug, Default)]
pub(crate) struct Detect {
    /// What was found
    pub findings: FindingStore,
    requests: Vec<InspectorRequest>,
    /// This process, of which nothing is found
    own_pid: u32,
    /// Records of ways to objects whose namespace could not be told
    undetermined: u64,
    detectors: Detectors,
    attempts: ProbeTracker,
    meetings: SharingTracker,
}

impl Detect {
    /// Nothing was seen yet. `own_pid`: this process, of which nothing is found.
    #[must_use]
    pub(crate) fn new(own_pid: u32) -> Self {
        Self { own_pid, ..Self::default() }
    }

    /// What classes ask, since this was asked last.
    pub(crate) fn take_requests(&mut self) -> Vec<InspectorRequest> {
        std::mem::take(&mut self.requests)
    }

    /// The classes, and what they tell by.
    #[inline]
    const fn parts(&mut self) -> (&mut Detectors, DetectCx<'_>) {
        let Self { findings, requests, attempts, meetings, .. } = self;
        (&mut self.detectors, DetectCx { findings, requests, attempts, meetings })
    }

    /// A call returned. `seq`: the number of the line that told of it. `met`: objects that somebody new used by it.
    /// To be called after the tracker has learnt of it.
    #[inline]
    pub(crate) fn call(
        &mut self,
        call: &Call<'_>,
        seq: Option<u64>,
        met: &[(NsRef, ObjectId)],
        tracker: &Tracker,
    ) {
        if call.record.pid != self.own_pid {
            self.seen(&CallObservation::one(call, seq, tracker), met);
        }
    }

    /// Calls returned that came together.
    #[inline]
    pub(crate) fn group(
        &mut self,
        head: &BatchHead,
        group: &BatchGroup<'_>,
        met: &[(NsRef, ObjectId)],
        tracker: &Tracker,
    ) {
        if head.pid != self.own_pid {
            self.seen(&CallObservation::group(head, group, tracker), met);
        }
    }

    #[inline]
    fn seen(&mut self, seen: &CallObservation<'_>, met: &[(NsRef, ObjectId)]) {
        let (detectors, mut to) = self.parts();
        detectors.calls(seen, &mut to);
        if !met.is_empty() {
            self.notify_new_users(seen, met);
        }
        if failed::any(seen) {
            self.failed(seen);
        }
    }

    /// Some of the calls were the first ones on an object by somebody.
    #[cold]
    fn notify_new_users(&mut self, seen: &CallObservation<'_>, met: &[(NsRef, ObjectId)]) {
        let (detectors, mut to) = self.parts();
        for &(ns, local) in met {
            if let Some(one) = seen.tracker.objects.get(ns, local) {
                detectors.new_user(seen, (ns, local), one, &mut to);
            }
        }
    }

    /// Some of the calls failed.
    fn failed(&mut self, seen: &CallObservation<'_>) {
        let (detectors, mut to) = self.parts();
        for failed in failed::all(seen) {
            detectors.failed(seen, failed, &mut to);
        }
    }

    /// A thread reached something by a way that is no operation.
    pub(crate) fn access(&mut self, record: &AccessRecord, tracker: &Tracker) {
        let facts = tracker.contexts.get(record.tid, record.context);
        self.access_by(record, facts, tracker);
    }

    /// As [`Self::access`], by a thread that may be forgotten since.
    pub(crate) fn access_by(
        &mut self,
        record: &AccessRecord,
        facts: Option<&Rc<TaskInfo>>,
        tracker: &Tracker,
    ) {
        let Some(channel) = channel(record) else {
            self.undetermined += 1;
            return;
        };
        if record.pid == self.own_pid {
            return;
        }
        let access = whose(record, channel, facts, tracker);
        let (detectors, mut to) = self.parts();
        let told = detectors.access(&access, &mut to);
        // Whose a segment is can be told by other means.
        let is_segment = channels::row(channel).reached == AccessTarget::Segment;
        if !told || access.foreign.is_none() && !is_segment {
            self.undetermined += 1;
        }
    }

    /// A thread got into another namespace.
    pub(crate) fn moved(&mut self, moved: &NamespaceMove<'_>) {
        if moved.record.pid == self.own_pid {
            return;
        }
        self.attempts.moved(moved);
        let (detectors, mut to) = self.parts();
        detectors.moved(moved, &mut to);
    }

    /// A thread ended. To be called before the tracker forgets it.
    pub(crate) fn ended(&mut self, record: &ExitRecord, tracker: &Tracker) {
        let (detectors, mut to) = self.parts();
        detectors.ended(record, tracker, &mut to);
    }

    /// Whether there is something that [`Self::poll`] may decide.
    #[inline]
    #[must_use]
    pub(crate) fn waits(&self) -> bool {
        self.detectors.waits()
    }

    /// A little time went on: what is to be looked at soon is looked at.
    #[cold]
    pub(crate) fn poll(&mut self, boot_ns: u64) {
        let (detectors, mut to) = self.parts();
        detectors.poll(boot_ns, &mut to);
    }

    /// Something happened to objects.
    pub(crate) fn objects(&mut self, changes: &[objects::ObjectChange]) {
        for change in changes {
            self.attempts.object(change, &mut self.findings);
            let (detectors, mut to) = self.parts();
            detectors.object(change, &mut to);
        }
    }

    /// Time went on: all that happened before this moment has been told, as far as it will be.
    pub(crate) fn tick(&mut self, boot_ns: u64, tracker: &Tracker) {
        self.poll(boot_ns);
        let (detectors, mut to) = self.parts();
        detectors.tick(boot_ns, &mut to);
        self.meetings.tick(boot_ns, tracker, &mut self.findings);
    }

    /// Nothing comes any more but answers.
    pub(crate) fn ending(&mut self, boot_ns: u64, tracker: &Tracker) {
        self.tick(boot_ns, tracker);
        let (detectors, mut to) = self.parts();
        detectors.ending(&mut to);
    }

    /// Nothing comes any more.
    pub(crate) fn finish(&mut self, boot_ns: u64, tracker: &Tracker) {
        let (detectors, mut to) = self.parts();
        detectors.finish(&mut to);
        self.meetings.finish(boot_ns, tracker, &mut self.findings);
    }

    /// Whether what a process has mapped is wanted to be known when it moves.
    #[must_use]
    pub(crate) fn wants_mapped(&self, process: ProcessId, now: u64) -> bool {
        self.detectors.wants_mapped(process, now)
    }

    /// The namespaces that a thread was in, when it was looked at; `ended`: nothing comes any more.
    pub(crate) fn namespaces_seen(
        &mut self,
        tid: u32,
        found: Option<(u32, OtherNs)>,
        (at, ended): (u64, bool),
    ) {
        let (detectors, mut to) = self.parts();
        detectors.namespaces_seen(tid, found, (at, ended), &mut to);
    }

    /// What a process had mapped.
    pub(crate) fn mapped_seen(
        &mut self,
        process: ProcessId,
        found: Option<&[Mapped]>,
        tracker: &Tracker,
    ) {
        let (detectors, mut to) = self.parts();
        detectors.mapped_seen(process, found, tracker, &mut to);
    }

    /// Accesses were seen of which nothing can be made.
    pub(crate) const fn count_undetermined(&mut self, count: u64) {
        self.undetermined += count;
    }

    /// Records of which nothing could be made.
    #[must_use]
    pub(crate) const fn undetermined(&self) -> u64 {
        self.undetermined
    }
}

fn channel(record: &AccessRecord) -> Option<Channel> {
    let at = usize::from(record.header.code).checked_sub(1)?;
    Channel::ALL.get(at).copied()
}

/// What a record says of whose it is that was reached.
fn whose<'a>(
    record: &'a AccessRecord,
    channel: Channel,
    facts: Option<&'a Rc<TaskInfo>>,
    tracker: &'a Tracker,
) -> AccessObservation<'a> {
    let object = &record.object;
    let known = object.flags & queue_flag::KNOWN != 0;
    let dead = object.flags & queue_flag::DEAD != 0;
    // What is not known of a queue may be known of its file system.
    let ns = match known && !dead && object.ns.inum != 0 {
        true => Some(object.ns),
        false => Some(object.dev)
            .filter(|dev| *dev != 0)
            .and_then(|dev| tracker.queues.namespace_of(dev)),
    };
    let foreign = match (ns, dead) {
        // No thread is in a namespace that is dead.
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
        facts,
    };
    AccessObservation { record, channel, who, ns, foreign, dead, tracker }
}
