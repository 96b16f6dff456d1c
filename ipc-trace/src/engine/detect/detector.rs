//! What a class of findings is to the engine: what it may listen to, and what it tells by.

use ipc_trace_common::record::{ExitRecord, NsRef};

use super::{
    attempts::ProbeTracker,
    failed::FailedCalls,
    observation::{
        AccessObservation, CallObservation, EvidenceEvent, Extent, FindingDraft, FindingKey,
        NamespaceMove,
    },
    shared::SharingTracker,
    store::FindingStore,
};
use crate::{
    engine::track::{
        Tracker,
        objects::{
            ObjectChange,
            tracked::{ObjectId, TrackedObject},
        },
    },
    event::OtherNs,
    input::process::{InspectorRequest, Mapped, ProcessId},
};

/// What a class tells of what it sees, what it asks, and what it shares with others.
#[derive(Debug)]
pub(super) struct DetectCx<'a> {
    /// All findings
    pub(super) findings: &'a mut FindingStore,
    /// Questions about processes
    pub(super) requests: &'a mut Vec<InspectorRequest>,
    /// Lookups that failed, of classes that speak of those
    pub(super) attempts: &'a mut ProbeTracker,
    /// Who shares an object or a namespace, of classes that speak of that
    pub(super) meetings: &'a mut SharingTracker,
}

impl DetectCx<'_> {
    /// A class saw something. `draft` is asked for when that is new.
    pub(super) fn saw(
        &mut self,
        key: FindingKey,
        trace: EvidenceEvent,
        draft: impl FnOnce() -> FindingDraft,
    ) {
        self.findings.saw(key, trace, draft);
    }

    /// As [`Self::saw`], of something that can be held without being used. `draft` is also asked for when it is used
    /// for the first time.
    pub(super) fn saw_as(
        &mut self,
        extent: Extent,
        key: FindingKey,
        trace: EvidenceEvent,
        draft: impl Fn() -> FindingDraft,
    ) {
        self.findings.saw_as(extent, key, trace, draft);
    }
}

/// A class of findings. What it does not listen to costs nothing: which detector is meant is known when this is
/// compiled.
pub(super) trait Detector {
    /// Calls returned. To be `inline`, and no more than a few branches where the calls are none of its business.
    #[inline]
    fn calls(&mut self, _seen: &CallObservation<'_>, _to: &mut DetectCx<'_>) {}

    /// Calls failed, in one way that classes make something of.
    #[inline]
    fn failed(
        &mut self,
        _seen: &CallObservation<'_>,
        _failed: FailedCalls,
        _to: &mut DetectCx<'_>,
    ) {
    }

    /// Calls were the first ones on an object by somebody, that others use as well.
    #[inline]
    fn new_user(
        &mut self,
        _seen: &CallObservation<'_>,
        _at: (NsRef, ObjectId),
        _one: &TrackedObject,
        _to: &mut DetectCx<'_>,
    ) {
    }

    /// A thread reached something by a way that is no operation. Whether it can be told whose that is, as far as
    /// it is this class's to tell.
    #[inline]
    fn access(&mut self, _access: &AccessObservation<'_>, _to: &mut DetectCx<'_>) -> bool {
        true
    }

    /// A thread got into another namespace.
    #[inline]
    fn moved(&mut self, _moved: &NamespaceMove<'_>, _to: &mut DetectCx<'_>) {}

    /// A thread ended, and the tracker has not forgotten it yet.
    #[inline]
    fn ended(&mut self, _record: &ExitRecord, _tracker: &Tracker, _to: &mut DetectCx<'_>) {}

    /// Something happened to an object.
    #[inline]
    fn object(&mut self, _change: &ObjectChange, _to: &mut DetectCx<'_>) {}

    /// Whether there is something that [`Self::poll`] may decide.
    #[inline]
    fn waits(&self) -> bool {
        false
    }

    /// A little time went on: what is to be looked at soon is looked at.
    #[inline]
    fn poll(&mut self, _boot_ns: u64, _to: &mut DetectCx<'_>) {}

    /// Time went on: all that happened before this moment has been told, as far as it will be.
    #[inline]
    fn tick(&mut self, _boot_ns: u64, _to: &mut DetectCx<'_>) {}

    /// Nothing comes any more but answers.
    #[inline]
    fn ending(&mut self, _to: &mut DetectCx<'_>) {}

    /// Nothing comes any more.
    #[inline]
    fn finish(&mut self, _to: &mut DetectCx<'_>) {}

    /// Whether what a process has mapped is wanted to be known when it moves.
    #[inline]
    fn wants_mapped(&self, _process: ProcessId, _now: u64) -> bool {
        false
    }

    /// Where a thread was when it was looked at, as was asked; `ended`: nothing comes any more, and what can be
    /// decided now is.
    #[inline]
    fn namespaces_seen(
        &mut self,
        _tid: u32,
        _found: Option<(u32, OtherNs)>,
        (_at, _ended): (u64, bool),
        _to: &mut DetectCx<'_>,
    ) {
    }

    /// What a process has mapped now, as was asked.
    #[inline]
    fn mapped_seen(
        &mut self,
        _process: ProcessId,
        _found: Option<&[Mapped]>,
        _tracker: &Tracker,
        _to: &mut DetectCx<'_>,
    ) {
    }
}
