//! The accounting: counters of what was seen and what became of it, which add up.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{finding::FindingsAccounting, value::OpName};

/// `seen = filtered + emitted + dropped`, and `emitted = delivered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct OpAccounting {
    /// Calls that returned, counted at the hook
    pub seen: u64,
    /// Calls that the filters excluded
    pub filtered: u64,
    /// Calls whose record was put into the ring
    pub emitted: u64,
    /// Calls for which the ring had no room
    pub dropped: u64,
    /// Records read from the ring
    pub delivered: u64,
    /// Calls that the kernel never made; not included in the other counters
    pub not_made: u64,
}

/// Records on the control ring: events of namespaces, metadata of tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ControlAccounting {
    /// Records that were put into the ring
    pub emitted: u64,
    /// Records read from the ring
    pub delivered: u64,
    /// Records for which the ring had no room
    pub dropped: u64,
    /// Records about tasks and queues that were withheld to leave room for others: they are sent again at the
    /// next call, and calls until then lack this metadata
    pub withheld: u64,
}

/// What was seen, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Accounting {
    /// The sum over all operations
    #[serde(flatten)]
    pub total: OpAccounting,
    /// Calls for which the kernel didn't run the eBPF program: if this isn't 0, the other counts are lower
    /// bounds
    pub missed: u64,
    /// The counters by operation
    pub by_op: BTreeMap<OpName, OpAccounting>,
    /// The control ring
    pub control: ControlAccounting,
    /// Counts of snapshots taken after losses
    pub resyncs: ResyncAccounting,
    /// Rare conditions by name, with the number of occurrences, such as objects that weren't inspected:
    /// `descriptors_beyond_4096` counts switches to another namespace by processes whose descriptors above
    /// 4096 weren't searched for files of `/proc/sysvipc`
    pub diagnostics: BTreeMap<String, u64>,
    /// Counts of findings
    pub findings: FindingsAccounting,
    /// The longest CPU time of the reading thread between two reads of the rings, nanoseconds
    pub reader_max_ns: u64,
    /// Counts of lines by sink
    pub sinks: BTreeMap<String, SinkAccounting>,
}

/// Counts of snapshots of the host's objects taken after losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ResyncAccounting {
    /// Snapshots after which all existing objects were known again
    pub complete: u64,
    /// Snapshots during which more was lost, or which couldn't see everything
    pub partial: u64,
    /// Whether a loss occurred after the last snapshot
    pub pending: bool,
}

/// Lines of a sink: `delivered = written + filtered + lost`, as far as calls were passed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct SinkAccounting {
    /// Calls that were written
    pub written: u64,
    /// Calls that its filter excluded
    pub filtered: u64,
    /// Calls for which its queue had no room: its reader is too slow
    pub lost: u64,
    /// Other lines for which its queue had no room
    pub lost_other: u64,
}

/// The name in `diagnostics` of requests about processes that weren't inspected in `/proc`, because they
/// exceeded its budget.
pub(crate) const PROCESSES_NOT_INSPECTED: &str = "processes_not_looked_at";
