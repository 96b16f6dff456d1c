//! The filter of calls of a recording, with the conditions that the eBPF programs check for a live run
//! (`ipc-trace-ebpf/src/call/filters.rs`), and a range of time. Pure.

use ipc_trace_common::record::{NO_DURATION, NsRef};

use super::{
    Call,
    batch::{BatchGroup, CallBatch},
};

/// Conditions on a call. All that are given must match; of each, one value suffices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallFilter {
    /// Inode numbers of the namespace of the caller or of the object
    pub namespaces: Vec<u32>,
    /// Processes
    pub pids: Vec<u32>,
    /// Names of threads
    pub comms: Vec<[u8; 16]>,
    /// Effective users
    pub uids: Vec<u32>,
    /// Operations, as bits by their number; 0: all
    pub ops: u32,
    /// Whether it must have failed
    pub failed: bool,
    /// How long it must have taken, nanoseconds
    pub min_duration_ns: Option<u64>,
    /// Boot times between which it must have returned, nanoseconds
    pub times: Option<(u64, u64)>,
}

fn is_any<T: PartialEq>(all: &[T], one: &T) -> bool {
    all.is_empty() || all.contains(one)
}

impl CallFilter {
    /// Whether it has no conditions.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn wants_namespace(&self, caller: NsRef, object: Option<NsRef>) -> bool {
        let is = |ns: NsRef| self.namespaces.contains(&ns.inum);
        self.namespaces.is_empty() || is(caller) || object.is_some_and(is)
    }

    fn wants_op(&self, op: ipc_trace_common::op::Op) -> bool {
        self.ops == 0 || self.ops & op.bit() != 0
    }

    /// Whether a call that returned then is in the range of time; others are not even counted as filtered.
    #[must_use]
    pub(crate) fn wants_time(&self, boot_ns: u64) -> bool {
        self.times.is_none_or(|(since, until)| (since..=until).contains(&boot_ns))
    }

    /// Whether a call of the range is to be shown or counted.
    #[must_use]
    pub(crate) fn wants(&self, call: &Call<'_>) -> bool {
        let record = call.record;
        let took = record.duration_ns;
        self.wants_op(call.op)
            && is_any(&self.pids, &record.pid)
            && is_any(&self.uids, &record.euid)
            && is_any(&self.comms, &record.comm)
            && self.wants_namespace(record.ns, call.queue().map(|queue| queue.ns))
            && (!self.failed || call.ret().is_some_and(|ret| ret < 0))
            && self.min_duration_ns.is_none_or(|least| took != NO_DURATION && took >= least)
    }

    /// Whether equal calls of a batch of the range are to be counted. Their durations are not compared.
    #[must_use]
    pub(crate) fn wants_group(&self, batch: &CallBatch<'_>, group: &BatchGroup<'_>) -> bool {
        let head = batch.head;
        self.wants_op(group.op)
            && is_any(&self.pids, &head.pid)
            && is_any(&self.uids, &head.euid)
            && is_any(&self.comms, &head.comm)
            && self.wants_namespace(head.ns, group.queue.map(|queue| queue.ns))
            && (!self.failed || group.error.is_some())
            && self.min_duration_ns.is_none()
    }
}
