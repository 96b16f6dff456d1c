//! The interface of a detector: which occurrences it receives, and how it reports.

use ipc_trace_common::{
    cbor::Encoded,
    record::{ExitRecord, NsRef},
};
use minicbor::{Decoder, Encoder, decode::Error, encode::Write};

use super::{
    failed::FailedCalls,
    finding_store::FindingStore,
    observation::{
        AccessObservation, CallObservation, EvidenceEvent, Extent, FindingDraft, FindingKey,
        NamespaceMove,
    },
    probes::ProbeTracker,
    sharing::SharingTracker,
};
use crate::{
    engine::track::{
        Tracker,
        objects::{
            ObjectChange,
            tracked::{ObjectId, TrackedObject},
        },
    },
    event::{NsInodes, shared::SharedState},
    input::process::{InspectorRequest, Mapped, ProcessId},
};

/// What detectors report to, and the state that they share.
#[derive(Debug)]
pub(super) struct DetectCx<'a> {
    /// All findings
    pub(super) findings: &'a mut FindingStore,
    /// Requests for information about processes.
    pub(super) requests: &'a mut Vec<InspectorRequest>,
    /// Failed lookups, for the probe detectors.
    pub(super) attempts: &'a mut ProbeTracker,
    /// Users of shared objects and namespaces, for the sharing detectors.
    pub(super) sharing: &'a mut SharingTracker,
}

impl DetectCx<'_> {
    /// Reports an observation. `draft` is called if the finding is new.
    pub(super) fn saw(
        &mut self,
        key: FindingKey,
        trace: EvidenceEvent,
        draft: impl FnOnce() -> FindingDraft,
    ) {
        self.findings.saw(key, trace, draft);
    }

    /// As [`Self::saw`], for objects that can be held without being used. `draft` is also called at the first
    /// use.
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

/// In an implementation of [`Detector`]: checkpoints have its state, which is encoded by minicbor.
macro_rules! keeps_state {
    () => {
        fn put_state<C: crate::event::shared::SharedState, W: minicbor::encode::Write>(
            &self,
            to: &mut minicbor::Encoder<W>,
            context: &mut C,
        ) -> ipc_trace_common::cbor::Encoded<W> {
            minicbor::Encode::encode(self, to, context)
        }

        fn take_state<C: crate::event::shared::SharedState>(
            &mut self,
            from: &mut minicbor::Decoder<'_>,
            context: &mut C,
        ) -> Result<(), minicbor::decode::Error> {
            *self = minicbor::Decode::decode(from, context)?;
            Ok(())
        }
    };
}

pub(super) use keeps_state;

/// A class of findings. Callbacks that it doesn't implement cost nothing: dispatch is static.
pub(super) trait Detector {
    /// Appends the state, for a checkpoint. A detector with state says [`keeps_state`], one without says nothing.
    fn put_state<C: SharedState, W: Write>(&self, to: &mut Encoder<W>, _: &mut C) -> Encoded<W> {
        to.null()?;
        Ok(())
    }

    /// Takes the state of a checkpoint.
    fn take_state<C: SharedState>(
        &mut self,
        from: &mut Decoder<'_>,
        _: &mut C,
    ) -> Result<(), Error> {
        from.skip()
    }

    /// Calls returned. Implementations are `inline`, and take no more than a few branches for unrelated
    /// calls.
    #[inline]
    fn calls(&mut self, _seen: &CallObservation<'_>, _to: &mut DetectCx<'_>) {}

    /// Calls failed with one of the errors in [`super::failed::ERRORS`].
    #[inline]
    fn failed(
        &mut self,
        _seen: &CallObservation<'_>,
        _failed: FailedCalls,
        _to: &mut DetectCx<'_>,
    ) {
    }

    /// A new user used an object that others use as well.
    #[inline]
    fn new_user(
        &mut self,
        _seen: &CallObservation<'_>,
        _at: (NsRef, ObjectId),
        _one: &TrackedObject,
        _to: &mut DetectCx<'_>,
    ) {
    }

    /// A thread used an access path that is no IPC operation. Returns whether this class could determine the
    /// object's namespace; `true` if the access isn't of this class.
    #[inline]
    fn access(&mut self, _access: &AccessObservation<'_>, _to: &mut DetectCx<'_>) -> bool {
        true
    }

    /// A thread switched to another namespace.
    #[inline]
    fn moved(&mut self, _moved: &NamespaceMove<'_>, _to: &mut DetectCx<'_>) {}

    /// A thread exited. The tracker still has its task.
    #[inline]
    fn ended(&mut self, _record: &ExitRecord, _tracker: &Tracker, _to: &mut DetectCx<'_>) {}

    /// An object changed.
    #[inline]
    fn object(&mut self, _change: &ObjectChange, _to: &mut DetectCx<'_>) {}

    /// Whether [`Self::poll`] has anything to decide.
    #[inline]
    fn waits(&self) -> bool {
        false
    }

    /// A short time has passed. Called after each read of the rings.
    #[inline]
    fn poll(&mut self, _boot_ns: u64, _to: &mut DetectCx<'_>) {}

    /// A second has passed: all records from before `boot_ns` have been applied, except lost ones.
    #[inline]
    fn tick(&mut self, _boot_ns: u64, _to: &mut DetectCx<'_>) {}

    /// From now on only answers arrive.
    #[inline]
    fn ending(&mut self, _to: &mut DetectCx<'_>) {}

    /// No more input arrives.
    #[inline]
    fn finish(&mut self, _to: &mut DetectCx<'_>) {}

    /// Whether the detector needs a process's mappings when it switches namespaces.
    #[inline]
    fn wants_mapped(&self, _process: ProcessId, _now: u64) -> bool {
        false
    }

    /// The requested namespaces of a thread. `ended`: only answers arrive from now on, so everything
    /// decidable is decided.
    #[inline]
    fn namespaces_seen(
        &mut self,
        _tid: u32,
        _found: Option<(u32, NsInodes)>,
        (_at, _ended): (u64, bool),
        _to: &mut DetectCx<'_>,
    ) {
    }

    /// The requested mappings of a process.
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
