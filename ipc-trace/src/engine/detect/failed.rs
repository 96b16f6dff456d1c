//! Calls that failed, one by one or of a batch: what attempts and refusals are found in.

use crate::event::value::CallError;

use super::observation::{CallObservation, EvidenceEvent, ObservedCalls};

/// Errors of which classes make something.
pub(super) const ERRORS: [CallError; 4] = [EPERM, ENOENT, EACCES, EINVAL];
/// Numbers of include/uapi/asm-generic/errno-base.h.
pub(super) const EPERM: CallError = CallError(1);
pub(super) const ENOENT: CallError = CallError(2);
pub(super) const EACCES: CallError = CallError(13);
pub(super) const EINVAL: CallError = CallError(22);

/// Calls that failed in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailedCalls {
    /// How
    pub(super) error: CallError,
    /// How many
    pub(super) count: u64,
    /// When the last of them returned
    pub(super) boot_ns: u64,
}

/// Those of calls that failed in one of the [`ERRORS`].
pub(super) fn all(seen: &CallObservation<'_>) -> impl Iterator<Item = FailedCalls> + use<> {
    let mut found = ERRORS.map(|error| FailedCalls { error, count: 0, boot_ns: 0 });
    let mut add = |ret: i64, boot_ns: u64| {
        let error = CallError::from_ret(ret);
        if let Some(failed) = found.iter_mut().find(|one| Some(one.error) == error) {
            failed.count += 1;
            failed.boot_ns = boot_ns;
        }
    };
    match seen.calls {
        ObservedCalls::One(call) => add(call.record.ret, call.record.boot_ns),
        ObservedCalls::Group(_, group) if group.succeeded < group.count() => {
            group.calls().for_each(|one| add(i64::from(one.ret), one.boot_ns));
        }
        ObservedCalls::Group(..) => {}
    }
    found.into_iter().filter(|failed| failed.count > 0)
}

/// Whether there is anything among calls that can be in [`all`].
#[inline]
pub(super) fn any(seen: &CallObservation<'_>) -> bool {
    match seen.calls {
        ObservedCalls::One(call) => call.record.ret < 0,
        ObservedCalls::Group(_, group) => group.succeeded < group.count(),
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
