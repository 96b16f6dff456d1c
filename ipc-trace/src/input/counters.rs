//! Counters of the eBPF programs and of the ring readers.

use std::collections::BTreeMap;

use ipc_trace_common::cbor::cbor_as_encoded;
use ipc_trace_common::{
    op::{self, Op},
    state::DropKey,
};
use minicbor::{Decode, Encode};

/// Counters of one row, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct CallCounters {
    /// Calls that returned (`ipc_trace_common::state::Counters`)
    #[n(0)]
    pub seen: u64,
    /// Excluded by filters
    #[n(1)]
    pub filtered: u64,
    /// Put into the ring
    #[n(2)]
    pub emitted: u64,
    /// The ring had no room.
    #[n(3)]
    pub dropped: u64,
    /// Never made by the kernel; not in the other counters.
    #[n(4)]
    pub not_made: u64,
    /// Those of them for which the ring had no room.
    #[n(5)]
    pub not_made_dropped: u64,
    /// Repeatable records that were withheld, to leave room for others.
    #[n(6)]
    pub withheld: u64,
}

cbor_as_encoded! { CallCounters }

/// The counters of all operations and of the control ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct AllCounts {
    /// By operation
    #[cbor(n(0), with = "ipc_trace_common::cbor")]
    pub ops: BTreeMap<Op, CallCounters>,
    /// The control ring
    #[n(1)]
    pub control: CallCounters,
    /// Runs of programs that the kernel skipped.
    #[n(2)]
    pub missed: u64,
}

/// Losses so far that the tables don't distinguish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Others {
    /// Calls for which no program ran
    #[n(0)]
    pub missed: u64,
    /// Records for which the control ring had no room
    #[n(1)]
    pub metadata: u64,
    /// Repeatable records that were withheld, to leave room for others.
    #[n(2)]
    pub withheld: u64,
}

impl AllCounts {
    /// Losses besides the calls counted by operation.
    #[must_use]
    pub(crate) const fn others(&self) -> Others {
        let CallCounters { dropped: metadata, withheld, .. } = self.control;
        Others { missed: self.missed, metadata, withheld }
    }

    /// All operations together.
    #[must_use]
    pub(crate) fn total(&self) -> CallCounters {
        self.ops.values().fold(CallCounters::default(), |sum, one| CallCounters {
            seen: sum.seen + one.seen,
            filtered: sum.filtered + one.filtered,
            emitted: sum.emitted + one.emitted,
            dropped: sum.dropped + one.dropped,
            not_made: sum.not_made + one.not_made,
            not_made_dropped: sum.not_made_dropped + one.not_made_dropped,
            withheld: sum.withheld + one.withheld,
        })
    }
}

/// Lost calls by namespace, operation and error; namespace 0: the table had no room for details.
pub(crate) type Drops = std::collections::HashMap<DropKey, u64>;

/// Records that came out of the rings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Delivered {
    /// By the operation's number
    #[n(0)]
    pub ops: [u64; op::COUNT + 1],
    /// Control records
    #[n(1)]
    pub control: u64,
    /// Records that could not be decoded; they are among the others
    #[n(2)]
    pub malformed: u64,
}

impl Delivered {
    /// All calls.
    #[must_use]
    pub(crate) fn calls(&self) -> u64 {
        self.ops.iter().sum()
    }
}

/// All counters, at one moment.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Counted {
    /// Counters of the eBPF programs.
    #[n(0)]
    pub counts: AllCounts,
    /// Details of lost calls; `None`: unchanged.
    #[cbor(n(1), with = "ipc_trace_common::cbor")]
    pub drops: Option<Drops>,
    /// Records read from the rings.
    #[n(2)]
    pub delivered: Delivered,
    /// Rare conditions by name, with the number of occurrences.
    #[n(3)]
    pub diagnostics: BTreeMap<String, u64>,
    /// The longest CPU time of the reader between two reads of the rings, nanoseconds.
    #[n(4)]
    pub reader_max_ns: u64,
}
