//! What was seen, and what became of it: counters that add up.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{finding::FindingsAccounting, value::OpName};

/// `seen = filtered + emitted + dropped`, and `emitted = delivered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct OpAccounting {
    /// Calls that returned, counted at the hook
    pub seen: u64,
    /// Calls that the filters took out
    pub filtered: u64,
    /// Calls whose record went into the ring
    pub emitted: u64,
    /// Calls for which the ring had no room
    pub dropped: u64,
    /// Records that came out of the ring
    pub delivered: u64,
    /// Calls that the kernel never made; they are none of the others
    pub not_made: u64,
}

/// Records on the control ring: namespaces' lives, processes' facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ControlAccounting {
    /// Records that went into the ring
    pub emitted: u64,
    /// Records that came out
    pub delivered: u64,
    /// Records for which it had no room
    pub dropped: u64,
    /// Records of who a thread is and what a queue is called that were not sent, so that others found room:
    /// it is tried again at the next call, and calls until then are without
    pub withheld: u64,
}

/// What was seen, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Accounting {
    /// All operations together
    #[serde(flatten)]
    pub total: OpAccounting,
    /// Calls for which the kernel did not run the program: while this is not 0, counts are lower
    /// bounds
    pub missed: u64,
    /// Each operation
    pub by_op: BTreeMap<OpName, OpAccounting>,
    /// The control ring
    pub control: ControlAccounting,
    /// Snapshots of what exists that were taken after losses
    pub resyncs: ResyncAccounting,
    /// What was not looked at, and other rare conditions of the eBPF programs that came up, by name, with how
    /// often: `descriptors_beyond_4096` counts moves into another namespace by processes whose further
    /// descriptors were not looked through for files of `/proc/sysvipc`
    pub diagnostics: BTreeMap<String, u64>,
    /// What became of findings
    pub findings: FindingsAccounting,
    /// The longest processor time of the thread that reads the rings between two looks at them, nanoseconds
    pub reader_max_ns: u64,
    /// What became of the lines, by sink
    pub sinks: BTreeMap<String, SinkAccounting>,
}

/// Snapshots of what exists that were taken after losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ResyncAccounting {
    /// Those after which all that exists was known again
    pub complete: u64,
    /// Those during which more was lost, or which did not see everything
    pub partial: u64,
    /// Whether something was lost after the last of them
    pub pending: bool,
}

/// What became of the lines of a sink: `delivered = written + filtered + lost`, as far as it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct SinkAccounting {
    /// Calls that were written
    pub written: u64,
    /// Calls that it was not to write
    pub filtered: u64,
    /// Calls for which its queue had no room: what reads it is too slow
    pub lost: u64,
    /// Other lines for which there was no room
    pub lost_other: u64,
}

/// In `diagnostics`: questions about processes for which `/proc` was not looked at, beyond the budget for that.
pub(crate) const PROCESSES_NOT_LOOKED_AT: &str = "processes_not_looked_at";
