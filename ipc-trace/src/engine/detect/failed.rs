//! Failed calls, single or of a batch: the input for probe and denial detectors.

use crate::event::value::CallError;

use super::observation::{CallObservation, EvidenceEvent, ObservedCalls};

/// The errors that detectors use.
pub(super) const ERRORS: [CallError; 4] = [EPERM, ENOENT, EACCES, EINVAL];
/// Numbers of include/uapi/asm-generic/errno-base.h.
pub(super) const EPERM: CallError = CallError(1);
pub(super) const ENOENT: CallError = CallError(2);
pub(super) const EACCES: CallError = CallError(13);
pub(super) const EINVAL: CallError = CallError(22);

/// Calls that failed with the same error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailedCalls {
    /// The error.
    pub(super) error: CallError,
    /// Number of calls.
    pub(super) count: u64,
    /// When the last of them returned, boot time in nanoseconds.
    pub(super) boot_ns: u64,
}

/// The calls, if they failed with one of the [`ERRORS`].
pub(super) fn all(seen: &CallObservation<'_>) -> Option<FailedCalls> {
    let (error, count, boot_ns) = match seen.calls {
        ObservedCalls::One(call) => (CallError::from_ret(call.record.ret), 1, call.record.boot_ns),
        ObservedCalls::Group(_, group) => (group.error, group.count, group.last_ns),
    };
    let error = error.filter(|error| ERRORS.contains(error));
    error.map(|error| FailedCalls { error, count, boot_ns })
}

/// Whether [`all`] may yield anything.
#[inline]
pub(super) fn any(seen: &CallObservation<'_>) -> bool {
    match seen.calls {
        ObservedCalls::One(call) => call.record.ret < 0,
        ObservedCalls::Group(_, group) => group.error.is_some(),
    }
}

impl FailedCalls {
    /// As evidence.
    pub(super) fn trace(&self, seen: &CallObservation<'_>) -> EvidenceEvent {
        EvidenceEvent {
            boot_ns: self.boot_ns,
            seq: seen.seq,
            what: seen.op.name().into(),
            ret: seen.ret(),
            error: Some(self.error),
            count: self.count,
        }
    }
}
