//! Calls that failed, one by one or of a batch: what attempts and refusals are found in.

use crate::event::value::Error;

use super::sighting::{Calls, Seen, Trace};

/// Errors of which classes make something.
pub(super) const ERRORS: [Error; 4] = [EPERM, ENOENT, EACCES, EINVAL];
/// Numbers of include/uapi/asm-generic/errno-base.h.
pub(super) const EPERM: Error = Error(1);
pub(super) const ENOENT: Error = Error(2);
pub(super) const EACCES: Error = Error(13);
pub(super) const EINVAL: Error = Error(22);

/// Calls that failed in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// How
    pub(super) error: Error,
    /// How many
    pub(super) count: u64,
    /// When the last of them returned
    pub(super) boot_ns: u64,
}

/// Those of calls that failed in one of the [`ERRORS`].
pub(super) fn all(seen: &Seen<'_>) -> impl Iterator<Item = Failed> + use<> {
    let mut found = ERRORS.map(|error| Failed { error, count: 0, boot_ns: 0 });
    let mut add = |ret: i64, boot_ns: u64| {
        let error = Error::of(ret);
        if let Some(failed) = found.iter_mut().find(|one| Some(one.error) == error) {
            failed.count += 1;
            failed.boot_ns = boot_ns;
        }
    };
    match seen.calls {
        Calls::One(call) => add(call.record.ret, call.record.boot_ns),
        Calls::Group(_, group) if group.succeeded < group.count() => {
            group.calls().for_each(|one| add(i64::from(one.ret), one.boot_ns));
        }
        Calls::Group(..) => {}
    }
    found.into_iter().filter(|failed| failed.count > 0)
}

/// Whether there is anything among calls that can be in [`all`].
#[inline]
pub(super) fn any(seen: &Seen<'_>) -> bool {
    match seen.calls {
        Calls::One(call) => call.record.ret < 0,
        Calls::Group(_, group) => group.succeeded < group.count(),
    }
}

impl Failed {
    /// As evidence.
    pub(super) fn trace(&self, seen: &Seen<'_>) -> Trace {
        Trace {
            boot_ns: self.boot_ns,
            seq: seen.seq,
            what: seen.op.name().into(),
            ret: seen.ret(),
            error: Some(self.error),
            count: self.count,
        }
    }
}
